"""Recorded Prometheus text: hang flags, GPU readings with DCGM's blanks, NCCL Inspector's averages, and everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.parsers import exposition
from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.prometheus import Prometheus
from warpline_proto.errors import Refused

DCGM = """# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).
# TYPE DCGM_FI_DEV_SM_CLOCK gauge
DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-1",pci_bus_id="00000000:4E:00.0",modelName="H100",Hostname="n1"} 1980
DCGM_FI_DEV_SM_CLOCK{gpu="1",UUID="GPU-2",pci_bus_id="00000000:5E:00.0",modelName="H100",Hostname="n1"} 345
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",Hostname="n1"} 140737488355330
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-2",Hostname="n1"} 69.5
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",Hostname="n1"} 2147483634
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-2",Hostname="n1"} 0
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",Hostname="n1"} 9223372036854775794
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-2",Hostname="n1"} 3
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="1",UUID="GPU-2",Hostname="n1"} 1500
DCGM_FI_PROF_SM_ACTIVE{gpu="1",UUID="GPU-2",Hostname="n1"} 0.25
# HELP DCGM_FI_DEV_POWER_VIOLATION Throttling duration due to power constraints (in us).
DCGM_FI_DEV_POWER_VIOLATION{gpu="1",UUID="GPU-2",Hostname="n1"} 12000
DCGM_FI_DEV_THERMAL_VIOLATION{gpu="1",UUID="GPU-2",Hostname="n1"} 7
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-1",Hostname="n1",pci_bus_id="00000000:4E:00.0"} 79
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-2",Hostname="n1"} 0
DCGM_FI_DEV_ENC_UTIL{gpu="1",UUID="GPU-2",Hostname="n1"} 5
"""


def _read(path: str, content: bytes) -> Reading:
    candidate = memory_input(path, content)
    assert Prometheus().recognises(candidate)
    return Prometheus().read(candidate)


def _rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize(("name", "hanging"), [("hang_metric_all", list(range(8))), ("normal_metric_0", [])])
def test_xpu_timer_says_which_ranks_hang(data: Path, name: str, hanging: list[int]) -> None:
    """All 8 ranks in one file, none in the other; the flag itself is a measured 0 or 1 in either."""
    path = data / "C-collectives" / "xpu_timer" / f"{name}.txt"
    reading = _read(str(path), path.read_bytes())
    assert reading.facts["ranks"] == 8
    assert reading.facts["hanging_ranks"] == hanging
    assert sorted(row["rank"] for row in _rows(reading, "log_events") if row["kind"] == "hang") == hanging
    flags = [row for row in _rows(reading, "metrics") if row["metric"] == "XPU_TIMER_COMMON_HANG"]
    assert [row["value"] for row in flags] == [float(bool(hanging))] * 8
    assert reading.origin.run_id == "aistudio-155220033"
    assert reading.origin.node == "11.36.23.0"
    latency = next(row for row in _rows(reading, "metrics") if row["metric"] == "XPU_TIMER_MM_KERNEL_AVG_LATENCY")
    assert latency["rank"] == 2
    assert json.loads(latency["labels"])["operation"] == "Matmul"
    assert len(_rows(reading, "metrics")) == reading.facts["samples"] == 177


@pytest.mark.data
def test_inspector_averages_become_summaries(data: Path) -> None:
    """Time and bandwidth of one operation are one row; the range of sizes stays a label."""
    path = data / "C-collectives" / "nccl-inspector" / "readme_sample.prom"
    reading = _read(str(path), path.read_bytes())
    reduce, send = _rows(reading, "collectives")
    assert (reduce["operation"], reduce["nranks"], reduce["group_name"]) == ("all_reduce", 4, "DP Group 0")
    assert reduce["duration_ns"] == 9_498_470
    assert reduce["bus_bytes_per_second"] == pytest.approx(678.263e9)
    assert (reduce["algorithm"], reduce["protocol"], reduce["timing"]) == ("ring", "ll", "summary")
    assert reduce["message_bytes"] is None
    assert (send["operation"], send["node"]) == ("send", "nvl72004-T01")
    assert reading.origin.run_id is None
    assert json.loads(_rows(reading, "metrics")[0]["labels"])["message_size"] == "4-5GB"


def test_dcgm_blanks_are_null_and_zero_is_zero() -> None:
    """Blank as 32-bit, 64-bit and floating point; throttling time only where its unit is named."""
    reading = _read("metrics.txt", DCGM.encode())
    blank, read = _rows(reading, "device_samples")
    assert (blank["gpu_uuid"], blank["node"], blank["sm_clock_mhz"]) == ("GPU-1", "n1", 1980)
    assert blank["bus_id"] == "0000:4e:00.0"
    for column in ("power_watts", "power_method", "gpu_utilization_percent", "memory_used_bytes", "time_ns"):
        assert blank[column] is None
    assert (read["power_watts"], read["power_method"], read["gpu_utilization_percent"]) == (69.5, "unstated", 0.0)
    assert (read["memory_used_bytes"], read["energy_joules"]) == (3 * 2**20, 1.5)
    assert (read["sm_active_percent"], read["power_cap_ns"], read["thermal_ns"]) == (25.0, 12_000_000, None)
    (fault,) = _rows(reading, "log_events")
    assert (fault["code"], fault["gpu_uuid"], fault["severity"]) == (79, "GPU-1", "critical")
    kept = {row["metric"] for row in _rows(reading, "metrics")}
    assert kept == {"DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_ENC_UTIL", "DCGM_FI_DEV_THERMAL_VIOLATION"}


def test_labels_with_escapes_and_timestamps() -> None:
    """Quotes, backslashes, line ends, commas and braces in label values; milliseconds, or seconds before `# EOF`."""
    line = r'odd{path="a\\b",say="\"x\", {y}",two="1\n2",} 1.5e3 1700000000123'
    sample = exposition.parse([line]).samples[0]
    assert sample.labels == {"path": "a\\b", "say": '"x", {y}', "two": "1\n2"}
    assert (sample.value, sample.time_ns) == (1500.0, 1_700_000_000_123_000_000)
    sample = exposition.parse(['up 1 1700000000.5 # {trace_id="a"} 1', "# EOF"]).samples[0]
    assert sample.time_ns == 1_700_000_000_500_000_000


def test_values_that_are_no_number_are_null() -> None:
    """NaN and infinities are readings without a value; lines out of form are counted."""
    found = exposition.parse(["a NaN", "a +Inf", "a one", "a{b=c} 1", "a 1"])
    assert [sample.value for sample in found.samples] == [None, None, 1.0]
    assert found.skipped == 2


def test_a_long_hostile_line_is_done_at_once() -> None:
    """Lines made to backtrack are skipped in a time that grows with their length, not with its power."""
    lines = ["a" + "1" * 60_000 + "x", "a{" + 'b="c",' * 9_000 + " x", "a 1" + " " * 60_000 + "x"]
    assert not exposition.recognises("\n".join(lines))
    assert exposition.parse(lines).skipped == len(lines)


def test_secrets_in_labels_are_masked() -> None:
    """By what the label is called and by what its value looks like; the other labels stay."""
    token = "hf_" + "a1B2" * 9
    reading = _read("m", f'x{{api_key="s3cretvalue123",note="{token}",zone="a"}} 1\n'.encode())
    shown = _rows(reading, "metrics")[0]["labels"]
    assert "s3cretvalue123" not in shown
    assert token not in shown
    assert json.loads(shown)["zone"] == "a"


def test_two_jobs_in_one_text_are_kept_apart() -> None:
    """Rows without a job would be given to one of them."""
    reading = _read("m", b'x{job_name="a",rank="0"} 1\nx{job_name="b",rank="0"} 2\n')
    assert [(row["job"], row["value"]) for row in _rows(reading, "metrics")] == [("a", 1.0), ("b", 2.0)]
    assert reading.origin.run_id is None


@given(st.binary(max_size=300), st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(content: bytes, text: str) -> None:
    """Never anything but Refused."""
    for body in (content, text.encode("utf-8", "surrogatepass"), b'XPU_TIMER_COMMON_HANG{rank="' + content + b'"} 1'):
        candidate = memory_input("m", body)
        Prometheus().recognises(candidate)
        try:
            Prometheus().read(candidate)
        except Refused as refused:
            assert refused.message
