"""A working GPU whose clock is held below its peers' is named with what holds it; full load, idling and other loads are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import throttling
from warpline_analysis.runner import run
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = list[dict[str, Any]]
START = 1_700_000_000_000_000_000
SW_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 4, 8, 32, 64, 128


def samples(
    seed: int = 0,
    gpus: int = 8,
    seconds: int = 120,
    clock: float = 1980.0,
    noise: float = 0.01,
    period: int = 1,
    **extra: Any,
) -> Rows:
    """One reading a period of each of `gpus` GPUs on nodes of eight, all at work."""
    random = np.random.default_rng(seed)
    return [
        {"node": f"node{gpu // 8}", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu % 8, "gpu_name": "H100", "job": "train",
         "time_ns": START + second * 10**9 + gpu * 7_000_000, "sm_clock_mhz": clock * float(np.exp(random.normal(0, noise))),
         "sm_clock_max_mhz": 1980.0 if second % 60 == 0 else None, "clock_event_reasons": 0, "power_watts": 600.0,
         "power_limit_watts": 700.0 if second % 5 == 0 else None, "gpu_utilization_percent": 100.0,
         "temperature_celsius": 60.0 if second % 5 == 0 else None} | extra
        for second in range(0, seconds, period) for gpu in range(gpus)
    ]  # fmt: skip


def slowed(
    rows: Rows, gpu: int, ratio: float, reasons: int | None, start: int = 40, stop: int = 10_000, **extra: Any
) -> Rows:
    """The same with one GPU's clock held from one second to before another."""
    for row in rows:
        second = (row["time_ns"] - START) // 10**9
        if row["gpu_uuid"] == f"GPU-{gpu}" and start <= second < stop:
            row |= {"sm_clock_mhz": row["sm_clock_mhz"] * ratio, "clock_event_reasons": reasons} | extra
    return rows


def judge(reader_of: ReaderOf, rows: Rows, **tables: Any) -> Report:
    return throttling.detect(reader_of({"device_samples": rows} | tables))


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, [finding.summary for finding in report.findings]
    return report.findings[0]


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        (HW_SLOWDOWN, "hardware slowdown"),
        (SW_THERMAL, "software thermal limit"),
        (HW_THERMAL | HW_SLOWDOWN, "hardware slowdown and the hardware thermal limit"),
        (POWER_BRAKE, "external power brake"),
        (SW_CAP, "power cap"),
    ],
)
def test_a_held_clock_is_found_with_its_cause_rank_and_onset(reader_of: ReaderOf, reasons: int, words: str) -> None:
    ranks = [
        {"job": "train", "rank": 10 + gpu, "dp": gpu, "gpu_uuid": f"GPU-{gpu}", "start_ns": START} for gpu in range(8)
    ]
    report = judge(reader_of, slowed(samples(), 3, 0.75, reasons), communicators=ranks)
    finding = only(report)
    assert (finding.kind, finding.severity) == (FindingKind.THROTTLING, Severity.WARNING)
    assert (finding.subject.rank, finding.subject.gpu, finding.subject.node, finding.subject.dp) == (
        13,
        "GPU-3",
        "node0",
        3,
    )
    assert words in finding.summary and "25 %" in finding.summary and "7 peers" in finding.summary
    assert finding.onset.time_ns == pytest.approx(START + 40 * 10**9, abs=4 * 10**9)
    assert finding.cost.gpu_hours == pytest.approx(0.25 * 80 / 3600, rel=0.1)
    rows = finding.evidence[0].rows
    assert (rows[0]["gpu"], len(rows)) == ("GPU-3", 8)


def test_a_deep_lasting_hold_is_critical_and_one_that_ended_is_not(reader_of: ReaderOf) -> None:
    assert only(judge(reader_of, slowed(samples(), 3, 0.5, HW_THERMAL))).severity == Severity.CRITICAL
    over = only(judge(reader_of, slowed(samples(), 3, 0.5, HW_THERMAL, 40, 80)))
    assert over.severity == Severity.WARNING and "free again" in over.summary


def test_fifty_healthy_jobs_are_healthy_also_when_all_run_into_the_power_cap(reader_of: ReaderOf) -> None:
    for seed in range(50):
        capped = samples(seed, 8, 120, 1500.0, 0.04, clock_event_reasons=SW_CAP, power_watts=698.0)
        assert judge(reader_of, capped if seed % 2 else samples(seed)).verdict == Verdict.HEALTHY, seed


