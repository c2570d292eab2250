"""Frames in: a queue bounded in bytes, one writer that stores many frames at once, acknowledgements after the commit.

Storing one frame at a time costs twenty times as much as storing a hundred together, so the writer lets frames gather for a
moment. An agent hears of a frame only when it is durable, or refused for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from warpline_proto import service_pb2
from warpline_proto.batch import Frame
from warpline_proto.errors import SchemaError, StoreError, WarplineError
from warpline_proto.stream import NOT_PACKED, PACKING, Unpacker

from .store import Store

GATHER_SECONDS: Final = 0.1
QUEUE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Frames that are unpacked or wait to be stored, in bytes of memory; past it the streams are read no further."""
COMMIT_BYTES_MAX: Final = 32 * 1024 * 1024
"""A commit takes no more than this, and does not wait longer once so much is there."""
PACKED_STREAMS_MAX: Final = 64
"""Streams that are asked to pack kernel clusters as differences: reading them takes ten times the CPU time of whole rows, and
where many send there are cores to be saved rather than bytes."""
CREDIT_BYTES_MIN: Final = 64 * 1024
CREDIT_BYTES_MAX: Final = 4 * 1024 * 1024
ACKS_WAITING_MAX: Final = 1_000
"""Acknowledgements an agent may leave unread before its stream is cut."""
AGENTS_COUNTED_MAX: Final = 100_000
"""Names of agents that are counted apart."""
MAINTAIN_SECONDS: Final = 1.0
_LOG = logging.getLogger(__name__)
Result = TypeVar("Result")


class Stream:
    """One agent's stream as the writer sees it: where its acknowledgements go, and how many frames still wait for one.

    `unpacker` reads its frames, each as it comes and before anything of it is stored.
    """

    def __init__(self) -> None:
        self.unpacker = Unpacker()
        self.acks: asyncio.Queue[service_pb2.Ack] = asyncio.Queue(ACKS_WAITING_MAX)
        self.broken: asyncio.Future[StoreError] = asyncio.get_running_loop().create_future()
        self.waiting = 0

    def acknowledge(self, ack: service_pb2.Ack) -> None:
        """Hand over one acknowledgement; an agent that reads none of them loses its stream."""
        try:
            self.acks.put_nowait(ack)
        except asyncio.QueueFull:
            self.fail(StoreError("too many acknowledgements were left unread"))

    def fail(self, error: StoreError) -> None:
        """End the stream: what waits is not acknowledged, and will be sent again."""
        if not self.broken.done():
            self.broken.set_result(error)


@dataclass(frozen=True)
class Item:
    """A frame on its way to the store, `bytes` of memory; `frame` is None and `refused` says why where it is not taken.

    It came at `received_ns` of the collector's clock.
    """

    stream: Stream
    boot: str
    sequence: int
    bytes: int
    frame: Frame | None
    refused: str = ""
    received_ns: int = 0


@dataclass
class Counts:
    """Since the start."""

    frames: int = 0
    rows: int = 0
    refused: int = 0
    agents: set[str] = field(default_factory=set)


