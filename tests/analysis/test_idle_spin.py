"""A GPU that looks busy and draws idle power is found; work, idling and waiting together are not mistaken for it."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import idle_spin
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = list[dict[str, Any]]
START = 1_700_000_000_000_000_000
WORK = {
    "gpu_utilization_percent": 100.0,
    "power_watts": 600.0,
    "memory_utilization_percent": 55.0,
    "sm_clock_mhz": 1900.0,
}
SPIN = {
    "gpu_utilization_percent": 100.0,
    "power_watts": 160.0,
    "memory_utilization_percent": 0.0,
    "sm_clock_mhz": 1980.0,
}
IDLE = {"gpu_utilization_percent": 0.0, "power_watts": 120.0, "memory_utilization_percent": 0.0, "sm_clock_mhz": 1980.0}
LIGHT = SPIN | {"memory_utilization_percent": 20.0}
SLOW_CLOCK = SPIN | {"sm_clock_mhz": 345.0}


def samples(states: Callable[[int, int], dict[str, float]], gpus: int = 8, seconds: int = 120, **extra: Any) -> Rows:
    """One reading a second; `states(gpu, second)` gives what it shows. The first ten seconds all GPUs are idle."""
    random = np.random.default_rng(gpus)
    rows = []
    for second in range(seconds):
        for gpu in range(gpus):
            shown = IDLE if second < 10 else states(gpu, second)
            row = {
                "node": "node0", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu, "gpu_name": "H100", "job": "train",
                "time_ns": START + second * 10**9, "power_limit_watts": 700.0 if second % 5 == 0 else None,
                "sm_clock_max_mhz": 1980.0 if second % 60 == 0 else None,
                "resident_processes": 1 if second % 30 == 0 else None,
            }  # fmt: skip
            rows.append(row | shown | {"power_watts": shown["power_watts"] + random.normal(0, 4)} | extra)
    return rows


def judge(reader_of: ReaderOf, rows: Rows, **tables: Any) -> Report:
    return idle_spin.detect(reader_of({"device_samples": rows} | tables))


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, [finding.summary for finding in report.findings]
    return report.findings[0]


def test_one_gpu_that_spins_while_its_peers_work_is_found(reader_of: ReaderOf) -> None:
    report = judge(reader_of, samples(lambda gpu, second: SPIN if gpu == 5 and second >= 60 else WORK))
    finding = only(report)
    assert (finding.kind, finding.severity) == (FindingKind.IDLE_SPIN, Severity.WARNING)
    assert (finding.subject.gpu, finding.subject.job) == ("GPU-5", "train")
    assert re.search("draws 1(59|60|61) W, where idle is 1(19|20|21) W", finding.summary) and finding.confidence >= 0.85
    assert finding.onset.time_ns == pytest.approx(START + 60 * 10**9, abs=4 * 10**9)
    assert finding.cost.joules == pytest.approx(60 * 160, rel=0.1)
    assert finding.evidence[0].rows[0]["gpu"] == "GPU-5" and len(finding.evidence[0].rows) == 8


def test_it_is_no_longer_urgent_once_it_works_again(reader_of: ReaderOf) -> None:
    over = only(judge(reader_of, samples(lambda gpu, second: SPIN if gpu == 5 and 40 <= second < 70 else WORK)))
    assert over.severity == Severity.INFO and "no longer" in over.summary


@pytest.mark.parametrize("state", [WORK, IDLE, LIGHT, SLOW_CLOCK], ids=["work", "idle", "light work", "low clock"])
def test_what_is_no_spinning_is_healthy(reader_of: ReaderOf, state: dict[str, float]) -> None:
    report = judge(reader_of, samples(lambda gpu, second: state if gpu == 5 else WORK))
    assert (report.findings, report.verdict) == ((), Verdict.HEALTHY)


def test_short_waits_are_healthy(reader_of: ReaderOf) -> None:
    report = judge(reader_of, samples(lambda gpu, second: SPIN if (second + gpu) % 20 < 7 else WORK))
    assert report.findings == ()


def test_peers_that_wait_together_are_not_accused(reader_of: ReaderOf) -> None:
    for waiting in (7, 8, 4):
        report = judge(reader_of, samples(lambda gpu, second, n=waiting: SPIN if gpu < n else WORK))  # type: ignore[misc]
        assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN)
        assert "no fault of theirs" in report.checks[0].detail


def test_one_of_two_may_wait_for_the_other(reader_of: ReaderOf) -> None:
    report = judge(reader_of, samples(lambda gpu, second: SPIN if gpu else WORK, gpus=2))
    assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN)


def test_a_stage_that_waits_as_a_whole_is_not_accused(reader_of: ReaderOf) -> None:
    ranks = [{"job": "train", "rank": gpu, "pp": gpu // 2, "dp": gpu % 2, "gpu_uuid": f"GPU-{gpu}"} for gpu in range(8)]
    rows = samples(lambda gpu, second: SPIN if gpu < 2 else WORK)
    report = judge(reader_of, rows, communicators=ranks)
    assert report.findings == () and report.verdict != Verdict.CRITICAL


def test_a_gpu_without_peers_is_told_with_less_confidence(reader_of: ReaderOf) -> None:
    finding = only(judge(reader_of, samples(lambda gpu, second: SPIN, gpus=1, job=None)))
    assert finding.confidence < 0.8 and "peers that do the same work" in finding.missing


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("power_watts", "power"),
        ("gpu_utilization_percent", "GPU utilisation"),
        ("resident_processes", "program residency"),
    ],
)
def test_what_was_not_sampled_is_said(reader_of: ReaderOf, column: str, words: str) -> None:
    rows = [row | {column: None} for row in samples(lambda gpu, second: SPIN if gpu == 5 else WORK)]
    report = judge(reader_of, rows)
    assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN) and words in report.checks[0].detail


def test_a_single_reading_is_not_called_healthy(reader_of: ReaderOf) -> None:
    rows = samples(lambda gpu, second: WORK, seconds=1) + samples(lambda gpu, second: IDLE, seconds=60, job="other")
    for row in rows[:8]:
        row["gpu_uuid"] += "-alone"
    report = judge(reader_of, rows)
    assert {check.job: check.verdict for check in report.checks} == {"train": Verdict.UNKNOWN, "other": Verdict.HEALTHY}


def test_a_busy_model_that_was_never_seen_idle_has_no_floor(reader_of: ReaderOf) -> None:
    rows = [
        row for row in samples(lambda gpu, second: WORK | {"power_watts": 400.0}) if row["time_ns"] >= START + 10**10
    ]
    report = judge(reader_of, rows)
    assert report.findings == () and "idle power of this model" in report.checks[0].detail


def test_fifty_healthy_jobs_are_healthy(reader_of: ReaderOf) -> None:
    for seed in range(50):
        random = np.random.default_rng(seed)
        power = random.uniform(180, 690, (8, 120))
        rows = samples(lambda gpu, second, p=power: WORK | {"power_watts": p[gpu, second]})  # type: ignore[misc]
        assert judge(reader_of, rows).verdict == Verdict.HEALTHY, seed


@pytest.mark.data
def test_full_utilisation_at_low_power_on_all_gpus_of_a_node_accuses_nobody(data: Path, reader_of: ReaderOf) -> None:
    with gzip.open(data / "D-telemetry/nanogpt_8gpu/b443a1c3_gpu_metrics.csv.gz", "rt", encoding="utf-8") as stream:
        rows = [
            {"node": "node0", "gpu_index": int(row["gpu_index"]), "power_watts": float(row["power_W"]),
             "time_ns": round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1e3) * 10**6,
             "gpu_utilization_percent": float(row["utilization_gpu_percent"])}
            for row in csv.DictReader(stream)
        ]  # fmt: skip
    report = judge(reader_of, rows)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert "program residency" in report.checks[0].detail
