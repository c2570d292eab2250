"""Between the wire and the store: what is acknowledged when the store fails, what a bad frame costs, how much memory waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from warpline_collector import ledger
from warpline_collector.ingest import COMMIT_BYTES_MAX, PACKED_STREAMS_MAX, QUEUE_BYTES_MAX, Ingest, Item, Stream
from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import SchemaError, StoreError
from warpline_proto.stream import NOT_PACKED, PACKING

MakeFrame = Callable[..., Frame]


class Memory:
    """A store in memory with the real ledger. `fail` is asked before each append; a poisoned sequence fits no table."""

    def __init__(self, fail: Callable[[int], Exception | None] = lambda _: None, poisoned: Sequence[int] = ()) -> None:
        self.kept: list[int] = []
        self.appends = 0
        self._fail = fail
        self._poisoned = set(poisoned)
        self._ledger: dict[ledger.Key, ledger.Entry] = {}

    def append(self, frames: Sequence[Frame]) -> Sequence[bool]:
        self.appends += 1
        if error := self._fail(self.appends):
            raise error
        if self._poisoned & {frame.sequence for frame in frames}:
            raise SchemaError("rows cannot be stored")
        admission = ledger.admit(frames, self._ledger)
        self._ledger.update(admission.changed)
        self.kept += [frame.sequence for frame, new in zip(frames, admission.new, strict=True) if new]
        return admission.new

    def write(self, batches: Sequence[Batch]) -> None: ...

    def acknowledged(self, agent: str, boot: str) -> int:
        return self._ledger[agent, boot].sequence

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        raise NotImplementedError

    def maintain(self) -> None: ...

    def close(self) -> None: ...


async def give(ingest: Ingest, stream: Stream, frame: Frame, size: int = 1_000) -> None:
    async def read() -> Item:
        return Item(stream, frame.boot, frame.sequence, size, frame)

    await ingest.take(stream, size, read)


def heard(stream: Stream) -> list[tuple[int, bool]]:
    """Acknowledgements as (sequence, refused)."""
    return [(ack.sequence, bool(ack.refused)) for ack in (stream.acks.get_nowait() for _ in range(stream.acks.qsize()))]


async def test_frames_behind_one_that_could_not_be_stored_are_not_stored(make_frame: MakeFrame) -> None:
    """The disk was full for one commit: sent again from there, nothing is taken for stored that is not."""
    store = Memory(fail=lambda call: StoreError("the disk is full") if call == 1 else None)
    ingest = Ingest(store, clock=lambda: 0, gather_seconds=0.0)
    first, second = Stream(), Stream()
    for sequence in (1, 2, 3):
        await give(ingest, first, make_frame(sequence), COMMIT_BYTES_MAX)
    running = asyncio.create_task(ingest.run())
    assert "full" in str(await asyncio.wait_for(first.broken, 60))
    await give(ingest, first, make_frame(4))  # read from the wire before its task was told to end
    await ingest.drained(first)
    for sequence in (1, 2, 3, 4):
        await give(ingest, second, make_frame(sequence))
    await ingest.drained(second)
    await ingest.stop()
    await running
    assert store.kept == [1, 2, 3, 4]
    assert heard(first) == []
    assert heard(second)[-1] == (4, False)


async def test_one_frame_that_fits_no_table_costs_its_neighbours_nothing(make_frame: MakeFrame) -> None:
    """It is refused, the others are stored in order, and a hundred others do not cost a hundred commits."""
    store = Memory(poisoned=[37])
    ingest = Ingest(store, clock=lambda: 0, gather_seconds=0.0)
    stream = Stream()
    for sequence in range(1, 101):
        await give(ingest, stream, make_frame(sequence))
    running = asyncio.create_task(ingest.run())
    await ingest.drained(stream)
    await ingest.stop()
    await running
    assert store.kept == [sequence for sequence in range(1, 101) if sequence != 37]
    assert heard(stream) == [(36, False), (37, True), (100, False)]
    assert store.appends <= 20


async def test_acknowledgements_of_a_boot_never_go_back(make_frame: MakeFrame) -> None:
    """Frames sent again are acknowledged with the newest of them, whatever order they come in."""
    store = Memory()
    ingest = Ingest(store, clock=lambda: 0, gather_seconds=0.0)
    stream, other = Stream(), Stream()
    for sequence in (1, 2, 3, 1, 2):
        await give(ingest, stream, make_frame(sequence))
    await give(ingest, other, make_frame(1, boot="boot-2"))
    running = asyncio.create_task(ingest.run())
    await ingest.drained(stream)
    await ingest.drained(other)
    await ingest.stop()
    await running
    assert heard(stream) == [(3, False)]
    assert heard(other) == [(1, False)]


async def test_a_fault_of_the_writer_ends_the_ingest_and_acknowledges_nothing(make_frame: MakeFrame) -> None:
    """What nobody foresaw is not passed over: whoever waits for the writer learns of it."""
    ingest = Ingest(Memory(fail=lambda _: RuntimeError("unforeseen")), clock=lambda: 0, gather_seconds=0.0)
    stream = Stream()
    await give(ingest, stream, make_frame(1))
    with pytest.raises(RuntimeError, match="unforeseen"):
        await ingest.run()
    assert heard(stream) == []


async def test_no_frame_is_unpacked_before_there_is_room_for_it(make_frame: MakeFrame) -> None:
    """However many agents push while the disk is slow, what they sent waits on the wire, and every one gets its turn."""
    ingest = Ingest(Memory(), clock=lambda: 0, gather_seconds=0.0)
    streams = [Stream() for _ in range(20)]
    large = QUEUE_BYTES_MAX // 4
    unpacked: list[int] = []

    async def push(number: int) -> None:
        async def read() -> Item:
            unpacked.append(number)
            return Item(streams[number], f"boot-{number}", 1, large, make_frame(1, boot=f"boot-{number}"))

        await ingest.take(streams[number], large, read)

    tasks = [asyncio.create_task(push(number)) for number in range(20)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert unpacked == [0, 1, 2, 3]
    tasks[4].cancel()
    running = asyncio.create_task(ingest.run())
    await asyncio.gather(*tasks, return_exceptions=True)
    for stream in streams:
        await ingest.drained(stream)
    await ingest.stop()
    await running
    assert unpacked == [number for number in range(20) if number != 4]


async def test_a_frame_given_up_while_it_is_unpacked_gives_its_room_back(make_frame: MakeFrame) -> None:
    """A stream cut in the middle must not leave the next one waiting for ever."""
    ingest = Ingest(Memory(), clock=lambda: 0, gather_seconds=0.0)
    stream, other = Stream(), Stream()

    async def never() -> Item:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    cut = asyncio.create_task(ingest.take(stream, QUEUE_BYTES_MAX, never))
    waiting = asyncio.create_task(give(ingest, other, make_frame(1), QUEUE_BYTES_MAX))
    for _ in range(10):
        await asyncio.sleep(0)
    cut.cancel()
    await asyncio.wait_for(waiting, 60)


def test_agents_are_asked_to_pack_while_they_are_few() -> None:
    """Differences are dear to read: where very many send, whole rows cost the collector a tenth of the time."""

    async def run() -> list[int]:
        ingest, item = Ingest(Memory(), lambda: 0), Item(Stream(), "boot", 1, 1, None)
        told = []
        for streams in (1, PACKED_STREAMS_MAX, PACKED_STREAMS_MAX + 1):
            ingest.streams = streams
            told.append(ingest._ack(item).packing)
        return told

    assert asyncio.run(run()) == [PACKING, PACKING, NOT_PACKED]
