"""Host gaps: the part of each step in which a rank's GPU has nothing to do, beside its peers'.

Communication kernels count as work, so a victim that waits for others inside a collective has no gap; who makes the others
wait without computing longer has one. Where GPU activity is not recorded, time spent in the data loader and in garbage
collection stands in for it. Other phases of the host do not: they may well wait for other ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .detector import Reader, literal
from .iteration import GPU_WITHOUT_WORK
from .robust import Array, median
from .self_time import PeerGroup, SelfTime, beside_peers, first_step

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
        named = f"job = {literal(job)} AND rank IS NOT NULL AND step IS NOT NULL"
        condition = f"FROM {measure.table} WHERE {named} AND {measure.rows}"
        first = first_step(reader, condition)
        if first is None or (measure.table == "phases" and not _told(reader, job)):
            continue
        select = _gaps(measure, job, first)
        typical = reader.query(
            f"SELECT median(gap_seconds) AS gap, count(DISTINCT rank) AS ranks FROM ({select})"
        ).to_pylist()[0]
        if typical["ranks"] < 2:
            continue
        work = max(step_seconds - typical["gap"], BUSY_FLOOR * step_seconds)
        cells = f"SELECT step, rank, gap_seconds + {work!r} AS seconds, 1 AS parts FROM ({select})"
        times = beside_peers(reader, job, measure.table, f"{condition} AND step >= {first}", cells)
        return Gaps(measure, times, work, first)
    return None


def _gaps(measure: Measure, job: str, first: int) -> str:
    return (
        f"SELECT step, rank, {measure.gap} / 1e9 AS gap_seconds FROM {measure.table} WHERE job = {literal(job)} AND "
        f"{measure.rows} AND rank IS NOT NULL AND step >= {first} GROUP BY step, rank"
    )


def _told(reader: Reader, job: str) -> bool:
    """Whether the job's phases tell of the data loader or of garbage collection at all."""
    condition = f"job = {literal(job)} AND ({LOADER} OR {COLLECTION}) AND duration_ns IS NOT NULL"
    rows: int = reader.query(f"SELECT 1 FROM phases WHERE {condition} LIMIT 1").num_rows
    return rows > 0


def largest_excess(gaps: Gaps) -> float:
    """The largest gap of one rank above its peers' median, as a share of the step; 0 where no rank has a peer."""
    found = [_excess(group) for group in gaps.times.groups if len(group.members) > 1 and len(group.steps)]
    return max(found, default=0.0)


def _excess(group: PeerGroup) -> float:
    typical: Array = median(group.seconds, axis=0)
    return float(np.nanmax(typical) / np.nanmedian(typical)) - 1
