"""Is a rank late because of its host: is its GPU left without work while its peers' are not?

A late rank whose compute is as long as its peers' lost the time between kernels (fifth blame rule; the void time and issue
latency of Flare). Gaps are compared with those of ranks that do the same work; victims wait inside collectives and have none.
A job whose ranks all wait for their data loaders is told of as a whole, and so is a single process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from warpline_proto.finding import (
    Check,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

from ..arrivals import STEPS_MIN, Corroboration, delay
from ..blame import called, cost_of, percent, subject_of
from ..busy_wait import charged
from ..detector import Reader, show
from ..host_causes import UNKNOWN_HOST, Accused, Cause, find_cause
from ..host_gaps import Gaps, largest_excess, load_gaps
from ..iteration import jobs_with_steps, load_iterations
from ..jobs import WINDOW_STEPS, Job, judge_each, step_time
from ..robust import Slow, slow_members
from ..self_time import Member, PeerGroup
from ..slow_compute import WINDOW_MIN, slow_in_compute
from ..stacks import frames_told, top_frames
from ..starvation import DETECTOR, judge_starvation, unknown
from ..waits import load_waits

GAP_GATE: Final = 0.03
"""A gap that is longer than the peers' by this part of a step delays them all by as much ..."""
SHOWN_SHARE: Final = 2 * GAP_GATE
"""No more of a delay than this part of a step has to show in the others' waiting."""
HOSTS_APART: Final = 0.005
"""... and healthy hosts differ by so little of it."""
GPU_WAITS: Final = ("synchronize", "item (", "nccl", "cudamemcpy")
"""Parts of the names of frames in which a host waits for its GPU."""
SEVERE_EXCESS: Final = 0.5
PEERS_MAX: Final = 64
"""Peers whose times are shown beside the accused's."""


CASES_MAX: Final = 64
"""Ranks and nodes whose causes are sought, those that cost most."""
FINDINGS_MAX: Final = 8
"""Ranks, nodes and replicas told of."""


@dataclass(frozen=True)
class Suspect:
    """Members of one peer group whose gaps are longer, persistently."""

    job: str
    group: PeerGroup
    slow: Slow

    @property
    def first(self) -> int:
        """Step since which."""
        return int(self.group.steps[self.slow.start])

    @property
    def members(self) -> tuple[Member, ...]:
        """Who they are."""
        return tuple(self.group.members[place] for place in self.slow.members)


@dataclass(frozen=True)
class Case:
    """Who of a suspect's members is told of together, and why; `ambiguous` where it may be another stage of the replica."""

    suspect: Suspect
    members: tuple[Member, ...]
    cause: Cause = UNKNOWN_HOST
    ambiguous: bool = False

    @property
    def first(self) -> int:
        """Step since which."""
        return self.suspect.first

    def lost_since(self, step: int) -> float:
        """Seconds lost in a step, spread over all steps from one on."""
        slow = self.suspect.slow
        return slow.lost * slow.steps / max(1, int(np.sum(self.suspect.group.steps >= step)))

    @property
    def over(self) -> bool:
        """Whether the gaps are even again."""
        return self.suspect.slow.stop < len(self.suspect.group.steps)

    @property
    def replica(self) -> int | None:
        """The replica of all members, where it is one and known, and the job is a pipeline."""
        replicas = {member.dp for member in self.members if member.pp is not None}
        return replicas.pop() if len(replicas) == 1 else None


def detect(reader: Reader) -> Report:
    """Judge every job that tells of steps."""
    return judge_each(reader, jobs_with_steps(reader), _job)


def _job(reader: Reader, job: Job) -> Report:
    iterations = load_iterations(reader, job.name, WINDOW_STEPS)
    if not len(iterations.steps):
        return unknown(job, "no iteration times: a gap cannot be held against the step")
    checks: list[Check] = []
    for gaps in load_gaps(reader, job.name, iterations.typical):
        groups = [group for group in gaps.times.groups if len(group.members) > 1 and len(group.steps) >= STEPS_MIN]
        found = [Suspect(job.name, group, slow) for group in groups if (slow := _late(group))]
        told = _weigh(reader, job, gaps, found) if found else Report()
        if told.findings:
            return told
        checks += told.checks or ([_even(job, gaps)] if groups else [])
    starved = judge_starvation(reader, job, iterations)
    if starved.findings or not checks:
        return starved
    return Report(checks=(max(checks, key=lambda check: check.verdict == Verdict.UNKNOWN),))


