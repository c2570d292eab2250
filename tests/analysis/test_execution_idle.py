"""GPUs that hold a program and do nothing are found, with the three thresholds, energy, and honesty about residency."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import execution_idle
from warpline_analysis.energy.runs import runs
from warpline_analysis.energy.signals import load
from warpline_analysis.idleness import load_idle
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
START = 1_700_000_000_000_000_000


def samples(pattern: str, gpu: int = 0, period: float = 1.0, **extra: Any) -> list[dict[str, Any]]:
    """One sample a letter: a active, i idle with a program, d without one, m memory busy, l link busy."""
    rows = []
    for number, letter in enumerate(pattern):
        row = {
            "node": "node0", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu, "gpu_name": "H100",
            "time_ns": START + int(number * period * 1e9),
            "power_watts": {"a": 600.0, "d": 70.0}.get(letter, 120.0), "resident_processes": 0 if letter == "d" else 1,
            "sm_active_percent": 90.0 if letter == "a" else 1.0, "tensor_active_percent": 0.0,
            "dram_active_percent": 50.0 if letter == "m" else 1.0, "pcie_tx_bytes_per_second": 2e9 if letter == "l" else 1e6,
        }  # fmt: skip
        rows.append(row | extra)
    return rows


def judge(reader_of: ReaderOf, rows: list[dict[str, Any]]) -> Report:
    return execution_idle.detect(reader_of({"device_samples": rows}))


def test_share_energy_and_thresholds_follow_the_definition(reader_of: ReaderOf) -> None:
    pattern = "d" * 20 + ("a" * 20 + "i" * 6 + "a" * 10 + "i" * 12 + "a" * 10 + "i" * 2) * 3 + "a"
    (idle,) = load_idle(reader_of({"device_samples": samples(pattern)}))
    assert (idle.observed, idle.deep, idle.idle) == (200.0, 20.0, (60.0, 54.0, 36.0))
    assert idle.shares() == (60 / 180, 54 / 180, 36 / 180)
    (finding,) = judge(reader_of, samples(pattern)).findings
    assert (finding.kind, finding.severity, finding.subject.gpu) == (
        FindingKind.EXECUTION_IDLE,
        Severity.WARNING,
        "GPU-0",
    )
    assert "30 % of the time" in finding.summary and "6 intervals" in finding.summary
    assert "33 % from 1 s on, 30 % from 5 s on, 20 % from 10 s on" in finding.summary
    assert finding.cost.gpu_hours == pytest.approx(54 / 3600)
    # 54 s at 120 W, the last second of each interval half-way to 600 W, less the floor between 70 W and 70..600 W
    assert finding.cost.joules is not None and 54 * (120 - 105) < finding.cost.joules < 54 * 120
    assert finding.onset.time_ns == START + 40 * 10**9


@pytest.mark.parametrize(
    "pattern",
    [
        "a" * 200,
        ("a" * 10 + "i" * 4) * 20,
        ("m" * 10 + "l" * 10) * 10,
        "d" * 200,
        "i" * 2 + "a" * 100,
        "a" * 100 + "i" * 6,
    ],
    ids=["busy", "gaps under 5 s", "memory or link busy", "no program", "start", "under a tenth"],
)
def test_what_is_not_execution_idle_is_healthy(reader_of: ReaderOf, pattern: str) -> None:
    report = judge(reader_of, samples(pattern))
    assert (report.findings, report.verdict) == ((), Verdict.HEALTHY)


def test_an_interval_of_exactly_five_samples_counts(reader_of: ReaderOf) -> None:
    (idle,) = load_idle(reader_of({"device_samples": samples("a" * 20 + "i" * 5 + "a" * 20 + "i" * 4 + "a" * 20)}))
    assert idle.idle == (9.0, 5.0, 0.0)


def test_a_gap_in_sampling_breaks_an_interval_and_is_not_counted(reader_of: ReaderOf) -> None:
    rows = samples("a" * 20 + "i" * 8 + "a" * 20)
    del rows[22:25]
    (idle,) = load_idle(reader_of({"device_samples": rows}))
    assert idle.idle[1] == 0.0 and idle.observed == 47.0 - 4.0


def test_without_word_on_residency_both_bounds_are_given_and_nobody_is_accused(reader_of: ReaderOf) -> None:
    report = judge(reader_of, samples("i" * 30 + "a" * 70, resident_processes=None))
    assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN)
    assert "residency unknown" in report.checks[0].detail and "0.0 %" in report.checks[0].detail
    assert "30 % from 5 s on" in report.checks[0].detail
    busy = judge(reader_of, samples("a" * 100, resident_processes=None))
    assert busy.verdict == Verdict.HEALTHY


def test_utilisation_stands_in_for_activity_and_counters_for_rates(reader_of: ReaderOf) -> None:
    rows = samples("a" * 60 + "i" * 60 + "l" * 60)
    for number, row in enumerate(rows):
        row["gpu_utilization_percent"] = row["sm_active_percent"]
        busy = row["pcie_tx_bytes_per_second"] > 1e9
        for name in ("sm_active_percent", "tensor_active_percent", "dram_active_percent", "pcie_tx_bytes_per_second"):
            row[name] = None
        row["nvlink_tx_bytes"] = (rows[number - 1]["nvlink_tx_bytes"] if number else 0) + (2 * 10**9 if busy else 10**6)
    (finding,) = judge(reader_of, rows).findings
    assert finding.cost.gpu_hours == pytest.approx(60 / 3600)
    assert {"SM, tensor and FP activity", "device memory activity", "PCIe rates"} <= set(finding.missing)
    assert "NVLink rates" not in finding.missing


def test_the_energy_counter_is_believed_over_power(reader_of: ReaderOf) -> None:
    rows = samples("a" * 50 + "i" * 50 + "a" * 50)
    for number, row in enumerate(rows):
        row["energy_joules"] = 1000.0 + 40.0 * number
    (finding,) = judge(reader_of, rows).findings
    assert finding.cost.joules == pytest.approx(50 * 40.0)


def test_gpus_of_a_job_are_told_together_and_others_one_by_one(reader_of: ReaderOf) -> None:
    pattern = "a" * 50 + "i" * 50
    rows = [row for gpu in range(8) for row in samples(pattern, gpu, job="train")]
    (finding,) = judge(reader_of, rows).findings
    assert (finding.subject.job, finding.subject.gpu, finding.subject.node) == ("train", None, "node0")
    alone = judge(reader_of, [row for gpu in range(2) for row in samples(pattern, gpu)])
    assert [found.subject.gpu for found in alone.findings] == ["GPU-0", "GPU-1"]


def test_a_long_and_costly_idle_is_critical(reader_of: ReaderOf) -> None:
    rows = [row for gpu in range(16) for row in samples("a" * 100 + "i" * 2300, gpu, job="train")]
    (finding,) = judge(reader_of, rows).findings
    assert finding.severity == Severity.CRITICAL


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (samples("ai" * 5), "30 needed"),
        (samples("a" * 60, period=15.0), "15 s apart"),
        (samples("a" * 60, sm_active_percent=None, tensor_active_percent=None), "neither SM activity nor utilisation"),
    ],
)
def test_too_little_to_judge_is_unknown(reader_of: ReaderOf, rows: list[dict[str, Any]], text: str) -> None:
    report = judge(reader_of, rows)
    assert report.verdict == Verdict.UNKNOWN and text in report.checks[0].detail


def test_a_recording_is_judged_whatever_else_was_recorded_later(reader_of: ReaderOf) -> None:
    later = samples("a" * 60, 1)
    for row in later:
        row["time_ns"] += 10**9 * 86_400
    report = judge(reader_of, samples("a" * 50 + "i" * 50) + later)
    assert [finding.subject.gpu for finding in report.findings] == ["GPU-0"]


def test_two_sources_on_one_gpu_are_not_added_up(reader_of: ReaderOf) -> None:
    rows = samples("a" * 50 + "i" * 50, source="dcgm") + samples("a" * 100, source="nvml", sm_active_percent=None)
    assert [idle.observed for idle in load_idle(reader_of({"device_samples": rows}))] == [99.0]


def capture(path: Path) -> list[dict[str, Any]]:
    """Rows of one of the eight-GPU captures: neither residency nor an energy counter is in them."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [
            {
                "node": "node0",
                "gpu_index": int(row["gpu_index"]),
                "time_ns": round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000) * 1_000_000,
                "gpu_utilization_percent": float(row["utilization_gpu_percent"]),
                "power_watts": float(row["power_W"]),
            }
            for row in csv.DictReader(stream)
        ]


