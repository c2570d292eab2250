"""A log is followed while it is written: nothing twice, nothing lost without being counted, over every turn a file can take."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from warpline_agent import tail as tails
from warpline_agent.source import Rows
from warpline_agent.sources import nccl_log
from warpline_agent.sources.nccl_log import NcclLogConfig, NcclLogSource
from warpline_agent.tail import Tail
from warpline_proto.errors import Denied, Unsupported

START = (
    "node1:{pid}:9 [0] NCCL INFO comm 0xc rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 commId 0xabc1 - Init START\n"
)
LINE = (
    "node1:{pid}:9 [0] NCCL INFO AllReduce: opCount {number:x} sendbuff 0x1 recvbuff 0x2 count 4 datatype 7 op 0 root 0 "
    "comm 0xc [nranks=2] stream 0x5\n"
)


class Clock:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return int(self.seconds * 1e9)


class Machine:
    """A folder that jobs write logs into, and the source that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = NcclLogConfig(files=(f"{folder}/nccl.%h.%p.log",), positions=f"{folder}/positions.json")
        self.clock = Clock(os.stat(folder).st_mtime)

    def source(self, **changes: object) -> NcclLogSource:
        source = NcclLogSource(replace(self.config, **changes), host="node1.example.com", now=self.clock)  # type: ignore[arg-type]
        source.open()
        return source

    def log(self, pid: int = 7) -> Path:
        return self.folder / f"nccl.node1.{pid}.log"

    def write(self, text: str, pid: int = 7) -> None:
        with self.log(pid).open("a", encoding="utf-8") as file:
            file.write(text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def sequences(rows: Iterable[Rows]) -> list[int]:
    return [
        number for item in rows if item.table == "collectives" for number in item.batch.column("sequence").to_pylist()
    ]


def lines(*numbers: int, pid: int = 7) -> str:
    return "".join(LINE.format(number=number, pid=pid) for number in numbers)


def test_lines_come_once_as_they_are_written(machine: Machine) -> None:
    source = machine.source()
    assert list(source.read()) == []
    machine.write(START.format(pid=7) + lines(1, 2))
    rows = list(source.read())
    assert sequences(rows) == [1, 2]
    (member,) = next(item.batch for item in rows if item.table == "communicators").to_pylist()
    assert (member["communicator"], member["communicator_rank"], member["node"]) == ("0xabc1", 0, None)
    assert sequences(source.read()) == []
    machine.write(lines(3))
    (row,) = [row for item in source.read() for row in item.batch.to_pylist()]
    assert (row["sequence"], row["communicator"], row["start_ns"]) == (3, "0xabc1", machine.clock())


def test_a_line_is_read_when_it_is_whole(machine: Machine) -> None:
    source = machine.source()
    text = lines(1)
    machine.write(text[:60])
    assert sequences(source.read()) == []
    machine.write(text[60:] + lines(2))
    assert sequences(source.read()) == [1, 2]


def test_only_this_hosts_files_of_any_process_are_followed(machine: Machine) -> None:
    source = machine.source()
    machine.write(lines(1))
    machine.write(lines(2, pid=8), pid=8)
    (machine.folder / "nccl.node2.7.log").write_text(lines(3))
    (machine.folder / "nccl.node1.seven.log").write_text(lines(4))
    assert sorted(sequences(source.read())) == [1, 2]


def test_a_file_that_is_written_anew_is_read_from_its_start(machine: Machine) -> None:
    source = machine.source()
    machine.write(lines(1, 2, 3))
    source.read()
    machine.log().write_text(lines(11))
    assert sequences(source.read()) == [11]
    machine.log().write_text("another job\n" + lines(21, 22, 23, 24))
    assert sequences(source.read()) == [21, 22, 23, 24], "longer than before, but its beginning differs"


def test_a_rotated_file_is_read_to_its_end_before_the_next(machine: Machine) -> None:
    source = machine.source()
    machine.write(lines(1))
    source.read()
    machine.write(lines(2))
    machine.log().rename(machine.folder / "old")
    machine.write(lines(3))
    assert sequences(source.read()) == [2, 3]


def test_a_restart_goes_on_where_reading_stopped_and_knows_who_is_who(machine: Machine) -> None:
    source = machine.source()
    machine.write(START.format(pid=7) + lines(1))
    assert sequences(source.read()) == [1]
    source.close()
    machine.write(lines(2))
    rows = list(machine.source().read())
    assert sequences(rows) == [2]
    (row,) = next(item.batch for item in rows if item.table == "collectives").to_pylist()
    assert row["communicator"] == "0xabc1"
    assert [item.table for item in rows] == ["collectives"], "what was sent before is not sent again"


def test_rows_of_a_round_that_was_not_taken_over_are_read_again(machine: Machine) -> None:
    source = machine.source()
    machine.write(lines(1))
    source.read()
    machine.write(lines(2))
    source.read()
    assert sequences(machine.source().read()) == [2], "the agent died after the second round"


def test_an_old_file_is_not_taken_for_news(machine: Machine) -> None:
    machine.write(lines(1))
    long_ago = machine.clock.seconds - 2 * nccl_log.RECENT_SECONDS
    os.utime(machine.log(), (long_ago, long_ago))
    source = machine.source()
    assert sequences(source.read()) == []
    machine.write(lines(2))
    assert sequences(source.read()) == [2]


def test_a_round_reads_no_more_than_it_may_and_every_file_has_its_turn(machine: Machine) -> None:
    for pid in (7, 8, 9):
        machine.write(lines(*range(50), pid=pid), pid=pid)
    source = machine.source(read_bytes_max=2000)
    rounds = [len(sequences(source.read())) for _ in range(6)]
    assert max(rounds) <= 2000 // len(lines(1))
    seen = rounds
    while sum(seen) < 150:
        seen.append(len(sequences(source.read())))
        assert len(seen) < 100
    assert sum(seen) == 150


def test_what_is_skipped_because_reading_is_far_behind_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "BEHIND_BYTES_MAX", 1000)
    source = machine.source()
    machine.write(lines(*range(100)))
    size = machine.log().stat().st_size
    numbers = sequences(source.read())
    assert numbers and numbers == list(range(100 - len(numbers), 100))
    (health,) = source.health()
    assert (health.state, health.subject) == ("dropped", str(machine.log()))
    assert health.reason == f"{size - len(lines(*numbers))} bytes were not read"