def _late(group: PeerGroup) -> Slow | None:
    return slow_members(group.seconds, STEPS_MIN, WINDOW_MIN, GAP_GATE, HOSTS_APART)


def _even(job: Job, gaps: Gaps) -> Check:
    text = (
        f"largest lasting gap of one rank above its peers {percent(largest_excess(gaps))} of the step, gate "
        f"{percent(GAP_GATE)}, over {gaps.times.ranks} ranks"
    )
    return Check(DETECTOR, Verdict.HEALTHY, job.name, text)


def _weigh(reader: Reader, job: Job, gaps: Gaps, found: Sequence[Suspect]) -> Report:
    """Leave out whom compute or waiting explains; of stages that wait for each other name the one with a cause of its own."""
    slow = slow_in_compute(reader, job.name)
    blamed, replicas = {member.rank for member in slow}, {member.dp for member in slow if member.dp is not None}
    left = [each for each in found if not any(m.rank in blamed or m.dp in replicas for m in each.members)]
    if not left:
        text = "gaps are longer only on ranks that compute longer, or that wait in the pipeline for one that does"
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job.name, text),))
    since = min(each.first for each in left)
    waits = load_waits(reader, job.name, since)
    cases = sorted((case for each in left for case in _cases(each)), key=lambda case: -case.suspect.slow.lost)
    report = Report()
    roots = _roots(reader, [_explained(reader, job, case) for case in cases[:CASES_MAX]])[:FINDINGS_MAX]
    for case in roots:
        ranks = {member.rank for member in case.members}
        lost = min(case.lost_since(since), SHOWN_SHARE * gaps.work)  # bubbles of a pipeline hide some of it
        heard = delay(ranks, waits, lost, gaps.times.of_stage(case.suspect.group.stage))
        told = _told(reader, job, gaps, case, heard)
        if len(roots) == 1 and heard.agrees is True and not case.ambiguous:  # else whom they wait for is not known
            told = Report(tuple(charged(reader, each, job.name, ranks, waits, since) for each in told.findings))
        report += told
    return report


def _cases(suspect: Suspect) -> list[Case]:
    """Slow members one by one, those of one node together, and all together where they are no clear minority."""
    members = suspect.group.members
    together: dict[str | int, list[Member]] = {}
    for number, places in enumerate(suspect.slow.accused(len(members))):
        for place in places:
            alone = len(places) == 1
            together.setdefault((members[place].node if alone else None) or number, []).append(members[place])
    return [Case(suspect, tuple(each)) for each in together.values()]


def _explained(reader: Reader, job: Job, case: Case) -> Case:
    first, own = case.members[0], {member.rank for member in case.members}
    accused = Accused(
        job=job.name,
        rank=first.rank,
        node=first.node,
        peers=tuple(member.rank for member in case.suspect.group.members if member.rank not in own)[:PEERS_MAX],
        first_step=case.first,
        since_ns=step_time(reader, "steps", job.name, case.first),
        excess_seconds=case.suspect.slow.lost,
    )
    return replace(case, cause=find_cause(reader, accused))


def _roots(reader: Reader, cases: Sequence[Case]) -> list[Case]:
    """Of several parts of one replica with longer gaps, those with a cause of their own, else the one whose stacks show its host
    at work; the replica where none does."""
    replicas: dict[int, list[Case]] = {}
    for case in cases:
        if case.replica is not None:
            replicas.setdefault(case.replica, []).append(case)
    roots: list[Case] = [case for case in cases if case.replica is None]
    for alike in replicas.values():
        if len({(case.suspect.group.stage, case.suspect.group.tp) for case in alike}) < 2:
            roots += alike
        else:
            own = [case for case in alike if case.cause is not UNKNOWN_HOST]
            seen = own or [case for case in alike if _at_work(reader, case)]
            roots += seen if own or len(seen) == 1 else [replace(alike[0], ambiguous=True)]
    return roots


