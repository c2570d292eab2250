"""Turns a judgement on compute times into a finding: subject, cost, evidence, what was ruled out, what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, Onset, Severity, Subject

from .arrivals import Corroboration, Late
from .detector import Reader, literal, show
from .evenness import Evenness
from .jobs import Job, step_time
from .robust import EXCESS_GATE, Slow
from .self_time import Member, PeerGroup, SelfTime, cells

USUAL_EXCESS: Final = 0.08
"""GPUs of one model differ by so much for good (8 % on average over five centers, arXiv 2208.11035): a smaller excess that
was there from the first recorded step on is worth knowing and nobody's alarm."""
KEPT_UP_MIN: Final = 10
"""... as is one that began within so many first steps: those are too few to show that it kept up before."""
NEVER_EVEN: Final = "a step in which it kept up: GPUs of one model differ by some percent for good"
CRITICAL_EXCESS: Final = 0.5
"""From this excess on the job runs at two thirds of its speed or less."""
NAMES_MAX: Final = 8
"""Ranks written out in a sentence."""
DETECTOR: Final = "straggler"


def percent(share: float) -> str:
    """0.004 -> 0.4 %, 1.352 -> 135 %."""
    return f"{share * 100:.0f} %" if abs(share) >= 0.1 else f"{share * 100:.1f} %"


def numbered(ranks: Sequence[int]) -> str:
    """rank 3; ranks 3, 5; ranks 3, 5, ... (20)."""
    shown = ", ".join(str(rank) for rank in ranks[:NAMES_MAX])
    more = f", ... ({len(ranks)})" if len(ranks) > NAMES_MAX else ""
    return f"rank{'s' * (len(ranks) > 1)} {shown}{more}"


