"""What an operator relies on when an agent is killed beside a training process: each record is told once, or told as lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_alone import Inline, Nowhere

import warpline_hook.step_ring
from warpline_agent import gathering
from warpline_agent.agent import Agent, Clock, new_boot
from warpline_agent.config import AgentConfig
from warpline_agent.frame_file import unpack
from warpline_agent.positions import Settled
from warpline_agent.ring_mark import RingMark
from warpline_agent.sources.hook import Hook, HookConfig
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_agent.sources.nccl_log import NcclLogConfig, NcclLogSource
from warpline_agent.spool import Spool
from warpline_hook import layout, ring
from warpline_hook.process import Process, start_ticks
from warpline_hook.step_ring import StepRing, create
from warpline_proto.wire import from_message

WAIT_SECONDS = 90.0
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))


class Writer:
    """A process that writes records into its ring, each with a number of its own, and the file of its hook where it has one."""

    def __init__(self, process: Any, steps: StepRing | None) -> None:
        self.process, self.steps = process, steps
        self.written: Counter[str] = Counter()

    def put(self, count: int) -> int:
        """So many kernels and operations that began just now; when."""
        now = time.time_ns()
        self.process.ask(f"kernels {count} {now}")
        self.process.ask(f"put 1 {count} {now}")
        self.written += Counter(kernel_clusters=count, collectives=count)
        return now

    def step(self, number: int, begun: int) -> None:
        """The step that began then is over."""
        assert self.steps is not None
        self.steps.step(number, 0, (begun, time.time_ns() - begun, *UNKNOWN))


class Told:
    """All that the frames in a spool say."""

    def __init__(self, spool: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.sequences: list[int] = []
        self.steps: list[int] = []
        self.lines: list[int] = []
        self.reasons: set[str] = set()
        for path in spool.glob("*.frame"):
            message = unpack(path.read_bytes())
            assert message is not None
            for batch in from_message(message).batches:
                self.lost[batch.table] += batch.dropped
                for row in batch.rows.to_pylist():
                    if (batch.table, batch.source) == ("steps", "hook"):
                        self.steps.append(row["step"])
                    elif (batch.table, batch.source) == ("collectives", "nccl_log"):
                        self.lines.append(row["sequence"])
                    elif batch.table == "kernel_clusters":
                        self.counts[batch.table] += row["count"]
                    elif batch.table == "collectives":
                        self.counts[batch.table] += 1
                        self.sequences.append(row["sequence"])
                    elif batch.table == "source_health":
                        self.reasons.add(row["reason"] or "")

    def sum(self) -> dict[str, int]:
        """Told and told as lost."""
        return {table: self.counts[table] + self.lost[table] for table in ("kernel_clusters", "collectives")}


@pytest.fixture
def write(
    compile_program: Callable[..., Path], drive: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Writer]:
    program = compile_program("ring_writer", "ring.c")
    folder = tmp_path / "rings"
    folder.mkdir()

    def start(hooked: bool = False, records: int = 65_536) -> Writer:
        process = drive([program], {"WARPLINE_DIRECTORY": str(folder), "WARPLINE_RING_RECORDS": str(records)})
        assert process.ask("open") == "1"
        if not hooked:
            return Writer(process, None)
        its = Process(process.pid, start_ticks(process.pid), Path("/proc/self/ns/pid").stat().st_ino)
        monkeypatch.setattr(warpline_hook.step_ring, "this_process", lambda: its)
        steps = create(str(folder), None, time.time_ns())
        steps.identify({"job": "train", "evidence": "a test", "rank": 3, "world_size": 8})
        return Writer(process, steps)

    return start


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a real agent, which waits in vain for a collector; it is ready when this returns."""
    settings = tmp_path / "agent.toml"
    settings.write_text(
        f'[agent]\nnode = "n1"\ncollector = "127.0.0.1:1"\nspool_directory = "{tmp_path / "spool"}"\n'
        'drain_seconds = 0\nsources = ["kernels"]\n'
        f'[sources.kernels]\ndirectories = ["{tmp_path / "rings"}"]\ncontainers = false\n'
    )
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "warpline_cli.main", "agent", "--config", str(settings)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        assert started[-1].stderr is not None
        said = started[-1].stderr.readline()
        assert "agent ready" in said, said + started[-1].stderr.read()
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stderr is not None
        each.stderr.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def kept_from(rings: Path) -> int:
    """How many kernels the one ring there keeps no more, as its agent has written into it."""
    (path,) = rings.glob("*.ring")
    with path.open("rb") as stream:
        stream.seek(ring.LANES_AT + ring.LANES.index("kernels") * ring.LANE_BYTES + ring.TAIL_AT)
        return int.from_bytes(stream.read(8), "little")


