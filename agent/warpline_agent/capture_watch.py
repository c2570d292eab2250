"""Listens for requests to look closer, in a thread of its own: the collector pushes them over a stream that the agent opens."""

from __future__ import annotations

import queue
import random
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import grpc

from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.capture import Capture, from_message
from warpline_proto.dialing import channel
from warpline_proto.errors import ConfigError
from warpline_proto.tls import NONE, Tls

PENDING_MAX: Final = 64
"""Requests that wait for a source; more are left unanswered, and expire at the collector."""
KNOWN_MAX: Final = 1_000
"""Identifiers remembered, so that a request that comes twice is answered once."""
BACKOFF_SECONDS_MIN: Final = 1.0
BACKOFF_SECONDS_MAX: Final = 60.0
JOIN_SECONDS: Final = 2.0
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024),
)


class Requests(Protocol):
    """Where requests come from. `take` gives what came since it was last called and never waits."""

    def start(self) -> None: ...

    def take(self) -> Sequence[Capture]: ...

    def close(self) -> None: ...


class Nobody:
    """Nobody asks."""

    def start(self) -> None:
        """Nothing to begin with."""

    def take(self) -> Sequence[Capture]:
        """Never anything."""
        return ()

    def close(self) -> None:
        """Nothing to give back."""


NOBODY: Final = Nobody()


class CaptureWatch:
    """`start` begins to listen for `node`, `close` ends; safe to close twice or without `start`."""

    def __init__(self, node: str, address: str, *, seed: int | None = None, tls: Tls = NONE) -> None:
        """The files of `tls` are read anew for each stream."""
        self._node = node
        self._tls = tls
        self._address = address
        self._random = random.Random(seed)
        self._waiting: queue.Queue[Capture] = queue.Queue(PENDING_MAX)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._stop = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="captures", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def take(self) -> Sequence[Capture]:
        """Requests that came since the last call."""
        return [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]

    def close(self) -> None:
        """End the stream and the thread."""
        self._stop.set()
        if self._call is not None:
            self._call.cancel()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                with channel(self._address, self._tls, _OPTIONS) as opened:
                    self._listen(opened)
                failures = 0
            except (grpc.RpcError, ConfigError):
                failures += 1  # the exporter, on a stream to the same address, tells that the collector is away
            bound = min(BACKOFF_SECONDS_MIN * 2.0 ** min(failures, 16), BACKOFF_SECONDS_MAX)
            self._stop.wait(bound * self._random.uniform(0.5, 1.0))

    def _listen(self, opened: grpc.Channel) -> None:
        self._call = service_pb2_grpc.WarplineStub(opened).Captures(service_pb2.CaptureWatch(node=self._node))
        if self._stop.is_set():
            self._call.cancel()
        for message in self._call:
            self._keep(from_message(message))

    def _keep(self, capture: Capture) -> None:
        if capture.id in self._known or self._waiting.full():
            return
        self._known[capture.id] = None
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        self._waiting.put_nowait(capture)
