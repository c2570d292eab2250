"""Does any link carry less than it did, or less than its siblings do?

Transfer time (the shortest duration over the ranks of one operation, so that nobody's lateness counts) gives the bus
bandwidth of each communicator, operation and size. It is held against its own past and against communicators of the same
size doing the same (blame rule 4 after ARGUS and the what-if analysis). Whether the iteration time moved plays no part.
Where one node explains all that lost bandwidth together, its network is told instead of each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

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

from ..blame import numbered, percent
from ..detector import Reader, literal, show
from ..jobs import Job, jobs_with_collectives, judge_each, step_time
from ..remembered import once
from ..robust import LASTING, lasting_drop
from ..shared_node import shared_node
from ..transfers import Line, Series, instances, load_series, why_none

DETECTOR: Final = "link"
DROP_GATE: Final = 0.25
"""Part of the bandwidth that must be gone."""
CRITICAL_DROP: Final = 0.5
NEEDED: Final = "numbered operations of one size with all their ranks"
"""What a link is judged by."""
BEFORE_MIN: Final = 10
"""Operations before a change from which a baseline is taken."""
AFTER_MIN: Final = 5
SIBLINGS_MIN: Final = 2
"""Other communicators of the same kind below which there is nothing to hold one against."""
FINDINGS_MAX: Final = 8
"""Links named one by one; the rest is counted in the last."""
SUFFERING: Final = 0.5
"""Beside others that lost DROP_GATE, a communicator is slower as well from this part of it on."""


@dataclass(frozen=True)
class Place:
    """Where a communicator lies: what of it is known."""

    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    spans: tuple[int | None, str | None] = (None, None)
    stage: int | None = None
    dp: int | None = None


@dataclass(frozen=True)
class Loss:
    """One line that lost bandwidth: from `before` to `after` bytes a second, from index `start` of its series on.

    `siblings` is how many other communicators it was held against; 0 where it was held against its own past.
    """

    series: Series
    start: int
    before: float
    after: float
    siblings: int

    @property
    def drop(self) -> float:
        """Part of the bandwidth that is gone."""
        return 1 - self.after / self.before

    @property
    def extra_seconds(self) -> float:
        """What one operation takes longer."""
        line = self.series.line
        return line.message_bytes * line.factor * (1 / self.after - 1 / self.before)


def detect(reader: Reader) -> Report:
    """Judge the links of every job with collectives."""
    return judge_each(reader, jobs_with_collectives(reader), _job)


def _job(reader: Reader, job: Job) -> Report:
    every = load_series(reader, job.name)
    places = _places(reader).get(job.name, {}) if every else {}
    judged = [series for series in every if len(series.bandwidth) >= BEFORE_MIN + AFTER_MIN]
    families = _families(every, places)
    if not judged and not families:
        reason = (
            f"at most {max(len(s.bandwidth) for s in every)} operations; {BEFORE_MIN + AFTER_MIN} needed"
            if every
            else ""
        )
        reason = reason or why_none(reader, job.name)
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, reason, (NEEDED,)),))
    losses = [loss for series in judged if (loss := _own_past(series))]
    named = {loss.series.line.communicator for loss in losses}
    losses += [loss for family in families for loss in _siblings(family) if loss.series.line.communicator not in named]
    if not losses:
        return Report(checks=(_healthy(job, judged, families),))
    node = _node(judged, losses, places)
    if node is not None:
        return Report((_network_of(reader, job, node, losses, places),))
    return Report(tuple(_findings(reader, job, losses, places)))


def _own_past(series: Series) -> Loss | None:
    drop = lasting_drop(series.bandwidth, DROP_GATE, BEFORE_MIN, AFTER_MIN)
    return Loss(series, drop.start, drop.before, drop.after, 0) if drop else None


def _families(every: Sequence[Series], places: dict[str, Place]) -> list[list[Series]]:
    """Series of the same operation, size, ranks and span, enough of them to hold one against the others."""
    kinds: dict[tuple[Any, ...], list[Series]] = {}
    for series in every:
        place = places.get(series.line.communicator, Place())
        key = (series.line.operation, series.line.message_bytes, series.line.nranks, place.spans)
        kinds.setdefault(key, []).append(series)
    return [family for family in kinds.values() if len(family) > SIBLINGS_MIN]


def _siblings(family: Sequence[Series]) -> list[Loss]:
    """Members that carry less than the faster half of the family, a minority of it, persistently."""
    typical = np.array([np.median(series.bandwidth) for series in family])
    normal = float(np.median(np.sort(typical)[len(typical) // 2 :]))
    slow = [place for place, value in enumerate(typical) if value <= (1 - DROP_GATE) * normal]
    if not slow or 2 * len(slow) > len(family):
        return []
    middle = (normal + float(typical[slow].max())) / 2
    fast = [place for place in range(len(family)) if place not in slow]
    if typical[fast].min() <= middle:  # no gap: the family is a continuum, not a healthy and a sick part
        return []
    return [
        Loss(family[place], 0, normal, float(typical[place]), len(family) - 1)
        for place in slow
        if len(family[place].bandwidth) >= BEFORE_MIN and np.mean(family[place].bandwidth < middle) >= LASTING
    ]


def _healthy(job: Job, judged: Sequence[Series], families: Sequence[Any]) -> Check:
    detail = f"no lasting loss of {percent(DROP_GATE)} or more in {len(judged)} series of operations"
    against = f", {len(families)} of them against siblings" if families else ""
    return Check(DETECTOR, Verdict.HEALTHY, job.name, detail + against)


@once
def _places(reader: Reader) -> dict[str, dict[str, Place]]:
    """Of every job, the place of each communicator."""
    rows = reader.query(
        "WITH members AS (SELECT job, communicator, rank, max(node) AS node, max(pp) AS pp, max(dp) AS dp FROM collectives "
        "WHERE job IS NOT NULL AND communicator IS NOT NULL AND rank IS NOT NULL GROUP BY job, communicator, rank), spans AS "
        "(SELECT job, communicator, max(nnodes) AS nnodes, max(network) AS network FROM communicators WHERE job IS NOT NULL "
        "GROUP BY job, communicator) SELECT job, communicator, list(rank ORDER BY rank) AS ranks, "
        "list(DISTINCT node ORDER BY node) FILTER (node IS NOT NULL) AS nodes, any_value(nnodes) AS nnodes, "
        "any_value(network) AS network, min(pp) AS pp, min(dp) AS dp, "
        "count(DISTINCT pp) AS stages, count(DISTINCT dp) AS replicas FROM members LEFT JOIN spans USING (job, communicator) "
        "GROUP BY job, communicator"
    ).to_pylist()
    places: dict[str, dict[str, Place]] = {}
    for row in rows:
        places.setdefault(row["job"], {})[row["communicator"]] = Place(
            tuple(row["ranks"]),
            tuple(row["nodes"] or ()),
            (row["nnodes"] or len(row["nodes"] or ()) or None, row["network"]),
            row["pp"] if row["stages"] == 1 else None,
            row["dp"] if row["replicas"] == 1 else None,
        )
    return places


def _findings(reader: Reader, job: Job, losses: Sequence[Loss], places: dict[str, Place]) -> list[Finding]:
    """One finding a communicator, told by the line that lost most time; the costliest first, at most FINDINGS_MAX."""
    by_link: dict[str, list[Loss]] = {}
    for loss in losses:
        by_link.setdefault(loss.series.line.communicator, []).append(loss)
    ordered = sorted(by_link.values(), key=lambda group: -max(_weight(loss) for loss in group))
    left = len(ordered) - FINDINGS_MAX
    note = (f"{left} more communicators lost bandwidth at less cost",) if left > 0 else ()
    return [
        _finding(reader, job, sorted(group, key=_weight, reverse=True), places.get(name, Place()), note)
        for group in ordered[:FINDINGS_MAX]
        for name in (group[0].series.line.communicator,)
    ]


def _node(judged: Sequence[Series], losses: Sequence[Loss], places: dict[str, Place]) -> str | None:
    """The node whose network explains all losses; series that began to be slower with them count as well."""
    own = [loss for loss in losses if not loss.siblings]
    if len(own) < len(losses):
        return None
    since = int(np.median([loss.series.steps[loss.start] for loss in own]))
    crossed = {
        name: frozenset(places[name].nodes)
        for name in {series.line.communicator for series in judged}
        if name in places and len(places[name].nodes) > 1
    }
    slower = {series.line.communicator for series in judged if _fell(series, since) >= SUFFERING * DROP_GATE}
    return shared_node(crossed, {loss.series.line.communicator for loss in losses}, slower)


def _fell(series: Series, since: int) -> float:
    """Part of the bandwidth that a series lost from a step on; 0 where it was not seen on both sides."""
    late = series.steps >= since
    if not late.any() or late.all():
        return 0.0
    return 1 - float(np.median(series.bandwidth[late]) / np.median(series.bandwidth[~late]))


def _network_of(reader: Reader, job: Job, node: str, losses: Sequence[Loss], places: dict[str, Place]) -> Finding:
    """One finding for all communicators that cross a node's network."""
    worst = max(losses, key=_weight)
    names = sorted({loss.series.line.communicator for loss in losses})
    others = sorted({each for name in names for each in places[name].nodes} - {node})
    told = _finding(reader, job, [worst], places[worst.series.line.communicator], ())
    listed = ", ".join(literal(name) for name in names)
    return replace(
        told,
        kind=FindingKind.NETWORK_DEGRADATION,
        confidence=0.8,
        subject=Subject(job=job.name, node=node),
        summary=f"The network of {node} carries less: all {len(names)} communicators that lost bandwidth cross it, none that "
        f"crosses it kept its own, and they meet on no other node; the costliest: {told.summary}",
        next_step=f"On {node}: read port counters, rates and PCIe width of its network adapters (perfquery, mlxlink, lspci -vv), "
        "then run nccl-tests between it and one other node",
        cost=_cost(job, losses),
        evidence=(
            show(
                reader,
                "SELECT job, communicator, max(nranks) AS nranks, count(DISTINCT node) AS nodes, count(DISTINCT rank) FILTER "
                f"(node = {literal(node)}) AS ranks_here FROM collectives WHERE job = {literal(job.name)} AND communicator IN "
                f"({listed}) GROUP BY job, communicator ORDER BY nranks DESC, communicator",
            ),
            *told.evidence,
        ),
        ruled_out=(
            *told.ruled_out,
            f"{', '.join(others[:4])}{', ...' if len(others) > 4 else ''}: not all that lost bandwidth cross them",
        ),
        missing=("counters of its ports that show the same",),
    )


