"""The life of a finding: opened once, updated when it matters, resolved when it stays away."""

from __future__ import annotations

from dataclasses import replace

from warpline_collector.incidents import ABSENT_PASSES, REFRESH_NS, Incidents, after, restored
from warpline_proto.finding import Cost, Finding, FindingKind, FindingState, Severity, Subject

SLOW = Finding(FindingKind.COMPUTE_STRAGGLER, Severity.WARNING, 0.8, Subject(job="j", rank=3), "slow", "look")


def states_of(states: list[FindingState]) -> list[tuple[str, int, int]]:
    return [(state.state, state.opened_ns, state.updated_ns) for state in states]


def test_a_finding_is_opened_once() -> None:
    """The same accusation in every pass is one row."""
    open_, states = after({}, [SLOW], 100)
    assert states_of(states) == [("open", 100, 100)]
    open_, states = after(open_, [SLOW], 200)
    assert states == []
    assert list(open_) == [SLOW.id]


def test_a_graver_finding_is_told_at_once_and_keeps_its_age() -> None:
    """A change that an operator acts on is written; the moment of opening stays."""
    open_, _ = after({}, [SLOW], 100)
    _, states = after(open_, [replace(SLOW, severity=Severity.CRITICAL)], 200)
    assert states_of(states) == [("open", 100, 200)]


def test_figures_that_grow_are_told_once_a_minute() -> None:
    """Cost so far changes in every pass; it does not become a row in every pass."""
    open_, _ = after({}, [SLOW], 100)
    open_, states = after(open_, [replace(SLOW, cost=Cost(gpu_hours=1.0))], 200)
    assert states == []
    _, states = after(open_, [replace(SLOW, cost=Cost(gpu_hours=2.0))], 100 + REFRESH_NS)
    assert [state.finding.cost.gpu_hours for state in states] == [2.0]


def test_a_finding_is_resolved_only_after_it_stayed_away() -> None:
    """One quiet pass proves nothing, and one loud pass starts the count anew."""
    open_: Incidents = after({}, [SLOW], 100)[0]
    for _ in range(2):
        for _ in range(ABSENT_PASSES - 1):
            open_, states = after(open_, [], 200)
            assert states == []
        open_, states = after(open_, [SLOW], 300)
        assert states == []
    for _ in range(ABSENT_PASSES):
        open_, states = after(open_, [], 400)
    assert states_of(states) == [("resolved", 100, 400)]
    assert open_ == {}
    _, states = after(open_, [SLOW], 500)
    assert states_of(states) == [("open", 500, 500)]


def test_open_findings_are_remembered_over_a_restart() -> None:
    """What a store remembers as open is not opened again; what was resolved is."""
    resolved = FindingState(replace(SLOW, subject=Subject(job="j", rank=4)), "resolved", 1, 2)
    open_ = restored([FindingState(SLOW, "open", 100, 100), resolved])
    assert list(open_) == [SLOW.id]
    assert after(open_, [SLOW], 200)[1] == []


def test_two_detectors_that_agree_make_one_finding() -> None:
    """The graver of the two speaks."""
    graver = replace(SLOW, severity=Severity.CRITICAL, summary="very slow")
    _, states = after({}, [SLOW, graver], 100)
    assert [state.finding.summary for state in states] == ["very slow"]
