"""Wait and transfer of collectives, told apart without any common clock.

In a blocking collective the last to arrive does not wait: the shortest duration over the ranks of one operation is its
transfer, what others take beyond it is waiting (nccl-tests' busbw caveat; the inversion rule of NVIDIA's resiliency
extension).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .detector import Reader, literal
from .jobs import by_job
from .remembered import once
from .robust import Array

WINDOW_OPERATIONS: Final = 2000
"""Newest operations of each communicator that are looked at."""
POINT_TO_POINT: Final = "('send', 'recv')"
UNTIMED: Final = "('summary', 'enqueue', 'kernel_shared')"
"""Operations without a time of their own; the time of a kernel that did several is told with the first of them."""


@dataclass(frozen=True)
class Waits:
    """One operation type on one communicator, by rank: mean seconds, mean seconds of waiting, share of least waits.

    `name` is how an operator would call it. `least_share` is NaN for published summaries, which do not pair instances.
    `steps` is None where the operations carry no step.
    """

    name: str
    operation: str
    operations: int
    steps: int | None
    ranks: npt.NDArray[np.int64]
    seconds: Array
    waiting: Array
    least_share: Array

    @property
    def weight(self) -> float:
        """Seconds that a rank spent in it."""
        return float(self.seconds.mean() * self.operations)

    @property
    def wait_share(self) -> float:
        """Part of that time that is waiting."""
        total = float(self.seconds.sum())
        return float(self.waiting.sum()) / total if total > 0 else 0.0


def timed(job: str | None, window: int) -> str:
    """FROM and WHERE of the rows of collectives with a place and a duration, the newest `window` of each communicator.

    Of one job, or of all of them.
    """
    own, key = ("job IS NOT NULL", "job, communicator") if job is None else (f"job = {literal(job)}", "communicator")
    return (
        f"FROM collectives JOIN (SELECT {key}, max(sequence) - {window} AS before FROM collectives WHERE {own} "
        f"AND communicator IS NOT NULL GROUP BY {key}) USING ({key}) WHERE {own} AND sequence > before "
        f"AND coalesce(timing, 'host') NOT IN {UNTIMED} AND duration_ns > 0 AND rank IS NOT NULL "
        f"AND operation NOT IN {POINT_TO_POINT}"
    )


def load_waits(reader: Reader, job: str, since: int | None = None) -> list[Waits]:
    """Wait and transfer by communicator and operation, heaviest first; published summaries where no single one was timed.

    Operations that carry a step count from step `since` on.
    """
    if since is None:
        return _every_job(reader).get(job, [])
    newest = f"{timed(job, WINDOW_OPERATIONS)} AND coalesce(step, {since}) >= {since}"
    found = _split(reader.query(_timed_sql("name, operation", newest)))
    return sorted(found, key=_lightness) if found else _every_summary(reader).get(job, [])


@once
def _every_job(reader: Reader) -> dict[str, list[Waits]]:
    """All jobs with one question: one job by itself costs as much as many."""
    rows = reader.query(_timed_sql("job, name, operation", timed(None, WINDOW_OPERATIONS)))
    found = {job: sorted(_split(part), key=_lightness) for job, part in by_job(rows)}
    return _every_summary(reader) | {job: waits for job, waits in found.items() if waits}


def _lightness(waits: Waits) -> float:
    return -waits.weight


def _timed_sql(key: str, told: str) -> str:
    """SELECT of one row a rank of each `key`, from the rows `told` (FROM and WHERE)."""
    job = "job, " if key.startswith("job") else ""
    return (
        f"WITH instances AS (SELECT {job}communicator AS name, operation, sequence AS instance, rank, duration_ns, nranks, step "
        f"{told}), whole AS (SELECT {key}, instance, min(duration_ns) AS transfer, "
        f"arg_min(rank, duration_ns) AS last FROM instances GROUP BY {key}, instance "
        "HAVING count(DISTINCT rank) > 1 AND count(DISTINCT rank) = coalesce(max(nranks), count(DISTINCT rank))) "
        f"SELECT {key}, rank, count(*) AS operations, nullif(count(DISTINCT step), 0) AS steps, "
        "avg(duration_ns) / 1e9 AS seconds, avg(duration_ns - transfer) / 1e9 AS waiting, "
        f"avg((rank = last)::INT) AS least_share FROM instances JOIN whole USING ({key}, instance) "
        f"GROUP BY {key}, rank ORDER BY {key}, rank"
    )


@once
def _every_summary(reader: Reader) -> dict[str, list[Waits]]:
    """Published per-rank statistics: the mean duration stands for the operation, the shortest mean for the transfer."""
    rows = reader.query(
        "WITH means AS (SELECT job, communicator || ', ' || coalesce(elements::VARCHAR, '?') || ' elements' AS name, operation, "
        "rank, sum(count) AS operations, NULL AS steps, sum(duration_ns * count) / sum(count) / 1e9 AS seconds "
        "FROM collectives WHERE job IS NOT NULL AND timing = 'summary' AND count > 0 AND duration_ns > 0 "
        f"AND rank IS NOT NULL AND communicator IS NOT NULL AND operation NOT IN {POINT_TO_POINT} GROUP BY ALL) "
        "SELECT job, name, operation, rank, operations::BIGINT AS operations, steps, seconds, "
        "seconds - min(seconds) OVER (PARTITION BY job, name, operation) AS waiting, 'nan'::DOUBLE AS least_share FROM means "
        "ORDER BY job, name, operation, rank"
    )
    return {job: sorted(_split(part), key=_lightness) for job, part in by_job(rows)}


def _split(rows: pa.Table) -> list[Waits]:
    """Rows in the order of name and operation -> one Waits for each of the two, single ranks left out."""
    if rows.num_rows == 0:
        return []
    words = [rows.column(name).combine_chunks().dictionary_encode() for name in ("name", "operation")]
    changes = np.any([np.diff(each.indices.to_numpy()) != 0 for each in words], axis=0)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), rows.num_rows]
    columns = {
        name: rows.column(name).to_numpy() for name in ("rank", "operations", "seconds", "waiting", "least_share")
    }
    return [_waits(rows, columns, start, end) for start, end in itertools.pairwise(edges) if end - start > 1]


def _waits(rows: pa.Table, columns: dict[str, Array], start: int, end: int) -> Waits:
    part = slice(start, end)
    return Waits(
        name=rows.column("name")[start].as_py(),
        operation=rows.column("operation")[start].as_py(),
        operations=int(columns["operations"][part].min()),
        steps=rows.column("steps")[start].as_py(),
        ranks=columns["rank"][part].astype(np.int64),
        seconds=columns["seconds"][part].astype(np.float64),
        waiting=columns["waiting"][part].astype(np.float64),
        least_share=columns["least_share"][part].astype(np.float64),
    )
