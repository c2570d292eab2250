"""The life of a finding: opened when a pass first has it, updated when it changed, resolved when passes no longer have it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from warpline_proto.finding import OPEN, Finding, FindingState, Severity

ABSENT_PASSES: Final = 3
"""A finding that so many passes in a row did not have is resolved: one quiet pass proves nothing."""
REFRESH_NS: Final = 60 * 10**9
"""Figures that merely grow (cost so far, evidence) are written anew at most so often."""
CONFIDENCE_STEP: Final = 0.1
_RANK: Final = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}


@dataclass(frozen=True)
class Incident:
    """One open finding as it was last written, and how many passes in a row did not have it."""

    written: FindingState
    absent: int = 0


Incidents = Mapping[str, Incident]


def restored(states: Iterable[FindingState]) -> Incidents:
    """The open incidents that a store remembers."""
    return {state.finding.id: Incident(state) for state in states if state.state == OPEN}


def after(open_: Incidents, findings: Iterable[Finding], now_ns: int) -> tuple[Incidents, list[FindingState]]:
    """One pass: what is open after it, and the states to write."""
    present = _by_id(findings)
    following: dict[str, Incident] = {}
    states: list[FindingState] = []
    for name, incident in open_.items():
        if name in present:
            following[name] = Incident(incident.written)
        elif incident.absent + 1 < ABSENT_PASSES:
            following[name] = replace(incident, absent=incident.absent + 1)
        else:
            states.append(incident.written.resolved(now_ns))
    for name, finding in present.items():
        before = open_.get(name)
        if before is None or _changed(before.written, finding, now_ns):
            opened_ns = now_ns if before is None else before.written.opened_ns
            states.append(FindingState(finding, OPEN, opened_ns, now_ns))
            following[name] = Incident(states[-1])
    return following, states


def _by_id(findings: Iterable[Finding]) -> dict[str, Finding]:
    """One finding an id; where two detectors agree the graver one speaks."""
    chosen: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda each: (_RANK[each.severity], -each.confidence)):
        chosen.setdefault(finding.id, finding)
    return chosen


def _changed(written: FindingState, finding: Finding, now_ns: int) -> bool:
    before = written.finding
    judged = (before.severity, before.onset, before.next_step) != (finding.severity, finding.onset, finding.next_step)
    if judged or abs(before.confidence - finding.confidence) >= CONFIDENCE_STEP:
        return True
    return now_ns - written.updated_ns >= REFRESH_NS and before != finding
