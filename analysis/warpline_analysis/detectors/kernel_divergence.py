"""Does a kernel take longer on some ranks than on those that do the same work, where nothing else shows it?

The third level by itself (ARGUS, arXiv 2606.20374): for jobs that record kernels and nothing above them, and for kernels that
are slow though compute and phases are even. Durations are compared per launch, so that more launches (routing, longer
sequences) are no slowness; ranks that a cheaper level accuses are left to it. Communication kernels blame no rank: their
shortest duration over a group is its transfer, which is held against sibling groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.finding import Check, Cost, Evidence, Finding, FindingKind, Onset, Report, Severity, Verdict

from ..blame import CRITICAL_EXCESS, called, percent, subject_of
from ..detector import Reader, literal, show
from ..jobs import Job, known_jobs, step_time
from ..kernel_level import LAUNCHES_APART, sharpened
from ..kernel_links import judge_links
from ..kernel_screen import (
    ARRIVING_MAX,
    IMPACT_GATE,
    RUN_BY,
    WHOLE,
    Clustered,
    KernelTimes,
    Standing,
    cells,
    clustered_jobs,
    foreign_share,
    kernel_times,
    peer_counts,
    places_of,
    screen,
)
from ..robust import EXCESS_GATE, Slow, by_chance, median, slow_members
from ..self_time import Member, PeerGroup, coverage_of
from ..slow_compute import judged_ranks, ranks_of

DETECTOR: Final = "kernel_divergence"
LINKS: Final = f"{DETECTOR} (links)"
"""The second question, answered by itself."""
STEPS_MIN: Final = 3
"""Steps in which a kernel has to diverge."""
WINDOW_MIN: Final = 8
"""Shortest newest part of the window that is judged by itself."""
SHARE_MIN: Final = 0.75
"""Part of the steps since the onset in which it is slow: what comes and goes is told by the levels above."""
CHANCE_MAX: Final = 0.0005
"""Largest probability, over all groups, that luck made the same ranks slowest so often: several kernels are looked at."""
FOREIGN_MAX: Final = 0.2
"""From this part of a rank's time in kernels that its peers do not run on, other algorithms were chosen for it."""
FINDINGS_MAX: Final = 8
"""Told one by one, the costliest first; the rest is counted in the last."""


