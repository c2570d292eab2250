"""The life of a finding: opened when a pass first has it, updated when it changed, resolved when it is gone, or ended.

*Resolved* says that the question was asked again and answered without the accusation, ABSENT_PASSES times in a row: a detector
that failed, or had no rows of the job to judge, proves nothing. A finding that now stands under its root is resolved at once,
as is one of a late rank that goes on under another name.
*Replaced* says that what it accuses is not there any more: another GPU is in its place, or another machine bears its name.
*Alarms* are what a page without grouping would have shown: in each pass the accusation itself and those that it explains.
*Ended* says that nobody can tell any more: the job, or the node, fell silent with the finding standing. It is neither open for
ever nor called mended.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from warpline_analysis.grouping import accusations, same_late_rank
from warpline_proto.finding import (
    ENDED,
    GRAVITY,
    OPEN,
    REPLACED,
    RESOLVED,
    Finding,
    FindingKind,
    FindingState,
    Report,
    Verdict,
)

ABSENT_PASSES: Final = 3
"""A finding that so many passes in a row judged and did not have is resolved: one quiet pass proves nothing."""
REOPEN_NS: Final = 10 * 60 * 10**9
"""A finding that is back so soon after it was resolved is the same incident: it keeps the moment it was opened."""
REFRESH_NS: Final = 60 * 10**9
"""Figures that merely grow (cost so far, evidence) are written anew at most so often; while the finding is young, sooner. Alarms
alone are no reason to, unless they have doubled."""
CONFIDENCE_STEP: Final = 0.1
SILENCE_NS: Final = 10 * 60 * 10**9
"""A finding whose job or node sends nothing for so long has ended."""
STANDING: Final = frozenset(
    (FindingKind.HANG, FindingKind.GPU_LOST, FindingKind.GPU_ERROR, FindingKind.PROCESS_DIED, FindingKind.WRONG_DATA)
)
"""Kinds that silence is a part of: a job that hangs sends nothing."""
STANDING_SILENCE_NS: Final = 24 * 3_600 * 10**9


@dataclass(frozen=True)
class Incident:
    """One finding as it was last written, how many passes in a row judged its job and did not have it, and alarms since then."""

    written: FindingState
    absent: int = 0
    alarms: int = 0

    @property
    def total(self) -> int:
        """Alarms since it was opened."""
        return (self.written.alarms or 0) + self.alarms

    def closed(self, state: str, now_ns: int) -> Incident:
        """Written as RESOLVED, REPLACED or ENDED."""
        return Incident(replace(self.written.closed(state, now_ns), alarms=self.total))


Incidents = Mapping[str, Incident]
Silence = Callable[[Finding], int]
"""A finding -> nanoseconds since its job or node last sent anything."""


def restored(states: Iterable[FindingState]) -> Incidents:
    """The incidents that a store remembers."""
    return {state.finding.id: Incident(state) for state in states}


def after(
    known: Incidents,
    reports: Mapping[str, Report],
    now_ns: int,
    silence: Silence = lambda _: 0,
    asked: Mapping[str, Report] | None = None,
) -> tuple[Incidents, list[FindingState]]:
    """One pass: what is known after it, and the states to write.

    `reports` holds what each detector said, `asked` the same before explained findings were folded into their roots: a
    detector whose accusation stands under a root has judged nonetheless.
    """
    present = _by_id(reports, now_ns)
    gpus, nodes = _replaced(known, present)
    present = {name: state for name, state in present.items() if not _accuses(state.finding, gpus)}
    answers = reports if asked is None else asked
    following: dict[str, Incident] = {}
    for name in known.keys() | present.keys():
        before = known.get(name)
        if before is not None and before.written.state == OPEN and _accuses(before.written.finding, gpus, nodes):
            following[name] = before.closed(REPLACED, now_ns)
            continue
        incident = _next(before, present.get(name), answers, now_ns, silence)
        if incident is not None:
            following[name] = incident
    written = [
        each.written for name, each in following.items() if name not in known or each.written != known[name].written
    ]
    return following, written


def _replaced(known: Incidents, present: Mapping[str, FindingState]) -> tuple[set[str], set[str]]:
    """GPUs that are gone, and nodes that are another machine since this pass."""
    gpus, nodes = set(), set()
    for name, state in present.items():
        subject = state.finding.subject
        if state.finding.kind != FindingKind.REPLACED:
            continue
        if subject.gpu is not None:
            gpus.add(subject.gpu)
        elif subject.node is not None and (name not in known or known[name].written.state != OPEN):
            nodes.add(subject.node)
    return gpus, nodes


def _accuses(finding: Finding, gpus: Container[str | None], nodes: Container[str | None] = ()) -> bool:
    """Whether it speaks of one of these as if it were there."""
    subject = finding.subject
    return finding.kind != FindingKind.REPLACED and (subject.gpu in gpus or subject.node in nodes)


def _next(
    before: Incident | None, found: FindingState | None, reports: Mapping[str, Report], now_ns: int, silence: Silence
) -> Incident | None:
    if before is None:
        return None if found is None else Incident(found)
    written = before.written
    silent = silence(written.finding) >= (STANDING_SILENCE_NS if written.finding.kind in STANDING else SILENCE_NS)
    if written.state == OPEN:
        if silent:
            return before.closed(ENDED, now_ns)
        return _absent(before, reports, now_ns) if found is None else _present(before, found, now_ns)
    if silent and written.state == ENDED:
        return before
    recent = written.state == RESOLVED and now_ns - written.updated_ns < REOPEN_NS
    if found is not None and not silent:
        return _again(before, found) if recent else Incident(found)
    return before if recent else None


def _present(before: Incident, found: FindingState, now_ns: int) -> Incident:
    alarms = before.alarms + (found.alarms or 0)
    many = alarms >= (before.written.alarms or 0) and now_ns - before.written.updated_ns >= REFRESH_NS
    if many or _changed(before.written, found.finding, now_ns):
        return _again(before, found)
    return replace(before, absent=0, alarms=alarms)


def _again(before: Incident, found: FindingState) -> Incident:
    """Written anew: the same incident."""
    return Incident(replace(found, opened_ns=before.written.opened_ns, alarms=before.total + (found.alarms or 0)))


def _absent(before: Incident, reports: Mapping[str, Report], now_ns: int) -> Incident:
    if _said(before.written.finding, reports):
        return before.closed(RESOLVED, now_ns)  # it stands under its root from now on
    if before.written.finding.kind == FindingKind.REPLACED:
        return before.closed(RESOLVED, now_ns)  # told for long enough
    if not _judged(before.written, reports):
        return before
    if before.absent + 1 >= ABSENT_PASSES or _goes_on(before.written.finding, reports):
        return before.closed(RESOLVED, now_ns)
    return replace(before, absent=before.absent + 1)


def _said(finding: Finding, reports: Mapping[str, Report]) -> bool:
    """Whether a detector still has this very finding."""
    return any(each.id == finding.id for report in reports.values() for each in report.findings)


def _goes_on(finding: Finding, reports: Mapping[str, Report]) -> bool:
    """Whether the same rank is now called late by another name: what was said of it on fewer rows is not said beside it."""
    return any(same_late_rank(finding, each) for report in reports.values() for each in report.findings)


def _judged(state: FindingState, reports: Mapping[str, Report]) -> bool:
    """Whether the detector that made the accusation could answer its question for the same job in this pass.

    One that never speaks of jobs answers for all of them.
    """
    job = state.finding.subject.job
    asked = reports.values() if state.detector is None else [reports.get(state.detector, Report())]
    for report in asked:
        judged = {check.job for check in report.checks if check.verdict == Verdict.HEALTHY}
        judged |= {finding.subject.job for finding in report.findings}
        speaks_of_jobs = any(check.job is not None for check in report.checks) or judged - {None}
        if job in judged or (None in judged and not speaks_of_jobs):
            return True
    return False


def _by_id(reports: Mapping[str, Report], now_ns: int) -> dict[str, FindingState]:
    """One finding an id; where two detectors agree the graver one speaks."""
    found = [
        FindingState(finding, OPEN, now_ns, now_ns, detector, accusations(finding))
        for detector, report in reports.items()
        for finding in report.findings
    ]
    chosen: dict[str, FindingState] = {}
    for state in sorted(found, key=lambda each: (GRAVITY[each.finding.severity], -each.finding.confidence)):
        chosen.setdefault(state.finding.id, state)
    return chosen


def _changed(written: FindingState, finding: Finding, now_ns: int) -> bool:
    before = written.finding
    judged = (before.severity, before.onset, before.next_step) != (finding.severity, finding.onset, finding.next_step)
    if judged or abs(before.confidence - finding.confidence) >= CONFIDENCE_STEP:
        return True
    due_ns = min(written.updated_ns - written.opened_ns, REFRESH_NS)
    return now_ns - written.updated_ns >= due_ns and before != finding