def _weight(loss: Loss) -> float:
    return loss.extra_seconds * (len(loss.series.bandwidth) - loss.start)


def _finding(reader: Reader, job: Job, losses: Sequence[Loss], place: Place, note: tuple[str, ...]) -> Finding:
    worst = losses[0]
    line, step = worst.series.line, int(worst.series.steps[worst.start])
    known = None if step < 0 or worst.siblings else step
    against = (
        f"{worst.siblings} sibling communicators" if worst.siblings else f"its own {worst.start} operations before"
    )
    others = f"; {len(losses) - 1} more of its operations and sizes with it" if len(losses) > 1 else ""
    ranks = numbered(place.ranks) if place.ranks else f"{line.nranks} ranks"
    return Finding(
        kind=FindingKind.LINK_DEGRADATION,
        severity=Severity.CRITICAL if worst.drop >= CRITICAL_DROP else Severity.WARNING,
        confidence=0.7 if worst.siblings else 0.85,
        subject=_subject(job, line, place, ranks),
        summary=f"Communicator {line.communicator} ({ranks}) carries {percent(worst.drop)} less: {line} at "
        f"{worst.after / 1e9:.3g} GB/s of bus bandwidth against {worst.before / 1e9:.3g} GB/s in {against}"
        f"{f', since step {known}' if known is not None else ''}{others}",
        next_step=_next_step(place),
        onset=Onset(step_time(reader, "collectives", job.name, known) if known is not None else None, known),
        cost=_cost(job, losses),
        evidence=(_evidence(reader, job, worst),),
        ruled_out=(
            "a late rank: the shortest duration over the ranks of each operation grew, and it contains no waiting",
        ),
        missing=_missing(worst, place) + note,
    )


