"""Stacks of training processes: whose, when, and what is said where they cannot be had. py-spy is a script, or the real one."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.parsers.py_spy import FRAMES_MAX, counted, stacks
from warpline_agent.process_states import process_state
from warpline_agent.py_spy import DUMP_BYTES_MAX, dump
from warpline_agent.sources.stacks import Stacks, StacksConfig
from warpline_hook.step_ring import StepRing, create
from warpline_proto.capture import Capture
from warpline_proto.errors import Busy, Denied, Refused, Unsupported

NOW = 1_800_000_000_000_000_000
DUMP = json.dumps(
    [
        {
            "pid": 1,
            "os_thread_id": 11,
            "thread_name": "MainThread",
            "active": True,
            "owns_gil": True,
            "frames": [{"name": "forward", "short_filename": "model.py", "line": 7}, {"name": "<module>", "line": 1}],
        },
        {"pid": 1, "os_thread_id": 12, "thread_name": None, "active": False, "owns_gil": False, "frames": []},
    ]
).encode()


class Machine:
    """A clock that moves when it is told to, and a py-spy that answers at once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.asked: list[int] = []
        self.answer: Callable[[], bytes] = lambda: DUMP

    def source(self, folder: Path, **settings: Any) -> Stacks:
        config = StacksConfig(directories=(str(folder),), containers=False, py_spy="sh", **settings)
        made = Stacks(config, lambda: NOW + int(self.seconds * 1e9), lambda: self.seconds, self.pause, self.take)
        made.open()
        return made

    def pause(self, seconds: float) -> None:
        self.seconds += seconds

    def take(self, command: str, pid: int, seconds: float) -> bytes:
        self.asked.append(pid)
        return self.answer()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def trainer(folder: Path, rank: int, step_ns: int = 10**9) -> StepRing:
    """A file of this process as one of rank `rank`, that has ended ten steps by NOW."""
    ring = create(str(folder), None, NOW)
    ring.identify({"job": "night", "rank": rank, "world_size": 8})
    for step in range(1, 11):
        ring.step(step, 0, (NOW - (11 - step) * step_ns, step_ns, *(0,) * 11))
    return ring


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[int]]:
    """Two processes that have ended steps as ranks 0 and 1 of a job."""
    program = (
        "import sys\n"
        "sys.path[:0] = sys.argv[3:]\n"
        "from test_stacks_source import trainer\n"
        "from pathlib import Path\n"
        "kept = trainer(Path(sys.argv[1]), int(sys.argv[2]))\n"
        "print(flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(Path(__file__).parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for rank in (0, 1)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    yield [each.pid for each in started]
    for each in started:
        each.communicate()


def rows(source: Stacks) -> list[dict[str, Any]]:
    return [row for each in source.read() for row in each.batch.to_pylist()]


def request(rank: int, seconds: float = 1.0) -> Capture:
    return Capture("c1", "night", rank, "stacks", NOW, int(seconds * 1e9), "finding")


def test_each_process_is_dumped_rarely_and_one_at_a_time(machine: Machine, tmp_path: Path, children: list[int]) -> None:
    source = machine.source(tmp_path, every_seconds=30.0)
    for _ in range(9):
        source.read()
        machine.seconds += 5
    assert sorted(machine.asked) == sorted([*children, *children])
    assert sorted(machine.asked[:2]) == sorted(children)


def test_rows_say_whose_stacks_they_are(machine: Machine, tmp_path: Path) -> None:
    """Rank and job from the hook, the pid as this machine has it."""
    trainer(tmp_path, 3)
    first, second = rows(machine.source(tmp_path))
    assert (first["job"], first["rank"], first["pid"], first["thread"]) == ("night", 3, os.getpid(), 11)
    assert first["frames"] == ["forward (model.py:7)", "<module> (?:1)"]
    assert (first["active"], first["owns_gil"], first["count"], first["time_ns"]) == (True, True, 1, NOW)
    assert (second["frames"], second["thread_name"]) == ([], None)


def test_all_ranks_of_a_node_are_dumped_once_when_one_ends_no_more_steps(
    machine: Machine, tmp_path: Path, children: list[int]
) -> None:
    """From ten of its usual steps on, and not again before it has moved."""
    source = machine.source(tmp_path, every_seconds=1000.0)
    for _ in range(3):
        source.read()
    machine.asked.clear()
    machine.seconds = 29
    source.read()
    assert machine.asked == []
    machine.seconds = 31
    source.read()
    assert sorted(machine.asked) == sorted(children)
    source.read()
    assert len(machine.asked) == 2


def test_threads_of_a_hang_are_told_with_what_they_wait_in(
    machine: Machine, tmp_path: Path, children: list[int]
) -> None:
    """Each process here sleeps in a read; as root its stack in the kernel is seen as well."""
    source = machine.source(tmp_path, every_seconds=1000.0)
    for _ in range(3):
        source.read()
    machine.seconds = 31
    for pid in children:
        while (standing := process_state(pid)) is not None and standing.os_state == "running":
            threading.Event().wait(0.01)
    found = {row["thread"]: row for row in rows(source)}
    for pid in children:
        assert (found[pid]["os_state"], found[pid]["rank"] in (0, 1), found[pid]["frames"]) == ("sleeping", True, None)
        assert os.geteuid() != 0 or found[pid]["kernel_frames"]
    assert found[11]["frames"], "what py-spy saw is there as before"


def test_where_py_spy_is_denied_threads_of_a_hang_are_told_all_the_same(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 0)
    source = machine.source(tmp_path, every_seconds=1000.0)

    def denied() -> bytes:
        raise Denied("reading another process's memory is not permitted (uid 1000, kernel.yama.ptrace_scope=1)")

    machine.answer = denied
    assert rows(source) == []
    machine.seconds = 31
    told = {row["thread"]: row for row in rows(source)}
    assert told[os.getpid()]["os_state"] == "running"
    assert [(each.state, "ptrace_scope=1" in each.reason) for each in source.health()] == [("denied", True)]


def test_a_job_with_long_steps_does_not_hang_so_soon(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 0, step_ns=60 * 10**9)
    source = machine.source(tmp_path, every_seconds=10_000.0)
    source.read()
    machine.seconds = 599
    assert rows(source) == []
    machine.seconds = 601
    assert [row["thread"] for row in rows(source)][:2] == [11, 12]


def test_a_closer_look_takes_ten_a_second_and_counts_equal_ones(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 5)
    (found,) = machine.source(tmp_path).capture(request(5))
    assert not isinstance(found, type(None))
    read = found.batch.to_pylist()  # type: ignore[union-attr]
    assert len(machine.asked) in (10, 11)
    assert [row["count"] for row in read] == [len(machine.asked)] * 2


def test_a_long_closer_look_ends_after_ten_seconds(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 5)
    list(machine.source(tmp_path).capture(request(5, seconds=3600)))
    assert machine.seconds <= 10


def test_a_closer_look_at_a_rank_of_another_node_is_denied(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 5)
    with pytest.raises(Denied, match="no process on this node records steps as rank 6 of job night"):
        list(machine.source(tmp_path).capture(request(6)))


def test_a_process_that_cannot_be_dumped_is_told_until_it_can(machine: Machine, tmp_path: Path) -> None:
    trainer(tmp_path, 0)
    source = machine.source(tmp_path, every_seconds=1.0)

    def denied() -> bytes:
        raise Denied("not permitted", "do this")

    machine.answer = denied
    assert rows(source) == []
    assert [(each.subject, each.state, each.reason) for each in source.health()] == [
        (f"pid {os.getpid()}", "denied", "not permitted (do this)")
    ]
    machine.seconds, machine.answer = 2, lambda: b"{"
    source.read()
    assert [each.state for each in source.health()] == ["refused"]
    machine.seconds, machine.answer = 4, lambda: DUMP
    assert len(rows(source)) == 2
    assert list(source.health()) == []


def test_a_node_without_py_spy_has_no_such_source() -> None:
    with pytest.raises(Unsupported, match="there is no no-such-py-spy"):
        Stacks(StacksConfig(py_spy="no-such-py-spy")).open()


@pytest.fixture
def py_spy(tmp_path: Path) -> Callable[[str], str]:
    """A shell script in place of py-spy."""

    def make(script: str) -> str:
        path = tmp_path / "py-spy"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def test_py_spy_is_asked_not_to_stop_the_process(py_spy: Callable[[str], str]) -> None:
    assert dump(py_spy('echo "$@"'), 42, 20.0) == b"dump --json --nonblocking --pid 42"


def test_a_py_spy_that_does_not_answer_is_ended(py_spy: Callable[[str], str]) -> None:
    """The clock of the deadline is made up; the child is real, and gone afterwards."""
    clock = itertools.count()
    with pytest.raises(Busy, match="no answer within 5 s"):
        dump(py_spy("exec sleep 600"), 42, 5.0, lambda: float(next(clock)))


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("Permission Denied: Try running again", Denied, "kernel.yama.ptrace_scope=1"),
        ("    1: Operation not permitted (os error 1)", Denied, "not permitted"),
        ("Error: Failed to find python version", Unsupported, "Failed to find python version"),
        ("", Unsupported, "it said nothing"),
    ],
)
def test_what_py_spy_says_becomes_a_reason(
    py_spy: Callable[[str], str], tmp_path: Path, said: str, kind: type[Exception], told: str
) -> None:
    (tmp_path / "proc/sys/kernel/yama").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/yama/ptrace_scope").write_text("1\n")
    with pytest.raises(kind, match=told):
        dump(py_spy(f"echo '{said}' >&2; exit 1"), 42, 20.0, proc=str(tmp_path / "proc"))


