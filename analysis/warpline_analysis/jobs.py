"""What is known of each job as a whole, as far as a judgement needs it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from warpline_proto.finding import Report

from .detector import Reader, literal
from .node_clocks import on_one_clock
from .remembered import once

WINDOW_STEPS: Final = 200
"""Newest steps of each job that are looked at."""


@dataclass(frozen=True)
class Job:
    """One job: its size where known, and how many ranks one recorded rank stands for."""

    name: str
    world_size: int | None = None
    stages: int | None = None
    ranks_per_record: int = 1


@once
def known_jobs(reader: Reader) -> dict[str, Job]:
    """The newest statement on each job."""
    rows = reader.query(
        "SELECT job, arg_max(world_size, time_ns) AS world_size, arg_max(pp_size, time_ns) AS stages, "
        "coalesce(max(ranks_per_record), 1) AS ranks_per_record FROM "
        "(SELECT * REPLACE (coalesce(time_ns, 0) AS time_ns) FROM jobs) WHERE job IS NOT NULL GROUP BY job"
    ).to_pylist()
    return {row["job"]: Job(row["job"], row["world_size"], row["stages"], row["ranks_per_record"]) for row in rows}


def judge_each(reader: Reader, names: Iterable[str], judge: Callable[[Reader, Job], Report]) -> Report:
    """What is said of each of these jobs, whether or not anything else is known of it."""
    jobs = known_jobs(reader)
    return sum((judge(reader, jobs.get(name, Job(name))) for name in names), Report())


@once
def jobs_with_collectives(reader: Reader) -> list[str]:
    """Jobs of which any collective is told."""
    rows = reader.query("SELECT DISTINCT job FROM collectives WHERE job IS NOT NULL ORDER BY job").to_pylist()
    return [row["job"] for row in rows]


def by_job(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each job and its part of rows that are ordered by column `job`."""
    if rows.num_rows == 0:
        return
    names = rows.column("job").combine_chunks().dictionary_encode()
    place = names.indices.to_numpy()
    edges = [0, *(np.flatnonzero(np.diff(place)) + 1).tolist(), len(place)]
    for start, end in itertools.pairwise(edges):
        yield names.dictionary[int(place[start])].as_py(), rows.slice(start, end - start)


def step_time(reader: Reader, table: str, job: str, step: int) -> int | None:
    """When a step began, in nanoseconds since the Unix epoch, if its clock says so."""
    rows = reader.query(
        f"SELECT min({on_one_clock(reader, 'start_ns')}) AS start FROM {table} WHERE job = ? AND step = ? AND clock IS NOT NULL "
        "AND clock NOT LIKE 'step@%'",
        (job, step),
    ).to_pylist()
    start: Any = rows[0]["start"] if rows else None
    return start if start is None or start >= EPOCH_NS_MIN else None


EPOCH_NS_MIN: Final = 946_684_800 * 10**9
"""Times before the year 2000 count from the start of a trace or of a machine, not from the Unix epoch."""


def jobs_of_nodes(reader: Reader, nodes: Iterable[str | None]) -> dict[str | None, str]:
    """Node -> the job whose ranks ran on it, where it is one."""
    named = sorted({node for node in nodes if node is not None})
    if not named:
        return {}
    rows = reader.query(
        "SELECT node, min(job) AS job FROM (SELECT node, job FROM communicators UNION ALL SELECT node, job FROM steps) "
        f"WHERE job IS NOT NULL AND node IN ({', '.join(literal(node) for node in named)}) GROUP BY node "
        "HAVING min(job) = max(job)"
    ).to_pylist()
    return {row["node"]: row["job"] for row in rows}
