"""What an operator relies on of the raw ring: what it holds is exact, what it does not hold is counted, nothing ends it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent import raw_block, raw_ring, raw_segments
from warpline_agent.kernels import Kernels
from warpline_agent.raw_block import Damaged, Process
from warpline_agent.raw_ring import RawRing, RawRingConfig

RANK_3 = Process.of("trace@n", job="train", rank=3)
Record = tuple[int, int, str, int, int, int, int]
INT64 = st.integers(-(2**63), 2**63 - 1)
RECORDS = st.lists(
    st.tuples(
        INT64.filter(lambda value: abs(value) < 2**62),
        st.integers(-5, 2**40),
        st.sampled_from(["gemm", "ncclDevKernel_AllReduce", "Memcpy HtoD", "ядро\n", ""]),
        st.integers(0, 3),
        st.integers(-1, 9),
        INT64,
        st.integers(-1, 2**62),
    ),
    max_size=40,
)


def kernels(records: list[Record]) -> Kernels:
    """Records as a source hands them over, under a names table with names that none of them has."""
    columns = list(zip(*records, strict=True)) or [()] * 7
    names = ("unused", *dict.fromkeys(columns[2]))
    return Kernels(
        start_ns=np.array(columns[0], dtype=np.int64),
        duration_ns=np.array(columns[1], dtype=np.int64),
        name_id=np.array([names.index(name) for name in columns[2]], dtype=np.int32),
        category=np.array(columns[3], dtype=np.uint8),
        device=np.array(columns[4], dtype=np.int32),
        stream=np.array(columns[5], dtype=np.int64),
        step=np.array(columns[6], dtype=np.int64),
        names=names,
    )


def records(found: Kernels) -> list[Record]:
    columns: list[Any] = [found.category, found.device, found.stream, found.step]
    named = [found.names[index] for index in found.name_id]
    listed = [found.start_ns.tolist(), found.duration_ns.tolist(), named, *(each.tolist() for each in columns)]
    return list(zip(*listed, strict=True))


def made_up(count: int, start: int = 1_700_000_000_000_000_000) -> list[Record]:
    random = np.random.default_rng(start % 2**32 + count)
    took = random.integers(800, 90_000, count)
    return [
        (start + 100_000 * index, int(took[index]), f"kernel_{index % 37}", index % 4, 0, 7 + index % 2, index // 100)
        for index in range(count)
    ]


class Hand:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.ns = 10**18

    def __call__(self) -> int:
        return self.ns


def held(ring: RawRing, process: Process = RANK_3) -> list[Record]:
    found: list[Record] = []
    for block in ring.blocks(process.get("job"), process.get("rank")):
        part = ring.read(block)
        assert part is not None
        found += records(part)
    return found


def opened(folder: Path, clock: Callable[[], int] | None = None, **how: Any) -> RawRing:
    ring = RawRing(RawRingConfig(**how), folder, clock or Hand())
    ring.open()
    return ring


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 1,000 records, and rings of any size."""
    monkeypatch.setattr(raw_block, "RECORDS_MAX", 1_000)
    monkeypatch.setattr(raw_ring, "JOIN_RECORDS_MAX", 1_000)
    monkeypatch.setattr(raw_ring, "BYTES_MIN", 1)


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.tuples(st.integers(0, 2), RECORDS), max_size=12), flushes=st.sets(st.integers(0, 11)))
def test_any_records_in_any_batching_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, list[Record]]], flushes: set[int]
) -> None:
    """Three processes mixed, written when it happens, and again after a restart."""
    folder = tmp_path_factory.mktemp("ring")
    ring = opened(folder)
    fed: dict[int, list[Record]] = {0: [], 1: [], 2: []}
    for index, (rank, part) in enumerate(batches):
        ring.append(Process.of("c", job="train", rank=rank), kernels(part))
        fed[rank] += part
        ring.flush(everything=index in flushes)
    ring.close()
    again = opened(folder)
    assert {rank: held(again, Process.of("c", job="train", rank=rank)) for rank in fed} == fed
    assert (again.dropped, again.take_losses()) == (0, 0)
    again.close()


