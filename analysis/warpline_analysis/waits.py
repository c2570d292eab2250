"""Wait and transfer of collectives, told apart without any common clock.

In a blocking collective the last to arrive does not wait: the shortest duration over the ranks of one operation is its
transfer, what others take beyond it is waiting (nccl-tests' busbw caveat; the inversion rule of NVIDIA's resiliency
extension).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .detector import Reader, literal
from .robust import Array

WINDOW_OPERATIONS: Final = 2000
"""Newest operations of each communicator that are looked at."""
POINT_TO_POINT: Final = "('send', 'recv')"
UNTIMED: Final = "('summary', 'enqueue')"


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


def timed(job: str, window: int) -> str:
    """FROM and WHERE of the rows of collectives with a place and a duration, the newest `window` of each communicator."""
    name = literal(job)
    return (
        f"FROM collectives JOIN (SELECT communicator, max(sequence) - {window} AS before FROM collectives WHERE job = {name} "
        f"AND communicator IS NOT NULL GROUP BY communicator) USING (communicator) WHERE job = {name} AND sequence > before "
        f"AND coalesce(timing, 'host') NOT IN {UNTIMED} AND duration_ns > 0 AND rank IS NOT NULL "
        f"AND operation NOT IN {POINT_TO_POINT}"
    )


def load_waits(reader: Reader, job: str) -> list[Waits]:
    """Wait and transfer by communicator and operation, heaviest first; published summaries where no single one was timed."""
    found = _timed(reader, job) or _summaries(reader, job)
    return sorted(found, key=lambda waits: -waits.weight)


def _timed(reader: Reader, job: str) -> list[Waits]:
    rows = reader.query(
        "WITH instances AS (SELECT communicator AS name, operation, sequence AS instance, rank, duration_ns, nranks, step "
        f"{timed(job, WINDOW_OPERATIONS)}), whole AS (SELECT name, operation, instance, min(duration_ns) AS transfer, "
        "arg_min(rank, duration_ns) AS last FROM instances GROUP BY name, operation, instance "
        "HAVING count(DISTINCT rank) > 1 AND count(DISTINCT rank) = coalesce(max(nranks), count(DISTINCT rank))) "
        "SELECT name, operation, rank, count(*) AS operations, nullif(count(DISTINCT step), 0) AS steps, "
        "avg(duration_ns) / 1e9 AS seconds, avg(duration_ns - transfer) / 1e9 AS waiting, "
        "avg((rank = last)::INT) AS least_share FROM instances JOIN whole USING (name, operation, instance) "
        "GROUP BY name, operation, rank ORDER BY name, operation, rank"
    )
    return _split(rows)


def _summaries(reader: Reader, job: str) -> list[Waits]:
    """Published per-rank statistics: the mean duration stands for the operation, the shortest mean for the transfer."""
    rows = reader.query(
        "WITH means AS (SELECT communicator || ', ' || coalesce(elements::VARCHAR, '?') || ' elements' AS name, operation, "
        "rank, sum(count) AS operations, NULL AS steps, sum(duration_ns * count) / sum(count) / 1e9 AS seconds "
        f"FROM collectives WHERE job = {literal(job)} AND timing = 'summary' AND count > 0 AND duration_ns > 0 "
        f"AND rank IS NOT NULL AND communicator IS NOT NULL AND operation NOT IN {POINT_TO_POINT} GROUP BY ALL) "
        "SELECT name, operation, rank, operations::BIGINT AS operations, steps, seconds, "
        "seconds - min(seconds) OVER (PARTITION BY name, operation) AS waiting, 'nan'::DOUBLE AS least_share FROM means "
        "ORDER BY name, operation, rank"
    )
    return _split(rows)


def _split(rows: pa.Table) -> list[Waits]:
    if rows.num_rows == 0:
        return []
    names, operations = rows.column("name").to_pylist(), rows.column("operation").to_pylist()
    edges = [
        0,
        *(at for at in range(1, len(names)) if (names[at], operations[at]) != (names[at - 1], operations[at - 1])),
    ]
    parts = zip(edges, [*edges[1:], len(names)], strict=True)
    return [_waits(rows.slice(start, end - start)) for start, end in parts if end - start > 1]


def _waits(part: pa.Table) -> Waits:
    steps: int | None = part.column("steps")[0].as_py()
    return Waits(
        name=part.column("name")[0].as_py(),
        operation=part.column("operation")[0].as_py(),
        operations=min(part.column("operations").to_pylist()),
        steps=steps,
        ranks=part.column("rank").to_numpy().astype(np.int64),
        seconds=part.column("seconds").to_numpy().astype(np.float64),
        waiting=part.column("waiting").to_numpy().astype(np.float64),
        least_share=part.column("least_share").to_numpy().astype(np.float64),
    )