def test_a_dump_without_end_is_given_up(py_spy: Callable[[str], str]) -> None:
    with pytest.raises(Unsupported, match=f"more than {DUMP_BYTES_MAX:,} bytes"):
        dump(py_spy("exec yes '                                                  '"), 42, 60.0)


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b'"x"', b"[" * 100_000])
def test_what_is_no_dump_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        stacks(text, NOW)


def test_threads_and_frames_that_make_no_sense_are_left_out() -> None:
    """A process may call its threads and functions what it likes."""
    odd = [
        7,
        {"frames": "x"},
        {"frames": [3, {"name": "a" * 5000, "line": -1}] * 500, "active": "yes", "os_thread_id": "z"},
    ]
    (row,) = stacks(json.dumps(odd).encode(), NOW)
    assert (row["active"], row["thread"], len(row["frames"])) == (None, None, FRAMES_MAX)
    assert row["frames"][0] == "? (?)"
    assert len(counted([row, row])) == 1


@pytest.mark.skipif(shutil.which("py-spy") is None, reason="needs py-spy: pip install py-spy")
def test_the_real_py_spy_reads_a_real_process() -> None:
    program = "import sys\ndef waiting(): sys.stdin.read()\nprint(flush=True)\nwaiting()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (row,) = stacks(dump(shutil.which("py-spy") or "", child.pid, 20.0), time.time_ns())
    assert row["pid"] == child.pid
    assert any(frame.startswith("waiting (") for frame in row["frames"])
    child.communicate()