@pytest.mark.parametrize("hooked", [False, True])
def test_an_agent_killed_again_and_again_tells_every_record_once(
    write: Callable[..., Writer], agent: Callable[[], Any], tmp_path: Path, hooked: bool
) -> None:
    """Kernels wait for their step or for two seconds: each kill finds some that are told and some that are not."""
    writer, spool = write(hooked=hooked), tmp_path / "spool"
    begun = time.time_ns()
    for turn in range(3):
        running = agent()
        for part in range(6):
            writer.put(100 + part)
            if part % 3 == 0:
                frames = len(list(spool.glob("*.frame")))
                until(lambda frames=frames: len(list(spool.glob("*.frame"))) > frames)  # type: ignore[misc]
            if hooked and part == 4:
                writer.step(turn, begun)
                begun = time.time_ns()
        threading.Event().wait(0.07 * turn)  # somewhere between two frames
        running.kill()
        running.wait()
    last = agent()
    writer.process.ask("exit")
    writer.process.end()
    until(lambda: Told(spool).sum() == dict(writer.written) and not list((tmp_path / "rings").glob("*.ring")))
    last.terminate()
    assert last.wait(WAIT_SECONDS) == 0
    told = Told(spool)
    assert told.sum() == dict(writer.written)
    assert len(set(told.sequences)) == len(told.sequences)
    assert not any(told.lost.values())


def test_what_the_ring_could_not_keep_for_the_next_agent_is_told_as_lost(
    write: Callable[..., Writer], agent: Callable[[], Any], tmp_path: Path
) -> None:
    """Half a ring is kept for records that wait; a longer step loses its beginning with the agent."""
    writer, spool = write(hooked=True, records=4096), tmp_path / "spool"
    running = agent()
    begun = writer.put(50)
    writer.step(16, begun - 1)
    until(lambda: Told(spool).counts["kernel_clusters"] == 50)
    for _ in range(3):
        now = time.time_ns()
        writer.process.ask(f"kernels 1000 {now}")
        writer.written["kernel_clusters"] += 1000
    until(lambda: kept_from(tmp_path / "rings") == 50 + 3000 - 2048)
    running.kill()
    running.wait()
    writer.step(17, begun + 1_000)
    last = agent()
    until(lambda: Told(spool).sum() == dict(writer.written))
    last.terminate()
    last.wait(WAIT_SECONDS)
    told = Told(spool)
    assert told.lost["kernel_clusters"] == 3000 - 2048
    assert told.counts == {"kernel_clusters": 50 + 2048, "collectives": 50}
    assert "952 that waited for the end of step 17 lost with an agent that was ended" in told.reasons


def test_records_that_found_no_room_while_no_agent_ran_are_told(
    write: Callable[..., Writer], agent: Callable[[], Any], tmp_path: Path
) -> None:
    writer, spool = write(records=4096), tmp_path / "spool"
    writer.process.ask("put 1 5000 1")
    agent()
    until(lambda: Told(spool).sum()["collectives"] == 5000)
    assert Told(spool).lost["collectives"] == 904


class Killed(BaseException):
    """The agent ends here, and nothing of it is heard again."""