def _common(values: Iterable[Any]) -> Any:
    """The one value that all share, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def subject_of(job: Job, members: Sequence[Member]) -> Subject:
    """One rank where a recorded rank is one; a group in words where it stands for several, or where several are meant."""
    place = {"stage": _common(m.pp for m in members), "dp": _common(m.dp for m in members)}
    ranks = [member.rank for member in members]
    if job.ranks_per_record > 1:
        group = f"group of {job.ranks_per_record} ranks recorded as {numbered(ranks)}"
        return Subject(job=job.name, group=group, node=_common(m.node for m in members), **place)
    fine = {"tp": _common(m.tp for m in members), "ep": _common(m.ep for m in members)}
    node = _common(m.node for m in members)
    if len(members) == 1:
        return Subject(job=job.name, rank=ranks[0], node=node, gpu=members[0].gpu, **place, **fine)
    return Subject(job=job.name, group=numbered(ranks), node=node, **place, **fine)


def called(subject: Subject) -> str:
    """The subject as a sentence begins with it."""
    place = [f"{name} {value}" for name, value in (("stage", subject.stage), ("dp", subject.dp)) if value is not None]
    head = f"rank {subject.rank}" if subject.rank is not None else subject.group or "job"
    text = f"{head} ({', '.join(place)})" if place else head
    return text[0].upper() + text[1:]


def verb(subject: Subject, plural: str) -> str:
    """The verb after `called`: ranks compute, a rank or a group of them computes."""
    several = subject.rank is None and (subject.group or "").startswith("ranks ")
    return plural if several else f"{plural}s"


def gpus_of(job: Job, times: SelfTime | None) -> int | None:
    """GPUs that wait when one is late."""
    return job.world_size or (times.ranks * job.ranks_per_record if times else None)


def cost_of(job: Job, times: SelfTime, lost: float, steps: int) -> Cost:
    """`lost` seconds a step, over the steps that were recorded and all GPUs of the job."""
    gpus = gpus_of(job, times)
    return Cost(seconds_per_step=lost, gpu_hours=lost * steps * gpus / 3600 if gpus else None)


def compute_evidence(reader: Reader, times: SelfTime, group: PeerGroup, first: int) -> Evidence:
    """Compute time of each peer, slowest first."""
    same = [("pp", group.stage)] + ([] if times.across_tp else [("tp", group.tp)])
    same += [] if group.ep is None else [("ep", group.ep)]
    peers = " AND ".join(f"{column} IS NOT DISTINCT FROM {literal(value)}" for column, value in same)
    return show(
        reader,
        f"SELECT rank, round(avg(seconds), 6) AS compute_seconds_per_step, count(*) AS steps FROM "
        f"({cells(times.table, times.job, first)}) WHERE rank IN (SELECT rank FROM {times.table} "
        f"WHERE job = {literal(times.job)} AND {peers}) GROUP BY rank ORDER BY compute_seconds_per_step DESC, rank",
    )


def _confidence(slow: Slow, members: int, agreed: bool | None) -> float:
    value = 0.7 + 0.1 * (members >= 4) + 0.1 * (slow.share >= 0.95) + 0.07 * (agreed is True)
    value -= 0.15 * (2 * len(slow.members) >= members)
    return round(value / 2 if agreed is False else value, 2)


def straggler(
    reader: Reader, job: Job, times: SelfTime, group: PeerGroup, slow: Slow, chosen: Sequence[int], heard: Corroboration
) -> Finding:
    """`chosen` of the slow members of a group compute longer than their peers, persistently."""
    subject = subject_of(job, [group.members[member] for member in chosen])
    first = int(group.steps[slow.start])
    until = f", even again since step {int(group.steps[slow.stop])}" if slow.stop < len(group.steps) else ""
    since = (f"since step {first}" if slow.start else f"from the first recorded step {first} on") + until
    hits, peers = round(slow.share * slow.steps), len(group.members) - len(slow.members)
    summary = (
        f"{called(subject)} {verb(subject, 'compute')} {percent(slow.worst)} longer than {peers} peer{'s' * (peers > 1)} "
        "doing the same work, "
        f"in {hits} of {slow.steps} steps, {since}"
    )
    contradiction = f"; but its waiting does not fit: {heard.text}" if heard.agrees is False else ""
    severe = slow.worst >= CRITICAL_EXCESS and heard.agrees is not False and not until
    usual = slow.start < KEPT_UP_MIN and slow.worst < USUAL_EXCESS
    return Finding(
        kind=FindingKind.COMPUTE_STRAGGLER,
        severity=Severity.CRITICAL if severe else Severity.INFO if usual else Severity.WARNING,
        confidence=_confidence(slow, len(group.members), heard.agrees),
        subject=subject,
        summary=summary + contradiction,
        next_step=_look_at(job, subject),
        onset=Onset(step_time(reader, times.table, job.name, first), first),
        cost=cost_of(job, times, slow.lost, slow.steps),
        evidence=(compute_evidence(reader, times, group, first),),
        ruled_out=_ruled_out(slow, hits, heard),
        missing=(*_missing(times, heard), *((NEVER_EVEN,) if usual else ())),
    )


def _ruled_out(slow: Slow, hits: int, heard: Corroboration) -> tuple[str, ...]:
    who = "worker is" if len(slow.members) == 1 else f"{len(slow.members)} workers are"
    network = (f"network: {heard.text}",) if heard.agrees else ()
    return (
        *network,
        f"data imbalance: the same {who} slowest in {hits} of {slow.steps} steps",
        "stage imbalance: the peers hold the same part of the model",
    )


def _missing(times: SelfTime, heard: Corroboration) -> tuple[str, ...]:
    waits = "waiting in collectives with all their ranks recorded: the blame rests on compute times alone"
    return (() if heard.agrees is not None else (waits,)) + (
        ("data-parallel peers: compared across tensor-parallel ranks",) if times.across_tp else ()
    )


def _look_at(job: Job, subject: Subject) -> str:
    where = " on ".join(part for part in (subject.gpu, subject.node) if part)
    gpu = f"the GPU of rank {subject.rank}" if subject.rank is not None else f"each GPU of {subject.group}"
    if job.ranks_per_record > 1:
        gpu += " (the record does not tell them apart)"
    return (
        f"On {gpu}{f' ({where})' if where else ''}: read clocks and clock-event reasons (nvidia-smi -q -d PERFORMANCE), "
        "temperature, ECC and other processes, then time one GEMM; if it is slow alone, drain the node and restart without it"
    )


def replica_imbalance(reader: Reader, job: Job, times: SelfTime, found: Sequence[tuple[PeerGroup, Slow]]) -> Finding:
    """The same replica is slow at every stage: its data (or all its nodes), not one GPU."""
    group, slow = max(found, key=lambda item: item[1].worst)
    dp = group.members[slow.members[0]].dp
    first = int(group.steps[slow.start])
    return Finding(
        kind=FindingKind.DATA_IMBALANCE,
        severity=Severity.WARNING,
        confidence=0.5,
        subject=Subject(job=job.name, dp=dp),
        summary=f"Replica dp {dp} computes up to {percent(slow.worst)} longer than the others in all {len(found)} of its "
        f"peer groups since step {first}: more work there is likelier than as many slow GPUs",
        next_step=f"Compare sequence lengths and samples per step of replica dp {dp} with the others; if they are equal, "
        "check what its nodes share (power, cooling, host)",
        onset=Onset(step_time(reader, times.table, job.name, first), first),
        cost=cost_of(job, times, slow.lost, slow.steps),
        evidence=(compute_evidence(reader, times, group, first),),
        ruled_out=("one slow GPU: all stages of the replica are slow",),
        missing=("sequence lengths",),
    )


def data_imbalance(reader: Reader, job: Job, times: SelfTime, group: PeerGroup, even: Evenness) -> Finding:
    """A large excess that rotates."""
    first = int(group.steps[even.start])
    steps, who = even.steps, group.members[even.slowest].rank
    where = f" of stage {group.stage}" if group.stage is not None else ""
    slowest = float(np.median(np.nanmax(group.seconds[even.start :], axis=1)))
    lost = even.excess / (1 + even.excess) * slowest
    usual = even.start < KEPT_UP_MIN and even.excess < EXCESS_GATE  # lengths vary a little in most jobs, all the time
    return Finding(
        kind=FindingKind.DATA_IMBALANCE,
        severity=Severity.INFO if usual else Severity.WARNING,
        confidence=0.7 if steps >= 20 else 0.5,
        subject=Subject(job=job.name),
        summary=f"In a typical step the slowest rank{where} computes {percent(even.excess)} longer than its peers, and it is "
        f"another one each time (most often rank {who}, in {percent(even.share)} of {steps} steps)",
        next_step="Balance the work of each step over the replicas: compare sequence lengths (attention grows with their "
        "square), pack or sort by length, check routing of experts",
        onset=Onset(step_time(reader, times.table, job.name, first), first),
        cost=cost_of(job, times, lost, steps),
        evidence=(compute_evidence(reader, times, group, first),),
        ruled_out=(f"a slow GPU: no rank is slowest persistently ({percent(even.share)} of steps at most)",),
        missing=("sequence lengths",),
    )


def late_arrival(reader: Reader, job: Job, late: Late, replica: int | None) -> Finding:
    """All wait for one rank; what it does meanwhile was not recorded."""
    rank, heaviest = late.rank, late.waits[0]
    own = heaviest.ranks == rank
    lost = float(heaviest.waiting[~own].mean()) * heaviest.operations
    subject = Subject(job=job.name, rank=rank) if replica is None else Subject(job=job.name, dp=replica)
    who = called(subject) if replica is None else f"Replica dp {replica}"
    figures = "; ".join(
        f"{waits.operation} takes it {waits.seconds[waits.ranks == rank][0] * 1e3:.1f} ms, the others "
        f"{waits.seconds[waits.ranks != rank].mean() * 1e3:.1f} ms ({waits.operations} operations)"
        for waits in late.waits
    )
    gpus = gpus_of(job, None) or len(heaviest.ranks)
    return Finding(
        kind=FindingKind.COMPUTE_STRAGGLER,
        severity=Severity.WARNING,
        confidence=0.5,
        subject=subject,
        summary=f"{who} arrives last in every dominant collective, so the others wait for it: {figures}",
        next_step=f"Record a kernel timeline of rank {rank} and of one other rank over some steps: it tells a slow GPU "
        "(longer kernels) from a slow host (gaps between kernels)",
        cost=Cost(lost / heaviest.steps if heaviest.steps else None, lost * gpus / 3600),
        evidence=(
            show(
                reader,
                "SELECT rank, operation, round(avg(duration_ns) / 1e6, 3) AS mean_ms, sum(coalesce(count, 1)) AS operations "
                f"FROM collectives WHERE job = {literal(job.name)} AND operation = {literal(heaviest.operation)} "
                "AND duration_ns IS NOT NULL GROUP BY ALL ORDER BY mean_ms",
            ),
        ),
        ruled_out=("a slow link: the shortest duration over the ranks stays short, the rest is waiting",),
        missing=("compute times of each rank and step: a slow GPU and a slow host look the same here",),
    )
