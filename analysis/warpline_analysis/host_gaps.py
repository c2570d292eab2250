"""Host gaps: the part of each step in which a rank's GPU has nothing to do, beside its peers'.

Communication kernels count as work, so a victim that waits for others inside a collective has no gap; who makes the others
wait without computing longer has one. Where GPU activity is not recorded, time spent in the data loader and in garbage
collection stands in for it, and then whatever of the step neither compute nor communication accounts for. Other phases of the
host do not: they may well wait for other ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .detector import Reader, literal
from .iteration import GPU_WITHOUT_WORK
from .jobs import WINDOW_STEPS, by_job
from .remembered import once
from .robust import Array, median
from .self_time import PLACE, SELF_KINDS, PeerGroup, SelfTime, first_step, side_by_side
from .waits import POINT_TO_POINT, UNTIMED, Waits, load_waits

BUSY_FLOOR: Final = 0.1
"""Share of the step that always counts as work, so that ratios of gaps stay ratios to the step."""
LATE_SHARE: Final = 0.01
"""Part of a step by which some rank must wait less than the others before what is left of the step is looked at."""
LOADER: Final = "kind = 'data'"
COLLECTION: Final = "(lower(phase) = 'gc' OR lower(phase) LIKE '%garbage%')"


@dataclass(frozen=True)
class Measure:
    """One way to tell a gap: its rows and the gap of a rank in a step, in ns; `name` as a sentence says it."""

    name: str
    table: str
    rows: str
    gap: str


ACTIVITY: Final = Measure(
    "its GPU has nothing to do",
    "steps",
    "scope = 'step' AND duration_ns > 0 AND busy_ns IS NOT NULL AND communication_ns IS NOT NULL",
    f"avg({GPU_WITHOUT_WORK})",
)
MEASURES: Final = (
    Measure(
        "it is in its data loader or in garbage collection",
        "phases",
        "duration_ns IS NOT NULL",
        f"coalesce(sum(duration_ns) FILTER ({LOADER} OR {COLLECTION}), 0)",
    ),
    Measure(
        "it waits for its data loader", "steps", "scope = 'step' AND data_wait_ns IS NOT NULL", "avg(data_wait_ns)"
    ),
)
"""What stands in for the activity of GPUs."""
UNACCOUNTED: Final = "it neither computes nor communicates"


@dataclass(frozen=True)
class Gaps:
    """Gaps of a job by peer group: `seconds` of `times` are the gap plus `work`, what a typical rank's step has besides.

    An excess over peers in them is therefore a share of the step.
    """

    name: str
    times: SelfTime
    work: float
    cells: str
    """SELECT of (step, rank, gap_seconds)."""


def load_gaps(reader: Reader, job: str, step_seconds: float) -> Iterator[Gaps]:
    """By each measure that has rows of at least two ranks, steps being `step_seconds` long; GPU activity needs no other."""
    told = _told(reader, job, ACTIVITY, step_seconds)
    if told:
        yield told
        return
    for measure in MEASURES:
        told = _told(reader, job, measure, step_seconds)
        if told:
            yield told
    yield from _unaccounted(reader, job, step_seconds)


def _told(reader: Reader, job: str, measure: Measure, step_seconds: float) -> Gaps | None:
    told = _every_job(reader, measure).get(job)
    if told is None or len(told.places) < 2:
        return None
    cells = _gaps(measure, job, told.first)
    return _beside(job, measure.name, measure.table, told.rows, told.places, step_seconds, cells)


def _beside(job: str, name: str, table: str, rows: pa.Table, places: pa.Table, step_seconds: float, cells: str) -> Gaps:
    gaps = rows.column("gap_seconds").to_numpy()
    work = max(step_seconds - float(median(gaps)), BUSY_FLOOR * step_seconds)
    added = rows.append_column("seconds", pa.array(gaps + work)).append_column("parts", pa.array(np.ones(len(gaps))))
    return Gaps(name, side_by_side(job, table, added, places), work, cells)


def _unaccounted(reader: Reader, job: str, step_seconds: float) -> Iterator[Gaps]:
    """What is left of a step beside compute and communication, where somebody is waited for at all.

    Steps of which a rank's rows are not all there are left out: what got lost would count as a gap.
    """
    if not _waited_for(load_waits(reader, job), LATE_SHARE * step_seconds):
        return
    place = f"FROM phases WHERE job = {literal(job)} AND rank IS NOT NULL AND step IS NOT NULL AND kind IN {SELF_KINDS}"
    first = first_step(reader, place)
    if first is None:
        return
    known = f"job = {literal(job)} AND step >= {first} AND duration_ns IS NOT NULL"
    own = f"FILTER (kind IN {SELF_KINDS} OR kind = 'communication')"
    cells = (
        "SELECT step, rank, greatest(whole - spent - coalesce(reduced, 0), 0) / 1e9 AS gap_seconds FROM (SELECT step, rank, "
        f"max(duration_ns) AS whole FROM steps WHERE {known} AND scope = 'step' GROUP BY step, rank) JOIN (SELECT step, rank, "
        f"sum(duration_ns) {own} AS spent, count(*) {own} AS passes FROM phases WHERE {known} "
        "GROUP BY step, rank) USING (step, rank) JOIN (SELECT step, rank, sum(duration_ns) AS reduced, count(*) AS operations "
        f"FROM collectives WHERE {known} AND operation NOT IN {POINT_TO_POINT} AND coalesce(timing, 'host') NOT IN {UNTIMED} "
        "GROUP BY step, rank) USING (step, rank) WHERE spent IS NOT NULL "
        "QUALIFY passes + operations >= median(passes + operations) OVER (PARTITION BY rank)"
    )
    rows = reader.query(cells)
    ranks = f"SELECT DISTINCT rank FROM ({cells})"
    places = reader.query(
        f"SELECT {PLACE} {place} AND step >= {first} AND rank IN ({ranks}) GROUP BY rank ORDER BY rank"
    )
    if len(places) > 1:
        yield _beside(job, UNACCOUNTED, "steps", rows, places, step_seconds, cells)


def _waited_for(waits: Sequence[Waits], seconds: float) -> bool:
    """Whether some rank waits so many seconds a step less than those that it meets."""
    return any(
        float(np.median(each.waiting) - each.waiting.min()) * each.operations >= seconds * each.steps
        for each in waits
        if each.steps
    )


@dataclass(frozen=True)
class _Told:
    """What a job has of one measure: its rows (step, rank, gap_seconds) from step `first` on, and the places of its ranks."""

    first: int
    rows: pa.Table
    places: pa.Table


@once
def _every_job(reader: Reader, measure: Measure) -> dict[str, _Told]:
    """All jobs with two questions: one job by itself costs as much as many."""
    some = "job IS NOT NULL" if measure.table != "phases" else f"job IN ({_TELLING})"
    told = f"{some} AND rank IS NOT NULL AND step IS NOT NULL AND {measure.rows}"
    newest = (
        f"FROM {measure.table} JOIN (SELECT job, min(step) AS first FROM (SELECT job, step FROM (SELECT DISTINCT job, step FROM "
        f"{measure.table} WHERE {told}) QUALIFY row_number() OVER (PARTITION BY job ORDER BY step DESC) <= {WINDOW_STEPS}) "
        f"GROUP BY job) USING (job) WHERE {told} AND step >= first"
    )
    gaps = reader.query(
        f"SELECT job, step, rank, {measure.gap} / 1e9 AS gap_seconds {newest} GROUP BY job, step, rank ORDER BY job"
    )
    places = dict(by_job(reader.query(f"SELECT job, {PLACE} {newest} GROUP BY job, rank ORDER BY job, rank")))
    return {job: _Told(pc.min(rows.column("step")).as_py(), rows, places[job]) for job, rows in by_job(gaps)}


def _gaps(measure: Measure, job: str, first: int) -> str:
    return (
        f"SELECT step, rank, {measure.gap} / 1e9 AS gap_seconds FROM {measure.table} WHERE job = {literal(job)} AND "
        f"{measure.rows} AND rank IS NOT NULL AND step >= {first} GROUP BY step, rank"
    )


_TELLING: Final = f"SELECT job FROM phases WHERE ({LOADER} OR {COLLECTION}) AND duration_ns IS NOT NULL"
"""Jobs whose phases tell of the data loader or of garbage collection at all."""


def largest_excess(gaps: Gaps) -> float:
    """The largest gap of one rank above its peers' median, as a share of the step; 0 where no rank has a peer."""
    found = [_excess(group) for group in gaps.times.groups if len(group.members) > 1 and len(group.steps)]
    return max(found, default=0.0)


def _excess(group: PeerGroup) -> float:
    typical: Array = median(group.seconds, axis=0)
    return float(np.nanmax(typical) / np.nanmedian(typical)) - 1