def _at_work(reader: Reader, case: Case) -> bool:
    """Whether the one accused was seen most in something else than waiting for its GPU."""
    if len(case.members) > 1:
        return False
    suspect = case.suspect
    since_ns = step_time(reader, "steps", suspect.job, case.first)
    seen = top_frames(reader, suspect.job, case.members[0].rank, since_ns)
    return seen is not None and not any(word in seen.rows[0]["frame"].lower() for word in GPU_WAITS)


def _told(reader: Reader, job: Job, gaps: Gaps, case: Case, heard: Corroboration) -> Report:
    subject = Subject(job=job.name, dp=case.replica) if case.ambiguous else subject_of(job, case.members)
    if heard.agrees is False:
        text = f"{_named(subject)} has longer gaps, but the others do not wait for it: {heard.text}"
        return unknown(job, text, ("kernels of the ranks that it would have to delay",))
    slow = case.suspect.slow
    rank = case.members[0].rank
    since_ns = step_time(reader, gaps.times.table, job.name, case.first)
    seen = None if case.ambiguous else top_frames(reader, job.name, rank, since_ns)
    until = f", even again since step {int(case.suspect.group.steps[slow.stop])}" if case.over else ""
    figures = f" ({case.cause.figures})" if case.cause.figures else ""
    are = "are" if (subject.group or "").startswith("ranks ") else "is"
    stacks = f"; seen most on rank {rank}: {frames_told(seen)}" if seen else ""
    finding = Finding(
        kind=FindingKind.HOST_STRAGGLER,
        severity=Severity.CRITICAL if slow.worst >= SEVERE_EXCESS and not until else Severity.WARNING,
        confidence=_confidence(case, heard),
        subject=subject,
        summary=f"{_named(subject)} {are} late because of {case.cause.name}{figures}: in {round(slow.share * slow.steps)} of "
        f"{slow.steps} steps since step {case.first} {gaps.name} for {slow.lost:.3g} s longer than for its peers, "
        f"{percent(slow.worst)} of a step{until}{stacks}",
        next_step=case.cause.next_step,
        onset=Onset(since_ns, case.first),
        cost=cost_of(job, gaps.times, slow.lost, slow.steps),
        evidence=(_gap_evidence(reader, gaps, case), *case.cause.evidence, *((seen,) if seen else ())),
        ruled_out=_ruled_out(case, heard),
        missing=_missing(case, heard, seen),
    )
    return Report((finding,))


def _named(subject: Subject) -> str:
    return f"Replica dp {subject.dp}" if subject.rank is None and subject.group is None else called(subject)


def _confidence(case: Case, heard: Corroboration) -> float:
    value = 0.6 + 0.1 * (len(case.suspect.group.members) >= 4) + 0.1 * (heard.agrees is True)
    value += 0.1 * (case.cause is not UNKNOWN_HOST) - 0.15 * case.ambiguous
    return round(value - 0.15 * (2 * len(case.suspect.members) >= len(case.suspect.group.members)), 2)


def _ruled_out(case: Case, heard: Corroboration) -> tuple[str, ...]:
    network = (f"network: {heard.text}",) if heard.agrees else ()
    slow = case.suspect.slow
    return (
        "a slow GPU: its compute is not longer than its peers'",
        "waiting for others: communication kernels count as work here",
        f"uneven work: the same ranks in {round(slow.share * slow.steps)} of {slow.steps} steps",
        *network,
    )


def _missing(case: Case, heard: Corroboration, seen: Evidence | None) -> tuple[str, ...]:
    return (
        *(() if heard.agrees else ("waiting in collectives with all their ranks recorded",)),
        *(() if seen else ("stacks of the training process",)),
        *(("which of the replica's ranks is late: they wait for each other",) if case.ambiguous else ()),
    )


def _gap_evidence(reader: Reader, gaps: Gaps, case: Case) -> Evidence:
    ranks = ", ".join(str(member.rank) for member in (*case.members, *case.suspect.group.members)[:PEERS_MAX])
    return show(
        reader,
        f"SELECT rank, round(median(gap_seconds), 6) AS gap_seconds_per_step, count(*) AS steps FROM ({gaps.cells}) WHERE "
        f"step >= {case.first} AND rank IN ({ranks}) GROUP BY rank ORDER BY gap_seconds_per_step DESC, rank",
    )
