"""The NVML source against the real pynvml, a real child process and a scripted libnvidia-ml.so.1."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warpline_agent.child import Child
from warpline_agent.nvml.child import Mouth
from warpline_agent.nvml.counters import COUNTERS
from warpline_agent.nvml.plan import Plan, plan_from_line
from warpline_agent.source import Health
from warpline_agent.sources.nvml import AVOID_SECONDS, Nvml, NvmlConfig
from warpline_proto.errors import Denied, Unsupported
from warpline_proto.tables import DEVICE_SAMPLES

PATIENCE_SECONDS = 60.0
GPU_3 = "GPU-fa4e0003-0000-4000-8000-000000000037"


class Watched:
    """The source, everything it has said so far, and a clock that can be moved on."""

    def __init__(self, source: Nvml, script: Path) -> None:
        self.source = source
        self.script = script
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.moved = 0.0
        self.dropped = 0

    def clock(self) -> float:
        return time.monotonic() + self.moved

    def say(self, text: str) -> None:
        """Change the script of the running node, in one step."""
        fresh = self.script.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.script)

    def round(self) -> None:
        for table, batch, dropped in self.source.read():
            self.tables.setdefault(table, []).extend(batch.to_pylist())
            self.dropped += dropped

    def until(self, reached: Callable[[], bool]) -> None:
        """Read on until the child has brought about what is waited for."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < end, f"did not happen: {self.health()}"
            threading.Event().wait(0.02)
            self.round()

    def samples(self, index: int = 0) -> list[dict[str, Any]]:
        return [row for row in self.tables.get("device_samples", []) if row["gpu_index"] == index]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.tables.get("log_events", []) if row["kind"] == kind]

    def health(self) -> dict[str, Health]:
        return {part.subject: part for part in self.source.health()}

    def forget(self) -> None:
        self.tables.clear()


Start = Callable[..., Watched]


