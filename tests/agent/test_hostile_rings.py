"""Rings that are damaged or made up, as any process of a user may leave them: the source goes on, and the others are read."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from warpline_agent.hook_search import FILES_MAX
from warpline_agent.ring_file import RECORD
from warpline_agent.source import Rows
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_hook import ring
from warpline_hook.process import Process, start_ticks

EXAMPLES = int(os.environ.get("WARPLINE_HOSTILE_EXAMPLES", "60"))
CAPACITY = 64
TEXTS = 1024
NAMESPACE = Path("/proc/self/ns/pid").stat().st_ino
MINE = Process(os.getpid(), start_ticks(os.getpid()), NAMESPACE)
GONE = Process(4_000_001, 5, NAMESPACE)
SIZE = ring.HEADER_BYTES + 3 * CAPACITY * ring.RECORD_BYTES + TEXTS


def sound(process: Process, records: int = 40) -> bytearray:
    """A ring as a process makes it, with kernels, operations and events of just now."""
    header = bytearray(ring.HEADER_BYTES)
    place = (SIZE, SIZE - TEXTS, TEXTS, ring.RECORD_BYTES, 3)
    whose = (process.pid, 0, process.start_ticks, process.namespace, time.time_ns())
    ring.IDENTITY.pack_into(header, 0, ring.MAGIC, ring.VERSION, ring.HEADER_BYTES, *place, *whose)
    cells = np.zeros(3 * CAPACITY, RECORD)
    for lane, kinds in enumerate(((ring.KERNEL, ring.MEMCPY), (ring.COLLECTIVE, ring.POINT_TO_POINT), (ring.CAPTURE,))):
        at = ring.LANES_AT + lane * ring.LANE_BYTES
        ring.LANE.pack_into(
            header, at, ring.HEADER_BYTES + lane * CAPACITY * ring.RECORD_BYTES, CAPACITY, records, 0, 0
        )
        its = cells[lane * CAPACITY : lane * CAPACITY + records]
        its["commit"] = np.arange(1, records + 1)
        its["kind"] = np.resize(kinds, records)
        its["start_ns"] = time.time_ns() - 10_000_000_000 + np.arange(records)
        its["duration_ns"] = 500
        its["value"], its["name"] = 7, 1
    struct.pack_into("<Q", header, ring.TEXTS_HEAD_AT, 24)
    texts = bytes(8) + struct.pack("<Q", 1 << 32 | 9) + b"a kernel"
    return header + cells.tobytes() + texts.ljust(TEXTS, b"\0")


class Node:
    """The source as an agent drives it: rows are on disk after each round."""

    def __init__(self, folder: Path) -> None:
        self.source = TrainingKernels(KernelsConfig(directories=(str(folder),), containers=False), node="n1")
        self.source.keep_until_settled(lambda frame: bytes(frame)[:1] > b"\x80")
        self.source.open()
        self.rows: list[Rows] = []

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.rows += self.source.read()
            list(self.source.health())
            so_far = self.source.so_far()
            so_far.intend(bytes(16))
            so_far.settle()

    def kernels(self) -> int:
        counts = [
            row["count"] for each in self.rows if each.table == "kernel_clusters" for row in each.batch.to_pylist()
        ]
        return sum(counts)


Make = Callable[[], Node]


@pytest.fixture
def node(tmp_path: Path) -> Any:
    made: list[Node] = []

    def start() -> Node:
        made.append(Node(tmp_path))
        return made[-1]

    yield start
    for each in made:
        each.source.close()


def name_of(process: Process) -> str:
    return ring.file_name(process)


WORDS = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 9000),
    st.sampled_from([2**64 - 1, 2**63, 2**63 - 1, 2**62, 2**53, 2**32, 1, 0, CAPACITY, SIZE]),
    st.integers(-5, 5).map(lambda by: time.time_ns() + by * 1_000_000_000),
)
PLACES = st.one_of(
    st.integers(0, 15),  # identity
    st.integers(16, 103),  # control, pulse, channels, counters
    st.integers(ring.LANES_AT // 8, ring.MARKS_AT // 8 - 1),
    st.integers(ring.MARKS_AT // 8, ring.TEXTS_HEAD_AT // 8),
    st.integers(ring.HEADER_BYTES // 8, SIZE // 8 - 1),
    st.integers((SIZE - TEXTS) // 8, SIZE // 8 - 1),
)
CHANGES = st.lists(st.tuples(PLACES, WORDS), min_size=1, max_size=16)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=CHANGES, while_read=CHANGES, cut=st.one_of(st.none(), st.integers(0, SIZE)), lives=st.booleans())
def test_whatever_stands_in_a_ring_and_changes_while_it_is_read_the_source_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[tuple[int, int]],
    while_read: list[tuple[int, int]],
    cut: int | None,
    lives: bool,
) -> None:
    folder = tmp_path_factory.mktemp("rings", numbered=True)
    content = sound(MINE if lives else GONE)
    for at, word in before:
        struct.pack_into("<Q", content, at * 8, word)
    path = folder / name_of(MINE if lives else GONE)
    path.write_bytes(content)
    reader = Node(folder)
    reader.rounds(2)
    if path.exists():
        with path.open("r+b") as file:
            for at, word in while_read:
                os.pwrite(file.fileno(), struct.pack("<Q", word), at * 8)
            if cut is not None:
                file.truncate(cut)
    reader.rounds(3)
    reader.source.close()
    again = Node(folder)
    again.rounds(2)
    again.source.close()
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()


def test_a_ring_that_is_cut_while_it_is_read_harms_nobody_else(node: Make, tmp_path: Path) -> None:
    """Nothing is mapped, so that there is no SIGBUS; what cannot be read any more is not made up."""
    (tmp_path / name_of(MINE)).write_bytes(sound(MINE))
    here = node()
    here.rounds(1)
    assert here.kernels() == 40
    os.truncate(tmp_path / name_of(MINE), 0)
    (tmp_path / name_of(GONE)).write_bytes(sound(GONE))
    here.rounds(3)
    assert here.kernels() == 80
    assert list(tmp_path.iterdir()) == [tmp_path / name_of(MINE)]


def test_a_ring_in_whose_place_another_is_put_is_read_as_another(node: Make, tmp_path: Path) -> None:
    path = tmp_path / name_of(MINE)
    path.write_bytes(sound(MINE))
    here = node()
    here.rounds(1)
    (tmp_path / "new").write_bytes(sound(MINE, 10))
    (tmp_path / "new").replace(path)
    here.rounds(2)
    assert here.kernels() == 50


def test_links_pipes_folders_and_odd_names_are_passed_over(node: Make, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_bytes(b"WARPRING, but of somebody else" * 1000)
    (tmp_path / "warpline-1-2-1.ring").symlink_to(outside)
    os.mkfifo(tmp_path / "warpline-1-2-2.ring")
    (tmp_path / "warpline-1-2-3.ring").mkdir()
    for odd in (
        "warpline-\n\t.ring",
        "warpline-\udcff\udc80.ring",
        "warpline-" + "x" * 240 + ".ring",
        "warpline-☃.ring",
    ):
        (tmp_path / odd).write_bytes(b"x" * 5000)
    (tmp_path / name_of(GONE)).write_bytes(sound(GONE))
    here = node()
    here.rounds(3)
    assert here.kernels() == 40
    told = list(here.source.health())
    assert len(told) == 4, "names that no hook gives are not even told"
    assert {each.state for each in told} <= {"refused", "denied"}
    for each in told:
        assert each.subject.isprintable()
        assert (each.subject + each.reason).encode("utf-8")
    assert outside.read_bytes().startswith(b"WARPRING")


def test_of_ten_thousand_files_the_newest_are_read_and_the_rest_cost_little(node: Make, tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"warpline-1-{number}-9.ring").write_bytes(b"")
    (tmp_path / name_of(GONE)).write_bytes(sound(GONE))
    here = node()
    here.rounds(3)
    assert here.kernels() == 40
    assert len(here.source._followed) <= FILES_MAX


@pytest.mark.parametrize("head", [2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("lane", range(3))
def test_counts_that_no_process_reaches_are_not_believed(node: Make, tmp_path: Path, lane: int, head: int) -> None:
    """Neither from the start nor later: what is told of the ring afterwards has to be written somewhere."""
    path = tmp_path / name_of(MINE)
    path.write_bytes(sound(MINE))
    here = node()
    here.rounds(1)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<Q", head), ring.LANES_AT + lane * ring.LANE_BYTES + 64)
    here.rounds(60)
    again = node()
    again.rounds(2)
    assert {each.state for each in again.source.health()} == {"refused"}


def test_a_window_of_capture_that_began_in_no_time_is_written_all_the_same(node: Make, tmp_path: Path) -> None:
    content = sound(MINE)
    cells = np.frombuffer(memoryview(content)[ring.HEADER_BYTES :], RECORD, 3 * CAPACITY)[2 * CAPACITY :]
    cells["start_ns"] = cells["duration_ns"] = 2**64 - 1
    cells["value"] = ring.KERNELS
    (tmp_path / name_of(MINE)).write_bytes(content)
    here = node()
    here.rounds(3)
    assert here.kernels() == 40


def test_capture_that_began_and_ended_beyond_all_time_stops_nothing(node: Make, tmp_path: Path) -> None:
    content = sound(MINE)
    cells = np.frombuffer(memoryview(content)[ring.HEADER_BYTES :], RECORD, 3 * CAPACITY)[2 * CAPACITY :]
    cells["start_ns"] = 2**63 + np.arange(CAPACITY, dtype=np.uint64)
    cells["duration_ns"] = 0
    cells["value"] = np.resize((ring.KERNELS, 0), CAPACITY)
    (tmp_path / name_of(MINE)).write_bytes(content)
    here = node()
    here.rounds(3)
    assert here.kernels() == 40
    assert "40 records with impossible times" in "".join(each.reason for each in here.source.health())


def test_records_of_a_time_to_come_do_not_pile_up(node: Make, tmp_path: Path) -> None:
    """They would wait for their step for ever."""
    content = sound(MINE)
    cells = np.frombuffer(memoryview(content)[ring.HEADER_BYTES :], RECORD, 2 * CAPACITY)
    cells["start_ns"] = 2**61
    (tmp_path / name_of(MINE)).write_bytes(content)
    here = node()
    here.rounds(3)
    (followed,) = here.source._followed.values()
    assert followed.impossible == 80
    assert not followed._pending
    assert "80 records with impossible times" in "".join(each.reason for each in here.source.health())
