"""Is compute even? If not: one slow rank, work that is spread unevenly, or one heavy pipeline stage.

Three answers to one question, told apart by how large the excess of the slowest over its peers is and whether it is the
same one each time (what-if analysis of ByteDance and NYU, OSDI'25). Times are compute self-times, compared as ratios
between ranks that do the same work, so that neither waiting nor any clock plays a part; waiting then has to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.finding import Check, Finding, Report, Verdict

from ..arrivals import SILENT, STEPS_MIN, Corroboration, Late, corroborate, late_rank
from ..blame import DETECTOR, data_imbalance, late_arrival, numbered, percent, replica_imbalance, straggler
from ..busy_wait import charged
from ..cpu_compute import SHARED, on_cpus, waited_for
from ..detector import Reader
from ..evenness import Evenness, evenness, merged
from ..jobs import Job, jobs_with_collectives, known_jobs
from ..kernel_level import sharpened
from ..robust import EXCESS_GATE, Slow, median, share_gate, steps_needed
from ..scatter import pooled
from ..self_time import Coverage, PeerGroup, SelfTime, coverage, load
from ..slow_compute import WINDOW_MIN, ranks_of, slow_in_turn
from ..stages import compare_stages, stage_imbalance
from ..waits import Waits, load_waits

ROTATION_STEPS_MIN: Final = 10
"""Steps from which an excess can be called rotating."""
SPREAD_MEMBERS: Final = 64
SPREAD_SHARE: Final = 0.15
"""In groups of SPREAD_MEMBERS and more, uneven work shows at the upper quartile too, at least this part of the excess, or
lies far beyond scatter: among so many, some single rank is slow in every step for reasons of its own."""

CLOSER_MAX: Final = 8
"""Findings of one job whose kernels are looked at."""


@dataclass(frozen=True)
class Judged:
    """One peer group: who is slow in it, how even it is otherwise, and who else is slow among the rest, from another time on."""

    group: PeerGroup
    slow: Slow | None
    even: Evenness
    further: tuple[tuple[PeerGroup, Slow], ...] = ()


def detect(reader: Reader) -> Report:
    """Judge every job by its compute times, or by arrivals in collectives where there are none."""
    jobs, report = known_jobs(reader), Report()
    covered = coverage(reader)
    for part in covered:
        report += _job(reader, jobs.get(part.job, Job(part.job)), part)
    seen = [part.job for part in covered]
    for name in (each for each in jobs_with_collectives(reader) if each not in seen):
        report += _by_arrivals(reader, jobs.get(name, Job(name)), None, "no compute times of ranks and steps")
    return report


def _job(reader: Reader, job: Job, covered: Coverage) -> Report:
    times = load(reader, covered)
    apart = pooled([group.seconds for group in times.groups])
    judged = [
        _judge(group, apart) for group in times.groups if len(group.members) > 1 and len(group.steps) >= STEPS_MIN
    ]
    if not judged and len({group.stage for group in times.groups}) > 1:
        return Report(checks=(_without_replicas(job, times),))
    if not judged:
        return _by_arrivals(reader, job, times, _too_little(times))
    accused = [item for item in _each(judged) if item.slow and waited_for(reader, times, _ranks(item))]
    findings = _accuse(reader, job, times, accused, judged)
    if not findings:
        findings = _uneven(reader, job, times, judged)
    if not findings or accused:
        findings += _partition(reader, job, times, judged)
    return Report(tuple(findings)) if findings else Report(checks=(_even(reader, job, times, judged),))


def _each(judged: Sequence[Judged]) -> list[Judged]:
    """With those who are slow among the rest of a group, as of a group of their own."""
    return [each for item in judged for each in (item, *(Judged(*further, item.even) for further in item.further))]


def _ranks(item: Judged) -> list[int]:
    return [item.group.members[place].rank for place in item.slow.members] if item.slow else []


def _judge(group: PeerGroup, apart: float) -> Judged:
    slow = slow_in_turn(group, apart)
    even = evenness(group.seconds, ROTATION_STEPS_MIN)
    return Judged(group, slow[0][1] if slow else None, even, tuple(slow[1:]))


def _too_little(times: SelfTime) -> str:
    if times.ranks < 2:
        return "1 rank with compute times; 2 peers needed"
    if times.steps < STEPS_MIN:
        return f"{times.steps} step{'s' * (times.steps > 1)}; {STEPS_MIN} needed"
    return "no two ranks with compute times do the same work in the same steps"


def _accuse(
    reader: Reader, job: Job, times: SelfTime, accused: Sequence[Judged], judged: Sequence[Judged]
) -> list[Finding]:
    pairs = [(item.group, item.slow) for item in accused if item.slow]
    if not pairs:
        return []
    replicas = {group.members[member].dp for group, slow in pairs for member in slow.members}
    stages = {item.group.stage for item in judged}
    if len(pairs) == len(judged) and len(stages) > 1 and len(replicas) == 1 and None not in replicas:
        return [replica_imbalance(reader, job, times, pairs)]
    since = min(int(group.steps[slow.start]) for group, slow in pairs)
    waits = load_waits(reader, job.name, since)
    named = [(group, slow, chosen) for group, slow in pairs for chosen in slow.accused(len(group.members))]
    heard = [_heard(times, group, chosen, waits) for group, _, chosen in named]
    found = [straggler(reader, job, times, *item, told) for item, told in zip(named, heard, strict=True)]
    staged = len(stages) > 1 and times.table != "phases"
    closer = [_closer(reader, each, *item, staged) for each, item in zip(found, named[:CLOSER_MAX], strict=False)]
    found = closer + found[CLOSER_MAX:]
    if len(named) > 1 or heard[0].agrees is not True:
        return found  # whom the waiting is to be charged to is not known
    group, _, chosen = named[0]
    late = [group.members[place].rank for place in chosen]
    return [charged(reader, found[0], job.name, late, waits, since)]


def _closer(
    reader: Reader, finding: Finding, group: PeerGroup, slow: Slow, chosen: Sequence[int], staged: bool
) -> Finding:
    """With what the kernels of the accused show beside their peers' while they were slow."""
    suspects, peers = ranks_of(group, slow, chosen)
    first, last = int(group.steps[slow.start]), int(group.steps[slow.stop - 1])
    return sharpened(reader, finding, suspects, peers, first, last, staged=staged)