@pytest.mark.data
def test_the_baseline_capture_accuses_nobody_and_gives_both_bounds(data: Path, reader_of: ReaderOf) -> None:
    rows = capture(data / "D-telemetry/nanogpt_8gpu/f4f827dd_baseline_gpu_metrics.csv.gz")
    report = judge(reader_of, rows)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    (check,) = report.checks
    assert check.detail.startswith("8 GPUs on node0: residency unknown") and "0.0 %" in check.detail
    for idle in load_idle(reader_of({"device_samples": rows})):
        assert idle.idle == (0.0, 0.0, 0.0) and {"program residency", "energy counter"} <= set(idle.missing)
        assert 0.08 < idle.shares("upper")[1] < 0.17  # 0-16.3 s and from 261 s on of 266 s are flat, 14-16 % read 0


@pytest.mark.data
def test_the_long_capture_integrates_to_the_known_energy(data: Path, reader_of: ReaderOf) -> None:
    rows = capture(data / "D-telemetry/nanogpt_8gpu/b443a1c3_gpu_metrics.csv.gz")
    reader = reader_of({"device_samples": rows})
    samples = load(reader)
    found = runs(samples, {})
    energy = [found.joules[found.gpu == gpu].sum() for gpu in range(len(samples.gpus))]
    known = [575603.8, 591208.8, 573512.3, 568154.8, 599205.7, 582080.6, 595565.3, 586148.0]
    assert energy == pytest.approx(known, rel=1e-4)
    assert execution_idle.detect(reader).findings == ()