def test_a_clock_that_heat_holds_seven_percent_below_its_peers_is_found(reader_of: ReaderOf) -> None:
    finding = only(judge(reader_of, slowed(samples(), 3, 0.93, HW_THERMAL)))
    assert (str(finding.kind), finding.severity) == ("throttling", Severity.WARNING)


@pytest.mark.parametrize(
    ("ratio", "reasons", "start", "stop"),
    [(0.97, HW_THERMAL, 0, 120), (0.93, SW_CAP, 0, 120), (0.6, HW_THERMAL, 50, 57), (1.0, HW_THERMAL, 0, 120)],
    ids=["below the gate", "as chips differ at their power cap", "seven seconds", "reason without effect"],
)
def test_what_is_too_little_too_short_or_without_effect_is_no_throttling(
    reader_of: ReaderOf, ratio: float, reasons: int, start: int, stop: int
) -> None:
    assert judge(reader_of, slowed(samples(), 3, ratio, reasons, start, stop)).verdict == Verdict.HEALTHY


def test_a_power_cap_under_a_heavier_load_is_no_fault_and_under_a_lower_limit_is_one(reader_of: ReaderOf) -> None:
    heavier = slowed(samples(power_watts=450.0), 3, 0.8, SW_CAP, power_watts=700.0)
    report = judge(reader_of, heavier)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN and "another load" in report.checks[0].detail
    limited = slowed(samples(power_watts=650.0), 3, 0.8, SW_CAP, power_watts=400.0, power_limit_watts=400.0)
    assert "power limit with its peers" in only(judge(reader_of, limited)).next_step


def test_time_counters_name_the_cause_where_the_reasons_were_missed(reader_of: ReaderOf) -> None:
    rows = slowed(samples(clock_event_reasons=None), 3, 0.8, None)
    for row in rows:
        second = (row["time_ns"] - START) // 10**9
        row["thermal_ns"] = max(second - 40, 0) * 4 * 10**8 if row["gpu_uuid"] == "GPU-3" else 0
    finding = only(judge(reader_of, rows))
    assert "software thermal limit" in finding.summary
    assert finding.evidence[0].rows[0]["thermal_seconds"] > 25


def test_a_low_clock_without_a_reason_is_not_called_throttling(reader_of: ReaderOf) -> None:
    for reasons in (0, None):
        report = judge(reader_of, slowed(samples(), 3, 0.7, reasons, 0))
        assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN)
        assert "GPU 3 of node0" in report.checks[0].detail


def test_idle_gpus_have_low_clocks_and_are_not_accused(reader_of: ReaderOf) -> None:
    rows = slowed(samples(), 3, 0.2, 1, 0, gpu_utilization_percent=0.0, power_watts=70.0)
    assert judge(reader_of, rows).verdict == Verdict.HEALTHY


def test_a_node_that_is_hot_as_a_whole_is_told_once(reader_of: ReaderOf) -> None:
    rows = samples(gpus=32)
    for gpu in range(8, 16):
        slowed(rows, gpu, 0.7, SW_THERMAL)
    finding = only(judge(reader_of, rows))
    assert (finding.subject.node, finding.subject.group, finding.subject.gpu) == ("node1", "8 GPUs", None)
    alone = samples(gpus=8)
    for gpu in range(8):
        slowed(alone, gpu, 0.7, SW_THERMAL)
    assert "highest clock of 1980 MHz" in only(judge(reader_of, alone)).summary


def test_slow_sampling_and_gaps_do_not_matter_but_a_single_reading_is_nothing(reader_of: ReaderOf) -> None:
    slow = slowed(samples(seconds=300, period=15), 3, 0.7, HW_THERMAL, 100)
    assert only(judge(reader_of, slow)).subject.gpu == "GPU-3"
    single = judge(reader_of, slowed(samples(seconds=1), 3, 0.7, HW_THERMAL, 0))
    assert (single.findings, single.verdict) == ((), Verdict.UNKNOWN) and "5 needed" in single.checks[0].detail


