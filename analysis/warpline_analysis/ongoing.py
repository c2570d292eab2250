"""A Reader without what earlier runs told: a job that is started again under its name counts its steps from the beginning.

Which run is the newest is told as by `warpline_proto.newest_run`, rank by rank, since clocks of two nodes may differ.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.newest_run import EPOCH_CLOCKS_NS, RUN_NS

from .detector import Reader, literal
from .parts import Numbers, by_part, codes, ordered, together

TABLES: Final = ("collectives", "kernel_clusters", "phases", "raw_kernels", "steps")
"""Those whose rows are of a step, or between two."""
RUNS_MAX: Final = 8
"""So many earlier runs of a job are left out, each of which counted further than all that followed."""
NEAR_NS: Final = 10 * 10**9
"""Ranks of one run end it so near to each other; one whose clock says otherwise is told apart by its own."""
APART_MAX: Final = 256
"""Ranks of one job that are told apart by their own clocks."""
_NAMED: Final = re.compile(rf"\b({'|'.join(TABLES)})\b")


@dataclass(frozen=True)
class Ended:
    """The end of an earlier run: all that began up to `at_ns`, or bears step `step` or a higher one, is of it.

    `ranks` are those whose clocks say something else of when.
    """

    at_ns: int
    step: int
    ranks: Mapping[int, int]

    def sql(self) -> str:
        """The condition that a row is of it; NULL or false for all others."""
        at = str(self.at_ns)
        if self.ranks:
            cases = " ".join(f"WHEN {rank} THEN {at_ns}" for rank, at_ns in sorted(self.ranks.items()))
            at = f"(CASE rank {cases} ELSE {self.at_ns} END)"
        return f"(start_ns <= {at} OR step >= {self.step})"


Runs = Mapping[str, Sequence[Ended]]
"""Earlier runs by job; empty where no job was started again."""


class Ongoing:
    """What `reader` says of the runs that go on. It looks for others once it is asked for what may be theirs."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._earlier: Runs | None = None

    def narrowed(self, sql: str) -> str:
        """The same question over the rows of runs that go on alone."""
        return _without(self._runs(), sql) if _NAMED.search(sql) else sql

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Rows of one SELECT."""
        return self._reader.query(self.narrowed(sql), parameters)

    def by_part(self, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]:
        """What `sql` answers for each part: its text changes where a run ended, and all parts are asked again then."""
        return by_part(self._reader, table, _of_part(self._runs(), sql) if table in TABLES else sql, skipped)

    def _runs(self) -> Runs:
        if self._earlier is None:
            self._earlier = _earlier(self._reader)
        return self._earlier


def _without(runs: Runs, sql: str) -> str:
    """The same question where tables have no rows of these runs."""
    if not runs:
        return sql
    cases = " ".join(
        f"WHEN {literal(job)} THEN {' OR '.join(each.sql() for each in ended)}" for job, ended in sorted(runs.items())
    )
    kept = f"(start_ns > {EPOCH_CLOCKS_NS} AND CASE job {cases} END) IS NOT TRUE"
    named = sorted(set(_NAMED.findall(sql)))
    tables = ", ".join(f"{name} AS NOT MATERIALIZED (SELECT * FROM {name} WHERE {kept})" for name in named)
    begun = re.match(r"\s*WITH\s", sql)
    return f"WITH {tables}, {sql[begun.end() :]}" if begun else f"WITH {tables} {sql}"


def _of_part(runs: Runs, sql: str) -> str:
    """Likewise, to be asked of each part of a table: there it stands behind a WITH."""
    return f"SELECT * FROM ({_without(runs, sql)})" if runs else sql


def _earlier(reader: Reader) -> Runs:
    runs: dict[str, list[Ended]] = {}
    for _ in range(RUNS_MAX):
        found = _ended(reader, runs)
        if not found:
            break
        for job, ended in found.items():
            runs.setdefault(job, []).append(ended)
    return runs


def _ended(reader: Reader, runs: Runs) -> dict[str, Ended]:
    """By job, the run that counted furthest, where a later one goes on. All jobs are asked about first, ranks only then."""
    told = _told(reader, runs, "job")
    odd = {told.names[at] for at in told.job[told.again].tolist()}
    if not odd:
        return {}
    told = _told(reader, runs, "job, rank")
    found = {}
    for at, name in enumerate(told.names):
        mine = told.again & (told.job == at)
        if name in odd and mine.any():
            found[name] = _end(told.rank[mine], told.step[mine], told.start_ns[mine])
    return found


def _end(rank: Numbers, step: Numbers, start_ns: Numbers) -> Ended:
    """Of the ranks of one job that were started again: their highest steps, and when those began."""
    middle = np.sort(start_ns)[(len(start_ns) - 1) // 2]
    near = np.abs(start_ns - middle) <= NEAR_NS
    apart = [(int(each), int(at_ns)) for each, at_ns in zip(rank[~near], start_ns[~near], strict=True) if each >= 0]
    return Ended(int(start_ns[near].max()), int(step[near].min()), dict(sorted(apart)[:APART_MAX]))


@dataclass(frozen=True)
class _Told:
    """Of each job, or each rank of one, its highest step and when that began; `again` where it goes on with lower ones.

    `job` are places in `names`; no rank is -1.
    """

    names: list[str]
    job: Numbers
    rank: Numbers
    step: Numbers
    start_ns: Numbers
    again: npt.NDArray[np.bool_]


def _told(reader: Reader, runs: Runs, keys: str) -> _Told:
    """By `keys`, without the rows of `runs`."""
    sql = (
        f"SELECT {keys}, max(step) AS step, arg_max(start_ns, step) AS most_ns, max(start_ns) AS last_ns FROM steps "
        f"WHERE job IS NOT NULL AND step IS NOT NULL AND start_ns > {EPOCH_CLOCKS_NS} GROUP BY {keys}"
    )
    parts = by_part(reader, "steps", _of_part(runs, sql))
    if not sum(each.num_rows for each in parts.values()):
        nothing = np.empty(0, dtype=np.int64)
        return _Told([], nothing, nothing, nothing, nothing, nothing.astype(bool))
    rows = together(parts)
    names, job = codes(rows.column("job"))
    rank = _numbers(rows, "rank") if "rank" in rows.column_names else np.full(len(job), -1)
    step, most_ns, last_ns = (_numbers(rows, name) for name in ("step", "most_ns", "last_ns"))
    ranks, place = ordered(rank)
    key = job * len(ranks) + place
    order = np.lexsort((most_ns, step, key))
    _, first = np.unique(key[order], return_index=True)
    highest = order[np.append(first[1:], len(order)) - 1]
    again = np.maximum.reduceat(last_ns[order], first) > most_ns[highest] + RUN_NS
    return _Told(names, job[highest], rank[highest], step[highest], most_ns[highest], again)


def _numbers(rows: pa.Table, name: str) -> Numbers:
    """A column, -1 where it says nothing."""
    filled: Numbers = rows.column(name).cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
    return filled
