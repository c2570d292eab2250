"""Traces on request of a real PyTorch job: two ranks over gloo, whose profiler library asks this agent for work.

The library is within PyTorch for CPUs too, and speaks to the agent as it does beside a GPU; what it traces are CPU operators.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.sources.profiler import Profiler, ProfilerConfig
from warpline_proto.capture import TRACE, Capture
from warpline_proto.errors import Busy, Denied

PROGRAM = Path(__file__).with_name("until_told.py")
RANKS = 2
AHEAD_NS = 11_000_000_000
"""A process hears of a trace within five seconds, and its library wants a few to prepare itself."""
DURATION_NS = 1_000_000_000
WAIT_SECONDS = 120.0


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Profiler]:
    """The agent's place at the socket of the node's daemon."""
    (tmp_path / "memory").mkdir()
    (tmp_path / "traces").mkdir()
    made = Profiler(
        ProfilerConfig(directory=str(tmp_path / "traces"), directories=(str(tmp_path / "memory"),), containers=False)
    )
    try:
        made.open()
    except Busy as error:
        pytest.skip(f"needs the socket of the node's daemon: {error}")
    yield made
    made.close()


@pytest.fixture
def job(hooked_python: Callable[..., Path], tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Starts the job; it is told to end when the test does."""
    base = os.environ.get("WARPLINE_TEST_TORCH")
    if not base:
        pytest.skip("needs PyTorch: set WARPLINE_TEST_TORCH to a Python that has it")
    python, end = str(hooked_python(base=base)), tmp_path / "end"
    started: list[subprocess.Popen[bytes]] = []

    def start(*flags: str) -> None:
        launcher = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        told = {"WARPLINE_HOOK": "1", "WARPLINE_JOB": "night", "WARPLINE_DIRECTORY": str(tmp_path / "memory")}
        variables = os.environ | told | {"KINETO_USE_DAEMON": "1", "OMP_NUM_THREADS": "1"}
        command = [*launcher, str(PROGRAM), str(end), *flags]
        started.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))

    yield start
    end.touch()
    for process in started:
        output, _ = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, output.decode()


def until(reached: Callable[[], Any]) -> Any:
    """What it gives once that is something."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := reached()):
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.2)
    return found


def ask(source: Profiler, rank: int, start_ns: int) -> bool:
    """Whether the rank was there to be asked."""
    try:
        list(source.capture(Capture(f"look-{rank}", "night", rank, TRACE, start_ns, DURATION_NS, "by hand")))
    except Denied as error:
        assert "no process on this node" in error.message
        return False
    return True


def test_two_ranks_trace_the_same_steps_and_their_rows_arrive(
    source: Profiler, job: Callable[..., None], tmp_path: Path
) -> None:
    """By the number of the step, as each rank counts it; the files stay for the user."""
    job()
    tables: dict[str, list[dict[str, Any]]] = {}

    def answers() -> list[dict[str, Any]]:
        for table, batch, _ in source.read():
            tables.setdefault(table, []).extend(batch.to_pylist())
        found = sorted(tables.get("captures", []), key=lambda row: int(row["rank"]))
        return found if len(found) == RANKS else []

    begun: list[int] = []

    def first_asked() -> bool:
        begun.append(time.time_ns() + AHEAD_NS)
        return ask(source, 0, begun[-1])

    until(first_asked)
    until(lambda: ask(source, 1, begun[-1]))
    found = until(answers)
    assert [row["state"] for row in found] == ["done", "done"], found
    steps = [re.search(r"steps (\d+) to (\d+) are whole", row["detail"]) for row in found]
    assert all(steps) and len({each.groups() for each in steps if each}) == 1, found
    assert {(row["job"], row["rank"]) for row in tables["phases"]} == {("night", 0), ("night", 1)}
    files = list((tmp_path / "traces").iterdir())
    assert len(files) == RANKS
    for file in files:
        assert any(event.get("cat") == "cpu_op" for event in json.loads(file.read_text())["traceEvents"])


def test_a_process_in_which_the_user_profiles_is_left_alone(source: Profiler, job: Callable[..., None]) -> None:
    """It is not asked, and the answer says why."""
    job("--profiled")

    def denied() -> str:
        """Refused at once, or when the process asks: which of the two depends on when it last did."""
        try:
            list(source.capture(Capture("look", "night", 0, TRACE, time.time_ns() + AHEAD_NS, DURATION_NS, "by hand")))
        except Denied as error:
            if "profiler of its own" in error.message:
                return error.message
        rows = [row for table, batch, _ in source.read() if table == "captures" for row in batch.to_pylist()]
        return next((row["detail"] for row in rows), "")

    assert "profiler of its own runs in the process" in until(denied)
