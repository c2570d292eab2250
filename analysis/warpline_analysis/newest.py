"""The newest steps of each job, gathered part by part of a table: where they begin, their rows, and where their ranks ran."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .detector import Reader
from .jobs import WINDOW_STEPS
from .parts import Numbers, by_part, codes, ordered, together
from .remembered import once

_UNKNOWN: Final = int(np.iinfo(np.int64).min)


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
class Window:
    """The newest WINDOW_STEPS steps of each job, in order, and the parts of the table that hold none of them."""

    steps: Mapping[str, Numbers]
    outdated: frozenset[str]

    def newest(self, names: list[str], job: Numbers, step: Numbers) -> Any:
        """Which rows are of a job's newest steps; `job` are places in `names`."""
        first = np.array([self.steps[name][0] if name in self.steps else np.iinfo(np.int64).max for name in names])
        return step >= first[job] if len(names) else np.zeros(0, dtype=bool)


@once
def steps_told(reader: Reader, table: str, told: str) -> dict[str, Numbers]:
    """All steps of each job, in order, in the rows `told` (a condition that names neither job nor step)."""
    names, job, step, _ = _steps(reader, table, told)
    return {name: ordered(step[job == at])[0] for at, name in enumerate(names)}


def _steps(reader: Reader, table: str, told: str) -> tuple[list[str], Numbers, Numbers, dict[str, int]]:
    """Jobs in order; of each job and step of each part the job's place and the step; how many these are of each part."""
    sql = f"SELECT DISTINCT job, step FROM {table} WHERE job IS NOT NULL AND step IS NOT NULL AND {told}"
    parts = by_part(reader, table, sql)
    counts = {name: each.num_rows for name, each in parts.items()}
    if not sum(counts.values()):
        return [], np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), counts
    rows = together(parts)
    names, job = codes(rows.column("job"))
    return names, job, rows.column("step").to_numpy().astype(np.int64), counts


@once
def window(reader: Reader, table: str, told: str) -> Window:
    """Of the rows `told` (a condition that names neither job nor step)."""
    names, job, step, counts = _steps(reader, table, told)
    steps = {name: every[-WINDOW_STEPS:] for name, every in steps_told(reader, table, told).items()}
    inside = Window(steps, frozenset()).newest(names, job, step)
    edges = itertools.pairwise([0, *itertools.accumulate(counts.values())])
    outdated = (name for name, (start, end) in zip(counts, edges, strict=True) if not inside[start:end].any())
    return Window(steps, frozenset(outdated))


def gather(reader: Reader, table: str, told: str, sql: str) -> Iterator[tuple[str, pa.Table]]:
    """Rows of `sql` (job, step and whatever else of the rows `told`, by part) by job, of its newest steps."""
    inside = window(reader, table, told)
    parts = by_part(reader, table, sql, inside.outdated)
    rows = together(parts) if parts else None
    if rows is None or not rows.num_rows:
        return
    names, job = codes(rows.column("job"))
    kept = inside.newest(names, job, rows.column("step").to_numpy())
    if not kept.all():
        rows, job = rows.filter(pa.array(kept)), job[kept]
    if len(names) > 1:
        order = np.argsort(job, kind="stable")
        rows, job = rows.take(pa.array(order)), job[order]
    edges = np.searchsorted(job, np.arange(len(names) + 1))
    for at, name in enumerate(names):
        if edges[at] < edges[at + 1]:
            yield name, rows.slice(edges[at], edges[at + 1] - edges[at])


@once
def members(reader: Reader, table: str, told: str) -> dict[str, dict[int, Member]]:
    """By job and rank the places of the ranks that tell of the newest steps, each the highest of what is told."""
    inside = window(reader, table, told)
    sql = (
        f"SELECT job, rank, dp, tp, pp, ep, node, gpu_uuid AS gpu, max(step) AS last FROM {table} WHERE job IS NOT NULL AND step "
        f"IS NOT NULL AND {told} GROUP BY ALL ORDER BY ALL"
    )
    distinct: list[pa.Table] = []
    for each in by_part(reader, table, sql, inside.outdated).values():
        places = _inside(inside, each)
        if places.num_rows and not (distinct and places.equals(distinct[-1])):
            distinct.append(places)
    if not distinct:
        return {}
    rows = together({str(at): each for at, each in enumerate(distinct)})
    names, job = codes(rows.column("job"))
    ranks, rank = ordered(rows.column("rank").to_numpy().astype(np.int64))
    keys, key = ordered(job * len(ranks) + rank)
    places = zip(*(_highest(rows, name, key, len(keys)) for name in Member._fields[1:]), strict=True)
    found: dict[str, dict[int, Member]] = {}
    for number, place in zip(keys.tolist(), places, strict=True):
        own = int(ranks[number % len(ranks)])
        found.setdefault(names[number // len(ranks)], {})[own] = Member(own, *place)
    return found


def _inside(inside: Window, places: pa.Table) -> pa.Table:
    names, job = codes(places.column("job"))
    kept = inside.newest(names, job, places.column("last").to_numpy())
    told = places.drop_columns("last")
    return told if kept.all() else told.filter(pa.array(kept))


def _highest(rows: pa.Table, name: str, key: Numbers, count: int) -> list[Any]:
    """The highest value of a column for each of `count` keys, None where none is known."""
    column = rows.column(name)
    if pa.types.is_null(column.type):
        return [None] * count
    coded = pa.types.is_dictionary(column.type)
    names, values = codes(column) if coded else ([], pc.fill_null(column.cast(pa.int64()), _UNKNOWN).to_numpy())
    highest = np.full(count, -1 if coded else _UNKNOWN)
    np.maximum.at(highest, key, values)
    if coded:
        return [names[at] if at >= 0 else None for at in highest.tolist()]
    return [None if value == _UNKNOWN else value for value in highest.tolist()]
