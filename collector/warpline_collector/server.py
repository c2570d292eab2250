"""The gRPC rim: frames in and acknowledgements out, SQL answered by the workers, captures handed to agents, status."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import grpc

from warpline_proto import service_pb2, service_pb2_grpc, wire
from warpline_proto.batch import Frame
from warpline_proto.defaults import ASKER, ASKER_CHARS_MAX, FRAME_BYTES_MAX, FRAME_UNPACKED_BYTES_MAX
from warpline_proto.errors import ConfigError, QueryError, StoreError, WireError
from warpline_proto.stream import OutOfStep

from .admission import NODE, Admission
from .belonging import OWN, Foreign, checked
from .callers import LOCAL, Caller, Role
from .captures import CaptureBoard
from .certificates import Certificates
from .ingest import Ingest, Item, Stream
from .limits import Guest, Limits
from .pool import Answer, WorkerPool
from .question import BUSY, Question, Unanswered, Unread

PIECE_BYTES: Final = 1024 * 1024
READ_SECONDS_MAX: Final = 60.0
"""How long an answer may take to be read: until then it is held in memory."""
UNPACK_APART_BYTES: Final = 512 * 1024
"""Frames that unpack to more are read in a thread, so that other streams need not wait."""
STOP_SECONDS: Final = 1.0
DETAILS_CHARS_MAX: Final = 2_000
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", FRAME_BYTES_MAX + 64 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),  # no stream holds more than its first window in memory, however fast it sends
)
_LOG = logging.getLogger(__name__)


class Service(service_pb2_grpc.WarplineServicer):
    """The four calls of service.proto."""

    def __init__(
        self,
        ingest: Ingest,
        pool: WorkerPool,
        board: CaptureBoard,
        clock: Callable[[], int],
        admission: Admission,
        limits: Limits,
    ) -> None:
        self._admission = admission
        self._limits = limits
        self._ingest = ingest
        self._pool = pool
        self._board = board
        self._clock = clock
        self._started_ns = clock()

    async def Push(self, request_iterator: AsyncIterator[service_pb2.Frame], context: Any) -> None:
        """Read frames while a task of its own writes the acknowledgements: neither waits for the other."""
        caller = await self._admission.admit(context, "push", Role.AGENT, Role.OPERATOR)
        stream = Stream()
        guest = self._limits.guest(context.peer().rpartition(":")[0], stream, _whose(caller))
        if guest is None:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams from there that send nothing")
            return
        self._ingest.streams += 1
        reading = asyncio.create_task(self._read(request_iterator, stream, caller, guest))
        writing = asyncio.create_task(_write_acks(stream, context, self._clock))
        try:
            left = self._admission.seconds_left(context, caller)
            ended, _ = await asyncio.wait(
                (reading, writing, stream.broken), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended:
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate has expired")
            if stream.broken.done():
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(stream.broken.result())[:DETAILS_CHARS_MAX])
            if reading.done():
                reading.result()
                written = asyncio.ensure_future(stream.acks.join())
                await asyncio.wait((written, writing), return_when=asyncio.FIRST_COMPLETED)
                written.cancel()
        finally:
            self._ingest.streams -= 1
            guest.close()
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)

    async def Query(self, request: service_pb2.QueryRequest, context: Any) -> None:
        """One statement through the workers; a refusal is INVALID_ARGUMENT with the sentence, or RESOURCE_EXHAUSTED."""
        caller = await self._admission.admit(context, "ask", Role.VIEWER, Role.OPERATOR)
        question = Question(caller, whence=_whence(context))
        try:
            with self._pool.place(question), Unread(self._pool.unread, question.who) as unread:
                answer = await self._answer(request, question)
                unread.take(len(answer.payload))
                async with asyncio.timeout(READ_SECONDS_MAX):
                    for start in range(0, len(answer.payload), PIECE_BYTES):
                        payload = answer.payload[start : start + PIECE_BYTES]
                        await context.write(service_pb2.QueryPiece(payload=payload, truncated=answer.truncated))
        except QueryError as error:
            crowded = isinstance(error, Unanswered) and error.sqlstate == BUSY
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if crowded else grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(code, str(error)[:DETAILS_CHARS_MAX])
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the answer was not read")

    async def Captures(
        self, request: service_pb2.CaptureWatch, context: Any
    ) -> AsyncIterator[service_pb2.CaptureRequest]:
        """Requests for one node as they come."""
        caller = await self._admission.admit(context, "watch captures", Role.AGENT, node=request.node)
        if not self._board.has_room:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch for captures")
        until = self._admission.seconds_left(context, caller)
        end = None if until is None else time.monotonic() + until

        def alive() -> bool:
            return not context.cancelled() and (end is None or time.monotonic() < end)

        async for found in self._board.watch(request.node, alive):
            yield found

    async def Status(self, request: service_pb2.StatusRequest, context: Any) -> service_pb2.StatusReply:
        """What was taken since the start."""
        await self._admission.admit(context, "ask for the status", *Role)
        counts = self._ingest.counts
        return service_pb2.StatusReply(
            version=version("warpline"),
            started_ns=self._started_ns,
            frames=counts.frames,
            rows=counts.rows,
            agents=len(counts.agents),
        )

    async def _answer(self, request: service_pb2.QueryRequest, question: Question) -> Answer:
        """The pool's answer; a question taken back by its caller waits no longer, or ends the worker that is at it."""

        def work() -> Answer:
            return self._pool.query(request.sql, request.rows_max or None, request.seconds_max or None, question)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool.threads, work)
        except asyncio.CancelledError:
            question.cancel()
            raise

    async def _read(
        self, messages: AsyncIterator[service_pb2.Frame], stream: Stream, caller: Caller, guest: Guest
    ) -> None:
        async for message in messages:
            size = max(message.ByteSize(), wire.unpacked_bytes(message))
            size = min(size, FRAME_UNPACKED_BYTES_MAX)  # one that claims more is refused without being unpacked
            await guest.turn(message, size)
            await self._ingest.take(
                stream, size, partial(self._item, message, stream, size, caller, guest.name(message))
            )
        await self._ingest.drained(stream)

    async def _item(self, message: service_pb2.Frame, stream: Stream, size: int, caller: Caller, name: str) -> Item:
        """A frame that is not taken travels on as a refusal, so that its acknowledgement keeps its place.

        `name` answers for it: another agent is not blamed for what is sent in its name.
        """
        try:
            self._limits.check(name)
            if size > UNPACK_APART_BYTES:
                frame, strays = await asyncio.to_thread(_unpacked, message, stream, caller)
            else:
                frame, strays = _unpacked(message, stream, caller)
        except (OutOfStep, StoreError) as error:
            stream.fail(StoreError(str(error)))  # sent again on a new stream it can be read, or there is room
            return Item(stream, message.boot, message.sequence, size, None, str(error))
        except Foreign as error:
            self._admission.refuse(caller, NODE, "push", str(error))
            self._limits.refuse(name, 1, 0, str(error))
            return Item(stream, message.boot, message.sequence, size, None, str(error))
        except WireError as error:
            _LOG.warning("frame %d of agent %r refused: %s", message.sequence, message.agent[:100], error)
            self._limits.refuse(name, 1, 0, str(error))
            return Item(stream, message.boot, message.sequence, size, None, str(error))
        self._admission.took(caller, frame, strays)
        return Item(stream, frame.boot, frame.sequence, size, frame)


