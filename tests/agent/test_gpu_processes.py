"""Who holds a GPU: rows when a process begins, changes and is gone, from the driver's list to whose it is."""

from __future__ import annotations

import getpass
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from process_tree import INITIAL, ProcessTree

from warpline_agent.gpu_processes import LOOKED_AT_MAX, GpuProcesses
from warpline_agent.hook_processes import Training
from warpline_agent.hook_rows import Identity
from warpline_agent.nvml.child import PROCESSES_MAX
from warpline_agent.nvml.messages import Inbox, Resident
from warpline_agent.process_identity import Identities
from warpline_agent.source import Rows
from warpline_agent.sources.nvml import Nvml, NvmlConfig
from warpline_hook.process import start_ticks
from warpline_hook.step_ring import create

NS = 10**9
GIB = 2**30
START = 1_700_000_000 * NS
BOOTED_NS = 1_000_000 * NS
"""The machine had been on for so long at START."""
PATIENCE_SECONDS = 60.0


class Machine:
    """A made-up /proc, the driver's lists, and what is told of both."""

    def __init__(self, folder: Path) -> None:
        self.tree = ProcessTree(folder)
        self.now_ns = START
        self.hooks: dict[int, Training] = {}
        self.processes = GpuProcesses(Identities(self.tree.proc, "n0"), lambda _: self.hooks, self.since_boot_ns)

    def since_boot_ns(self) -> int:
        return BOOTED_NS + self.now_ns - START

    def listed(self, *processes: tuple[int, int | None], gpu: int = 0, more: int = 0) -> list[dict[str, Any]]:
        reading = Resident(gpu, f"GPU-{gpu}", self.now_ns, list(processes), more)
        return rows_of(self.processes.hear([reading], self.now_ns))

    def look(self) -> list[dict[str, Any]]:
        return rows_of(self.processes.look(self.now_ns))

    def pass_by(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)


def rows_of(told: list[Rows]) -> list[dict[str, Any]]:
    return [row for rows in told for row in rows.batch.to_pylist()]


