"""Of a job that is watched in windows, stalls between them are told by iteration times, and named by the few seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from warpline_analysis.between_windows import irregular
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import sporadic_stall
from warpline_analysis.iteration import Iterations
from warpline_analysis.schedules import unscheduled
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Train = Callable[..., dict[str, Any]]
Times = npt.NDArray[np.float64]
STEPS, RANKS = 600, 16
AT = (203, 219, 251, 268, 300, 317, 340, 377, 381, 402, 429, 433, 466, 500, 513, 547, 558, 590)
"""Steps that stall; windows of 3 of 50 steps see 251, 300, 402 and 500."""
UNSEEN = tuple(step for step in AT if step % 50 >= 3)


def work(seed: int, jitter: float = 0.02) -> Times:
    """A tenth of a second of compute in every step of every rank."""
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, jitter, (STEPS, RANKS)))


def stalled(seconds: Times, rank: int | slice, steps: Sequence[int], longer: float = 0.08) -> Times:
    """The same, so many seconds longer in some steps of a rank."""
    result = seconds.copy()
    result[list(steps), rank] += longer
    return result


def in_windows(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """What is left where 3 of 50 steps are watched: iteration times of all steps, of ranks those inside."""

    def inside(rows: pa.Table) -> Any:
        return pa.array(rows.column("step").to_numpy() % 50 < 3)

    steps = tables["steps"]
    for name in ("busy_ns", "compute_ns", "communication_ns", "exposed_communication_ns", "data_wait_ns"):
        if name in steps.column_names:
            at = steps.column_names.index(name)
            steps = steps.set_column(at, name, pc.if_else(inside(steps), steps.column(name), None))
    return {
        name: steps if name == "steps" else rows.filter(inside(rows)) if "step" in rows.column_names else rows
        for name, rows in tables.items()
    }


def judge(reader_of: ReaderOf, tables: Mapping[str, pa.Table]) -> Report:
    return sporadic_stall.detect(reader_of(in_windows(tables)))


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, report
    finding = report.findings[0]
    assert finding.kind == FindingKind.SPORADIC_STALL and finding.evidence[0].rows
    return finding


def test_two_stalls_inside_windows_name_the_rank_of_many_between_them(reader_of: ReaderOf, train: Train) -> None:
    finding = only(judge(reader_of, train(stalled(work(1), 5, (*UNSEEN, 251, 402)))))
    assert (finding.subject.rank, finding.severity) == (5, Severity.WARNING)
    assert finding.onset.step == 203 and "16 of 397 steps since step 203" in finding.summary
    assert "2 fell into capture windows, by compute on rank 5" in finding.summary
    assert finding.cost.seconds_per_step == pytest.approx(0.08 * 16 / 397, rel=0.15)


def test_one_stall_inside_a_window_names_nobody_but_tells_how_long_to_watch(reader_of: ReaderOf, train: Train) -> None:
    finding = only(judge(reader_of, train(stalled(work(2), 5, (*UNSEEN, 402)))))
    assert finding.subject.named() == {"job": "train"} and finding.severity == Severity.WARNING
    assert "one fell into a capture window, by compute on rank 5, which is no proof" in finding.summary
    assert "Watch 80 steps in a row" in finding.next_step
    assert "ranks outside of the capture windows" in finding.missing


def test_none_inside_a_window_is_worth_knowing_and_no_alarm(reader_of: ReaderOf, train: Train) -> None:
    """Larger work in these steps would look the same."""
    finding = only(judge(reader_of, train(stalled(work(3), 5, UNSEEN))))
    assert finding.severity == Severity.INFO and "none fell into a capture window" in finding.summary


def test_larger_work_of_all_ranks_and_ranks_in_turn_accuse_nobody(reader_of: ReaderOf, train: Train) -> None:
    assert judge(reader_of, train(stalled(work(4), slice(None), AT))).findings == ()
    in_turn = work(5)
    for number, step in enumerate(AT):
        in_turn = stalled(in_turn, number % RANKS, (step,))
    assert only(judge(reader_of, train(in_turn))).subject.rank is None


def test_a_schedule_of_steps_or_of_the_clock_is_no_stall_and_hides_none(reader_of: ReaderOf, train: Train) -> None:
    pause = np.zeros(STEPS)
    pause[49::50] = 0.5
    pause[79::80] = 0.3
    assert judge(reader_of, train(work(6), pause=pause)).verdict == Verdict.HEALTHY
    finding = only(judge(reader_of, train(stalled(work(6), 9, (*UNSEEN, 251, 402)), pause=pause)))
    assert finding.subject.rank == 9 and finding.onset.step == 203
    lengths = np.repeat(np.linspace(0.9, 1.1, 6), 100)[:, None]
    ends = np.cumsum(work(7) * lengths, axis=0)[:, 0]
    pause = np.zeros(STEPS)
    pause[np.searchsorted(ends, np.arange(4.0, ends[-1], 6.0))] = 0.2
    assert judge(reader_of, train(work(7) * lengths, pause=pause)).findings == ()


def test_lengths_of_sequences_with_a_long_tail_are_no_stalls(reader_of: ReaderOf, train: Train) -> None:
    """Between the usual steps and the longest ones there are all lengths."""
    for seed in range(20):
        random = np.random.default_rng(seed)
        for lengths in (
            np.exp(random.normal(0, 0.15, STEPS)),
            np.exp(random.laplace(0, 0.1, STEPS)),
            1 + random.pareto(3, STEPS),
        ):
            iterations = Iterations("train", RANKS, np.arange(STEPS), lengths * 0.1)
            assert irregular(iterations) == {}, seed


def test_few_rare_cheap_or_ended_ones_are_not_told(reader_of: ReaderOf, train: Train) -> None:
    for steps, longer in ((AT[::4], 0.08), (AT, 0.015), (tuple(step - 200 for step in AT[:9]), 0.08)):
        assert judge(reader_of, train(stalled(work(8), 5, steps, longer))).findings == (), steps


def test_what_is_known_of_every_step_is_no_matter_of_windows(reader_of: ReaderOf, train: Train) -> None:
    pause = np.zeros(STEPS)
    pause[list(AT)] = 0.3
    report = sporadic_stall.detect(reader_of(train(work(9), pause=pause)))
    assert report.findings == () and report.verdict == Verdict.UNKNOWN


def test_steps_at_a_period_are_foretold_and_strewn_ones_are_not() -> None:
    schedule = {*range(49, STEPS, 50), *range(79, STEPS, 80)}
    assert unscheduled(schedule, 0, STEPS - 1) == []
    assert unscheduled({*range(149, STEPS, 150), *range(199, STEPS, 200)}, 0, STEPS - 1) == []
    assert unscheduled(schedule | set(AT), 0, STEPS - 1) == sorted(set(AT) - schedule)
    for seed in range(20):
        strewn = np.random.default_rng(seed).choice(STEPS, 30, replace=False).tolist()
        assert len(unscheduled(strewn, 0, STEPS - 1)) >= 24, seed
    missed = set(range(19, STEPS, 20)) - {119, 419}
    assert unscheduled(missed, 0, STEPS - 1) == [] and len(unscheduled(set(range(19, 300, 20)), 0, STEPS - 1)) > 6


def test_who_is_slow_for_good_does_not_stall_in_every_window(reader_of: ReaderOf, train: Train) -> None:
    for first in (400, 450, 500):
        slow = stalled(work(10), 5, range(first, STEPS))
        assert judge(reader_of, train(slow)).findings == (), first
    three = stalled(work(10), 5, (*range(251, STEPS, 50)[::2], 300))
    assert only(judge(reader_of, train(three))).subject.rank == 5