@settings(max_examples=80, deadline=None)
@given(part=RECORDS.filter(bool), share=st.floats(0, 1, exclude_max=True), flip=st.booleans())
def test_a_block_cut_or_changed_at_any_byte_is_damage_and_nothing_else(
    part: list[Record], share: float, flip: bool
) -> None:
    told, data = raw_block.encode(RANK_3, kernels(part), mark="m")
    assert raw_block.describe(data) == told
    at = int(share * len(data))
    changed = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :] if flip else data[:at]
    with pytest.raises(Damaged):
        raw_block.decode(changed)


def test_a_block_that_claims_to_be_larger_than_any_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by what it claims, before memory is taken."""
    _, data = raw_block.encode(RANK_3, kernels(made_up(5_000)))
    monkeypatch.setattr(raw_block, "RECORDS_MAX", 100)
    with pytest.raises(Damaged):
        raw_block.decode(data)
    monkeypatch.setattr(raw_block, "META_BYTES_MAX", 100)
    with pytest.raises(Damaged):
        raw_block.describe(data)


@pytest.mark.usefixtures("small")
def test_a_torn_tail_costs_its_own_block_alone(tmp_path: Path) -> None:
    """Cut at every byte of the last block of a segment: the blocks before it stay, writing goes on in another segment."""
    fed = made_up(3_000)
    ring = opened(tmp_path)
    ring.append(RANK_3, kernels(fed))
    last = ring.blocks("train", 3)[-1]
    ring.close()
    whole = last.path.read_bytes()
    for cut in range(last.offset, len(whole), 211):
        last.path.write_bytes(whole[:cut])
        again = opened(tmp_path)
        assert held(again) == fed[:2_000]
        told = [each.reason for each in again.health()]
        assert told == ([f"{cut - last.offset} bytes of an earlier start are damaged"] if cut > last.offset else [])
        again.close()
    more = made_up(500, start=5)
    again = opened(tmp_path)
    again.append(RANK_3, kernels(more))
    again.flush(everything=True)
    assert held(again) == fed[:2_000] + more
    again.close()


@pytest.mark.usefixtures("small")
def test_the_oldest_falls_off_first_and_is_counted_also_after_a_restart(tmp_path: Path) -> None:
    bytes_max = 100_000
    ring = opened(tmp_path, bytes_max=bytes_max)
    fed: list[Record] = []
    for start in range(60):
        part = made_up(1_000, start=10**18 + start * 10**12)
        ring.append(RANK_3, kernels(part))
        fed += part
        assert sum(path.stat().st_size for path in tmp_path.glob("*.raw")) <= bytes_max
    found = held(ring)
    assert found == fed[-len(found) :]
    assert 10_000 < len(found) < len(fed)
    assert ring.dropped == len(fed) - len(found)
    ring.close()
    again = opened(tmp_path, bytes_max=bytes_max)
    assert held(again) == found
    assert again.dropped == len(fed) - len(found)
    again.close()


@pytest.mark.usefixtures("small")
def test_what_is_too_old_falls_off(tmp_path: Path) -> None:
    clock = Hand()
    ring = opened(tmp_path, clock, age_seconds_max=900.0)
    ring.append(RANK_3, kernels(made_up(1_000)))
    clock.ns += 800 * 10**9
    ring.append(RANK_3, kernels(made_up(1_000, start=7)))
    clock.ns += 101 * 10**9
    ring.flush()
    assert held(ring) == made_up(1_000, start=7)
    assert ring.dropped == 1_000
    ring.close()


def test_records_wait_seconds_for_their_block_and_no_longer(tmp_path: Path) -> None:
    clock = Hand()
    ring = opened(tmp_path, clock)
    ring.append(RANK_3, kernels(made_up(10)))
    ring.flush()
    assert held(ring) == []
    clock.ns += int(raw_ring.BLOCK_SECONDS * 1e9)
    ring.flush()
    assert held(ring) == made_up(10)
    ring.close()


@pytest.mark.parametrize(("grade", "kept"), [("kernels", {0, 1}), ("communication", {1}), ("off", set())])
def test_a_grade_keeps_less_and_says_how_much_it_left_out(tmp_path: Path, grade: str, kept: set[int]) -> None:
    fed = made_up(100)
    ring = opened(tmp_path, grade=grade)
    ring.append(RANK_3, kernels(fed))
    ring.flush(everything=True)
    assert held(ring) == [each for each in fed if each[3] in kept]
    assert sum(block.told.left_out for block in ring.blocks("train", 3)) == (100 - len(held(ring)) if kept else 0)
    ring.close()


@pytest.mark.usefixtures("small")
def test_a_full_disk_loses_counted_records_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block that did not fit whole is cut off again; the next one says how many records are missing before it."""

    class Full(FileIO):
        def write(self, data: Any) -> int:
            if full:
                return super().write(bytes(data)[:100])
            return super().write(data)

    full = False
    monkeypatch.setattr(raw_segments, "FileIO", Full)
    ring = opened(tmp_path)
    ring.append(RANK_3, kernels(made_up(1_000)))
    full = True
    ring.append(RANK_3, kernels(made_up(1_000, start=8)))
    assert [each.reason for each in ring.health()] == [
        f"raw records are not kept: {tmp_path}: {os.strerror(errno.ENOSPC)}"
    ]
    full = False
    ring.append(RANK_3, kernels(made_up(1_000, start=9)))
    assert list(ring.health()) == []
    assert (ring.take_losses(), ring.take_losses()) == (1_000, 0)
    assert held(ring) == made_up(1_000) + made_up(1_000, start=9)
    assert [block.told.lost for block in ring.blocks("train", 3)] == [0, 1_000]
    ring.close()
    again = opened(tmp_path)
    assert held(again) == made_up(1_000) + made_up(1_000, start=9)
    again.close()