def _heard(times: SelfTime, group: PeerGroup, chosen: Sequence[int], waits: Sequence[Waits]) -> Corroboration:
    ranks = [group.members[member].rank for member in chosen]
    return corroborate(ranks, waits, times.of_stage(group.stage)) if waits else SILENT


def _uneven(reader: Reader, job: Job, times: SelfTime, judged: Sequence[Judged]) -> list[Finding]:
    rotating = [item for item in (*judged, *map(_all_experts, merged(times))) if _by_turns(item)]
    if not rotating or on_cpus(reader, times):
        return []
    worst = max(rotating, key=lambda item: (item.even.sure, item.even.excess))
    return [data_imbalance(reader, job, times, worst.group, worst.even)]


def _by_turns(item: Judged) -> bool:
    return item.even.uneven and _spread(item) and _rotates(item)


def _all_experts(group: PeerGroup) -> Judged:
    """Which replica has more work in a step shows among all of them, few as each expert's are."""
    return Judged(group, None, evenness(group.seconds, ROTATION_STEPS_MIN))


def _spread(item: Judged) -> bool:
    few = len(item.group.members) < SPREAD_MEMBERS
    return few or item.even.sure or item.even.spread >= SPREAD_SHARE * item.even.excess


def _rotates(item: Judged) -> bool:
    if not item.even.round or item.even.share >= share_gate(1, len(item.group.members)):
        return False
    return item.even.steps >= max(ROTATION_STEPS_MIN, steps_needed(1, len(item.group.members)))