def _subject(job: Job, line: Line, place: Place, ranks: str) -> Subject:
    return Subject(
        job=job.name,
        group=ranks,
        stage=place.stage,
        dp=place.dp,
        node=place.nodes[0] if len(place.nodes) == 1 else None,
        link=line.communicator,
        communicator=line.communicator,
    )


def _next_step(place: Place) -> str:
    nodes = f" of {', '.join(place.nodes[:4])}" if place.nodes else ""
    if len(place.nodes) == 1:
        return f"On {place.nodes[0]}: compare PCIe width and generation and NVLink errors of its GPUs, then run nccl-tests on it"
    return (
        f"Compare port counters (symbol errors, link downed, PCIe width) of the nodes{nodes}, then run nccl-tests on halves of "
        "the group to find the node whose link is slow"
    )


def _cost(job: Job, losses: Sequence[Loss]) -> Cost:
    per_step: float | None = 0.0
    lost = 0.0
    for loss in losses:
        lost += _weight(loss)
        steps = {int(step) for step in loss.series.steps[loss.start :]}
        per_step = None if per_step is None or -1 in steps else per_step + _weight(loss) / len(steps)
    gpus = job.world_size or losses[0].series.line.nranks * job.ranks_per_record
    return Cost(seconds_per_step=per_step, gpu_hours=lost * gpus / 3600)


def _evidence(reader: Reader, job: Job, loss: Loss) -> Evidence:
    line, first = loss.series.line, int(loss.series.sequence[loss.start])
    same = f"operation = {literal(line.operation)} AND message_bytes = {line.message_bytes}"
    side = "'whole record'" if loss.siblings else f"CASE WHEN sequence < {first} THEN 'before' ELSE 'after' END"
    link = f" AND communicator = {literal(line.communicator)}" if not loss.siblings else f" AND nranks = {line.nranks}"
    return show(
        reader,
        f"SELECT communicator, {side} AS period, count(*) AS operations, round(median(transfer_ns) / 1e6, 3) AS transfer_ms, "
        f"round(median(message_bytes * {line.factor!r} / transfer_ns), 3) AS bus_gigabytes_per_second FROM "
        f"({instances(job.name)}) WHERE {same}{link} GROUP BY communicator, period ORDER BY bus_gigabytes_per_second",
    )


def _missing(loss: Loss, place: Place) -> tuple[str, ...]:
    own = ("a healthy past of its own: it was slow in the whole record, so another topology may explain it",)
    return (own if loss.siblings else ()) + (() if place.nodes else ("nodes of the ranks",))
