"""Compute self-time: how long each rank computed in each step, side by side with the peers that do the same work.

Waiting cannot inflate it, which makes it the one time by which a rank may be blamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .detector import Reader, literal
from .jobs import WINDOW_STEPS
from .newest import Member as Member
from .newest import gather, members
from .parts import by_part, ordered
from .remembered import once
from .robust import Array, median

SELF_KINDS: Final = "('compute', 'optimizer')"
PRESENT_SHARE: Final = 0.5
"""A step counts for a group when at least this share of its members reported it."""


WHOLE_SHARE: Final = 0.9
"""A rank's step counts when it has at least this share of the operations that the rank's steps usually have."""


@dataclass(frozen=True)
class PeerGroup:
    """Ranks that do the same work on different data: `seconds` is (steps, members), NaN where a rank gave nothing."""

    stage: int | None
    tp: int | None
    ep: int | None
    members: tuple[Member, ...]
    steps: npt.NDArray[np.int64]
    seconds: Array


@dataclass(frozen=True)
class SelfTime:
    """All peer groups of a job; `table` is where the times come from, `across_tp` whether peers differ in tp as well."""

    job: str
    table: str
    steps: int
    groups: tuple[PeerGroup, ...]
    across_tp: bool

    @property
    def ranks(self) -> int:
        """Recorded ranks."""
        return sum(len(group.members) for group in self.groups)

    def of_stage(self, stage: int | None) -> frozenset[int]:
        """Ranks of one stage of a pipeline; empty where the job is none."""
        if len({group.stage for group in self.groups}) < 2:
            return frozenset()
        return frozenset(member.rank for group in self.groups if group.stage == stage for member in group.members)


class Coverage(NamedTuple):
    """What a job has of one table."""

    job: str
    table: str
    ranks: int
    steps: int


@once
def coverage(reader: Reader) -> list[Coverage]:
    """For each job the table with compute times of most ranks; phases where both have the same."""
    found = [each for table in ("phases", "steps") for each in _covered(reader, table)]
    best: dict[str, Coverage] = {}
    for each in sorted(found, key=lambda each: (each.job, -each.ranks, each.table)):
        best.setdefault(each.job, each)
    return list(best.values())


def _covered(reader: Reader, table: str) -> list[Coverage]:
    parts = by_part(
        reader,
        table,
        f"SELECT job, list(DISTINCT rank) AS ranks, list(DISTINCT step) AS steps FROM {table} WHERE job IS NOT NULL AND "
        f"{_own(table)} GROUP BY job",
    )
    told: dict[str, list[pa.Table]] = {}
    for rows in parts.values():
        for at, job in enumerate(rows.column("job").to_pylist()):
            told.setdefault(job, []).append(rows.slice(at, 1))
    return [
        Coverage(job, table, *(_different(rows, name) for name in ("ranks", "steps"))) for job, rows in told.items()
    ]


def _different(rows: Sequence[pa.Table], name: str) -> int:
    numbers = [each.column(name).combine_chunks().flatten().to_numpy().astype(np.int64) for each in rows]
    return len(ordered(np.concatenate(numbers))[0])


def coverage_of(reader: Reader, job: str) -> Coverage | None:
    """That of one job, None where no table has compute times of it."""
    return next((each for each in coverage(reader) if each.job == job), None)


PLACE: Final = (
    "rank, max(dp) AS dp, max(tp) AS tp, max(pp) AS pp, max(ep) AS ep, max(node) AS node, max(gpu_uuid) AS gpu"
)
"""Columns of a Member, of the rows of one rank."""


def _own(table: str, phase: str | None = None) -> str:
    own = f"kind IN {SELF_KINDS} AND duration_ns" if table == "phases" else "scope = 'step' AND compute_ns"
    only = "" if phase is None else f" AND phase = {literal(phase)}"
    return f"{own} IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL{only}"


def _times(table: str) -> str:
    time = "sum(duration_ns)" if table == "phases" else "avg(compute_ns)"
    return f"{time} / 1e9 AS seconds, {'count(*)' if table == 'phases' else '1'} AS parts"


def cells(table: str, job: str, first: int, phase: str | None = None) -> str:
    """SELECT of (step, rank, seconds, parts): one row a rank and step, from step `first` on, of one phase or of all."""
    return (
        f"SELECT step, rank, {_times(table)} FROM {table} WHERE job = {literal(job)} AND {_own(table, phase)} AND step >= "
        f"{first} GROUP BY step, rank"
    )


def load(reader: Reader, covered: Coverage, phase: str | None = None) -> SelfTime:
    """The newest WINDOW_STEPS steps of a job, by peer group; of one phase of table phases, or of all compute."""
    found = _every_job(reader, covered.table, phase).get(covered.job)
    return found or SelfTime(covered.job, covered.table, 0, (), False)


@once
def _every_job(reader: Reader, table: str, phase: str | None) -> dict[str, SelfTime]:
    """All jobs at once: one job by itself costs as much as many."""
    time = "duration_ns" if table == "phases" else "compute_ns"
    sql = (
        f"SELECT job, step, rank, least(sum({time}), 2^53)::BIGINT AS total, count(*) AS parts "
        f"FROM {table} WHERE job IS NOT NULL AND {_own(table, phase)} GROUP BY job, step, rank"
    )
    found = {}
    for job, rows in gather(reader, table, _own(table, phase), sql):
        cells = grid(rows, ("total", "parts"))
        total, parts = cells.values
        seconds, count = (total / 1e9, parts) if table == "phases" else (total / parts / 1e9, np.minimum(parts, 1.0))
        places = members(reader, table, _own(table))[job]
        found[job] = _arranged(job, table, cells, seconds, count, [places[rank] for rank in cells.ranks.tolist()])
    return found


def first_step(reader: Reader, condition: str) -> int | None:
    """First of the newest WINDOW_STEPS steps among the rows of `condition` (FROM and WHERE), None where there is none."""
    found: int | None = reader.query(
        f"SELECT min(step) AS first FROM (SELECT DISTINCT step {condition} ORDER BY step DESC LIMIT {WINDOW_STEPS})"
    )["first"][0].as_py()
    return found


def beside_peers(reader: Reader, job: str, table: str, condition: str, select: str) -> SelfTime:
    """Rows of `select` (step, rank, seconds, parts) by peer group; the ranks' places are those in rows of `condition`."""
    return side_by_side(
        job, table, reader.query(select), reader.query(f"SELECT {PLACE} {condition} GROUP BY rank ORDER BY rank")
    )


