"""The power guard in real processes against a scripted libnvidia-ml.so.1 whose clocks outlive those who set them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guarded_machine import IDLE, WORK, Machine


@pytest.fixture
def machine(compile_fake: Callable[[str, str], Path], tmp_path: Path) -> Iterator[Machine]:
    node = Machine(tmp_path, compile_fake("nvml", "libnvidia-ml.so.1"))
    yield node
    node.close()


def test_an_idle_gpu_is_lowered_and_restored_when_work_comes(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    assert machine.clocks()[:4] == (210, 210, 0, 0)
    assert [entry["phase"] for entry in machine.recorded()] == ["low"]
    machine.say(WORK)
    machine.up()
    machine.until(lambda: bool(machine.rows("restore")), "told")
    guard.terminate()
    machine.ends(guard)
    assert guard.returncode == 0
    machine.restored()
    lower, restore = machine.rows("lower")[0], machine.rows("restore")[0]
    assert (lower["sm_clock_mhz"], lower["memory_clock_mhz"], lower["dry_run"]) == (210, None, False)
    assert lower["call_ns"] > 0
    assert "gpu_utilization_percent is 83" in restore["reason"]
    assert restore["latency_ns"] > 0


def test_what_was_saved_is_the_power_before_less_the_power_while_low(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    low_since = time.monotonic()
    machine.until(lambda: time.monotonic() - low_since > 3, "low for three seconds")
    machine.say(WORK)
    machine.until(lambda: bool(machine.rows("restore")), "told")
    guard.terminate()
    machine.ends(guard)
    restore = machine.rows("restore")[0]
    assert 0 < restore["saved_joules"] <= (105 - 61) * restore["lowered_seconds"] + 0.1
    assert restore["saved_joules"] >= (105 - 61) * 0.8


def test_memory_clocks_are_lowered_only_when_asked_for(machine: Machine) -> None:
    guard = machine.guard("--live", "--memory")
    machine.until(lambda: machine.clocks().memory_high > 0, "lowered")
    assert machine.clocks()[:4] == (345, 345, 1593, 1593)
    guard.terminate()
    machine.ends(guard)
    machine.restored()


POINTS = (
    "before the record",
    "between record and order",
    "order given",
    "clocks set",
    "told",
    "before the restore",
    "restore noted",
    "restore ordered",
    "clocks restored",
    "record cleared",
)


@pytest.mark.parametrize("point", POINTS)
def test_clocks_are_restored_when_the_guard_is_killed(machine: Machine, point: str) -> None:
    guard = machine.killed_at(point, watchdog_too=False)
    if point in POINTS[5:]:
        machine.low()
        machine.say(WORK)
    machine.ends(guard)
    assert guard.returncode == -signal.SIGKILL
    machine.restored()


@pytest.mark.parametrize("point", POINTS[1:5:2] + POINTS[6:9:2])
def test_clocks_are_restored_by_the_next_command_when_guard_and_watchdog_are_killed(
    machine: Machine, point: str
) -> None:
    guard = machine.killed_at(point, watchdog_too=True)
    if point in POINTS[5:]:
        machine.low()
        machine.say(WORK)
    machine.ends(guard)
    assert guard.returncode == -signal.SIGKILL
    done = machine.restore()
    assert done.returncode == 0, done.stderr
    machine.restored()


@pytest.mark.parametrize("victims", [("power guard",), ("power guard", "guard.hand", "guard.watchdog")])
def test_a_call_that_comes_late_is_undone(machine: Machine, victims: tuple[str, ...]) -> None:
    """The call is in the kernel when those who wanted it are killed: whoever restores waits for it."""
    machine.say(f"{IDLE}gpu 0 slow call nvmlDeviceSetGpuLockedClocks 3000\n")
    guard = machine.guard("--live")
    machine.until(lambda: len(machine.processes("guard.hand")) == 2, "in the call")
    for process in [each for victim in victims for each in machine.processes(victim)[:1]]:
        process.kill()
    machine.ends(guard)
    if len(victims) > 1:
        assert machine.restore().returncode == 0
    machine.restored()
    assert machine.clocks().locked == 1
    assert machine.clocks().unlocked >= 1


def test_clocks_are_restored_when_those_who_restore_are_killed_too(machine: Machine) -> None:
    """The guard is killed, then its watchdog and the process that makes the call, while they restore."""
    guard = machine.guard("--live")
    machine.low()
    machine.until(lambda: bool(machine.rows("lower")), "told")
    machine.say(f"{IDLE}gpu 0 slow call nvmlDeviceResetGpuLockedClocks 2000\n")
    guard.kill()
    machine.ends(guard)
    machine.until(lambda: len(machine.processes("guard.hand")) == 2, "in the call")
    for process in machine.processes("guard.watchdog") + machine.processes("guard.hand"):
        process.kill()
    machine.quiet()
    assert machine.clocks().low
    assert machine.restore().returncode == 0
    machine.restored()


def test_clocks_are_restored_when_all_processes_are_killed_at_once(machine: Machine) -> None:
    machine.guard("--live")
    machine.low()
    for process in machine.processes():
        process.kill()
    machine.quiet()
    assert machine.clocks().low
    assert machine.restore().returncode == 0
    machine.restored()
    assert "restored by warpline power restore" in machine.rows("restore")[0]["reason"]


def test_the_next_guard_restores_before_it_begins(machine: Machine) -> None:
    machine.guard("--live")
    machine.low()
    for process in machine.processes():
        process.kill()
    machine.quiet()
    machine.say(WORK)
    guard = machine.guard("--live")
    machine.up()
    guard.terminate()
    assert "a guard before had left them low" in machine.ends(guard)
    machine.restored()


def test_without_its_watchdog_the_guard_restores_and_ends(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    for process in machine.processes("guard.watchdog"):
        process.kill()
    assert "the watchdog has ended" in machine.ends(guard)
    assert guard.returncode == 75
    machine.restored()


def test_a_guard_that_stands_still_is_killed_and_its_clocks_restored(machine: Machine) -> None:
    machine.configure(silent_seconds=4.5, call_seconds=2)
    guard = machine.guard("--live")
    machine.low()
    os.kill(guard.pid, signal.SIGSTOP)
    machine.ends(guard)
    assert guard.returncode == -signal.SIGKILL
    machine.restored()


def test_clocks_are_restored_though_the_process_that_set_them_was_killed(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    machine.until(lambda: bool(machine.rows("lower")), "told")
    for process in machine.processes("guard.hand"):
        process.kill()
    machine.say(WORK)
    machine.up()
    guard.terminate()
    machine.ends(guard)
    assert guard.returncode == 0
    machine.restored()


def test_a_call_that_hangs_is_given_up_and_the_gpu_left_alone(machine: Machine) -> None:
    machine.configure(call_seconds=1)
    machine.say(f"{IDLE}gpu 0 hang call nvmlDeviceSetGpuLockedClocks\n")
    guard = machine.guard("--live")
    machine.until(lambda: bool(machine.rows("refuse")), "told")
    machine.until(lambda: machine.clocks().unlocked > 0, "restored")
    assert "the call did not come back" in machine.rows("refuse")[0]["reason"]
    guard.terminate()
    machine.ends(guard)
    assert guard.returncode == 0
    assert machine.clocks().locked == 0
    machine.restored()


def test_a_restore_that_hangs_is_tried_until_it_works(machine: Machine) -> None:
    machine.configure(call_seconds=1)
    guard = machine.guard("--live")
    machine.low()
    machine.say(f"{WORK}gpu 0 hang call nvmlDeviceResetGpuLockedClocks\n")
    machine.until(lambda: bool(machine.rows("refuse")), "told")
    assert "tried again" in machine.rows("refuse")[0]["reason"]
    assert machine.clocks().low
    machine.say(WORK)
    machine.up()
    guard.terminate()
    machine.ends(guard)
    machine.restored()


def test_what_the_guard_could_not_restore_at_its_end_its_watchdog_does(machine: Machine) -> None:
    machine.configure(call_seconds=1)
    guard = machine.guard("--live")
    machine.low()
    machine.say(f"{IDLE}gpu 0 hang call nvmlDeviceResetGpuLockedClocks\n")
    guard.terminate()
    assert "not restored" in machine.ends(guard)
    assert machine.clocks().low
    machine.say(IDLE)
    machine.restored()


def test_without_permission_it_says_what_is_needed_and_ends(machine: Machine) -> None:
    machine.say(f"{IDLE}gpu 0 denied call nvmlDeviceSetGpuLockedClocks\n")
    guard = machine.guard("--live")
    assert "root or CAP_SYS_ADMIN" in machine.ends(guard)
    assert guard.returncode == 77
    assert machine.clocks() == (0, 0, 0, 0, 0, 0)
    assert "root or CAP_SYS_ADMIN" in machine.rows("refuse")[0]["reason"]
    machine.restored()


@pytest.mark.parametrize("flags", [(), ("--live",)])
def test_a_dry_run_tells_the_same_and_sets_nothing(machine: Machine, flags: tuple[str, ...]) -> None:
    """Without `--live`, and with it on a node that is not in the list."""
    machine.configure(nodes='"another"')
    guard = machine.guard(*flags)
    machine.until(lambda: bool(machine.rows("lower")), "told")
    machine.say(WORK)
    machine.until(lambda: bool(machine.rows("restore")), "told")
    guard.terminate()
    machine.ends(guard)
    assert all(row["dry_run"] for row in machine.rows())
    assert machine.rows("lower")[0]["sm_clock_mhz"] == 210
    restore = machine.rows("restore")[0]
    assert (restore["saved_joules"], restore["latency_ns"], restore["call_ns"]) == (None, None, None)
    assert restore["lowered_seconds"] > 0
    assert machine.clocks() == (0, 0, 0, 0, 0, 0)


def test_a_second_guard_of_a_node_is_refused(machine: Machine) -> None:
    first = machine.guard("--live")
    machine.low()
    second = machine.guard("--live")
    assert f"in the hands of guard {first.pid}" in machine.ends(second)
    assert second.returncode == 75
    assert machine.clocks().low
    first.terminate()
    machine.ends(first)
    machine.restored()


def test_gpus_whose_clocks_somebody_else_holds_are_not_touched(machine: Machine) -> None:
    """GPU 1 is in the operator's list; GPU 2 has its clocks below what it has when nobody locks them."""
    machine.configure(locked_gpus=["1"])
    machine.say(IDLE.replace("gpus 1", "gpus 3"))
    machine.set_clocks(2, 1200, 1200, 0, 0)
    guard = machine.guard("--live")
    machine.low(0)
    machine.until(lambda: {row["gpu_index"] for row in machine.rows("refuse")} >= {1, 2}, "refused")
    guard.terminate()
    machine.ends(guard)
    told = {row["gpu_index"]: row["reason"] for row in machine.rows("refuse")}
    assert "locked_gpus" in told[1]
    assert "1200 MHz, usually 1980" in told[2]
    assert machine.clocks(1) == (0, 0, 0, 0, 0, 0)
    assert machine.clocks(2) == (1200, 1200, 0, 0, 0, 0)
    machine.restored()


