"""One incident is told once: what follows from a cause stands under it, nothing is lost, and the order plays no part."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest

from warpline_analysis.grouping import ORDER
from warpline_analysis.grouping import group as group_each
from warpline_proto.finding import (
    Check,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

K = FindingKind
NOW = 1_700_000_000 * 10**9
LINKS_FINE = (Check("link", Verdict.HEALTHY, "train", "no lasting loss"),)


def group(report: Report) -> Report:
    """One detector that said it all."""
    return group_each({"all": report})["all"]


def found(kind: FindingKind, step: int | None = None, seconds: int | None = None, **subject: Any) -> Finding:
    """A finding of job `train` with one piece of evidence and one thing ruled out."""
    return Finding(
        kind=kind,
        severity=Severity.WARNING,
        confidence=0.8,
        subject=Subject(**({"job": "train"} | subject)),
        summary=f"{kind} {subject}",
        next_step="look",
        onset=Onset(None if seconds is None else NOW + seconds * 10**9, step),
        cost=Cost(seconds_per_step=0.1 if kind == K.COMPUTE_STRAGGLER else None, gpu_hours=0.5),
        evidence=(Evidence(f"SELECT '{kind} {subject}' AS text", ({"text": "row"},)),),
        ruled_out=(f"not {kind}",),
    )


def straggler(**subject: Any) -> Finding:
    """Rank 5, slow, and waited for."""
    where = {"rank": 5, "stage": 1, "node": "node1", "gpu": "GPU-5"} | subject
    finding = found(K.COMPUTE_STRAGGLER, 40, 40, **where)
    return replace(finding, ruled_out=("network: the others wait for it",), severity=Severity.CRITICAL)


def port(*communicators: str, **subject: Any) -> Finding:
    """A port of node 1 and the communicators that reach other nodes from there."""
    finding = found(K.NETWORK_DEGRADATION, None, 30, **({"node": "node1", "link": "mlx5_0:1"} | subject))
    rows = tuple({"job": "train", "communicator": name} for name in communicators)
    return replace(finding, evidence=(*finding.evidence, Evidence("SELECT members", rows)))


THROTTLING = found(K.THROTTLING, None, 30, gpu="GPU-5", node="node1")
REGRESSION = found(K.REGRESSION, 42)
HANG = found(K.HANG, None, 100, rank=3, node="node0", gpu="GPU-3")
LINK = found(K.LINK_DEGRADATION, 41, 41, communicator="0xab", link="0xab")
CASES: list[tuple[str, list[Finding], tuple[Check, ...]]] = [
    ("a held clock explains the slow rank and the slower job", [THROTTLING, straggler(), REGRESSION], ()),
    ("a hot node explains the slow rank on it", [found(K.THROTTLING, None, 30, node="node1", group="8 GPUs"), straggler()], ()),
    ("a broken GPU explains all of it", [found(K.GPU_ERROR, None, 20, gpu="GPU-5"), THROTTLING, straggler(), REGRESSION], ()),
    ("a lost GPU explains the hang and what the job shows", [
        found(K.GPU_LOST, None, 90, gpu="GPU-7"), HANG, found(K.EXECUTION_IDLE, None, 130), found(K.IDLE_SPIN, gpu="GPU-1")], ()),
    ("a dead process explains the hang", [found(K.PROCESS_DIED, None, 80, job=None, node="node0"), HANG], ()),
    ("a hang explains idling", [HANG, found(K.EXECUTION_IDLE, None, 110, group="its GPUs")], ()),
    ("a slow rank explains the slower job", [straggler(), REGRESSION], ()),
    ("a slow link explains the slower job", [LINK, REGRESSION], ()),
    ("a bad port explains the slow communicator and the log", [
        port("0xab"), LINK, replace(port(link="mlx5_0"), confidence=0.6)], ()),
    ("a bad port explains that its node's network carries less", [
        port("0xab"), replace(found(K.NETWORK_DEGRADATION, 41, 41, node="node1"), severity=Severity.CRITICAL)], ()),
    ("one rank told in two ways", [found(K.MASKED_STRAGGLER, 40, rank=5), found(K.COMPUTE_STRAGGLER, 40, rank=5)], ()),
    ("an alarm of the network is secondary to the rank that is waited for", [straggler(), port("0xab")], LINKS_FINE),
]  # fmt: skip


@pytest.mark.parametrize(("findings", "checks"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_follows_from_a_cause_is_told_under_it(findings: list[Finding], checks: tuple[Check, ...]) -> None:
    report = group(Report(tuple(findings), checks))
    (root,) = report.findings
    hidden = findings[0].kind == K.COMPUTE_STRAGGLER and any(each.kind == K.NETWORK_DEGRADATION for each in findings)
    assert root.kind == (K.MASKED_STRAGGLER if hidden else findings[0].kind) and report.checks == checks
    for explained in findings[1:]:
        assert any(text.startswith(str(explained.kind)) and explained.summary in text for text in root.ruled_out)
        assert {item.sql for item in explained.evidence} <= {item.sql for item in root.evidence}
        assert set(explained.ruled_out) <= set(root.ruled_out)
        assert f"1 {explained.kind}" in root.summary


@pytest.mark.parametrize(("findings", "checks"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_order_plays_no_part_and_a_second_time_changes_nothing(
    findings: list[Finding], checks: tuple[Check, ...]
) -> None:
    other = found(K.STAGE_IMBALANCE, 5, job="other", stage=3)

    def told(report: Report) -> list[Finding]:
        return sorted(report.findings, key=lambda finding: (finding.id, finding.summary))

    expected = told(group(Report((*findings, other), checks)))
    for order in itertools.permutations((*findings, other)):
        once = group(Report(order, checks))
        assert told(once) == expected
        assert group(once) == once


def test_a_root_takes_subject_cost_step_and_gravity_of_what_it_explains() -> None:
    (root,) = group(Report((straggler(), THROTTLING, REGRESSION))).findings
    assert (root.kind, root.subject.rank, root.subject.stage, root.subject.gpu) == (K.THROTTLING, 5, 1, "GPU-5")
    assert (root.severity, root.cost.seconds_per_step, root.onset) == (
        Severity.CRITICAL,
        0.1,
        Onset(NOW + 30 * 10**9, 40),
    )


def test_a_roughly_dated_cause_of_the_same_size_explains_the_slower_job() -> None:
    cause = replace(found(K.DATA_IMBALANCE, 22), cost=Cost(seconds_per_step=0.477))
    slower = replace(found(K.REGRESSION, 30), cost=Cost(seconds_per_step=0.484))
    assert [each.kind for each in group(Report((slower, cause))).findings] == [K.DATA_IMBALANCE]
    smaller = replace(cause, cost=Cost(seconds_per_step=0.1))
    assert len(group(Report((slower, smaller))).findings) == 2


def test_a_cause_seen_in_the_next_window_explains_the_slower_job() -> None:
    """Ranks are watched in some steps only: nothing can be told of them before."""
    slower = replace(found(K.REGRESSION, 356), onset=Onset(None, 356, 400))
    cause = found(K.HOST_STRAGGLER, 400, rank=3)
    assert [each.kind for each in group(Report((slower, cause))).findings] == [K.HOST_STRAGGLER]
    later = found(K.HOST_STRAGGLER, 450, rank=3)
    assert len(group(Report((slower, later))).findings) == 2


def test_a_cause_that_began_where_scatter_leaves_the_rise_open_explains_the_slower_job() -> None:
    """A restless job: the rise is dated step 64, and may have begun anywhere between 30 and 117."""
    slower = replace(found(K.REGRESSION, 64), onset=Onset(None, 64, None, 30, 117))
    for step, kinds in ((114, [K.COMPUTE_STRAGGLER]), (140, [K.COMPUTE_STRAGGLER, K.REGRESSION])):
        report = group(Report((slower, found(K.COMPUTE_STRAGGLER, step, rank=3))))
        assert sorted(each.kind for each in report.findings) == kinds, step


def test_a_cause_that_comes_and_goes_and_costs_more_than_the_rise_explains_it() -> None:
    """The job is slower in the mean of its steps; the cause costs five times as much in those in which it acts."""
    slower = replace(found(K.REGRESSION, 324), cost=Cost(seconds_per_step=0.03))
    cause = replace(found(K.COMPUTE_STRAGGLER, 350, rank=1), cost=Cost(seconds_per_step=0.15))
    assert [each.kind for each in group(Report((slower, cause))).findings] == [K.COMPUTE_STRAGGLER]
    slower, minute = (replace(each, onset=replace(each.onset, time_ns=NOW)) for each in (slower, cause))
    within = replace(minute, onset=Onset(NOW + 30 * 10**9, 400))
    assert [each.kind for each in group(Report((slower, within))).findings] == [K.COMPUTE_STRAGGLER]
    long_after = replace(minute, onset=Onset(NOW + 300 * 10**9, 400))
    assert len(group(Report((slower, long_after))).findings) == 2


def test_a_late_rank_whose_cost_a_pipeline_doubles_explains_the_slower_job() -> None:
    slower = replace(found(K.REGRESSION, 125), onset=Onset(None, 125, None, 114, 141), cost=Cost(seconds_per_step=0.28))
    cause = replace(found(K.PIPELINE_BUBBLE, 94, rank=23), cost=Cost(seconds_per_step=0.168))
    assert [each.kind for each in group(Report((slower, cause))).findings] == [K.PIPELINE_BUBBLE]
    assert len(group(Report((slower, replace(cause, onset=Onset(None, 60))))).findings) == 2


def test_a_cause_far_too_small_for_the_rise_does_not_hide_it() -> None:
    slower = replace(found(K.REGRESSION, 40), cost=Cost(seconds_per_step=0.3))
    stall = replace(found(K.SPORADIC_STALL, 40, rank=1), cost=Cost(seconds_per_step=0.007))
    assert len(group(Report((slower, stall))).findings) == 2
    assert len(group(Report((slower, replace(stall, cost=Cost(seconds_per_step=0.2))))).findings) == 1


UNRELATED: list[tuple[str, list[Finding], tuple[Check, ...]]] = [
    ("another GPU", [found(K.THROTTLING, gpu="GPU-6", node="node1"), straggler()], ()),
    ("a clock that was held later", [replace(THROTTLING, onset=Onset(NOW + 400 * 10**9)), straggler()], ()),
    ("another onset", [straggler(), found(K.REGRESSION, 60)], ()),
    ("another job", [straggler(), found(K.REGRESSION, 41, job="other")], ()),
    ("a port whose node is not in the communicator", [port("0xcd"), LINK], ()),
    ("a port that is merely remarkable", [replace(port("0xab"), severity=Severity.INFO), LINK], ()),
    ("an alarm while nobody knows how the links are", [straggler(), port("0xab")], ()),
    ("an alarm while a link is slow", [straggler(), LINK], LINKS_FINE),
    ("a fault of programs", [replace(found(K.GPU_ERROR, job=None, node="node1", group="programs"), severity=Severity.INFO),
                             straggler()], ()),
    ("a job that hung much later", [HANG, found(K.EXECUTION_IDLE, None, 10)], ()),
    ("two slow ranks", [straggler(), straggler(rank=6, gpu="GPU-6")], ()),
]  # fmt: skip


@pytest.mark.parametrize(("findings", "checks"), [case[1:] for case in UNRELATED], ids=[case[0] for case in UNRELATED])
def test_what_does_not_fit_together_stays_apart(findings: list[Finding], checks: tuple[Check, ...]) -> None:
    report = Report(tuple(findings), checks)
    assert group(report) == report


def test_a_root_stays_with_its_detector_and_so_do_checks() -> None:
    said = {"straggler": Report((straggler(),)), "throttling": Report((THROTTLING,)), "link": Report(checks=LINKS_FINE)}
    after = group_each(said)
    assert [after["throttling"].findings[0].kind, *after["straggler"].findings] == [K.THROTTLING]
    assert after["link"] == said["link"]


def test_many_explained_findings_are_counted() -> None:
    spins = [found(K.IDLE_SPIN, gpu=f"GPU-{number}") for number in range(40)]
    (root,) = group(Report((HANG, *spins))).findings
    assert "40 idle_spin" in root.summary and any(text.startswith("24 more findings") for text in root.ruled_out)
    assert len(root.evidence) <= 8


def test_every_kind_has_its_place_and_any_mixture_settles() -> None:
    assert set(ORDER) == set(FindingKind) and len(ORDER) == len(FindingKind)
    dice = random.Random(1)
    for _ in range(50):
        mixed = tuple(
            found(dice.choice(ORDER), dice.choice([None, 40, 41]), dice.choice([None, 0, 100]), rank=dice.choice([None, 5]),
                  gpu=dice.choice([None, "GPU-5"]), node=dice.choice([None, "node1"]))
            for _ in range(8)
        )  # fmt: skip
        once = group(Report(mixed))
        assert group(once) == once and 1 <= len(once.findings) <= 8


def test_the_worst_steps_of_a_late_rank_are_no_incident_of_their_own() -> None:
    late = replace(found(K.HOST_STRAGGLER, 40, rank=5), cost=Cost(0.06, 0.5))
    stall = replace(found(K.SPORADIC_STALL, 41, rank=5), cost=Cost(0.01, 0.1))
    (told,) = group(Report((stall, late))).findings
    assert told.kind == K.HOST_STRAGGLER and "explains 1 sporadic_stall" in told.summary
    elsewhere = replace(found(K.SPORADIC_STALL, 41, rank=6), cost=stall.cost)
    sooner = replace(found(K.SPORADIC_STALL, 20, rank=5), cost=stall.cost)
    dearer = replace(stall, cost=Cost(0.1, 0.9))
    unknown = replace(stall, cost=Cost())
    for other in (elsewhere, sooner, dearer, unknown):
        assert len(group(Report((other, late))).findings) == 2