def test_what_was_accounted_is_not_reckoned_again_and_gives_the_same(reader_of: ReaderOf) -> None:
    """Live, the store holds an account of the past; offline there is none."""
    from warpline_analysis.energy.account import account, windows

    rows = samples(("a" * 20 + "i" * 8 + "a" * 5 + "i" * 30) * 30)
    begin = rows[0]["time_ns"]
    plain = reader_of({"device_samples": rows})
    done = [account(plain, window, {}, 1) for window in windows(begin, begin + 1200 * 10**9)]
    later = [row for row in rows if row["time_ns"] >= begin + 300 * 10**9]
    told = reader_of(
        {"device_samples": later, "energy_intervals": [row for batch in done for row in batch.to_pylist()]}
    )
    (live,), (offline,) = load_idle(told), load_idle(plain)
    assert live.observed > 1800 and live.idle == pytest.approx(offline.idle)
    assert (live.intervals, live.first_ns) == (offline.intervals, offline.first_ns)
    assert live.idle_joules == pytest.approx(offline.idle_joules)


def test_residency_read_every_half_a_minute_is_enough(reader_of: ReaderOf) -> None:
    """As NVML's processes are read: in between it is not known by itself."""
    rows = samples("a" * 100 + "i" * 101)
    for number, row in enumerate(rows):
        row["resident_processes"] = 1 if number % 30 == 0 else None
    (finding,) = judge(reader_of, rows).findings
    assert "did nothing for" in finding.summary