async def start(
    service: Service, address: str, certificates: Certificates | None = None
) -> tuple[grpc.aio.Server, str]:
    """Listen on `address` (port 0: any free one), with `certificates` for those who show one of their own.

    The server and the address it has; ConfigError if that is taken.
    """
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_bounded(service),))
    service_pb2_grpc.add_WarplineServicer_to_server(service, server)
    try:
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, certificates.for_grpc())
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}", "is it taken by another collector? see --listen") from error
    await server.start()
    return server, address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _bounded(service: Service) -> grpc.GenericRpcHandler:
    """Frames are looked at before protobuf takes memory for what is in them."""
    push = grpc.stream_stream_rpc_method_handler(
        service.Push, request_deserializer=wire.parse, response_serializer=service_pb2.Ack.SerializeToString
    )
    return grpc.method_handlers_generic_handler("warpline.v1.Warpline", {"Push": push})


async def _write_acks(stream: Stream, context: Any, clock: Callable[[], int]) -> None:
    while True:
        ack = await stream.acks.get()
        ack.collector_ns = clock()  # as late as can be: what passes from here on makes the agent less sure of its clock
        await context.write(ack)
        stream.acks.task_done()


def _whence(context: Any) -> str:
    """What tells apart those who come without a certificate: their connection, and over a socket, where all look the same, what
    warpline's own clients say of themselves."""
    peer = str(context.peer())
    if not peer.startswith("unix:"):
        return peer
    said = dict(context.invocation_metadata() or ()).get(ASKER, "")
    return f"{peer} {str(said)[:ASKER_CHARS_MAX]}"


def _whose(caller: Caller) -> str | None:
    """Who answers for all that a caller sends; None where that is not known but by what the frames say."""
    if caller is LOCAL:
        return None
    return caller.node if caller.node is not None else f"{caller.role} {caller.name}"


def _unpacked(message: service_pb2.Frame, stream: Stream, caller: Caller) -> tuple[Frame, int]:
    """The frame, and how many rows of other nodes it came with; WireError if it cannot be read or is not its sender's to send."""
    if foreign := next((part.table for part in message.parts if part.table in OWN), None):
        raise WireError(f"{foreign} are the collector's own", "send rows")
    return checked(stream.unpacker.unpack(message), caller)