class Here:
    """An agent in this process whose clock is moved on by hand, ten seconds a turn."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        clock = Clock(lambda: time.time_ns() + int(self.now * 1e9), lambda: self.now)
        self.spool = Spool(folder / "spool", "n1", new_boot(), time.time_ns)
        config = KernelsConfig(directories=(str(folder / "rings"),), containers=False)
        rings, logs = (str(folder / "rings"),), (str(folder / "nccl.%p.log"),)
        told = HookConfig(directories=rings, containers=False, positions=str(folder / "hook.json"))
        log = NcclLogConfig(files=logs, positions=str(folder / "nccl_log.json"))
        self.sources: dict[str, Any] = {
            "kernels": TrainingKernels(config, clock_ns=clock.wall_ns, node="n1"),
            "hook": Hook(told, clock_ns=clock.wall_ns, node="n1"),
            "nccl_log": NcclLogSource(log, host="n1", now=clock.wall_ns),
        }
        agent = AgentConfig(node="n1", drain_seconds=0.0)
        self.agent = Agent(agent, self.sources, self.spool, Nowhere(), clock, Inline)

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 10.0
            self.agent.tick()

    def die(self) -> None:
        """What the kernel does for a process that is killed."""
        for source in self.sources.values():
            source.close()
        self.spool.close()


def dies(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, before: bool, when: int) -> None:
    """Be killed before or after the call so many of a method."""
    real, calls = getattr(owner, name), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == when:
            raise Killed
        result = real(*arguments, **named)
        if not before and calls == when:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("when", [1, 2, 3])
@pytest.mark.parametrize(
    ("owner", "name", "before"),
    [
        (RingMark, "intend", True),
        (RingMark, "intend", False),
        (Spool, "_keep", True),
        (Spool, "_keep", False),
        (RingMark, "settle", True),
        (RingMark, "settle", False),
        (Spool, "put", False),
        (TrainingKernels, "so_far", False),
    ],
)
def test_wherever_it_is_killed_no_record_is_told_twice_or_forgotten(
    write: Callable[..., Writer], tmp_path: Path, owner: Any, name: str, before: bool, when: int
) -> None:
    writer = write()
    writer.put(100)
    first = Here(tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        dies(patch, owner, name, before=before, when=when)
        for _ in range(4):
            first.turn()
            writer.put(10)
    first.die()
    writer.put(7)
    second = Here(tmp_path)
    second.turn(6)
    told = Told(tmp_path / "spool")
    assert told.sum() == dict(writer.written)
    assert len(set(told.sequences)) == len(told.sequences)
    second.agent.close()
    third = Here(tmp_path)
    third.turn(3)
    assert Told(tmp_path / "spool").sum() == dict(writer.written), "an orderly end repeats nothing either"
    third.agent.close()


INIT = "n1:7:9 [0] NCCL INFO comm 0xc rank 0 nranks 2 cudaDev 0 nvmlDev 0 busId 1000 commId 0xabc1 - Init START\n"
LINE = (
    "n1:7:9 [0] NCCL INFO AllReduce: opCount {number:x} sendbuff 0x1 recvbuff 0x2 count 4 datatype 7 op 0 root 0 "
    "comm 0xc [nranks=2] stream 0x5\n"
)


class Everything:
    """A trainer that writes records, tells steps, and logs what NCCL does, each numbered on."""

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.writer, self.log, self.done = writer, folder / "nccl.7.log", 0
        self.log.write_text(INIT)

    def goes_on(self) -> None:
        for _ in range(3):
            self.writer.put(5)
            self.writer.step(self.done, time.time_ns() - 1000)
            with self.log.open("a") as stream:
                stream.write(LINE.format(number=self.done))
            self.done += 1


@pytest.mark.parametrize("when", [1, 2, 4])
@pytest.mark.parametrize("rows_max", [100_000, 7])
@pytest.mark.parametrize(
    ("owner", "name", "before"),
    [
        (Settled, "intend", True),
        (Settled, "intend", False),
        (Spool, "_write", True),
        (Spool, "_write", False),
        (Spool, "_complete", True),
        (Settled, "settle", True),
        (Settled, "settle", False),
        (Hook, "so_far", False),
    ],
)
def test_steps_and_logs_are_told_once_too_and_so_is_what_fills_several_frames(
    write: Callable[..., Writer], tmp_path: Path, owner: Any, name: str, before: bool, rows_max: int, when: int
) -> None:
    """Frames of seven rows: a kill between two that belong together leaves none of them."""
    trainer = Everything(write(hooked=True), tmp_path)
    trainer.goes_on()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "FRAME_ROWS_MAX", rows_max)
        first = Here(tmp_path)
        with pytest.MonkeyPatch.context() as fatal, pytest.raises(Killed):
            dies(fatal, owner, name, before=before, when=when)
            for _ in range(8):
                first.turn()
                trainer.goes_on()
        first.die()
        trainer.goes_on()
        second = Here(tmp_path)
        second.turn(6)
    told = Told(tmp_path / "spool")
    assert sorted(told.steps) == sorted(told.lines) == list(range(trainer.done))
    assert told.sum() == dict(trainer.writer.written)
    second.agent.close()


def test_the_file_of_a_process_that_ended_is_not_taken_away_before_its_steps_are_on_disk(
    write: Callable[..., Writer], tmp_path: Path
) -> None:
    trainer = Everything(write(hooked=True), tmp_path)
    trainer.goes_on()
    trainer.writer.process.kill()
    here = Here(tmp_path)
    source = here.sources["hook"]
    source.keep_until_settled(lambda frame: False)
    source.open()
    given = [rows for _ in range(3) for rows in source.read() if rows.table == "steps"]
    assert sum(rows.batch.num_rows for rows in given) == trainer.done
    assert list((tmp_path / "rings").glob("*.steps"))
    source.so_far().settle()
    list(source.read())
    assert not list((tmp_path / "rings").glob("*.steps"))
    here.die()