def brief(rows: list[dict[str, Any]]) -> list[tuple[str, int, str | None]]:
    return [(row["state"], row["pid"], row["job"]) for row in rows]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_process_is_told_once_again_when_it_changes_every_five_minutes_and_when_it_is_gone(machine: Machine) -> None:
    machine.tree.add(70, environment={"WARPLINE_JOB": "a"})
    [row] = machine.listed((70, GIB))
    assert (row["gpu_uuid"], row["gpu_index"], row["memory_bytes"], row["start_ticks"]) == ("GPU-0", 0, GIB, 100)
    assert (row["process"], row["user"], row["job"], row["state"]) == ("python3", "root", "a", "resident")
    assert row["time_ns"] == START
    machine.pass_by(30)
    assert machine.listed((70, GIB + GIB // 8)) == []
    machine.pass_by(30)
    [grown] = machine.listed((70, 40 * GIB))
    assert grown["memory_bytes"] == 40 * GIB
    told = 0
    for _ in range(10):
        machine.pass_by(30)
        told += len(machine.listed((70, 40 * GIB)))
    assert told == 1
    machine.pass_by(30)
    assert brief(machine.listed()) == [("gone", 70, "a")]
    assert machine.listed() == []


def test_that_it_has_ended_shows_at_once_and_is_told_once(machine: Machine) -> None:
    machine.tree.add(70, environment={"WARPLINE_JOB": "a"})
    machine.listed((70, GIB))
    machine.pass_by(1)
    assert machine.look() == []
    machine.tree.end(70)
    machine.pass_by(1)
    [row] = machine.look()
    assert (row["state"], row["time_ns"], row["job"]) == ("gone", START + 2 * NS, "a")
    machine.pass_by(28)
    assert machine.listed() == [] and machine.look() == []


def test_a_pid_that_is_used_again_is_another_process(machine: Machine) -> None:
    machine.tree.add(70, ticks=100, environment={"WARPLINE_JOB": "a"})
    machine.listed((70, GIB))
    machine.tree.add(70, ticks=200, environment={"WARPLINE_JOB": "b"})
    machine.pass_by(30)
    assert sorted(brief(machine.listed((70, GIB)))) == [("gone", 70, "a"), ("resident", 70, "b")]


def test_a_process_that_began_after_the_list_was_made_is_not_the_one_that_was_listed(machine: Machine) -> None:
    reading = Resident(0, "GPU-0", machine.now_ns, [(70, GIB)], 0)
    machine.pass_by(0.9)
    machine.tree.add(
        70, ticks=int((machine.since_boot_ns() - NS // 2) // 10_000_000), environment={"WARPLINE_JOB": "b"}
    )
    [row] = rows_of(machine.processes.hear([reading], machine.now_ns))
    assert (row["job"], row["user"], row["start_ticks"]) == (None, None, None)
    assert machine.processes.jobs() == {}


def test_a_process_that_ended_before_it_was_looked_at_is_nobodys(machine: Machine) -> None:
    [row] = machine.listed((70, GIB))
    assert (row["job"], row["user"]) == (None, None) and "no such process" in row["evidence"]
    assert {part.subject: part.state for part in machine.processes.health()} == {"identity of GPU processes": "denied"}
    machine.pass_by(30)
    assert brief(machine.listed()) == [("gone", 70, None)]


def test_one_job_on_a_gpu_is_its_job_and_two_or_an_unknown_one_are_none(machine: Machine) -> None:
    for pid, name in ((70, "a"), (71, "a"), (72, "b")):
        machine.tree.add(pid, environment={"WARPLINE_JOB": name})
    machine.tree.add(73)
    machine.listed((70, GIB), (71, GIB), gpu=0)
    machine.listed((70, GIB), (72, GIB), gpu=1)
    machine.listed((70, GIB), (73, GIB), gpu=2)
    machine.listed((70, GIB), gpu=3, more=1)
    assert machine.processes.jobs() == {0: "a"}


def test_a_process_in_two_instances_of_a_gpu_is_one_with_the_memory_of_both(machine: Machine) -> None:
    machine.tree.add(70, environment={"WARPLINE_JOB": "a"})
    [row] = machine.listed((70, GIB), (70, 2 * GIB))
    assert row["memory_bytes"] == 3 * GIB


def test_the_hook_of_a_process_names_its_job_as_its_rows_do(machine: Machine) -> None:
    machine.tree.add(70)
    assert [row["job"] for row in machine.listed((70, GIB))] == [None]
    machine.hooks[70] = Training(70, Identity("n0-70-6", "WARPLINE_RUN", 3), None, None)
    machine.pass_by(30)
    [row] = machine.listed((70, GIB))
    assert (row["job"], row["rank"], row["scheduler"]) == ("n0-70-6", 3, "launcher")
    assert row["evidence"] == "its hook, by WARPLINE_RUN"
    machine.pass_by(30)
    assert machine.listed((70, GIB)) == []


def test_environments_that_may_not_be_read_are_said(machine: Machine) -> None:
    machine.tree.add(70, cgroup="0::/system.slice/slurmstepd.scope/job_9/step_0/user/task_0")
    machine.tree.close_environment(70)
    [row] = machine.listed((70, GIB))
    assert (row["job"], row["scheduler"]) == ("9.0", "slurm")
    [part] = machine.processes.health()
    assert part.state == "denied" and "CAP_SYS_PTRACE" in part.reason


def test_a_thousand_processes_are_told_once_and_looked_at_in_turn(machine: Machine) -> None:
    for pid in range(1000, 2000):
        machine.tree.add(pid, environment={"WARPLINE_JOB": "many"})
    listed = [(pid, GIB) for pid in range(1000, 2000)]
    assert len(machine.listed(*listed)) == 1000
    machine.pass_by(30)
    assert machine.listed(*listed) == []
    machine.tree.end(1990)
    rounds = 0
    while not (gone := machine.look()):
        rounds += 1
    assert brief(gone) == [("gone", 1990, "many")] and rounds <= 1000 // LOOKED_AT_MAX + 1


def test_a_list_that_did_not_come_whole_says_nothing_of_who_is_gone() -> None:
    inbox = Inbox()
    common = {"kind": "processes", "gpu": 0, "pieces": 2, "all": 150}
    inbox.put({**common, "time_ns": 1, "piece": 0, "processes": [[70, GIB]] * 100})
    assert inbox.take_resident() == []
    inbox.put({**common, "time_ns": 2, "piece": 0, "processes": [[70, GIB]] * 100})
    assert [part.state for part in inbox.health()] == ["dropped"]
    inbox.put({**common, "time_ns": 2, "piece": 1, "processes": [[71, None]] * 50})
    [reading] = inbox.take_resident()
    assert (reading.time_ns, len(reading.processes), reading.more) == (2, 150, 0)
    assert inbox.health() == []


class Watched:
    """The source over the made-up driver and the made-up /proc."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.script = folder / "node.txt"
        self.tree = ProcessTree(folder)
        self.hooks = folder / "hooks"
        self.config = NvmlConfig(
            period_seconds=0.05,
            library_directory=str(library),
            open_seconds=PATIENCE_SECONDS,
            directories=(str(self.hooks),),
        )
        self.source = Nvml(self.config, proc=self.tree.proc)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.dropped = 0

    def say(self, text: str) -> None:
        fresh = self.script.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.script)

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, "did not happen"
            threading.Event().wait(0.02)
            for rows in self.source.read():
                self.rows.setdefault(rows.table, []).extend(rows.batch.to_pylist())
                self.dropped += rows.dropped

    def told(self) -> list[tuple[str, int, str | None]]:
        return brief(self.rows.get("gpu_processes", []))


@pytest.fixture
def watched(
    compile_fake: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    library = compile_fake("nvml", "libnvidia-ml.so.1")
    monkeypatch.setenv("FAKE_NVML_SCRIPT", str(tmp_path / "node.txt"))
    made = Watched(library.parent, tmp_path)
    yield made
    made.source.close()


def test_from_the_driver_to_rows_with_the_job_in_samples(watched: Watched) -> None:
    watched.tree.add(70, environment={"WARPLINE_JOB": "a", "RANK": "0", "WORLD_SIZE": "2"})
    watched.tree.add(80, environment={"WARPLINE_JOB": "b"})
    watched.say(f"gpus 2\ngpu 0 process 70 {GIB}\ngpu 1 process 70 {GIB}\ngpu 1 process 80 {GIB}\n")
    watched.source.open()
    watched.until(lambda: len(watched.told()) == 3)
    watched.until(lambda: len(watched.rows["device_samples"]) > 8)
    assert sorted(watched.told()) == [("resident", 70, "a"), ("resident", 70, "a"), ("resident", 80, "b")]
    last = {row["gpu_index"]: row for row in watched.rows["device_samples"]}
    assert (last[0]["job"], last[1]["job"]) == ("a", None)
    watched.tree.end(70)
    watched.until(lambda: len([each for each in watched.told() if each[0] == "gone"]) == 2)
    watched.rows.clear()
    watched.until(lambda: len(watched.rows.get("device_samples", [])) > 4)
    last = {row["gpu_index"]: row for row in watched.rows["device_samples"]}
    assert (last[0]["job"], last[1]["job"]) == (None, "b")


def test_real_processes_bear_the_names_of_their_hook_and_of_their_launcher(watched: Watched) -> None:
    if os.readlink("/proc/self/ns/pid") != INITIAL:
        pytest.skip("this machine's processes are of a pid namespace in which no driver counts")
    watched.hooks.mkdir()
    create(str(watched.hooks), None, START).identify(
        {"job": "night", "evidence": "WARPLINE_RUN", "rank": 3, "world_size": 8}
    )
    given = {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SECRET": "s3cr3t"}
    watched.source = Nvml(watched.config)
    with subprocess.Popen(["sleep", "600"], env=given | {"PATH": os.environ["PATH"]}) as task:
        watched.say(f"gpus 2\ngpu 0 process {os.getpid()} {GIB}\ngpu 1 process {task.pid} {GIB}\n")
        watched.source.open()
        watched.until(lambda: len(watched.told()) == 2)
        mine, slurm = sorted(watched.rows["gpu_processes"], key=lambda row: int(row["gpu_index"]))
        assert (mine["job"], mine["rank"], mine["start_ticks"]) == ("night", 3, start_ticks("self"))
        assert (slurm["job"], slurm["rank"], slurm["process"], slurm["scheduler"]) == ("5.0", 2, "sleep", "slurm")
        assert slurm["user"] == getpass.getuser() and "s3cr3t" not in repr(watched.rows)
        task.kill()
        task.wait()
        watched.until(lambda: ("gone", task.pid, "5.0") in watched.told())


def test_instances_of_one_gpu_are_told_of_that_gpu(watched: Watched) -> None:
    watched.tree.add(70, environment={"WARPLINE_JOB": "a"})
    watched.tree.add(80, environment={"WARPLINE_JOB": "b"})
    watched.say(f"gpus 1\ngpu 0 process 70 {GIB} 1\ngpu 0 process 70 {GIB} 2\ngpu 0 process 80 {GIB} 3\n")
    watched.source.open()
    watched.until(lambda: len(watched.told()) == 2)
    assert {(row["pid"], row["memory_bytes"]) for row in watched.rows["gpu_processes"]} == {(70, 2 * GIB), (80, GIB)}
    counts = {row["resident_processes"] for row in watched.rows["device_samples"]}
    assert counts <= {None, 2} and 2 in counts


def test_more_processes_than_are_told_of_leave_their_gpu_to_nobody(watched: Watched) -> None:
    watched.say("gpus 1\ngpu 0 many 5000 1100\n")
    watched.source.open()
    watched.until(lambda: bool(watched.told()))
    assert (len(watched.told()), watched.dropped) == (PROCESSES_MAX, 1100 - PROCESSES_MAX)
    assert {row["job"] for row in watched.rows["device_samples"]} == {None}


def test_the_list_is_one_call_with_the_count(watched: Watched) -> None:
    """Where the call is denied (MIG without the right to it) neither is known, and that is said once."""
    watched.say(f"gpus 1\ngpu 0 process 70 {GIB}\ngpu 0 denied call nvmlDeviceGetComputeRunningProcesses_v3\n"
                "gpu 0 denied call nvmlDeviceGetComputeRunningProcesses_v2\n")  # fmt: skip
    watched.source.open()
    watched.until(lambda: len(watched.rows.get("device_samples", [])) > 2)
    assert watched.told() == []
    assert [part.state for part in watched.source.health() if "resident_processes" in part.subject] == ["denied"]
