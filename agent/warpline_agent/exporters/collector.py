"""Sends what waits in the spool to a collector over one gRPC stream, in a thread of its own.

Frames go out oldest first, never more of them than the collector gave credit for; an acknowledgement removes them from the
spool. After a broken stream everything that was not acknowledged is sent again, oldest first, with the sequence it had.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import grpc

from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.defaults import FRAME_BYTES_MAX
from warpline_proto.dialing import channel, trouble
from warpline_proto.errors import ConfigError, WireError
from warpline_proto.stream import PACKING, Packer
from warpline_proto.tls import NONE, Tls

from ..clock_offset import ClockOffset
from ..exporter import Sent
from ..source import Health
from ..spool import Spool
from ..waiting import Key

FRAMES_IN_FLIGHT_MAX: Final = 16
"""Frames sent and not acknowledged, whatever the credit."""
CREDIT_BYTES_START: Final = 1024 * 1024
"""Bytes in flight until the collector's first acknowledgement names its own credit."""
ACKNOWLEDGEMENT_SECONDS_MAX: Final = 30.0
"""A stream on which frames wait longer than this for an acknowledgement is given up and opened anew."""
BACKOFF_SECONDS_MIN: Final = 0.25
BACKOFF_SECONDS_MAX: Final = 30.0
WAKE_SECONDS: Final = 0.5
"""How often the sender looks up while it waits for frames or credit."""
JOIN_SECONDS: Final = 2.0
"""How long `close` waits for the thread once its stream is cut."""
_OPTIONS: Final = (
    ("grpc.max_send_message_length", FRAME_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", int(BACKOFF_SECONDS_MIN * 1000)),
    ("grpc.max_reconnect_backoff_ms", int(BACKOFF_SECONDS_MAX * 1000)),
)


class _Stream:
    """What is in flight on one stream. Everything is done under the spool's condition, so that a change wakes the sender."""

    def __init__(self, changed: threading.Condition, stop: threading.Event, monotonic: Callable[[], float]) -> None:
        self._changed = changed
        self._stop = stop
        self._monotonic = monotonic
        self._in_flight: deque[tuple[Key, int]] = deque()
        self._packer = Packer()
        self._packing = self._refused = False
        self._credit_bytes = CREDIT_BYTES_START
        self._progress = monotonic()
        self._over = False

    @property
    def over(self) -> bool:
        """Nothing more is to be sent on this stream."""
        return self._over or self._stop.is_set()

    def end(self) -> None:
        """No more on this stream; wakes the sender."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def admit(self, key: Key, size: int) -> bool:
        """Count a frame as sent if there is credit for it."""
        with self._changed:
            if not self.fits(size):
                return False
            if not self._in_flight:
                self._progress = self._monotonic()
            self._in_flight.append((key, size))
        return True

    def fits(self, size: int) -> bool:
        """One frame may always be in flight: without it no acknowledgement could raise the credit."""
        flying = sum(each for _, each in self._in_flight)
        room = len(self._in_flight) < FRAMES_IN_FLIGHT_MAX and flying + size <= self._credit_bytes
        return not self._in_flight or room

    def land(self, boot: str, sequence: int, credit_bytes: int) -> int:
        """Frames of `boot` up to `sequence` are acknowledged; returns how many of this stream that were."""
        with self._changed:
            kept = [item for item in self._in_flight if item[0].boot != boot or item[0].sequence > sequence]
            landed = len(self._in_flight) - len(kept)
            self._in_flight = deque(kept)
            self._credit_bytes = credit_bytes
            self._progress = self._monotonic()
            self._changed.notify_all()
        return landed

    def packs(self, packing: int) -> None:
        """The collector reads packed frames of this form."""
        self._packing = packing >= PACKING

    def refused(self) -> None:
        """A frame was not taken: later ones may not refer to it."""
        self._refused = True

    def packed(self, message: service_pb2.Frame) -> service_pb2.Frame:
        """The frame as it goes out next; one that cannot be read goes as it is, and the collector refuses it."""
        if not self._packing:
            return message
        if self._refused:
            self._refused = False
            self._packer.begin_anew()
        try:
            return self._packer.pack(message)
        except WireError:
            self._packer.begin_anew()
            return message

    def sleep(self, until: Callable[[], bool]) -> bool:
        """Wait for `until`, WAKE_SECONDS at most; False once an acknowledgement is overdue."""
        with self._changed:
            self._changed.wait_for(lambda: self.over or until(), WAKE_SECONDS)
            waited = self._monotonic() - self._progress
            return not self._in_flight or waited <= ACKNOWLEDGEMENT_SECONDS_MAX


class CollectorExporter:
    """`start` begins to send, `drain` waits for the spool to empty, `close` ends; `start` may be called once, close twice."""

    def __init__(
        self,
        spool: Spool,
        address: str,
        *,
        seed: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clocks: ClockOffset | None = None,
        tls: Tls = NONE,
    ) -> None:
        """`clocks` hears when frames are written and acknowledged. The files of `tls` are read anew for each stream."""
        self._spool = spool
        self._address = address
        self._tls = tls
        self._random = random.Random(seed)
        self._monotonic = monotonic
        self._clocks = clocks or ClockOffset()
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="exporter", daemon=True)
        self._call: Any = None
        self._failures = 0
        self._reason = "not connected yet"
        self._frames = self._bytes = self._acknowledged = self._refused = 0
        self._starved_seconds = 0.0
        self._refusal = ""

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self._thread.is_alive()

    def drain(self, seconds: float) -> bool:
        """Wait until everything is acknowledged, `seconds` at most; False if something still waits."""
        self._hurry.set()
        with self._spool.changed:
            return self._spool.changed.wait_for(lambda: self._spool.waiting_frames == 0, seconds)

    def close(self) -> None:
        """End the stream and the thread; what waits stays in the spool. Safe to call twice or without `start`."""
        self._stop.set()
        self._hurry.set()
        with self._spool.changed:
            self._spool.changed.notify_all()
        self._cancel()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def sent(self) -> Sent:
        """Counts since the start."""
        return Sent(self._frames, self._bytes, self._acknowledged, self._refused, self._starved_seconds)

    def health(self) -> list[Health]:
        """Whether the collector answers, and what it refused last."""
        found = [Health("collector", "stale" if self._reason else "fresh", self._reason)]
        if self._refusal:
            found.append(Health("frames", "refused", f"{self._refused} frames so far: {self._refusal}"))
        return found

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._spool.changed:
                if not self._spool.changed.wait_for(self._wanted, WAKE_SECONDS) or self._stop.is_set():
                    continue
            try:
                self._session()
                self._reason = "the collector closed the stream"
            except grpc.RpcError as error:
                why = trouble(self._address, self._tls) if _unavailable(error) else ""
                self._reason = f"{self._address} takes no frames, they wait: {why or _words(error)}"
            except ConfigError as error:
                self._reason = f"frames wait: {error}"
            self._rest_between_streams()

    def _wanted(self) -> bool:
        return self._stop.is_set() or self._spool.waiting_frames > 0

    def _rest_between_streams(self) -> None:
        """The pause is cut short by `drain`, which has less time than a long pause takes."""
        if self._hurry.wait(self._pause()):
            self._stop.wait(BACKOFF_SECONDS_MIN)

    def _pause(self) -> float:
        """Seconds until the next try: doubling up to the bound, with jitter so that a fleet does not come back at once."""
        self._failures += 1
        bound = min(BACKOFF_SECONDS_MIN * 2.0 ** min(self._failures - 1, 16), BACKOFF_SECONDS_MAX)
        return bound * self._random.uniform(0.5, 1.0)

    def _session(self) -> None:
        """One stream from connecting to its end; RpcError when it breaks, ConfigError where the certificates do not fit."""
        stream = _Stream(self._spool.changed, self._stop, self._monotonic)
        with channel(self._address, self._tls, _OPTIONS) as opened:
            self._call = service_pb2_grpc.WarplineStub(opened).Push(self._outgoing(stream))
            try:
                for acknowledgement in self._call:
                    self._take(stream, acknowledgement)
            finally:
                stream.end()
                self._cancel()

    def _outgoing(self, stream: _Stream) -> Iterator[service_pb2.Frame]:
        """Frames as credit allows, from the oldest that waits. Runs in gRPC's thread until the stream ends."""
        cursor: Key | None = None
        while not stream.over:
            found = self._spool.after(cursor)
            if found is None:
                self._rest(stream, partial(self._spool.waits_after, cursor))
                continue
            cursor, message = found
            size = message.ByteSize()
            while not stream.admit(cursor, size):
                begun = self._monotonic()
                self._rest(stream, partial(stream.fits, size))
                self._starved_seconds += self._monotonic() - begun
                if stream.over:
                    return
            sent = stream.packed(message)
            self._frames += 1
            self._bytes += sent.ByteSize()
            sent.sent_ns = self._clocks.sent(sent.boot, sent.sequence)
            yield sent

    def _rest(self, stream: _Stream, until: Callable[[], bool]) -> None:
        if not stream.sleep(until):
            stream.end()
            self._cancel()

    def _take(self, stream: _Stream, acknowledgement: service_pb2.Ack) -> None:
        self._clocks.acknowledged(acknowledgement)
        stream.packs(acknowledgement.packing)
        refused = 1 if acknowledgement.refused else 0
        if refused:
            stream.refused()  # before it lands, which lets the next frame go
            self._refused += 1
            self._refusal = acknowledgement.refused
        landed = stream.land(acknowledgement.boot, acknowledgement.sequence, acknowledgement.credit_bytes)
        self._acknowledged += max(landed - refused, 0)
        self._failures = 0
        self._reason = ""
        self._spool.acknowledge(acknowledgement.boot, acknowledgement.sequence)

    def _cancel(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()


def _unavailable(error: grpc.RpcError) -> bool:
    code = getattr(error, "code", None)
    return callable(code) and code() is grpc.StatusCode.UNAVAILABLE


def _words(error: grpc.RpcError) -> str:
    """What an RpcError says, short."""
    code = getattr(error, "code", None)
    details = getattr(error, "details", None)
    name = code().name.lower() if callable(code) else type(error).__name__
    text = (details() or "") if callable(details) else ""
    return f"{name}: {text}"[:300]