def test_files_beyond_the_bound_are_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl_log, "FILES_MAX", 2)
    for pid in (7, 8, 9):
        machine.write(lines(pid, pid=pid), pid=pid)
    source = machine.source()
    assert len(sequences(source.read())) == 2
    assert [health.state for health in source.health()] == ["dropped"]
    machine.clock.seconds += nccl_log.IDLE_SECONDS + 1
    source.read()
    assert len(sequences(source.read())) == 1, "a file that rests gives its place to one that waits"


def test_a_file_that_rested_is_followed_again_when_it_grows(machine: Machine) -> None:
    source = machine.source()
    machine.write(START.format(pid=7) + lines(1))
    source.read()
    machine.clock.seconds += nccl_log.IDLE_SECONDS + 1
    source.read()
    machine.write(lines(2))
    rows = list(source.read())
    assert sequences(rows) == [2]
    (row,) = next(item.batch for item in rows if item.table == "collectives").to_pylist()
    assert row["communicator"] == "0xabc1"


def test_a_pipe_or_a_folder_under_the_name_is_not_waited_for(machine: Machine) -> None:
    os.mkfifo(machine.log(7))
    machine.log(8).mkdir()
    machine.write(lines(1, pid=9), pid=9)
    source = machine.source()
    assert sequences(source.read()) == [1]
    assert {health.state for health in source.health()} == {"unsupported"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', '{"x": ["a", -1, 3]}', "[" * 100_000])
def test_damaged_positions_are_no_reason_not_to_start(machine: Machine, content: str) -> None:
    Path(machine.config.positions).write_text(content)
    machine.write(lines(1))
    assert sequences(machine.source().read()) == [1]


def test_positions_that_cannot_be_written_are_told_and_reading_goes_on(machine: Machine) -> None:
    source = machine.source(positions=f"{machine.folder}/absent/positions.json")
    machine.write(lines(1))
    assert sequences(source.read()) == [1]
    machine.write(lines(2))
    assert sequences(source.read()) == [2]
    assert [health.subject for health in source.health()] == ["positions"]


def test_without_a_pattern_there_is_nothing_to_follow() -> None:
    source = NcclLogSource()
    with pytest.raises(Unsupported, match="NCCL_DEBUG_FILE"):
        source.open()
    source.close()
    source.close()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        NcclLogConfig(read_bytes_max=0)


def test_a_line_without_an_end_does_not_grow_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * (3 * tails.LINE_BYTES_MAX + 5) + b"\nend\n")
    tail = Tail(path)
    read = tail.read(10 * tails.LINE_BYTES_MAX)
    assert [len(line) for line in read] == [tails.LINE_BYTES_MAX] * 3 + [5, 3]
    tail.close()


def test_a_file_without_permission_is_denied(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(Denied):
        Tail(path)