def _partition(reader: Reader, job: Job, times: SelfTime, judged: Sequence[Judged]) -> list[Finding]:
    ranks = {rank for item in _each(judged) for rank in _ranks(item)}
    stages = compare_stages(times, ranks, STEPS_MIN, WINDOW_MIN)
    if stages is None or not stages.heavy or stages.peers < 2 - bool(ranks):
        return []
    calm = [item.even.excess for item in judged if not item.slow]
    return [stage_imbalance(reader, job, times, stages, max(calm, default=0.0))]


def _even(reader: Reader, job: Job, times: SelfTime, judged: Sequence[Judged]) -> Check:
    worst = max(judged, key=lambda item: item.even.excess)
    figures = (
        f"largest excess {percent(worst.even.excess)}, gate {percent(worst.even.gate)}, over {worst.even.steps} steps of "
        f"{times.ranks} ranks"
    )
    if worst.even.uneven:
        why = SHARED if on_cpus(reader, times) else _undecided(worst)
        return Check(DETECTOR, Verdict.UNKNOWN, job.name, f"{figures}: {why}")
    late = late_rank(load_waits(reader, job.name))
    if late.rank is not None and late.seconds_per_step >= EXCESS_GATE * _typical(worst.group):
        text = f"{figures}: compute is even, yet collectives wait for rank {late.rank}; look at its host"
        return Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("launch times of its kernels",), late.rank)
    return Check(DETECTOR, Verdict.HEALTHY, job.name, figures)


def _typical(group: PeerGroup) -> float:
    """Seconds that a rank of the group computes in a step."""
    return float(median(group.seconds))


def _without_replicas(job: Job, times: SelfTime) -> Check:
    """Every stage is one rank: what is slow cannot be told from what has more to do."""
    stages = compare_stages(times, (), STEPS_MIN, WINDOW_MIN)
    text = _too_little(times)
    if stages and stages.heavy:
        text = f"stage {stages.heaviest} computes {percent(stages.excess)} longer, but has no replica to compare with"
    return Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("a second data-parallel replica",))


def _undecided(item: Judged) -> str:
    members, steps = len(item.group.members), item.even.steps
    needed = max(ROTATION_STEPS_MIN, steps_needed(1, members))
    if steps < needed:
        return f"{steps} steps; {needed} needed to tell a slow rank from uneven work"
    if item.even.share >= share_gate(1, members):
        rank = item.group.members[item.even.slowest].rank
        return f"rank {rank} is slowest in {percent(item.even.share)} of steps, which may still be chance"
    return "single ranks, another one each time, while the others are even"


def _by_arrivals(reader: Reader, job: Job, times: SelfTime | None, lacking: str) -> Report:
    """Nothing but collectives: a late rank is named only by the strict rule of `late_rank`."""
    waits = load_waits(reader, job.name)
    if times is not None and times.steps < STEPS_MIN and not waits:
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, lacking, (lacking,)),))
    late = late_rank(waits)
    if late.rank is None:
        if late.enough and times is None:
            return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, f"{late.reason}; {lacking}", (lacking,)),))
        missing = tuple(dict.fromkeys((lacking, late.reason)))
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, "; ".join(missing), missing),))
    return _named_by_arrivals(reader, job, late)


def _named_by_arrivals(reader: Reader, job: Job, late: Late) -> Report:
    rows = reader.query(
        "SELECT count(DISTINCT pp) AS stages, max(dp) FILTER (rank = ?) AS dp FROM collectives WHERE job = ?",
        (late.rank, job.name),
    ).to_pylist()
    pipelined = max(rows[0]["stages"], job.stages or 1) > 1
    if pipelined and rows[0]["dp"] is None:
        text = f"collectives wait for {numbered([late.rank or 0])}, but in a pipeline its whole replica is late"
        missing = ("compute times of each rank",)
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, missing, late.rank),))
    return Report((late_arrival(reader, job, late, rows[0]["dp"] if pipelined else None),))