@pytest.mark.parametrize(
    ("missing", "words"), [("sm_clock_mhz", "no SM clocks"), ("gpu_utilization_percent", "at work is not known")]
)
def test_what_was_not_sampled_is_said(reader_of: ReaderOf, missing: str, words: str) -> None:
    report = judge(reader_of, [row | {missing: None} for row in samples()])
    assert report.verdict == Verdict.UNKNOWN and words in report.checks[0].detail


def test_other_models_are_no_peers(reader_of: ReaderOf) -> None:
    other = [row | {"gpu_uuid": "GPU-a", "gpu_index": 9, "gpu_name": "A100"} for row in samples(gpus=1, clock=1400.0)]
    assert judge(reader_of, samples() + other).verdict == Verdict.HEALTHY


def computing(longer: float, start: int = 40) -> Rows:
    """Steps of one second of eight ranks; rank 3 computes so many times as long from one step on."""
    random = np.random.default_rng(1)
    return [
        {"job": "train", "rank": rank, "dp": rank, "node": "node0", "gpu_uuid": f"GPU-{rank}", "scope": "step", "step": step,
         "start_ns": START + step * 10**9, "clock": "realtime@node0", "duration_ns": 10**9,
         "compute_ns": int(6e8 * np.exp(random.normal(0, 0.01)) * (longer if rank == 3 and step >= start else 1.0))}
        for step in range(120) for rank in range(8)
    ]  # fmt: skip


def test_the_slow_rank_on_a_held_gpu_is_told_once_with_the_clock_as_the_root(reader_of: ReaderOf) -> None:
    rows = slowed(samples(), 3, 0.7, HW_THERMAL)
    finding = only(run(reader_of({"device_samples": rows, "steps": computing(1.4)})))
    assert (finding.kind, finding.subject.rank, finding.subject.gpu) == (FindingKind.THROTTLING, 3, "GPU-3")
    assert finding.cost.seconds_per_step == pytest.approx(0.24, rel=0.1)
    assert finding.onset.step is not None and abs(finding.onset.step - 40) <= 2
    assert len(finding.evidence) >= 2 and any("compute_straggler" in text for text in finding.ruled_out)


def test_a_clock_near_the_gate_is_dated_by_its_first_low_reading(reader_of: ReaderOf) -> None:
    """Later than the slow rank it would not explain it."""
    for seed in range(10):
        finding = only(judge(reader_of, slowed(samples(seed, seconds=280, noise=0.012), 3, 0.945, HW_THERMAL)))
        assert finding.onset.time_ns == pytest.approx(START + 40 * 10**9, abs=12 * 10**9), seed


def test_a_clock_four_to_five_percent_low_counts_after_half_a_minute_of_heat(reader_of: ReaderOf) -> None:
    assert "4" in only(judge(reader_of, slowed(samples(), 3, 0.952, HW_THERMAL))).summary
    short = slowed(samples(), 3, 0.952, HW_THERMAL, 90, 110)
    assert judge(reader_of, short).verdict == Verdict.HEALTHY


@pytest.mark.parametrize(("ratio", "longer"), [(0.93, 1.08), (0.95, 1.06)])
def test_a_power_cap_below_the_gate_is_the_cause_where_it_explains_a_slow_rank(
    reader_of: ReaderOf, ratio: float, longer: float
) -> None:
    rows = slowed(samples(), 3, ratio, SW_CAP)
    finding = only(run(reader_of({"device_samples": rows, "steps": computing(longer)})))
    assert (finding.kind, finding.subject.rank, finding.severity) == (FindingKind.THROTTLING, 3, Severity.WARNING)
    assert "its rank computes" in finding.summary and "power cap" in finding.summary


@pytest.mark.parametrize(
    ("ratio", "reasons", "longer", "start"),
    [(0.93, SW_CAP, 1.4, 40), (0.96, 0, 1.08, 40), (0.93, SW_CAP, 1.0, 40), (0.93, SW_CAP, 1.07, 0)],
    ids=["too little to explain it", "no reason given", "the rank is not slow", "as chips differ, all along"],
)
def test_a_power_cap_below_the_gate_is_no_cause_where_it_explains_nobody(
    reader_of: ReaderOf, ratio: float, reasons: int, longer: float, start: int
) -> None:
    tables = {"device_samples": slowed(samples(), 3, ratio, reasons, start), "steps": computing(longer, start)}
    assert throttling.detect(reader_of(tables)).findings == ()
