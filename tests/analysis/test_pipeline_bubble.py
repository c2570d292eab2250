"""One slow phase on one rank of a pipeline is found though totals hide it, and what others tell of is left to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import pipeline_bubble, straggler
from warpline_analysis.runner import run
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Train = Callable[..., dict[str, Any]]
Times = npt.NDArray[np.float64]
Phases = dict[str, tuple[str, Times]]
STAGES, REPLICAS = 4, 8
VICTIM = 2 * REPLICAS + 5
"""Stage 2 of replica 5."""


def phases(seed: int, steps: int = 60, jitter: float = 0.01, backward: float = 0.6) -> Phases:
    """Forward, backward and optimizer of 4 stages x 8 replicas, `backward` of it in the backward pass."""
    random = np.random.default_rng(seed)

    def noisy(seconds: float) -> Times:
        return seconds * np.exp(random.normal(0, jitter, (steps, STAGES * REPLICAS)))

    return {
        "forward-compute": ("compute", noisy(0.95 - backward)),
        "backward-compute": ("compute", noisy(backward)),
        "optimizer": ("optimizer", noisy(0.05)),
    }


def slowed(work: Phases, phase: str, rank: int, factor: float, start: int = 0) -> Phases:
    """The same with one phase of one rank slower."""
    kind, seconds = work[phase]
    slow = seconds.copy()
    slow[start:, rank] *= factor
    return work | {phase: (kind, slow)}


def judge(reader_of: ReaderOf, train: Train, work: Phases, **how: Any) -> Report:
    """Stages of a replica wait for each other in the pipeline."""
    return pipeline_bubble.detect(reader_of(train(work, stages=STAGES, in_pipeline=True, **how)))


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, report
    return report.findings[0]


def test_a_backward_of_1_9_times_where_it_is_a_tenth_of_the_work_is_found_by_its_phase(
    reader_of: ReaderOf, train: Train
) -> None:
    work = slowed(phases(1, backward=0.1), "backward-compute", VICTIM, 1.9, 20)
    finding = only(judge(reader_of, train, work))
    assert (finding.kind, finding.severity) == (FindingKind.PIPELINE_BUBBLE, Severity.WARNING)
    assert (finding.subject.rank, finding.subject.stage, finding.subject.dp) == (VICTIM, 2, 5)
    assert finding.onset.step == 20 and finding.cost.seconds_per_step == pytest.approx(0.09, rel=0.1)
    assert "backward-compute" in finding.summary and "bubbles grew" in finding.summary and finding.confidence >= 0.9
    assert finding.evidence[0].rows[0]["rank"] == VICTIM
    assert {row["dp"] for row in finding.evidence[1].rows[:1]} == {5}


def test_straggler_alone_would_not_tell_the_phase(reader_of: ReaderOf, train: Train) -> None:
    """Both see the rank; the one incident is told by the phase."""
    work = slowed(phases(1, backward=0.2), "backward-compute", VICTIM, 1.9)
    reader = reader_of(train(work, stages=STAGES, in_pipeline=True))
    whole = straggler.detect(reader).findings[0]
    assert (whole.kind, whole.subject.rank) == (FindingKind.COMPUTE_STRAGGLER, VICTIM)
    told = run(reader, {"straggler": straggler.detect, "pipeline_bubble": pipeline_bubble.detect})
    assert [finding.kind for finding in told.findings] == [FindingKind.PIPELINE_BUBBLE]
    assert "explains 1 compute_straggler" in told.findings[0].summary


def test_a_rank_slow_in_all_its_phases_is_left_to_straggler(reader_of: ReaderOf, train: Train) -> None:
    for factor in (1.12, 1.25, 1.9):
        work = phases(2)
        for phase in tuple(work):
            work = slowed(work, phase, VICTIM, factor)
        report = judge(reader_of, train, work)
        assert report.findings == () and "as a whole" in report.checks[0].detail


def test_a_rank_slow_in_all_its_phases_is_no_bubble_while_its_totals_are_still_to_come(
    reader_of: ReaderOf, train: Train
) -> None:
    """Step times of more ranks than phases are known of, but none since the rank is slow."""
    work = phases(2)
    for phase in tuple(work):
        work = slowed(work, phase, VICTIM, 1.6, 40)
    tables = train(work, stages=STAGES, in_pipeline=True)
    steps, told = tables["steps"], tables["phases"]
    tables["steps"] = steps.filter(pc.less(steps["step"], 40))
    tables["phases"] = told.filter(pc.not_equal(told["rank"], 0))
    report = pipeline_bubble.detect(reader_of(tables))
    assert report.findings == () and "no matter of one phase" in report.checks[0].detail


@pytest.mark.parametrize(("phase", "factor"), [("forward-compute", 1.25), ("backward-compute", 1.14)])
def test_forward_and_backward_below_straggler_s_gate_are_found_on_whom_they_are(
    reader_of: ReaderOf, train: Train, phase: str, factor: float
) -> None:
    for seed in range(5):
        victim = (seed * 7) % (STAGES * REPLICAS)
        found = judge(reader_of, train, slowed(phases(seed), phase, victim, factor))
        assert [(f.kind, f.subject.rank) for f in found.findings] == [(FindingKind.PIPELINE_BUBBLE, victim)], seed
        assert phase in found.findings[0].summary


def test_fifty_healthy_pipelines_are_healthy(reader_of: ReaderOf, train: Train) -> None:
    for seed in range(50):
        report = judge(reader_of, train, phases(seed, steps=40, jitter=0.02))
        assert (report.verdict, report.findings) == (Verdict.HEALTHY, ()), seed


def test_work_that_is_uneven_by_turns_a_heavy_stage_and_a_heavy_replica_are_no_bubble(
    reader_of: ReaderOf, train: Train
) -> None:
    rotating = judge(reader_of, train, phases(3, jitter=0.3))
    heavy_stage, heavy_replica = phases(4), phases(5)
    for rank in range(2 * REPLICAS, 3 * REPLICAS):
        heavy_stage = slowed(heavy_stage, "forward-compute", rank, 1.25)
    for stage in range(STAGES):
        heavy_replica = slowed(heavy_replica, "forward-compute", stage * REPLICAS + 3, 1.25)
    assert rotating.findings == judge(reader_of, train, heavy_stage).findings == ()
    report = judge(reader_of, train, heavy_replica)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN and "more work" in report.checks[0].detail


def test_a_slow_phase_that_hardly_costs_anything_is_not_told(reader_of: ReaderOf, train: Train) -> None:
    report = judge(reader_of, train, slowed(phases(6), "optimizer", VICTIM, 1.3))
    assert report.findings == () and report.verdict == Verdict.HEALTHY


def test_without_a_pipeline_or_without_replicas_nothing_is_judged(reader_of: ReaderOf, train: Train) -> None:
    work = slowed(phases(7, backward=0.1), "backward-compute", VICTIM, 1.9)
    assert pipeline_bubble.detect(reader_of(train(work))) == Report()
    alone = pipeline_bubble.detect(reader_of(train(work, stages=STAGES * REPLICAS)))
    assert alone.findings == () and alone.verdict == Verdict.UNKNOWN


def test_without_step_times_the_phase_alone_speaks_with_less_confidence(reader_of: ReaderOf, train: Train) -> None:
    tables = train(slowed(phases(1, backward=0.1), "backward-compute", VICTIM, 1.9), stages=STAGES, in_pipeline=True)
    finding = only(pipeline_bubble.detect(reader_of({"phases": tables["phases"]})))
    assert finding.subject.rank == VICTIM and finding.confidence < 0.9
    assert finding.missing and len(finding.evidence) == 1


def test_names_clocks_and_units_do_not_matter(reader_of: ReaderOf, train: Train) -> None:
    work = slowed(phases(8, backward=0.1), "backward-compute", VICTIM, 1.9, 20)
    plain = only(judge(reader_of, train, work))
    order = np.random.default_rng(0).permutation(STAGES * REPLICAS)
    assert only(judge(reader_of, train, work, order=order)).subject.rank == order[VICTIM]
    skewed = only(judge(reader_of, train, work, skew_ns=3_600_000_000_000))
    assert (skewed.summary, skewed.id, skewed.cost) == (plain.summary, plain.id, plain.cost)
    scaled = {name: (kind, seconds * 100) for name, (kind, seconds) in work.items()}
    assert only(judge(reader_of, train, scaled)).id == plain.id


def test_a_rank_that_is_slow_as_a_whole_by_spells_is_no_matter_of_one_phase(reader_of: ReaderOf, train: Train) -> None:
    """Between its spells it is even in all phases, which says nothing of them."""
    work = phases(2, steps=120)
    one = work
    for first in (40, 85):
        for phase in ("forward-compute", "backward-compute"):
            work = spell(work, phase, first)
        one = spell(one, "backward-compute", first)
    assert judge(reader_of, train, work).findings == ()
    finding = only(judge(reader_of, train, one))
    assert (finding.kind, finding.subject.rank) == (FindingKind.PIPELINE_BUBBLE, VICTIM)


def spell(work: Phases, phase: str, first: int) -> Phases:
    """Half as slow again in one phase for 15 steps."""
    kind, seconds = work[phase]
    slow = seconds.copy()
    slow[first : first + 15, VICTIM] *= 1.5
    return work | {phase: (kind, slow)}
