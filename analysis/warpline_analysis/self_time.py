"""Compute self-time: how long each rank computed in each step, side by side with the peers that do the same work.

Waiting cannot inflate it, which makes it the one time by which a rank may be blamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .detector import Reader, literal
from .jobs import WINDOW_STEPS, by_job
from .remembered import once
from .robust import Array, median

SELF_KINDS: Final = "('compute', 'optimizer')"
PRESENT_SHARE: Final = 0.5
"""A step counts for a group when at least this share of its members reported it."""


WHOLE_SHARE: Final = 0.9
"""A rank's step counts when it has at least this share of the operations that the rank's steps usually have."""


class Member(NamedTuple):
    """One recorded rank and its place."""

    rank: int
    dp: int | None
    tp: int | None
    pp: int | None
    ep: int | None
    node: str | None
    gpu: str | None


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
    rows = reader.query(
        f"SELECT job, 'phases' AS source, count(DISTINCT rank) AS ranks, count(DISTINCT step) AS steps FROM phases "
        f"WHERE kind IN {SELF_KINDS} AND duration_ns IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL "
        "AND job IS NOT NULL GROUP BY job UNION ALL "
        "SELECT job, 'steps', count(DISTINCT rank), count(DISTINCT step) FROM steps WHERE scope = 'step' "
        "AND compute_ns IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL AND job IS NOT NULL GROUP BY job "
        "ORDER BY job, ranks DESC, source"
    ).to_pylist()
    best: dict[str, Coverage] = {}
    for row in rows:
        best.setdefault(row["job"], Coverage(row["job"], row["source"], row["ranks"], row["steps"]))
    return list(best.values())


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
    """All jobs with two questions: one job by itself costs as much as many."""
    told = f"FROM {table} WHERE job IS NOT NULL AND {_own(table, phase)}"
    newest = (
        f"{table} JOIN (SELECT job, min(step) AS first FROM (SELECT job, step FROM (SELECT DISTINCT job, step {told}) QUALIFY "
        f"row_number() OVER (PARTITION BY job ORDER BY step DESC) <= {WINDOW_STEPS}) GROUP BY job) USING (job) "
        f"WHERE {_own(table, phase)} AND step >= first"
    )
    seconds = reader.query(
        f"SELECT job, step, rank, {_times(table)} FROM {newest} GROUP BY job, step, rank ORDER BY job"
    )
    places = dict(by_job(reader.query(f"SELECT job, {PLACE} FROM {newest} GROUP BY job, rank ORDER BY job, rank")))
    return {job: side_by_side(job, table, rows, places[job]) for job, rows in by_job(seconds)}


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
    members = list(map(Member, *(places.column(name).to_pylist() for name in Member._fields)))
    across_tp = not _with_peers(members, across_tp=False)
    groups = _groups(rows, members, across_tp=across_tp)
    return SelfTime(job, table, len(np.unique(_numbers(rows, "step"))), groups, across_tp)


def _numbers(rows: pa.Table, name: str) -> npt.NDArray[np.int64]:
    values: npt.NDArray[np.int64] = rows.column(name).to_numpy().astype(np.int64)
    return values


def _key(member: Member, across_tp: bool) -> tuple[int | None, ...]:
    return (member.pp, None if across_tp else member.tp, member.ep)


def _with_peers(members: list[Member], across_tp: bool) -> bool:
    keys = [_key(member, across_tp) for member in members]
    return len(set(keys)) < len(keys)


def _groups(rows: pa.Table, members: list[Member], across_tp: bool) -> tuple[PeerGroup, ...]:
    steps, row = np.unique(_numbers(rows, "step"), return_inverse=True)
    ranks, column = np.unique(_numbers(rows, "rank"), return_inverse=True)
    seconds: Array = np.full((len(steps), len(ranks)), np.nan)
    parts = seconds.copy()
    seconds[row, column] = rows.column("seconds").to_numpy()
    parts[row, column] = rows.column("parts").to_numpy()
    partial = parts < WHOLE_SHARE * median(parts, axis=0)
    seconds[partial | (seconds <= 0)] = np.nan  # a step still arriving would look fast
    positions: dict[tuple[int | None, ...], list[int]] = {}
    for position, member in enumerate(members):
        positions.setdefault(_key(member, across_tp), []).append(position)
    return tuple(
        _group(key, [members[place] for place in places], steps, seconds[:, places])
        for key, places in sorted(positions.items(), key=_sortable)
    )


def _sortable(item: tuple[tuple[int | None, ...], list[int]]) -> list[int]:
    return [-1 if value is None else value for value in item[0]]


def _group(key: tuple[int | None, ...], members: list[Member], steps: Any, seconds: Array) -> PeerGroup:
    present = np.sum(~np.isnan(seconds), axis=1)
    kept = (present >= PRESENT_SHARE * len(members)) & (present >= min(2, len(members)))
    return PeerGroup(key[0], key[1], key[2], tuple(members), steps[kept], seconds[kept])
