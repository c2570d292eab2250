"""QueryClient: SQL in, Arrow out, from a running collector, which also takes a frame."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import grpc
import pyarrow as pa

from . import service_pb2, service_pb2_grpc
from .batch import Frame
from .defaults import (
    ASKER,
    ASKER_CHARS_MAX,
    COLLECTOR_ADDRESS,
    FRAME_BYTES_MAX,
    QUERY_ROWS_MAX,
    QUERY_SECONDS_MAX,
    QUERY_WAIT_SECONDS_MAX,
)
from .dialing import channel, trouble
from .errors import QueryError
from .tls import NONE, Tls
from .wire import from_ipc, to_message

GRACE_SECONDS = 5.0
"""What the way there and back, and a worker that must be started first, may take."""
_OPTIONS = [("grpc.max_receive_message_length", FRAME_BYTES_MAX), ("grpc.enable_http_proxy", 0)]
_WHY = {
    grpc.StatusCode.UNAVAILABLE: "no collector answers at {address}",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the collector at {address} did not answer in time",
}

_Answer = TypeVar("_Answer")


class QueryClient:
    """Asks one collector. Not safe to share between threads that close it.

    The main thread's calls run in a thread of the client's own: a signal whose handler raises (Ctrl-C) in the midst of gRPC's
    start of a call would leave it registered for good, and `close` would wait for it for ever.
    """

    def __init__(self, address: str = COLLECTOR_ADDRESS, tls: Tls = NONE) -> None:
        """ConfigError where the address is another machine's and there is no certificate to show it, or none that fits."""
        self.address = address
        self._tls = tls
        self._channel = channel(address, tls, _OPTIONS)
        self._asker = ((ASKER, secrets.token_hex(ASKER_CHARS_MAX // 2)),)
        self._asked: set[Any] = set()
        self._mutex = threading.Lock()
        self._apart = ThreadPoolExecutor(1, thread_name_prefix="query")
        self._stub = service_pb2_grpc.WarplineStub(self._channel)

    def __enter__(self) -> QueryClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; calls under way are cancelled."""
        self._channel.close()
        self._apart.shutdown(cancel_futures=True)

    def query(self, sql: str, *, rows_max: int = QUERY_ROWS_MAX, seconds_max: float = QUERY_SECONDS_MAX) -> pa.Table:
        """Rows of one SELECT; QueryError if it was refused, failed, or nobody answered.

        A result cut at `rows_max` carries b"truncated" in its schema metadata, one that lacks damaged rows b"damaged".
        """
        request = service_pb2.QueryRequest(sql=sql, rows_max=rows_max, seconds_max=seconds_max)
        return self._safely(self._query, request)

    def stop(self) -> None:
        """Take back the questions that are under way, from any thread: each ends with a QueryError, here and at the collector."""
        with self._mutex:
            asked = list(self._asked)
        for call in asked:
            call.cancel()

    def push(self, frame: Frame) -> None:
        """Hand over one frame and wait until it is durable; QueryError if it is refused or nobody takes it."""
        self._safely(self._push, to_message(frame))

    def status(self) -> service_pb2.StatusReply:
        """What the collector says of itself; QueryError if nobody answers."""
        return self._safely(self._status)

    def _safely(self, call: Callable[..., _Answer], *arguments: object) -> _Answer:
        if threading.current_thread() is not threading.main_thread():  # signals are heard by the main thread alone
            return call(*arguments)
        return self._apart.submit(call, *arguments).result()

    def _query(self, request: service_pb2.QueryRequest) -> pa.Table:
        timeout = request.seconds_max + QUERY_WAIT_SECONDS_MAX + GRACE_SECONDS
        payload = bytearray()
        truncated = False
        try:
            with self._under_way(self._stub.Query(request, timeout=timeout, metadata=self._asker)) as pieces:
                for piece in pieces:
                    payload += piece.payload
                    truncated = truncated or piece.truncated
        except grpc.RpcError as error:
            raise self._failure(error) from error
        rows = from_ipc(bytes(payload))
        return (
            rows.replace_schema_metadata({**(rows.schema.metadata or {}), "truncated": "true"}) if truncated else rows
        )

    @contextlib.contextmanager
    def _under_way(self, call: Any) -> Iterator[Any]:
        with self._mutex:
            self._asked.add(call)
        try:
            yield call
        finally:
            with self._mutex:
                self._asked.discard(call)

    def _push(self, message: service_pb2.Frame) -> None:
        try:
            acks = list(self._stub.Push(iter([message]), timeout=GRACE_SECONDS))
        except grpc.RpcError as error:
            raise self._failure(error) from error
        if refused := next((ack.refused for ack in acks if ack.refused), ""):
            raise QueryError(f"the collector at {self.address} refused: {refused}")

    def _status(self) -> service_pb2.StatusReply:
        try:
            reply: service_pb2.StatusReply = self._stub.Status(service_pb2.StatusRequest(), timeout=GRACE_SECONDS)
        except grpc.RpcError as error:
            raise self._failure(error) from error
        return reply

    def _failure(self, error: grpc.RpcError) -> QueryError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and (why := trouble(self.address, self._tls)):
            return QueryError(why)
        if code is grpc.StatusCode.CANCELLED:
            return QueryError("the question was taken back")
        if code in _WHY:
            return QueryError(
                _WHY[code].format(address=self.address), "is `warpline collector` running? see --collector"
            )
        return QueryError(details or str(code))