@pytest.fixture
def node(compile_fake: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start the source on a node that follows a script."""
    library = compile_fake("nvml", "libnvidia-ml.so.1")
    script = tmp_path / "node.txt"
    monkeypatch.setenv("FAKE_NVML_SCRIPT", str(script))
    started: list[Watched] = []

    def start(text: str, **settings: Any) -> Watched:
        config = NvmlConfig(
            **{
                "library_directory": str(library.parent),
                "period_seconds": 0.05,
                "restart_seconds": 0.01,
                "open_seconds": PATIENCE_SECONDS,
                **settings,
            }
        )
        watched = Watched(Nvml(config), script)
        watched.source = Nvml(config, clock=watched.clock)
        watched.say(text)
        started.append(watched)
        return watched

    yield start
    for watched in started:
        watched.source.close()


def stop(pid: int) -> None:
    """Stop a child and wait until all of it stands still: the signal alone may take a while to arrive."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def test_a_sample_names_its_gpu_and_says_what_was_measured(node: Start) -> None:
    watched = node("gpus 2\ngpu * power 400\ngpu * util 83\ngpu 1 processes 2\ngpu * temperature 61\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(1)))
    row = watched.samples(1)[0]
    assert row["gpu_uuid"] == "GPU-fa4e0001-0000-4000-8000-000000000019"
    assert (row["gpu_name"], row["bus_id"]) == ("NVIDIA H100 80GB HBM3", "0000:19:00.0")
    assert (row["power_watts"], row["power_method"]) == (400.0, "instant")
    assert (row["gpu_utilization_percent"], row["temperature_celsius"]) == (83.0, 61.0)
    assert (row["sm_clock_mhz"], row["memory_total_bytes"]) == (1980.0, 85_899_345_920)
    assert row["resident_processes"] == 2
    assert row["node"] is None, "place is for whoever drives the source"


def test_no_process_is_a_measured_zero_and_a_fan_that_is_not_there_is_not(node: Start) -> None:
    watched = node("gpus 1\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples()))
    assert watched.samples()[0]["resident_processes"] == 0
    assert watched.samples()[0]["fan_percent"] is None


def test_slow_counters_are_empty_between_their_readings(node: Start) -> None:
    watched = node("gpus 1\n")
    watched.source.open()

    def read(column: str) -> list[bool]:
        return [row[column] is not None for row in watched.samples()]

    watched.until(lambda: len(watched.samples()) >= 15 and sum(read("temperature_celsius")) >= 2)
    watched.until(lambda: not all(read("temperature_celsius")) and not all(read("remapped_rows")))
    assert all(read("power_watts"))
    assert read("temperature_celsius")[0] and read("remapped_rows")[0]
    first, last = watched.samples()[0], watched.samples()[-1]
    periods = (last["time_ns"] - first["time_ns"]) / 50_000_000
    assert sum(read("temperature_celsius")) <= periods / 4.5 + 2, (
        "each five periods, less a half for those that come late"
    )
    assert sum(read("remapped_rows")) <= periods / 59.5 + 2


def test_programs_are_asked_for_sooner_when_device_memory_changes_by_a_context_and_once_a_period(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 memory_used 1e9\n", period_seconds=0.1)
    watched.source.open()
    watched.until(lambda: len(watched.samples()) >= 6)
    watched.say("gpus 1\ngpu 0 memory_used 2e9\ngpu 0 processes 1\n")
    watched.until(lambda: any(row["resident_processes"] == 1 for row in watched.samples()))
    watched.say("gpus 1\ngpu 0 memory_used 9e9\ngpu 0 processes 2\n")
    watched.until(lambda: any(row["resident_processes"] == 2 for row in watched.samples()))
    rows = watched.samples()
    read = [at for at, row in enumerate(rows) if row["resident_processes"] is not None]
    grown = next(at for at, row in enumerate(rows) if row["memory_used_bytes"] == 2_000_000_000)
    sooner = max(at for at in read if at in (grown, grown + 1))
    later = min(at for at in read if at > sooner)
    assert rows[later]["time_ns"] - rows[sooner]["time_ns"] >= 2.9e9, "the next one comes when it is due"


def test_energy_is_the_integral_of_power_also_below_the_minimum_limit(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 power 95\n")
    watched.source.open()

    def watts() -> float:
        first, last = watched.samples()[0], watched.samples()[-1]
        return float((last["energy_joules"] - first["energy_joules"]) / (last["time_ns"] - first["time_ns"]) * 1e9)

    watched.until(lambda: len(watched.samples()) >= 12)
    assert watched.samples()[0]["power_watts"] == 95.0
    watched.until(
        lambda: watts() == pytest.approx(95, rel=0.2)
    )  # time passes between reading the clock and the counter


def test_a_change_of_the_node_reaches_a_running_child(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 power 70\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples()))
    watched.say("gpus 1\ngpu 0 power 650\ngpu 0 reasons 4\n")
    watched.until(lambda: watched.samples()[-1]["power_watts"] == 650.0)
    assert watched.samples()[-1]["clock_event_reasons"] == 4


def test_power_falls_back_and_says_how_it_was_measured(node: Start) -> None:
    watched = node("gpus 2\ngpu * unsupported field 186\ngpu 1 unsupported field 185\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(0)) and bool(watched.samples(1)))
    assert [watched.samples(index)[0]["power_method"] for index in (0, 1)] == ["average", "unstated"]
    assert [watched.samples(index)[0]["power_watts"] for index in (0, 1)] == [70.0, 70.0]


def test_what_a_gpu_does_not_offer_is_empty_and_named_in_health(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 unsupported field 74\ngpu 0 denied call nvmlDeviceGetPerformanceState\n")
    watched.source.open()
    watched.until(lambda: len(watched.samples()) >= 2)
    health = watched.health()
    uuid = watched.samples()[0]["gpu_uuid"]
    assert {row["power_cap_ns"] for row in watched.samples()} == {None}
    assert health[f"{uuid} power_cap_ns"].state == "unsupported"
    assert health[f"{uuid} performance_state"].state == "denied"
    assert health[f"{uuid} sm_active_percent"].state == "unsupported", "GPM is not offered"


def test_gpm_metrics_are_read_where_the_gpu_offers_them(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 gpm 2 61.5\ngpu 0 gpm 20 3\n")
    watched.source.open()
    watched.until(lambda: any(row["sm_active_percent"] for row in watched.samples()))
    row = next(row for row in watched.samples() if row["sm_active_percent"])
    assert (row["sm_active_percent"], row["pcie_tx_bytes_per_second"]) == (61.5, 3 * 2**20)
    assert row["tensor_active_percent"] is None


def test_pcie_errors_are_link_counters_and_nvlink_bytes_are_bytes(node: Start) -> None:
    watched = node("gpus 1\ngpu 0 field 173 12\ngpu 0 field 138 5\ngpu 0 field 45 2\ngpu 0 field 52 1\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples()))
    links = {row["counter"]: row for row in watched.tables["link_counters"]}
    assert (links["correctable_errors"]["value"], links["correctable_errors"]["link_kind"]) == (12, "pcie")
    assert (watched.samples()[0]["nvlink_tx_bytes"], watched.samples()[0]["nvlink_errors"]) == (5 * 1024, 3)


@pytest.mark.parametrize("statement, kind", [("lost", "gpu_lost"), ("reset_required", "reset_required")])
def test_a_lost_gpu_is_dead_and_logged_once_and_the_others_go_on(node: Start, statement: str, kind: str) -> None:
    watched = node("gpus 8\n")
    watched.source.open()
    watched.until(lambda: all(watched.samples(index) for index in range(8)))
    watched.say(f"gpus 8\ngpu 3 {statement}\n")
    watched.until(lambda: bool(watched.events(kind)))
    watched.forget()
    watched.until(lambda: all(len(watched.samples(index)) > 2 for index in range(8) if index != 3))
    assert watched.health()[GPU_3].state == "dead"
    assert watched.events(kind) == [] and watched.samples(3) == []


def test_the_event_of_a_lost_gpu_names_it(node: Start) -> None:
    watched = node("gpus 4\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(3)))
    watched.say("gpus 4\ngpu 3 lost\n")
    watched.until(lambda: bool(watched.events("gpu_lost")))
    (event,) = watched.events("gpu_lost")
    assert (event["gpu_uuid"], event["bus_id"], event["severity"]) == (GPU_3, "0000:37:00.0", "critical")


def test_a_gpu_that_comes_back_is_read_again(node: Start) -> None:
    watched = node("gpus 2\ngpu 1 lost\n")
    watched.source.open()
    watched.until(lambda: len(watched.samples(0)) > 3)
    assert watched.health()["gpu 1"].state == "dead", "a GPU lost from the start has no other name"
    watched.say("gpus 2\n")
    watched.until(lambda: bool(watched.samples(1)))
    assert "gpu 1" not in watched.health()


def test_an_xid_is_an_event_of_its_gpu(node: Start) -> None:
    watched = node("gpus 4\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(3)))
    watched.say("gpus 4\nxid 3 79\nxid 2 31\n")
    watched.until(lambda: len(watched.events("xid")) == 2)
    first, second = watched.events("xid")
    assert (first["code"], first["gpu_uuid"], first["severity"]) == (79, GPU_3, "critical")
    assert (second["code"], second["severity"]) == (31, "info")


def test_a_call_that_hangs_is_told_then_killed_and_the_other_gpus_go_on(node: Start) -> None:
    watched = node("gpus 4\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(3)))
    hung = watched.source.child_pid
    watched.say("gpus 4\ngpu 3 hang call nvmlDeviceGetClockInfo\n")
    watched.until(lambda: os.path.exists(f"/proc/{hung}") and watched.source._inbox.at == 3)
    watched.moved += 4.0
    watched.until(lambda: watched.health().get("driver", Health("", "", "")).state == "stale")
    told = watched.health()["driver"]
    assert told.reason.startswith("driver unresponsive: silent for") and GPU_3 in told.reason
    watched.moved += 10.0
    watched.until(lambda: watched.health().get("driver", Health("", "", "")).state == "dead")
    watched.moved += 1.0
    watched.forget()
    watched.until(lambda: all(watched.samples(index) for index in (0, 1, 2)))
    assert watched.source.child_pid != hung
    assert "driver unresponsive" in watched.health()[GPU_3].reason
    assert watched.samples(3) == []
    watched.say("gpus 4\n")
    watched.moved += AVOID_SECONDS + 1
    watched.until(lambda: bool(watched.samples(3)))
    assert GPU_3 not in watched.health()


def test_a_hang_at_the_start_does_not_hold_up_the_agent(node: Start) -> None:
    watched = node("init hang\n", open_seconds=0.2)
    watched.source.open()
    watched.round()
    watched.moved += 5.0
    watched.round()
    assert watched.health()["driver"].state == "stale"


def test_a_stopped_child_is_replaced_and_no_gpu_is_blamed(node: Start) -> None:
    watched = node("gpus 2\n", period_seconds=0.5)
    watched.source.open()
    watched.until(lambda: bool(watched.samples(1)) and watched.source._inbox.at is None)
    stopped = watched.source.child_pid
    assert stopped is not None
    stop(stopped)
    watched.moved += 11.0
    watched.forget()
    watched.until(lambda: watched.source.child_pid not in (None, stopped) and bool(watched.samples(1)))
    assert all("unresponsive" not in part.reason for part in watched.health().values())


def test_a_child_that_is_killed_is_started_again(node: Start) -> None:
    watched = node("gpus 2\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples(1)))
    first = watched.source.child_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    watched.until(lambda: watched.source.child_pid is None)
    assert "ended with code -9" in watched.health()["driver"].reason
    watched.forget()
    watched.moved += 1.0
    watched.until(lambda: bool(watched.samples(1)))
    assert watched.source.child_pid != first and "driver" not in watched.health()


def test_no_second_child_is_started_on_one_that_does_not_die(node: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = node("gpus 1\n")
    watched.source.open()
    watched.until(lambda: bool(watched.samples()))
    stuck = watched.source.child_pid
    assert stuck is not None
    stop(stuck)
    with monkeypatch.context() as patch:
        patch.setattr(Child, "kill", lambda self: None)  # as in uninterruptible sleep
        watched.moved += 11.0
        for _ in range(3):
            watched.round()
        assert watched.health()["driver"].reason.endswith("does not die, no second one is started")
        watched.source.close()
        watched.source.open()
        watched.round()
        assert watched.source.child_pid == stuck
    os.kill(stuck, signal.SIGKILL)
    watched.moved += 1.0
    watched.until(lambda: watched.source.child_pid is None)
    watched.moved += 60.0
    watched.forget()
    watched.until(lambda: bool(watched.samples()))


@pytest.mark.parametrize(
    "statement, error, reason",
    [
        ("init driver_not_loaded", Unsupported, "not loaded"),
        ("init mismatch", Unsupported, "different versions"),
        ("init no_permission", Denied, "does not start"),
        ("gpus 0", Unsupported, "sees no GPU"),
    ],
)
def test_no_driver_or_no_gpu_is_a_state_with_a_reason(
    node: Start, statement: str, error: type[Exception], reason: str
) -> None:
    watched = node(statement + "\n")
    with pytest.raises(error, match=reason):
        watched.source.open()
    assert watched.source.child_pid is None


def test_no_library_is_a_state_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    source = Nvml(NvmlConfig(library_directory=str(tmp_path), open_seconds=PATIENCE_SECONDS))
    with pytest.raises(Unsupported, match="no NVIDIA driver"):
        source.open()


def test_closing_ends_the_child_and_may_be_done_twice(node: Start) -> None:
    watched = node("gpus 1\n")
    watched.source.close()
    watched.source.open()
    pid = watched.source.child_pid
    watched.source.close()
    watched.source.close()
    assert pid is not None and not os.path.exists(f"/proc/{pid}")


def test_a_hung_child_ends_with_its_parent(node: Start) -> None:
    watched = node("init hang\n")
    environment = {**os.environ, "LD_LIBRARY_PATH": watched.source._config.library_directory}
    child = Child(watched.source._command, environment, Plan((), 0.05).to_line())
    child.close(PATIENCE_SECONDS)
    assert child.exit_code == 0


def test_a_full_pipe_drops_samples_and_says_how_many() -> None:
    receiver, sender = os.pipe()
    say = Mouth(sender)
    for _ in range(200):
        say({"kind": "sample", "text": "x" * 1000})
    os.read(receiver, 1024 * 1024)
    say({"kind": "sample"})
    last = json.loads(os.read(receiver, 1024 * 1024))
    os.close(receiver)
    os.close(sender)
    assert 0 < last["dropped"] < 200


def test_every_counter_has_a_column_and_the_plan_survives_the_journey() -> None:
    columns = {column.name: column.type for column in DEVICE_SAMPLES.columns}
    for counter in COUNTERS:
        assert counter.column.startswith("pcie:") or counter.column in columns
        assert all(name in columns and columns[name] == pa.string() for way in counter.ways for name, _ in way.also)
    assert "nvmlDeviceGetPcieThroughput" not in {way.call for counter in COUNTERS for way in counter.ways}
    plan = Plan(COUNTERS, 1.0, (3,))
    assert plan_from_line(plan.to_line()) == plan
