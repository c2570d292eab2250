"""Host gaps: the part of each step in which a rank's GPU has nothing to do, beside its peers'.

Communication kernels count as work, so a victim that waits for others inside a collective has no gap; who makes the others
wait without computing longer has one. Where GPU activity is not recorded, time spent in the data loader and in garbage
collection stands in for it. Other phases of the host do not: they may well wait for other ranks.
"""

from __future__ import annotations

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
from .self_time import PLACE, PeerGroup, SelfTime, side_by_side

BUSY_FLOOR: Final = 0.1
"""Share of the step that always counts as work, so that ratios of gaps stay ratios to the step."""
LOADER: Final = "kind = 'data'"
COLLECTION: Final = "(lower(phase) = 'gc' OR lower(phase) LIKE '%garbage%')"


@dataclass(frozen=True)
class Measure:
    """One way to tell a gap: its rows and the gap of a rank in a step, in ns; `name` as a sentence says it."""

    name: str
    table: str
    rows: str
    gap: str


MEASURES: Final = (
    Measure(
        "its GPU has nothing to do",
        "steps",
        "scope = 'step' AND duration_ns > 0 AND busy_ns IS NOT NULL AND communication_ns IS NOT NULL",
        f"avg({GPU_WITHOUT_WORK})",
    ),
    Measure(
        "it waits for its data loader", "steps", "scope = 'step' AND data_wait_ns IS NOT NULL", "avg(data_wait_ns)"
    ),
    Measure(
        "it is in its data loader or in garbage collection",
        "phases",
        "duration_ns IS NOT NULL",
        f"coalesce(sum(duration_ns) FILTER ({LOADER} OR {COLLECTION}), 0)",
    ),
)


@dataclass(frozen=True)
class Gaps:
    """Gaps of a job by peer group: `seconds` of `times` are the gap plus `work`, what a typical rank's step has besides.

    An excess over peers in them is therefore a share of the step.
    """

    measure: Measure
    times: SelfTime
    work: float
    first: int

    @property
    def cells(self) -> str:
        """SELECT of (step, rank, gap_seconds)."""
        return _gaps(self.measure, self.times.job, self.first)


def load_gaps(reader: Reader, job: str, step_seconds: float) -> Gaps | None:
    """By the first measure that has rows of at least two ranks, steps being `step_seconds` long; None where there is none."""
    for measure in MEASURES:
        told = _every_job(reader, measure).get(job)
        if told is None or len(told.places) < 2:
            continue
        gaps = told.rows.column("gap_seconds").to_numpy()
        work = max(step_seconds - float(median(gaps)), BUSY_FLOOR * step_seconds)
        rows = told.rows.append_column("seconds", pa.array(gaps + work)).append_column(
            "parts", pa.array(np.ones(len(gaps)))
        )
        return Gaps(measure, side_by_side(job, measure.table, rows, told.places), work, told.first)
    return None


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