def test_nothing_is_lowered_without_word_on_programs_or_on_work(machine: Machine) -> None:
    """GPU 0 lists no programs, GPU 1 gives no signal of computing, GPU 2 is empty."""
    calls = ("", "_v2", "_v3")
    silent = "".join(f"gpu 0 unsupported call nvmlDeviceGetComputeRunningProcesses{each}\n" for each in calls)
    blind = "gpu 1 unsupported call nvmlDeviceGetUtilizationRates\n"
    resident = "gpu 0 processes 1\ngpu 1 processes 1\n"
    machine.say(f"gpus 3\ngpu * power 105\n{resident}{silent}{blind}")
    guard = machine.guard("--live")
    machine.until(lambda: {row["gpu_index"] for row in machine.rows("refuse")} == {0, 1}, "refused")
    guard.terminate()
    machine.ends(guard)
    reasons = {row["gpu_index"]: row["reason"] for row in machine.rows()}
    assert reasons == {
        0: "no word on whether a program is resident",
        1: "it gives no signal of computing",
    }
    assert all(machine.clocks(index) == (0, 0, 0, 0, 0, 0) for index in range(3))


def test_where_memory_clocks_cannot_be_locked_the_sm_clock_alone_is(machine: Machine) -> None:
    machine.say(f"{IDLE}gpu 0 unsupported call nvmlDeviceSetMemoryLockedClocks\n")
    guard = machine.guard("--live", "--memory")
    machine.until(lambda: bool(machine.rows("lower")), "told")
    assert machine.clocks()[:4] == (345, 345, 0, 0)
    assert machine.rows("lower")[0]["memory_clock_mhz"] is None
    guard.terminate()
    machine.ends(guard)
    machine.restored()


