"""Is one phase of one rank slow in a pipeline, though its compute as a whole is not?

Forward and backward of each stage are compared by themselves across the data-parallel replicas, step by step: where the
reduction of gradients makes all totals equal, a slow backward on one stage shows only there, and in the bubbles of the stages
that wait for it (third case study of ARGUS). A rank whose phases are all slow is left to `straggler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Onset, Report, Severity, Verdict

from ..arrivals import STEPS_MIN
from ..blame import called, cost_of, percent, subject_of, verb
from ..bubbles import Bubbles, compare_bubbles
from ..detector import Reader, literal, show
from ..jobs import Job, judge_each, step_time
from ..kernel_level import sharpened
from ..one_phase import alone_in
from ..phase_screen import Screened, piped_jobs, screen
from ..robust import SURE_GATE, Slow, slow_members
from ..scatter import pooled
from ..self_time import Coverage, Member, PeerGroup, SelfTime, cells, load
from ..slow_compute import WINDOW_MIN, judge_compute

DETECTOR: Final = "pipeline_bubble"
IMPACT_GATE: Final = 0.02
"""A slow phase matters from this share of the rank's compute on."""


@dataclass(frozen=True)
class Suspect:
    """Members of one peer group that are slow in one phase."""

    phase: str
    times: SelfTime
    group: PeerGroup
    slow: Slow

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is slow."""
        return tuple(self.group.members[place] for place in self.slow.members)

    @property
    def ranks(self) -> frozenset[int]:
        """Their ranks."""
        return frozenset(member.rank for member in self.members)


def detect(reader: Reader) -> Report:
    """Judge every job of two and more pipeline stages that names its compute phases."""
    return judge_each(reader, piped_jobs(reader), _job)


def _job(reader: Reader, job: Job) -> Report:
    screened = screen(reader, job.name)
    if screened.peers < 2 or screened.steps < STEPS_MIN:
        text = f"no stage with two replicas and {STEPS_MIN} steps of the same phase"
        return Report(
            checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("data-parallel replicas of a stage",)),)
        )
    judged = [
        (phase, times, group)
        for phase in screened.standing_out
        for times in (load(reader, Coverage(job.name, "phases", 0, 0), phase),)
        for group in times.groups
        if len(group.members) > 1 and len(group.steps) >= STEPS_MIN
    ]
    apart = {
        phase: pooled([group.seconds for name, _, group in judged if name == phase])
        for phase in {name for name, _, _ in judged}
    }
    suspects = [
        Suspect(phase, times, group, slow)
        for phase, times, group in judged
        if (slow := slow_members(group.seconds, STEPS_MIN, WINDOW_MIN, apart=apart[phase]))
    ]
    if not suspects:
        return Report(checks=(_even(job, screened),))
    return _weigh(reader, job, suspects, [(phase, group) for phase, _, group in judged])


def _weigh(reader: Reader, job: Job, suspects: Sequence[Suspect], judged: Sequence[tuple[str, PeerGroup]]) -> Report:
    compute = judge_compute(reader, job.name)
    blamed = {member.rank for member in compute.slow}
    left = [
        each
        for each in suspects
        if not (blamed.intersection(each.ranks) or _in_others(each, suspects))
        or alone_in(each.phase, each.group, each.slow, judged)
    ]
    heavy = [each for each in left if each.slow.lost >= IMPACT_GATE * compute.typical]
    own = [each for each in heavy if not _whole_replica(each, heavy, judged)]
    if own:
        worst = _worst_phase(own)
        return Report(tuple(_finding(reader, job, each, members) for each in worst for members in _accused(each)))
    return Report(checks=(_why_not(job, suspects, left, heavy),))


def _in_others(suspect: Suspect, suspects: Sequence[Suspect]) -> bool:
    """Whether one of its ranks stands out in another phase too: so does a slow GPU, whose totals may be late to come."""
    return any(each.phase != suspect.phase and suspect.ranks & each.ranks for each in suspects)


def _worst_phase(suspects: Sequence[Suspect]) -> list[Suspect]:
    """One suspect for each set of ranks: the phase that costs most."""
    chosen: dict[tuple[Member, ...], Suspect] = {}
    for each in sorted(suspects, key=lambda suspect: -suspect.slow.lost):
        chosen.setdefault(each.members, each)
    return list(chosen.values())


def _accused(suspect: Suspect) -> list[tuple[Member, ...]]:
    group = suspect.group.members
    return [tuple(group[place] for place in places) for places in suspect.slow.accused(len(group))]


def _whole_replica(suspect: Suspect, suspects: Sequence[Suspect], judged: Sequence[tuple[str, PeerGroup]]) -> bool:
    """Whether the same replica is slow in this phase at every stage: it has more work, no GPU of it is at fault."""
    replicas = {member.dp for member in suspect.members}
    alike = [each for each in suspects if each.phase == suspect.phase and {m.dp for m in each.members} == replicas]
    return None not in replicas and len(alike) > 1 and len(alike) == sum(phase == suspect.phase for phase, _ in judged)


def _even(job: Job, screened: Screened) -> Check:
    phase, excess = max(screened.excess.items(), key=lambda item: item[1])
    text = (
        f"no rank is slow in one phase persistently, gate {percent(SURE_GATE)}; largest excess of a mean {percent(excess)}, in "
        f"{phase}, over {screened.steps} steps"
    )
    return Check(DETECTOR, Verdict.HEALTHY, job.name, text)


def _why_not(job: Job, suspects: Sequence[Suspect], left: Sequence[Suspect], heavy: Sequence[Suspect]) -> Check:
    worst = max(left or suspects, key=lambda suspect: suspect.slow.lost)
    who = called(subject_of(job, worst.members))
    figures = f"{who} takes {percent(worst.slow.worst)} longer in {worst.phase}"
    if not left:
        return Check(
            DETECTOR, Verdict.HEALTHY, job.name, f"{figures}, as in its compute as a whole: no matter of one phase"
        )
    if not heavy:
        return Check(
            DETECTOR, Verdict.HEALTHY, job.name, f"{figures}, which is below {percent(IMPACT_GATE)} of its compute"
        )
    text = f"{figures}, and so do all stages of its replica: more work there is likelier than as many slow GPUs"
    return Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("sequence lengths",))


def _finding(reader: Reader, job: Job, suspect: Suspect, members: Sequence[Member]) -> Finding:
    slow, group, phase = suspect.slow, suspect.group, suspect.phase
    subject = subject_of(job, members)
    first = int(group.steps[slow.start])
    peers = len(group.members) - len(slow.members)
    compared = compare_bubbles(reader, job.name, first, members, slow.lost)
    bubbles = compared[0] if compared else None
    until = f", even again since step {int(group.steps[slow.stop])}" if slow.stop < len(group.steps) else ""
    found = Finding(
        kind=FindingKind.PIPELINE_BUBBLE,
        severity=Severity.WARNING,
        confidence=_confidence(slow, len(group.members), bubbles),
        subject=subject,
        summary=f"{called(subject)} {verb(subject, 'take')} {percent(slow.worst)} longer in {phase} than {peers} "
        f"replica{'s' * (peers > 1)} of its "
        f"stage, in {round(slow.share * slow.steps)} of {slow.steps} steps since step {first}{until}; its other compute "
        f"phases do not{_told(bubbles)}",
        next_step=f"Record kernel times of {phase} on this rank and on the same stage of another replica, and compare kernel by "
        "kernel: one kernel slower points to shapes or to a recompilation, all of them to the GPU (clocks, clock-event reasons, "
        "ECC)",
        onset=Onset(step_time(reader, "phases", job.name, first), first),
        cost=cost_of(job, suspect.times, slow.lost, slow.steps),
        evidence=(_evidence(reader, suspect, first), *(compared[1:] if compared else ())),
        ruled_out=_ruled_out(slow, bubbles),
        missing=() if bubbles else ("step times beside phases: bubbles could not be compared",),
    )
    fast = [member.rank for member in group.members if member not in suspect.members]
    return sharpened(reader, found, [each.rank for each in members], fast, first, int(group.steps[slow.stop - 1]))


def _confidence(slow: Slow, members: int, bubbles: Bubbles | None) -> float:
    value = 0.65 + 0.1 * (members >= 4) + 0.1 * (slow.share >= 0.95)
    if bubbles is None or bubbles.agrees is None:
        return round(value, 2)
    return round(value + 0.1 if bubbles.agrees else value / 2, 2)


def _told(bubbles: Bubbles | None) -> str:
    if bubbles is None or bubbles.agrees is None:
        return ""
    figures = f"its own by {bubbles.own:.3g} s, that of the other stages of its replica by up to {bubbles.others:.3g} s"
    return (
        f"; bubbles grew beside their peers': {figures}" if bubbles.agrees else f", and bubbles do not fit: {figures}"
    )


def _ruled_out(slow: Slow, bubbles: Bubbles | None) -> tuple[str, ...]:
    waiting = ("waiting: other stages of its replica wait while its own bubble does not grow with theirs",)
    return (
        "stage imbalance: the replicas of the same stage are faster",
        f"data imbalance: the same rank in {round(slow.share * slow.steps)} of {slow.steps} steps, and not in the replica's "
        "other stages",
        *(waiting if bubbles and bubbles.agrees else ()),
    )


def _evidence(reader: Reader, suspect: Suspect, first: int) -> Evidence:
    """Time in the phase of each rank of the stage, slowest first."""
    group, job = suspect.group, suspect.times.job
    return show(
        reader,
        f"SELECT rank, round(avg(seconds), 6) AS phase_seconds_per_step, count(*) AS steps FROM "
        f"({cells('phases', job, first, suspect.phase)}) WHERE rank IN (SELECT rank FROM phases WHERE job = {literal(job)} AND "
        f"pp IS NOT DISTINCT FROM {literal(group.stage)}) GROUP BY rank ORDER BY phase_seconds_per_step DESC, rank",
    )
