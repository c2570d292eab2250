"""A job that has become slower for good is told of, with since when; one whose steps merely vary is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import regression
from warpline_analysis.rises import lasting_rise
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Train = Callable[..., dict[str, Any]]
Times = npt.NDArray[np.float64]


def series(seed: int, steps: int = 200, jitter: float = 0.02) -> Times:
    """Iteration times around 1 s."""
    return np.exp(np.random.default_rng(seed).normal(0, jitter, steps))


def slower(times: Times, start: int, share: float) -> Times:
    """The same, slower from a step on."""
    result = times.copy()
    result[start:] *= 1 + share
    return result


def judge(reader_of: ReaderOf, times: Times, ranks: int = 4, **columns: Any) -> Report:
    """Steps of a job that take these times on every rank."""
    rows = [
        {"job": "train", "rank": rank, "scope": "step", "step": step, "duration_ns": int(seconds * 1e9)}
        | {name: int(value[step] * 1e9) for name, value in columns.items()}
        for step, seconds in enumerate(times) for rank in range(ranks)
    ]  # fmt: skip
    return regression.detect(reader_of({"steps": rows}))


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, report
    return report.findings[0]


def test_a_lasting_rise_is_told_with_onset_cost_and_the_part_that_grew(reader_of: ReaderOf) -> None:
    times = slower(series(1), 120, 0.3)
    finding = only(judge(reader_of, times, compute_ns=series(2) * 0.6, idle_ns=times - 0.7))
    assert (finding.kind, finding.severity, finding.subject.named()) == (
        FindingKind.REGRESSION, Severity.WARNING, {"job": "train"},
    )  # fmt: skip
    assert finding.onset.step == 120 and finding.confidence >= 0.9
    assert finding.cost.seconds_per_step == pytest.approx(0.3, rel=0.1)
    assert finding.cost.gpu_hours == pytest.approx(0.3 * 80 * 4 / 3600, rel=0.1)
    assert "nothing to do grew by" in finding.summary and finding.next_step.startswith("Look at the hosts")
    assert [row["period"] for row in finding.evidence[0].rows] == ["before", "after"]


def test_a_rise_of_a_moment_or_of_long_ago_is_worth_knowing_and_no_warning(reader_of: ReaderOf) -> None:
    for count, severity in (
        (110, Severity.INFO),
        (120, Severity.WARNING),
        (300, Severity.WARNING),
        (500, Severity.INFO),
    ):
        finding = only(judge(reader_of, slower(series(1, count), 100, 0.3), ranks=1))
        assert (finding.severity, finding.onset.step) == (severity, 100), count


@pytest.mark.parametrize(
    ("count", "severity"), [(440, Severity.INFO), (480, Severity.WARNING), (900, Severity.WARNING)]
)
def test_where_ranks_are_watched_in_windows_a_rise_waits_for_them_and_stays_in_reach(
    reader_of: ReaderOf, count: int, severity: Severity
) -> None:
    """Three of every 25 steps are watched: a cause needs some of them to be named, and they reach back far."""
    times = slower(series(1, count), 410, 0.3)
    rows = [
        {"job": "train", "rank": rank, "scope": "step", "step": step, "duration_ns": int(seconds * 1e9)}
        | ({"compute_ns": int((seconds if rank == 0 else 1.0) * 0.6e9)} if step % 25 < 3 else {})
        for step, seconds in enumerate(times) for rank in range(2)
    ]  # fmt: skip
    finding = only(regression.detect(reader_of({"steps": rows})))
    assert (finding.severity, finding.onset.step, finding.onset.watched_step) == (severity, 410, 425)


def test_without_parts_of_the_step_it_says_what_is_missing(reader_of: ReaderOf) -> None:
    finding = only(judge(reader_of, slower(series(1), 50, 0.5)))
    assert "which part of the step grew" in finding.missing


@pytest.mark.parametrize("jitter", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("share", [0.15, 0.2, 0.5, 2.0])
def test_rises_well_above_the_gate_are_found_where_they_begin(jitter: float, share: float) -> None:
    for seed in range(30):
        found = lasting_rise(slower(series(seed, jitter=jitter), 120, share))
        assert found is not None and abs(found.start - 120) <= (0 if share >= 10 * jitter else 3), seed


def test_five_slow_steps_after_ten_are_enough_and_four_are_not() -> None:
    assert lasting_rise(slower(series(3, 15), 10, 0.3)) is not None
    assert lasting_rise(slower(series(3, 14), 10, 0.3)) is None
    assert lasting_rise(slower(series(3, 200), 196, 0.3)) is None


def test_a_rise_below_the_gate_and_one_that_is_over_are_none(reader_of: ReaderOf) -> None:
    over = slower(series(4), 60, 0.5)
    over[120:] /= 1.5
    for times in (slower(series(4), 100, 0.03), over, slower(series(4), 100, -0.3)):
        report = judge(reader_of, times)
        assert report.findings == () and report.verdict == Verdict.HEALTHY
        assert "gate" in report.checks[0].detail or "5.0 %" in report.checks[0].detail


@pytest.mark.parametrize(
    "pattern",
    [
        [1.0, 2.0], [1, 1, 1, 3], [1, 1, 3, 3], [1, 1.2, 1.4, 1.6, 1.8, 2], [1] * 19 + [6], [1] * 44 + [2] * 6,
    ],
    ids=["alternating", "accumulation", "pairs", "saw", "checkpoints", "evaluations"],
)  # fmt: skip
def test_what_came_round_before_is_no_rise_but_a_rise_on_top_of_it_is(pattern: list[float]) -> None:
    for seed in range(20):
        times = series(seed) * np.resize(np.array(pattern, dtype=float), 200)
        counts = range(max(15, len(pattern) + 1), 201, 7)
        assert all(lasting_rise(times[:count]) is None for count in counts), seed
        found = lasting_rise(slower(times, 100, 0.6))
        assert found is not None and abs(found.start - 100) <= 16, seed
        assert found.share == pytest.approx(0.6, abs=0.2)


@pytest.mark.parametrize("jitter", [0.1, 0.3, 0.6])
def test_variable_sequence_lengths_are_no_regression_at_any_length_of_the_record(jitter: float) -> None:
    for seed in range(50):
        times = series(seed, jitter=jitter)
        assert all(lasting_rise(times[:count]) is None for count in range(15, 201, 9)), seed
        lengths = np.random.default_rng(seed).choice([0.5, 1.0, 1.5, 4.0], 200) * series(seed)
        assert all(lasting_rise(lengths[:count]) is None for count in range(15, 201, 9)), seed


def test_fifty_healthy_jobs_are_healthy(reader_of: ReaderOf, train: Train) -> None:
    for seed in range(50):
        work = 0.1 * np.exp(np.random.default_rng(seed).normal(0, 0.02, (60, 8)))
        report = regression.detect(reader_of(train(work)))
        assert (report.verdict, report.findings) == (Verdict.HEALTHY, ()), seed


def test_a_single_process_without_a_rank_is_judged_too(reader_of: ReaderOf) -> None:
    rows = [
        {"job": "alone", "scope": "step", "step": step, "duration_ns": int(value * 1e9)}
        for step, value in enumerate(slower(series(5), 100, 0.4))
    ]
    assert only(regression.detect(reader_of({"steps": rows}))).onset.step == 100


def test_too_few_steps_cannot_be_told(reader_of: ReaderOf) -> None:
    report = judge(reader_of, series(6, 12))
    assert report.verdict == Verdict.UNKNOWN and report.checks[0].detail == "iteration times of 12 steps; 15 needed"
    assert regression.detect(reader_of({})) == Report()


def test_clocks_names_and_units_do_not_matter(reader_of: ReaderOf, train: Train) -> None:
    work = 0.1 * np.exp(np.random.default_rng(7).normal(0, 0.02, (100, 8)))
    work[60:] *= 1.3
    plain = only(regression.detect(reader_of(train(work))))
    renamed = only(regression.detect(reader_of(train(work, order=np.random.default_rng(0).permutation(8)))))
    skewed = only(regression.detect(reader_of(train(work, skew_ns=3_600_000_000_000))))
    assert plain.onset.step == 60 and renamed == plain and skewed == plain
    larger = only(regression.detect(reader_of(train(work * 100))))
    assert larger.onset.step == 60 and larger.id == plain.id


def test_a_rise_smaller_than_the_jitter_is_told_by_ranks_and_restless_series_are_not() -> None:
    """Lengths of sequences make steps vary by 12 %; the step rises by 10 %."""
    found = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        restless = random.lognormal(0, 0.12, 200)
        assert lasting_rise(restless) is None, seed
        restless[100:] *= 1.10
        rise = lasting_rise(restless)
        found += rise is not None and abs(rise.start - 100) <= 30
    assert found >= 12


def test_where_the_scatter_leaves_the_onset_open_its_bounds_are_told(reader_of: ReaderOf) -> None:
    exact = only(judge(reader_of, slower(series(1), 120, 0.3)))
    assert (exact.onset.earliest_step, exact.onset.latest_step) == (120, 120) and "since step 120 (" in exact.summary
    held = 0
    for seed in range(60):
        rise = lasting_rise(slower(series(seed, 200, 0.12), 100, 0.15))
        held += rise is not None and rise.earliest <= 100 <= rise.latest and rise.latest - rise.earliest <= 80
    assert held >= 54
    restless = only(judge(reader_of, slower(series(0, 200, 0.12), 100, 0.15)))
    assert f"between {restless.onset.earliest_step} and {restless.onset.latest_step}" in restless.summary


def computing(times: Times, slow: int, ranks: int, start: int, **of_each: Any) -> list[dict[str, Any]]:
    """Steps that take these times, and the compute of ranks: that of the first `slow` ones grows with the steps from `start`."""
    usual = times.copy()
    usual[start:] /= np.median(times[start:]) / np.median(times[:start])
    return [
        {"job": "train", "rank": rank, "dp": rank, "scope": "step", "step": step, "duration_ns": int(times[step] * 1e9)}
        | {"compute_ns": int((times if rank < slow else usual)[step] * 0.8e9)} | of_each
        for step in range(len(times)) for rank in range(ranks)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("slow", "severity"), [(8, Severity.WARNING), (7, Severity.INFO), (4, Severity.INFO), (1, Severity.INFO)]
)
def test_where_all_ranks_became_slower_alike_nobody_is_waited_for(
    reader_of: ReaderOf, slow: int, severity: Severity
) -> None:
    """Six steps after the onset: a cause among the ranks may still be named, unless all of them compute longer."""
    times = slower(series(8, 66), 60, 0.3)
    finding = only(regression.detect(reader_of({"steps": computing(times, slow, 8, 60)})))
    assert (finding.severity, finding.onset.step) == (severity, 60)
    alike = "a slow rank or node: the compute of all 8 ranks grew alike"
    assert (alike in finding.ruled_out) == ("the compute of all 8 ranks grew" in finding.summary) == (slow == 8)


def test_ranks_that_are_watched_too_seldom_are_not_called_alike(reader_of: ReaderOf) -> None:
    times = slower(series(8, 66), 60, 0.3)
    rows = computing(times, 8, 8, 60)
    for row in rows:
        if row["step"] not in (*range(0, 60, 5), 61, 64):
            del row["compute_ns"]
    assert only(regression.detect(reader_of({"steps": rows}))).severity == Severity.INFO


def phased(times: Times, optimizer: Times) -> dict[str, Any]:
    """Steps of a job of four ranks that tell how long forward and optimizer took."""
    steps: list[dict[str, Any]] = [
        {"job": "train", "rank": rank, "dp": rank, "scope": "step", "step": step, "duration_ns": int(seconds * 1e9)}
        for step, seconds in enumerate(times) for rank in range(4)
    ]  # fmt: skip
    phases = [
        {key: row[key] for key in ("job", "rank", "dp", "step")}
        | {"phase": phase, "kind": kind, "duration_ns": int(seconds[int(row["step"])] * 1e9)}
        for row in steps
        for phase, kind, seconds in (("forward", "compute", times * 0.8), ("optimizer", "optimizer", optimizer))
    ]  # fmt: skip
    return {"steps": steps, "phases": phases}


def test_a_steady_phase_that_rises_along_tells_when_a_restless_job_became_slower(reader_of: ReaderOf) -> None:
    """Steps vary by 17 % and rise by 10 %: seldom to be told by themselves."""
    alone = told = 0
    for seed in range(12):
        times = slower(series(seed, 200, 0.17), 100, 0.1)
        alone += lasting_rise(times) is not None
        report = regression.detect(reader_of(phased(times, slower(0.05 * series(seed + 99, 200, 0.004), 100, 0.1))))
        told += bool(report.findings)
        if report.findings and "phase optimizer" in str(only(report).ruled_out):
            assert only(report).onset.step == 100, seed
    assert alone <= 6 and told >= 9, (alone, told)


def sharded(times: Times, optimizer: Times) -> dict[str, Any]:
    """Steps of two ranks that end with a reduction of gradients, the optimizer and a gather of parameters, phases untold."""
    begin = np.concatenate([[0.0], np.cumsum(times)[:-1]])
    rows, collectives = [], []
    for step, rank in ((step, rank) for step in range(len(times)) for rank in range(2)):
        identity = {"job": "train", "rank": rank, "dp": rank, "step": step}
        rows.append(identity | {"scope": "step", "duration_ns": int(times[step] * 1e9)})
        gather = begin[step] + times[step] - 0.02
        for sequence, (name, start) in enumerate(
            (("reduce_scatter", gather - optimizer[step] - 0.05), ("all_gather", gather))
        ):
            collectives.append(identity | {
                "operation": name, "communicator": "dp", "sequence": 2 * step + sequence, "start_ns": int(start * 1e9),
                "duration_ns": 50_000_000 - 40_000_000 * sequence,
            })  # fmt: skip
    return {"steps": rows, "collectives": collectives}


def test_what_a_rank_does_between_two_collectives_tells_it_too_where_no_phases_are_told(reader_of: ReaderOf) -> None:
    alone = told = 0
    for seed in range(12):
        times, optimizer = series(seed, 200, 0.17), 0.05 * series(seed + 99, 200, 0.004)
        assert regression.detect(reader_of(sharded(times, optimizer))).findings == (), seed
        risen = slower(times, 100, 0.1)
        alone += lasting_rise(risen) is not None
        report = regression.detect(reader_of(sharded(risen, slower(optimizer, 100, 0.1))))
        told += bool(report.findings)
        if report.findings and "between collectives, before all_gather" in str(only(report).ruled_out):
            assert only(report).onset.step == 100, seed
    assert alone <= 6 and told >= 9, (alone, told)


def test_a_steady_phase_that_rises_by_itself_or_not_at_all_makes_no_regression(reader_of: ReaderOf) -> None:
    for seed in range(12):
        times, optimizer = series(seed, 200, 0.14), 0.05 * series(seed + 99, 200, 0.004)
        assert regression.detect(reader_of(phased(times, optimizer))).findings == (), seed
        assert regression.detect(reader_of(phased(times, slower(optimizer, 100, 0.1)))).findings == (), seed