def test_clocks_go_up_when_samples_stop(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    machine.say(f"{IDLE}gpu 0 hang call nvmlDeviceGetUtilizationRates\n")
    machine.up()
    machine.until(lambda: bool(machine.rows("restore")), "told")
    assert "no sample for" in machine.rows("restore")[0]["reason"]
    assert machine.rows("restore")[0]["latency_ns"] is None
    guard.terminate()
    machine.ends(guard)
    machine.restored()


def test_a_record_that_cannot_be_read_stops_the_guard_until_every_gpu_is_unlocked(machine: Machine) -> None:
    machine.state.mkdir()
    machine.set_clocks(0, 210, 210, 1593, 1593)
    (machine.state / "lowered.json").write_text("{")
    guard = machine.guard("--live")
    assert "warpline power restore --all" in machine.ends(guard)
    assert guard.returncode == 75
    assert "warpline power restore --all" in machine.restore().stderr
    assert machine.restore("--all").returncode == 0
    machine.restored()


def test_locks_of_an_earlier_start_of_the_machine_are_not_undone(machine: Machine) -> None:
    """They ended with it; what is locked now is somebody else's."""
    machine.state.mkdir()
    machine.set_clocks(0, 1200, 1200, 0, 0)
    entry = {"gpu_uuid": "GPU-fa4e0000-0000-4000-8000-00000000000a", "gpu_index": 0, "sm_clock_mhz": 210}
    entry |= {"memory_clock_mhz": None, "since_ns": 1, "phase": "low"}
    (machine.state / "lowered.json").write_text(json.dumps({"boot_id": "another", "gpus": [entry]}))
    assert machine.restore().returncode == 0
    assert machine.clocks() == (1200, 1200, 0, 0, 0, 0)


def test_restore_leaves_the_clocks_to_a_guard_that_runs(machine: Machine) -> None:
    guard = machine.guard("--live")
    machine.low()
    done = machine.restore()
    assert f"in the hands of guard {guard.pid}" in done.stderr
    assert done.returncode == 64
    assert machine.clocks().low
    guard.terminate()
    machine.ends(guard)
    machine.restored()