@pytest.mark.usefixtures("small")
def test_a_removed_folder_is_made_again_and_what_it_held_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "ring"
    ring = opened(folder)
    ring.append(RANK_3, kernels(made_up(2_000)))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert [ring.read(block) for block in ring.blocks("train", 3)] == [None, None]
    ring.append(RANK_3, kernels(made_up(1_000, start=9)))
    assert held(ring) == made_up(1_000, start=9)
    assert ring.dropped == 2_000
    ring.close()


def test_two_agents_do_not_share_a_directory(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert "another agent holds" in next(second.health()).reason
    first.close()
    second.append(RANK_3, kernels(made_up(10)))
    second.flush(everything=True)
    assert held(second) == made_up(10)
    second.close()


@pytest.mark.usefixtures("small")
def test_a_file_that_is_read_again_after_a_restart_is_not_kept_twice(tmp_path: Path) -> None:
    """Neither what is still held nor what has fallen off: else old files would push out new ones."""
    ring = opened(tmp_path, bytes_max=20_000)
    for number in range(12):
        ring.append(RANK_3, kernels(made_up(1_500, start=number)), mark=f"file{number}")
    found, gone = held(ring), ring.dropped
    assert gone > 0
    ring.close()
    again = opened(tmp_path, bytes_max=20_000)
    for number in range(12):
        again.append(RANK_3, kernels(made_up(1_500, start=number)), mark=f"file{number}")
    assert (held(again), again.dropped) == (found, gone)
    again.close()


_KILLED = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_raw_ring as t
t.raw_block.RECORDS_MAX = t.raw_ring.JOIN_RECORDS_MAX = 1_000
ring = t.RawRing(t.RawRingConfig(), Path(sys.argv[1]))
ring.open()
for number in itertools.count():
    ring.append(t.RANK_3, t.kernels(t.made_up(1_000, start=number)))
    print(number, flush=True)
"""


def test_an_agent_that_is_killed_keeps_every_block_that_it_wrote(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "ring"), str(Path(__file__).parent)], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(5)]
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    ring = opened(tmp_path / "ring")
    found = held(ring)
    assert len(found) % 1_000 == 0
    assert len(found) >= 1_000 * len(told)
    assert found == [each for number in range(len(found) // 1_000) for each in made_up(1_000, start=number)]
    ring.close()


def test_long_names_make_more_blocks_not_larger_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_ring, "BLOCK_NAMES_CHARS_MAX", 1_000)
    fed = [(index, 1, f"{index % 50:0100d}", 0, 0, 0, 0) for index in range(200)]
    ring = opened(tmp_path)
    ring.append(RANK_3, kernels(fed))
    ring.flush(everything=True)
    assert held(ring) == fed
    assert len(ring.blocks("train", 3)) > 10
    ring.close()
