"""Does a rank that is slow in one phase hide behind an alarm of the network or behind even totals?

A slow rank makes its collectives look faster on itself and slower on everybody else, so that the network is suspected (fifth
case study of ARGUS). Each compute phase is compared by itself between ranks that do the same work. Somebody is accused only
where compute as a whole does not stand out (else `straggler` tells it) and the others are seen to wait for that rank. A phase
of a pipeline is left to `pipeline_bubble` unless the network was accused of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Onset, Report, Severity, Verdict

from ..arrivals import SILENT, STEPS_MIN, Corroboration, corroborate
from ..blame import called, cost_of, percent, subject_of, verb
from ..detector import COUNTED, Reader, literal, show
from ..gpu_faults import STILL_FRESH
from ..jobs import Job, known_jobs, step_time
from ..kernel_level import sharpened
from ..one_phase import alone_in
from ..robust import EXCESS_GATE, SURE_GATE, Slow, median, peers_median, slow_members
from ..scatter import pooled
from ..self_time import SELF_KINDS, Coverage, Member, PeerGroup, SelfTime, cells, load
from ..slow_compute import ranks_of
from ..waits import Waits, load_waits

DETECTOR: Final = "masked"
PHASES_MAX: Final = 6
"""Compute phases of a job that are looked at, those that take most time."""
WINDOW_MIN: Final = 5
"""Shortest newest part of the window that is judged by itself."""
IMPACT_GATE: Final = 0.02
"""A slow phase matters from this share of the rank's compute on."""
ALARMS_MAX: Final = 4
"""Alarms of the network written out in a finding."""


@dataclass(frozen=True)
class Suspect:
    """Members of a peer group that are slow in one phase, and whether the others wait for them."""

    phase: str
    times: SelfTime
    group: PeerGroup
    slow: Slow
    heard: Corroboration

    @property
    def members(self) -> tuple[Member, ...]:
        """Who is slow."""
        return tuple(self.group.members[place] for place in self.slow.members)


def detect(reader: Reader) -> Report:
    """Judge every job that names at least two compute phases."""
    jobs, report = known_jobs(reader), Report()
    rows = reader.query(
        "SELECT job, list(phase ORDER BY total DESC) AS phases, max(ranks) AS ranks, max(steps) AS steps, max(stages) AS stages "
        "FROM (SELECT job, phase, sum(duration_ns) AS total, count(DISTINCT rank) AS ranks, "
        "count(DISTINCT step) AS steps, count(DISTINCT pp) AS stages FROM phases WHERE job IS NOT NULL AND rank IS "
        f"NOT NULL AND step IS NOT NULL AND duration_ns IS NOT NULL AND kind IN {SELF_KINDS} GROUP BY job, phase) "
        "GROUP BY job HAVING count(*) > 1 ORDER BY job"
    ).to_pylist()
    for row in rows:
        job = jobs.get(row["job"], Job(row["job"]))
        alarms = _alarms(reader, job.name)
        if row["stages"] <= 1 or alarms:
            report += _job(reader, job, Coverage(job.name, "phases", row["ranks"], row["steps"]), row["phases"], alarms)
    return report


def _alarms(reader: Reader, job: str) -> Sequence[Mapping[str, Any]]:
    """What kernels and NCCL said against the network on the nodes of a job."""
    rows: Sequence[Mapping[str, Any]] = reader.query(_alarms_sql(job)).to_pylist()
    return rows


def _alarms_sql(job: str) -> str:
    name = literal(job)
    return (
        f"SELECT node, link, kind, {COUNTED} AS times, min(time_ns) AS first_ns, "
        "arg_min(message, coalesce(time_ns, 0)) AS message FROM log_events WHERE kind IN ('link_event', 'net_error') "
        f"AND severity IN ('warning', 'critical') AND {STILL_FRESH} AND (job = {name} OR (job IS NULL AND node IN "
        f"(SELECT node FROM phases WHERE job = {name}))) GROUP BY node, link, kind ORDER BY times DESC, node, link"
    )


def _job(
    reader: Reader, job: Job, covered: Coverage, phases: Sequence[str], alarms: Sequence[Mapping[str, Any]]
) -> Report:
    judged = [
        (phase, times, group)
        for phase in phases[:PHASES_MAX]
        for times in (load(reader, covered, phase),)
        for group in times.groups
        if len(group.members) > 1 and len(group.steps) >= STEPS_MIN
    ]
    if not judged:
        text = f"no two ranks with {STEPS_MIN} steps of the same phase do the same work"
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("peers with named phases",)),))
    slow = [(*item, found) for item in judged if (found := _slow(item[1], item[2]))]
    if not slow:
        return Report(checks=(_even(job, judged),))
    whole = load(reader, covered)
    compute = float(median(np.concatenate([group.seconds.ravel() for group in whole.groups])))
    blamed = _slow_as_a_whole(whole)
    waits = load_waits(reader, job.name)
    every = [(phase, group) for phase, _, group in judged]
    suspects = [
        suspect
        for item in slow
        if item[3].lost >= IMPACT_GATE * compute and alone_in(item[0], item[2], item[3], every)
        for suspect in (_suspect(*item, waits),)
        if not blamed.intersection(member.rank for member in suspect.members)
    ]
    return _accuse(reader, job, suspects, judged, alarms)


def _slow_as_a_whole(times: SelfTime) -> set[int]:
    """Ranks whose compute as a whole stands out: nothing hides them, and they are told elsewhere."""
    return {
        group.members[place].rank
        for group in times.groups
        if len(group.members) > 1 and len(group.steps) >= STEPS_MIN
        for slow in (_slow(times, group),)
        if slow and slow.worst >= EXCESS_GATE
        for place in slow.members
    }