@dataclass(frozen=True)
class Suspect:
    """Members of one peer group that are slow in one kernel (or WHOLE); `lost` is what that costs in a step, seconds.

    `replica` says that most other stages of the same replica are slow in it as well.
    """

    kernel: int
    group: PeerGroup
    slow: Slow
    lost: float
    replica: bool

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is slow."""
        return tuple(self.group.members[place] for place in self.slow.members)


def detect(reader: Reader) -> Report:
    """Judge every job with kernel clusters of numbered steps."""
    clustered = clustered_jobs(reader)
    if not clustered:
        return Report()
    jobs, report = known_jobs(reader), Report()
    standing = screen(reader, [each for each in clustered if each.steps >= STEPS_MIN])
    for each in clustered:
        job = jobs.get(each.job, Job(each.job))
        report += _job(reader, job, each, standing.get(each.job))
        report += judge_links(reader, job, LINKS)
    return report


def _job(reader: Reader, job: Job, clustered: Clustered, standing: Standing | None) -> Report:
    if standing is None:
        few = f"{clustered.steps} step{'s' * (clustered.steps > 1)} with compute kernels; {STEPS_MIN} needed"
        return _unknown(
            job, few if clustered.steps < STEPS_MIN else "no compute kernel that two ranks run in the same work"
        )
    if not standing.kernels:
        return Report(checks=(_even(job, standing),))
    known = coverage_of(reader, job.name) is not None
    kernels = [kernel for kernel in standing.kernels if not (known and kernel == WHOLE)]  # their sum was judged above
    if not kernels:
        return Report(checks=(_even(job, standing),))
    places = places_of(reader, job.name, clustered.first)
    peers = peer_counts(places)
    suspects = [
        suspect
        for times in kernel_times(reader, job.name, standing, kernels, places)
        for suspect in _suspects(times, peers, standing.usual)
    ]
    if not suspects:
        return Report(checks=(_even(job, standing),))
    staged = len(set(places.column("pp").to_pylist()) - {None}) > 1
    return _accuse(reader, job, clustered, standing, suspects, staged)


def _suspects(times: KernelTimes, peers: Mapping[int, int], usual: float) -> list[Suspect]:
    """Slow members of each peer group whose launches are those of the others and whose loss matters."""
    found = []
    for group in times.groups:
        ranks = [member.rank for member in group.members]
        if len(ranks) < 2 or len(ranks) < RUN_BY * peers.get(ranks[0], 0) or len(group.steps) < STEPS_MIN:
            continue
        slow = slow_members(group.seconds, STEPS_MIN, WINDOW_MIN)
        if slow is None or not _lasting(slow, len(group.steps)) or _more_launches(times, ranks, slow):
            continue
        if _by_luck(slow, len(ranks), len(times.groups)):
            continue
        lost = slow.lost * times.launches[ranks[slow.members[0]]]
        if slow.excess >= EXCESS_GATE and lost >= IMPACT_GATE * usual:
            found.append(Suspect(times.kernel, group, slow, lost, _replica_too(times, group, slow)))
    return found


def _lasting(slow: Slow, steps: int) -> bool:
    """Up to now, and not by turns."""
    return slow.stop >= steps - ARRIVING_MAX and slow.share >= SHARE_MIN


def _by_luck(slow: Slow, members: int, groups: int) -> bool:
    """Whether work that is dealt anew in each step could have fallen to the same so often, in any group of the job."""
    sets = math.comb(members, len(slow.members))
    return sets * groups * by_chance(round(slow.share * slow.steps), slow.steps, 1 / sets) > CHANCE_MAX


def _replica_too(times: KernelTimes, group: PeerGroup, slow: Slow) -> bool:
    """Whether the same replica is slow in this kernel at most other stages as well: then it has more work."""
    replicas = {group.members[place].dp for place in slow.members}
    steps = group.steps[slow.start : slow.stop]
    found = []
    for other in times.groups:
        own = [place for place, member in enumerate(other.members) if member.dp in replicas]
        rest = [place for place in range(len(other.members)) if place not in own]
        if other.stage != group.stage and None not in replicas and own and rest:
            there = other.seconds[np.isin(other.steps, steps)]
            found.append(float(median(median(there[:, own], axis=1) / median(there[:, rest], axis=1))) - 1)
    return bool(found) and float(np.median(found)) >= slow.excess / 2


def _more_launches(times: KernelTimes, ranks: Sequence[int], slow: Slow) -> bool:
    """Whether the slow launch it more or less often: then they do other work."""
    launches = np.array([times.launches.get(rank, np.nan) for rank in ranks])
    others = float(median(np.delete(launches, list(slow.members))))
    return bool(np.any(np.abs(launches[list(slow.members)] / others - 1) > LAUNCHES_APART))


def _accuse(
    reader: Reader, job: Job, clustered: Clustered, standing: Standing, suspects: Sequence[Suspect], staged: bool
) -> Report:
    judged = judged_ranks(reader, job.name)
    own = [each for each in suspects if not judged.slow.intersection(member.rank for member in each.members)]
    if not own:
        worst = max(suspects, key=lambda each: each.lost)
        who = called(subject_of(job, worst.members))
        text = f"{who} takes {percent(worst.slow.worst)} longer, as in its compute or a phase as a whole: told there"
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job.name, text),))
    alike = [each for each in own if not _other_kernels(reader, job, clustered, each)]
    if not alike:
        who = called(subject_of(job, max(own, key=lambda each: each.lost).members))
        text = f"{who} takes longer, but runs other kernels than its peers: an algorithm chosen there, no slow GPU"
        return _unknown(job, text, "the same kernels on its peers")
    own = [each for each in alike if not each.replica]
    if not own:
        dp = alike[0].members[0].dp
        text = f"the kernels of replica dp {dp} take longer at most stages: more work there is likelier than as many slow GPUs"
        return _unknown(job, text, "sequence lengths")
    chosen: dict[tuple[Member, ...], list[Suspect]] = {}
    for each in sorted(own, key=lambda suspect: (suspect.kernel != WHOLE, -suspect.lost)):
        chosen.setdefault(each.members, []).append(each)
    found = [
        _finding(reader, job, standing, group, places, judged.known, staged)
        for group in chosen.values()
        for places in group[0].slow.accused(len(group[0].group.members))
    ]
    return Report(tuple(found[:FINDINGS_MAX]), _left(job, len(found) - FINDINGS_MAX))


def _other_kernels(reader: Reader, job: Job, clustered: Clustered, suspect: Suspect) -> bool:
    """Whether the sum of all kernels is no fair comparison: a good part of the slow one's are not its peers'."""
    if suspect.kernel != WHOLE:
        return False
    mine, beside = ranks_of(suspect.group, suspect.slow, suspect.slow.members)
    return foreign_share(reader, job.name, mine, beside, clustered.first) >= FOREIGN_MAX


def _left(job: Job, count: int) -> tuple[Check, ...]:
    text = f"kernels of {count} more ranks or groups take longer at less cost and are not listed"
    return (Check(DETECTOR, Verdict.UNKNOWN, job.name, text),) if count > 0 else ()


def _finding(
    reader: Reader,
    job: Job,
    standing: Standing,
    suspects: Sequence[Suspect],
    places: Sequence[int],
    known: bool,
    staged: bool,
) -> Finding:
    worst = suspects[0]
    slow, group = worst.slow, worst.group
    subject = subject_of(job, [group.members[place] for place in places])
    first = int(group.steps[slow.start])
    mine, beside = ranks_of(group, slow, places)
    lost = worst.lost if worst.kernel == WHOLE else sum(each.lost for each in suspects)
    gpus = job.world_size or standing.ranks * job.ranks_per_record
    count = "compute kernels together" if worst.kernel == WHOLE else _kernels(len(suspects))
    even = (
        "its compute and phases as a whole do not stand out"
        if known
        else "neither compute times nor phases are recorded"
    )
    found = Finding(
        kind=FindingKind.COMPUTE_STRAGGLER,
        severity=Severity.CRITICAL if worst.kernel == WHOLE and slow.worst >= CRITICAL_EXCESS else Severity.WARNING,
        confidence=_confidence(slow, len(group.members)),
        subject=subject,
        summary=f"{called(subject)} takes {percent(slow.worst)} longer per launch in {count} than {len(beside)} "
        f"peer{'s' * (len(beside) > 1)} doing the same work, in {round(slow.share * slow.steps)} of {slow.steps} steps since "
        f"step {first}; {even}",
        next_step="Compare shapes and chosen algorithms of these kernels with a peer's, then clocks, clock-event reasons and ECC "
        "of its GPU; if one GEMM alone is slow there too, drain the node",
        onset=Onset(step_time(reader, "kernel_clusters", job.name, first), first),
        cost=Cost(seconds_per_step=lost, gpu_hours=lost * slow.steps * gpus / 3600),
        evidence=(_evidence(reader, job, worst, first),),
        ruled_out=(
            f"data imbalance: the same rank is slowest in {percent(slow.share)} of steps, and launches are equal",
            "stage imbalance: the peers hold the same part of the model",
        ),
        missing=() if known else ("compute times of each rank and step: the blame rests on kernels alone",),
    )
    return sharpened(reader, found, mine, beside, first, staged=staged and not known)


def _kernels(count: int) -> str:
    return "one kernel" if count == 1 else f"{count} kernels"


def _confidence(slow: Slow, members: int) -> float:
    value = 0.6 + 0.1 * (members >= 4) + 0.1 * (slow.share >= 0.95) - 0.15 * (2 * len(slow.members) >= members)
    return round(value, 2)


def _evidence(reader: Reader, job: Job, suspect: Suspect, first: int) -> Evidence:
    """Mean duration per launch of each rank of the group, slowest first."""
    only = "" if suspect.kernel == WHOLE else f" AND kernel_id = {suspect.kernel}"
    ranks = ", ".join(str(member.rank) for member in suspect.group.members)
    condition = (
        f"FROM kernel_clusters WHERE job = {literal(job.name)} AND rank IN ({ranks}) AND step >= {first} AND count > 0 AND "
        f"category <> 'communication'{only}"
    )
    return show(
        reader,
        f"SELECT rank, round(avg(seconds) * 1e6, 2) AS microseconds_per_launch, count(*) AS steps FROM ({cells(condition)}) "
        "GROUP BY rank ORDER BY microseconds_per_launch DESC, rank",
    )


def _even(job: Job, standing: Standing) -> Check:
    text = (
        f"no kernel is slow on some ranks persistently: gate {percent(EXCESS_GATE)} per launch and {percent(IMPACT_GATE)} of a "
        f"rank's kernel time, {standing.screened - 1} kernels of {standing.ranks} ranks"
    )
    return Check(DETECTOR, Verdict.HEALTHY, job.name, text)


def _unknown(job: Job, text: str, missing: str | None = None) -> Report:
    return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, (missing or text,)),))