class Ingest:
    """`take` from any number of streams, `run` once as a task, `stop` to store what waits and end."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        gather_seconds: float = GATHER_SECONDS,
        heard: Callable[[Frame, int, int], None] = lambda frame, size, heard_ns: None,
        sift: Callable[[Sequence[Frame]], Sequence[Frame]] = lambda frames: frames,
    ) -> None:
        """`heard` is told of each frame once it can be read, of its bytes in memory and of when it came.

        `sift` gives frames back without the rows that are not to be stored, in the thread of the store.
        """
        self._sift = sift
        self.counts = Counts()
        self.turned = time.monotonic()
        """When the writer last did something, on the monotonic clock: it turns at least once in MAINTAIN_SECONDS."""
        self._heard = heard
        self.streams = 0
        self._store = store
        self._clock = clock
        self._gather_seconds = gather_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._tidying = ThreadPoolExecutor(1, thread_name_prefix="tidy")
        self._waiting: deque[Item] = deque()
        self._bytes = 0
        self._changed = asyncio.Condition()
        self._turn = asyncio.Lock()
        self._stopping = False

    async def take(self, stream: Stream, size: int, read: Callable[[], Awaitable[Item]]) -> None:
        """Queue the frame that `read` unpacks to `size` bytes; waits while there is no room for it, first come first served."""
        heard_ns = self._clock()
        async with self._turn, self._changed:
            await self._changed.wait_for(lambda: not self._bytes or self._bytes + size <= QUEUE_BYTES_MAX)
            self._bytes += size
        try:
            item = replace(await read(), received_ns=heard_ns)
            if item.frame is not None:
                self._heard(item.frame, size, heard_ns)
        except BaseException:
            async with self._changed:
                self._bytes -= size
                self._changed.notify_all()
            raise
        async with self._changed:
            if stream.broken.done():
                self._bytes -= size  # nothing behind a frame that could not be stored may be stored
            else:
                self._waiting.append(item)
                stream.waiting += 1
            self._changed.notify_all()

    async def run(self) -> None:
        """Store what comes until `stop`, and keep the store in order."""
        loop = asyncio.get_running_loop()
        maintained = loop.time()
        maintaining: asyncio.Future[None] = loop.create_future()
        maintaining.set_result(None)
        try:
            while not self._stopping or self._waiting:
                self.turned = time.monotonic()
                items = await self._gather()
                if items:
                    await self._store_items(items)
                if loop.time() - maintained >= MAINTAIN_SECONDS and maintaining.done():
                    maintaining = loop.run_in_executor(self._tidying, self._maintain)
                    maintained = loop.time()
            await maintaining
        finally:
            self._thread.shutdown()
            self._tidying.shutdown()

    async def stop(self) -> None:
        """Take no more time to gather: `run` ends when everything is stored."""
        async with self._changed:
            self._stopping = True
            self._changed.notify_all()

    @property
    def waiting_bytes(self) -> int:
        """Frames that are unpacked or wait to be stored, in bytes of memory."""
        return self._bytes

    @property
    def credit_bytes(self) -> int:
        """What one agent may have in flight now."""
        share = (QUEUE_BYTES_MAX - self._bytes) // max(self.streams, 1)
        return max(CREDIT_BYTES_MIN, min(share, CREDIT_BYTES_MAX))

    async def _gather(self) -> list[Item]:
        """What came within one gathering time, at most COMMIT_BYTES_MAX; nothing after MAINTAIN_SECONDS of silence."""
        async with self._changed:
            if not await self._until(lambda: bool(self._waiting), MAINTAIN_SECONDS):
                return []
            await self._until(lambda: self._bytes >= COMMIT_BYTES_MAX, self._gather_seconds)
            items: list[Item] = []
            size = 0
            while self._waiting and (not items or size + self._waiting[0].bytes <= COMMIT_BYTES_MAX):
                items.append(self._waiting.popleft())
                size += items[-1].bytes
            return items

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait_for(lambda: self._stopping or condition())
        except TimeoutError:
            pass
        return condition()

    async def _store_items(self, items: Sequence[Item]) -> None:
        """Store and acknowledge, or fail the streams of all of them together with what else of those streams waits.

        A later frame must not be stored while an earlier one of its boot is not: sent again, that one would be taken for stored.
        """
        try:
            refusals = await self._in_thread(lambda: self._append(self._sifted(items)))
            self._acknowledge(items, refusals)
        except StoreError as error:
            _LOG.error("%s", error)
            for item in items:
                item.stream.fail(error)
        async with self._changed:
            dropped = [item for item in self._waiting if item.stream.broken.done()]
            self._waiting = deque(item for item in self._waiting if not item.stream.broken.done())
            for item in (*items, *dropped):
                self._bytes -= item.bytes
                item.stream.waiting -= 1
            self._changed.notify_all()

    async def drained(self, stream: Stream) -> None:
        """Wait until nothing of `stream` waits for its acknowledgement."""
        async with self._changed:
            await self._changed.wait_for(lambda: not stream.waiting or stream.broken.done())

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _sifted(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items without the rows that are not to be stored; what is left out is counted once, however often it is tried."""
        kept = iter(self._sift([item.frame for item in items if item.frame is not None]))
        return [item if item.frame is None else replace(item, frame=next(kept)) for item in items]

    def _append(self, items: Sequence[Item]) -> list[str]:
        """Store together; if the engine will not have some rows, by halves. Returns why each was refused, "" if not."""
        try:
            self._store.append([item.frame for item in items if item.frame is not None])
        except SchemaError as error:
            if len(items) == 1:
                return [str(error)]
            middle = len(items) // 2
            return self._append(items[:middle]) + self._append(items[middle:])
        return [item.refused for item in items]

    def _maintain(self) -> None:
        try:
            self._store.maintain()
        except WarplineError as error:
            _LOG.error("%s", error)

    def _acknowledge(self, items: Sequence[Item], refusals: Sequence[str]) -> None:
        """One acknowledgement for each run of stored frames of one boot, one for each refused frame, in order."""
        newest: dict[Stream, dict[str, Item]] = defaultdict(dict)
        for item, refused in zip(items, refusals, strict=True):
            if refused:
                if (before := newest[item.stream].pop(item.boot, None)) is not None:
                    item.stream.acknowledge(self._ack(before))
                item.stream.acknowledge(self._ack(item, refused))
                self.counts.refused += 1
            else:
                known = newest[item.stream].get(item.boot)
                if known is None or item.sequence > known.sequence:
                    newest[item.stream][item.boot] = item
                self._count(item)
        for stream, boots in newest.items():
            for item in boots.values():
                stream.acknowledge(self._ack(item))

    def _ack(self, item: Item, refused: str = "") -> service_pb2.Ack:
        return service_pb2.Ack(
            boot=item.boot,
            sequence=item.sequence,
            refused=refused[:1_000],
            received_ns=item.received_ns,
            collector_ns=self._clock(),
            credit_bytes=self.credit_bytes,
            packing=PACKING if self.streams <= PACKED_STREAMS_MAX else NOT_PACKED,
        )

    def _count(self, item: Item) -> None:
        if item.frame is not None:
            self.counts.frames += 1
            self.counts.rows += sum(batch.rows.num_rows for batch in item.frame.batches)
            if len(self.counts.agents) < AGENTS_COUNTED_MAX:
                self.counts.agents.add(item.frame.agent)
