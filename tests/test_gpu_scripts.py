"""The scripts for a GPU run from end to end against the fakes, so that whoever has a GPU once finds them whole."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parent / "gpu"
sys.path.insert(0, str(GPU))

from gpu_setup import median_interval  # noqa: E402  # the folder is no package
from nccl_real import groups, join  # noqa: E402
from run import SCRIPTS  # noqa: E402


def dry(script: str, out: Path, library: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GPU / f"{script}.py"), "--dry", "--out", str(out), "--library", str(library), *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def figures(native_library: Path, tmp_path: Path) -> Any:
    """What a script writes in a dry run."""

    def measured(script: str) -> dict[str, Any]:
        done = dry(script, tmp_path, native_library)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{script}.md").read_text().startswith("*A dry run")
        found: dict[str, Any] = json.loads((tmp_path / f"{script}.json").read_text())
        assert found["dry"] and found["notes"] == []
        return found

    return measured


def test_overhead_is_told_by_workload_and_condition_with_the_rates_that_it_allows(figures: Any) -> None:
    found = figures("overhead")
    for workload in ("eager", "launches", "decode"):
        told = found["workloads"][workload]["conditions"]
        assert next(iter(told)) == "plain" and told["plain"]["overhead_percent"] == 0
        assert told["kernels"]["records_per_step"] == pytest.approx(300, rel=0.01)
        assert told["kernels, copies, sets"]["records_per_step"] == pytest.approx(303, rel=0.01)
    assert found["workloads"]["decode"]["conditions"]["whole graphs"]["records_per_step"] > 0
    assert found["recommended_records_per_second_for_0.5_percent"] > 0
    assert found["counters"]["invalid"] == 0


def test_the_soak_counts_every_record_and_tells_of_damage(figures: Any) -> None:
    runs = figures("graph_soak")["runs"]
    assert set(runs) == {"kernels", "kernels, copies, sets"}
    for run in runs.values():
        assert run["records"] >= 20_000 and run["captured_to_the_end"]
        assert (run["invalid"], run["over_1_percent_invalid_from_record"]) == (0, None)
    assert set(runs["kernels, copies, sets"]["read"]) == {"1", "2", "3"}


def test_toggling_tells_residue_latency_and_memory(figures: Any) -> None:
    found = figures("toggling")
    assert set(found["residue"]["launches"]) == {"plain", "never", "off"}
    assert found["captured_before"] > 0
    assert found["latency"]["on_ms"]["worst"] > 0
    assert len(found["memory"]) == 5


def test_after_the_profile_of_a_user_capture_comes_again(figures: Any) -> None:
    (told,) = figures("user_profiler")["cases"]["held, capture first"]["profiles"]
    assert told["user_kernels"] > 0 and told["ours_meanwhile"] == 0
    assert told["channel"].startswith("paused")
    assert told["back_after_seconds"] is not None


def test_nvml_is_timed_call_by_call_and_as_a_whole(figures: Any) -> None:
    found = figures("nvml_latency")
    assert set(found["loads"]) == {"no context", "context, idle", "eager", "decode"}
    told = found["loads"]["eager"]
    assert told["values"] > 30
    assert {"nvmlDeviceGetFieldValues", "nvmlDeviceGetComputeRunningProcesses", "nvmlGpmMetricsGet"} <= set(
        told["calls_us"]
    )


def test_every_operation_of_nccl_is_looked_for(figures: Any) -> None:
    told = figures("nccl_real")["runs"]["1"]["rank0of1"]
    assert told["run"] == told["told"] == {"AllReduce": 20}
    assert told["channel"] == "ok"


def test_the_floor_of_power_is_told_by_phase(figures: Any) -> None:
    phases = figures("power_floor")["phases"]
    assert list(phases)[:2] == ["no context", "context, idle"] and "busy" in phases
    assert all(300 < told["watts_by_energy"] < 500 for told in phases.values())


def test_the_runner_gathers_goes_on_where_it_was_and_knows_its_scripts(native_library: Path, tmp_path: Path) -> None:
    assert all((GPU / f"{name}.py").exists() for name in SCRIPTS)
    first = dry("run", tmp_path, native_library, "--only", "power_floor")
    assert first.returncode == 0, first.stderr
    assert json.loads((tmp_path / "gpu.json").read_text())["power_floor"]["phases"]
    assert "| busy |" in (tmp_path / "gpu.md").read_text()
    assert "known already" in dry("run", tmp_path, native_library, "--only", "power_floor").stderr
    assert "there is no flops" in dry("run", tmp_path, native_library, "--only", "flops").stderr


def test_a_cupti_that_refuses_is_named(native_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUPTI_FAIL", "cuptiActivityEnable=999")
    done = dry("graph_soak", tmp_path, native_library)
    assert done.returncode == 75, done.stderr
    assert "CUPTI records no kernels" in json.loads((tmp_path / "graph_soak.json").read_text())["missing"]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is there")
def test_what_is_missing_is_named_and_kept(native_library: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "overhead.py"), "--out", str(tmp_path), "--library", str(native_library)]
    done = subprocess.run([*command, "--python", sys.executable], capture_output=True, text=True)
    assert done.returncode == 75
    assert "has no torch" in json.loads((tmp_path / "overhead.json").read_text())["missing"]


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    assert median_interval([float(each) for each in range(1, 31)]) == (15.5, 10.0, 21.0)
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)


def test_operations_of_a_group_share_a_kernel_and_a_kernel_before_its_operation_is_told() -> None:
    assert groups([0, 10_000, 200_000, 400_000, 430_000]) == [0, 200_000, 400_000]
    assert join([0, 200, 400], [50, 150, 450]) == {"operations": 3, "kernels": 3, "matched": 3, "early": 1}