def side_by_side(job: str, table: str, rows: pa.Table, places: pa.Table) -> SelfTime:
    """Rows (step, rank, seconds, parts) by peer group; `places` has PLACE of just the ranks of these rows, in their order."""
    told = list(map(Member, *(places.column(name).to_pylist() for name in Member._fields)))
    cells = grid(rows, ("seconds", "parts"))
    seconds, parts = cells.values
    return _arranged(job, table, cells, seconds, parts, told)


@dataclass(frozen=True)
class Cells:
    """Sums of columns of rows by step and rank: (steps, ranks) matrices, NaN where there is no row."""

    steps: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    values: tuple[Array, ...]


def grid(rows: pa.Table, names: Sequence[str]) -> Cells:
    """Rows with a step and a rank, side by side; those of the same step and rank are added up."""
    steps, row = ordered(rows.column("step").to_numpy().astype(np.int64))
    ranks, column = ordered(rows.column("rank").to_numpy().astype(np.int64))
    place, size = row * len(ranks) + column, len(steps) * len(ranks)
    absent = np.bincount(place, minlength=size) == 0
    found = []
    for name in names:
        values = np.bincount(place, rows.column(name).to_numpy(), size).astype(np.float64, copy=False)
        values[absent] = np.nan
        found.append(values.reshape(len(steps), len(ranks)))
    return Cells(steps, ranks, tuple(found))


def _key(member: Member, across_tp: bool) -> tuple[int | None, ...]:
    return (member.pp, None if across_tp else member.tp, member.ep)


def _with_peers(members: list[Member], across_tp: bool) -> bool:
    keys = [_key(member, across_tp) for member in members]
    return len(set(keys)) < len(keys)


def _arranged(job: str, table: str, cells: Cells, seconds: Array, parts: Array, members: list[Member]) -> SelfTime:
    """Times of `members`, the ranks of `cells` in their order, by peer group."""
    across_tp = not _with_peers(members, across_tp=False)
    partial = parts < WHOLE_SHARE * median(parts, axis=0)
    seconds = np.where(partial | (seconds <= 0), np.nan, seconds)  # a step still arriving would look fast
    positions: dict[tuple[int | None, ...], list[int]] = {}
    for position, member in enumerate(members):
        positions.setdefault(_key(member, across_tp), []).append(position)
    groups = tuple(
        _group(key, [members[place] for place in places], cells.steps, seconds[:, places])
        for key, places in sorted(positions.items(), key=_sortable)
    )
    return SelfTime(job, table, len(cells.steps), groups, across_tp)


def _sortable(item: tuple[tuple[int | None, ...], list[int]]) -> list[int]:
    return [-1 if value is None else value for value in item[0]]


def _group(key: tuple[int | None, ...], members: list[Member], steps: Any, seconds: Array) -> PeerGroup:
    present = np.sum(~np.isnan(seconds), axis=1)
    kept = (present >= PRESENT_SHARE * len(members)) & (present >= min(2, len(members)))
    return PeerGroup(key[0], key[1], key[2], tuple(members), steps[kept], seconds[kept])