def _slow(times: SelfTime, group: PeerGroup) -> Slow | None:
    apart = pooled([each.seconds for each in times.groups])
    return slow_members(group.seconds, STEPS_MIN, WINDOW_MIN, apart=apart)


def _suspect(phase: str, times: SelfTime, group: PeerGroup, slow: Slow, waits: Sequence[Waits]) -> Suspect:
    ranks = [group.members[place].rank for place in slow.members]
    return Suspect(
        phase, times, group, slow, corroborate(ranks, waits, times.of_stage(group.stage)) if waits else SILENT
    )


def _accuse(
    reader: Reader,
    job: Job,
    suspects: Sequence[Suspect],
    judged: Sequence[tuple[str, SelfTime, PeerGroup]],
    alarms: Sequence[Mapping[str, Any]],
) -> Report:
    chosen: dict[tuple[Member, ...], Suspect] = {}
    for each in sorted(suspects, key=lambda suspect: -suspect.slow.lost):
        if each.heard.agrees:
            chosen.setdefault(each.members, each)
    if chosen:
        return Report(
            tuple(_finding(reader, job, each, places, alarms) for each in chosen.values() for places in _accused(each))
        )
    if not suspects:
        return Report(checks=(_even(job, judged),))
    worst = max(suspects, key=lambda suspect: suspect.slow.lost)
    heard = worst.heard.text or "no collective with all its ranks recorded shows who waits for whom"
    text = f"{called(subject_of(job, worst.members))} takes {percent(worst.slow.worst)} longer in {worst.phase}, but {heard}"
    return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, ("waiting that fits the blame",)),))


def _accused(suspect: Suspect) -> Collection[tuple[int, ...]]:
    return suspect.slow.accused(len(suspect.group.members))


def _even(job: Job, judged: Sequence[tuple[str, SelfTime, PeerGroup]]) -> Check:
    excess = {
        phase: float(np.nanmax(median(group.seconds / peers_median(group.seconds), axis=0))) - 1
        for phase, _, group in judged
    }
    phase = max(excess, key=lambda name: excess[name])
    text = (
        f"no rank hides behind others: largest lasting excess in a phase of its own {percent(excess[phase])}, in {phase}, gate "
        f"{percent(SURE_GATE)} and {percent(IMPACT_GATE)} of its compute"
    )
    return Check(DETECTOR, Verdict.HEALTHY, job.name, text)


def _finding(
    reader: Reader, job: Job, suspect: Suspect, places: Sequence[int], alarms: Sequence[Mapping[str, Any]]
) -> Finding:
    slow, group, phase = suspect.slow, suspect.group, suspect.phase
    subject = subject_of(job, [group.members[place] for place in places])
    first = int(group.steps[slow.start])
    peers = len(group.members) - len(slow.members)
    suspects, beside = ranks_of(group, slow, places)
    hidden = f"; the alarms of the network ({len(alarms)}) follow from it or are by the way" if alarms else ""
    found = Finding(
        kind=FindingKind.MASKED_STRAGGLER,
        severity=Severity.WARNING,
        confidence=round(0.65 + 0.1 * (len(group.members) >= 4) + 0.1 * (slow.share >= 0.95), 2),
        subject=subject,
        summary=f"{called(subject)} {verb(subject, 'take')} {percent(slow.worst)} longer in {phase} than {peers} "
        f"peer{'s' * (peers > 1)} doing "
        f"the same work, in {round(slow.share * slow.steps)} of {slow.steps} steps since step {first}, which its compute as a "
        f"whole does not show; it waits least in its collectives, so that the others' look slow{hidden}",
        next_step=f"Time {phase} alone on rank {group.members[places[0]].rank} and on a peer, read clocks, clock-event reasons "
        "and ECC of its GPU; drain the node if it stays slow. Leave the network alone until then",
        onset=Onset(step_time(reader, "phases", job.name, first), first),
        cost=cost_of(job, suspect.times, slow.lost, slow.steps),
        evidence=_evidence(reader, suspect, first, bool(alarms)),
        ruled_out=(
            f"network: {suspect.heard.text}",
            *(
                f"network alarm: {_told(alarm)}: it is the slow rank that is waited for"
                for alarm in alarms[:ALARMS_MAX]
            ),
            *((f"network alarms: {len(alarms) - ALARMS_MAX} more",) if len(alarms) > ALARMS_MAX else ()),
            f"data imbalance: the same rank is slowest in {percent(slow.share)} of steps",
        ),
    )
    return sharpened(reader, found, suspects, beside, first, int(group.steps[slow.stop - 1]))


def _told(alarm: Mapping[str, Any]) -> str:
    place = " of ".join(part for part in (alarm["link"], alarm["node"]) if part)
    return f"{place + ': ' if place else ''}{alarm['message'] or alarm['kind']} ({alarm['times']} times)"


def _evidence(reader: Reader, suspect: Suspect, first: int, alarmed: bool) -> tuple[Evidence, ...]:
    times = suspect.times
    ranks = ", ".join(str(member.rank) for member in suspect.group.members)
    compute = show(
        reader,
        f"SELECT rank, round(avg(seconds), 6) AS seconds_per_step, count(*) AS steps FROM "
        f"({cells('phases', times.job, first, suspect.phase)}) WHERE rank IN ({ranks}) GROUP BY rank "
        "ORDER BY seconds_per_step DESC, rank",
    )
    return (compute, show(reader, _alarms_sql(times.job))) if alarmed else (compute,)
