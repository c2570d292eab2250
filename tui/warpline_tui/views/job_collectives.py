"""Collectives of one job: each operation and size of each communicator, wait apart from transfer, and who is in it.

In a blocking collective the last to arrive does not wait: the shortest duration over the ranks of one operation is its
transfer, what others take beyond it is waiting. Bus bandwidth as nccl-tests defines it (PERFORMANCE.md), over the transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..literal import literal, same
from ..view import Ask

WINDOW_NS: Final = 600 * 10**9
"""Operations that began in so long before the job's newest are looked at ..."""
ROWS_MAX: Final = 200_000
"""... and so many of them, the newest."""
LINES_MAX: Final = 200
MEMBERS_MAX: Final = 512
ASKED_SECONDS: Final = 5.0
_POINT_TO_POINT: Final = "('send', 'recv')"
_UNTIMED: Final = "('summary', 'enqueue', 'kernel_shared')"
"""Operations without a time of their own."""


@dataclass(frozen=True)
class Operation:
    """One operation of one size on one communicator; wait and transfer are None where not all its ranks were recorded."""

    communicator: str | None
    group_name: str | None
    operation: str | None
    message_bytes: int | None
    nranks: int | None
    count: int
    median_ns: float | None
    transfer_ns: float | None
    wait_ns: float | None
    bus_bytes_per_second: float | None
    algorithm: str | None
    protocol: str | None


@dataclass(frozen=True)
class Member:
    """One rank of a communicator."""

    rank: int | None
    communicator_rank: int | None
    node: str | None
    state: str | None
    transports: str | None
    library_version: str | None
    last_enqueued: int | None
    last_completed: int | None


def operations(ask: Ask, job: str) -> tuple[Operation, ...]:
    """Those first that took most of the time of the newest operations of the job."""
    newest: int | None = ask.rows(
        f"SELECT max(start_ns) AS newest FROM collectives WHERE {same('job', job)} AND {ask.until('start_ns')}",
        ASKED_SECONDS,
    )["newest"][0].as_py()
    timed = (
        "start_ns IS NULL"
        if newest is None
        else f"(start_ns IS NULL OR start_ns BETWEEN {newest - WINDOW_NS} AND {newest})"
    )
    rows = ask.rows(
        f"""
WITH newest AS (
    SELECT * FROM collectives WHERE {same("job", job)} AND {timed} ORDER BY start_ns DESC NULLS LAST LIMIT {ROWS_MAX}
), once AS (
    SELECT communicator, any_value(group_name) AS group_name, operation, message_bytes, sequence, max(nranks) AS nranks,
           sum(coalesce("count", 1)) / greatest(count(DISTINCT rank), 1) AS operations, median(duration_ns) AS median_ns,
           any_value(algorithm) AS algorithm, any_value(protocol) AS protocol, avg(bus_bytes_per_second) AS told_bytes_per_second,
           CASE WHEN sequence IS NOT NULL AND count(DISTINCT rank) = max(nranks) AND max(nranks) > 1
                AND NOT bool_or(coalesce(timing, '') IN {_UNTIMED}) AND operation NOT IN {_POINT_TO_POINT}
                AND max(coalesce(sharing, 1)) = 1 THEN min(duration_ns) END AS transfer_ns,
           avg(duration_ns) AS mean_ns
    FROM newest GROUP BY communicator, operation, message_bytes, sequence
), told AS (
    SELECT communicator, any_value(group_name) AS group_name, operation, message_bytes, max(nranks) AS nranks,
           round(sum(operations))::BIGINT AS count, median(median_ns) AS median_ns, median(transfer_ns) AS transfer_ns,
           median(mean_ns - transfer_ns) AS wait_ns, any_value(algorithm) AS algorithm, any_value(protocol) AS protocol,
           avg(told_bytes_per_second) AS told_bytes_per_second, sum(mean_ns) AS total_ns
    FROM once GROUP BY communicator, operation, message_bytes
)
SELECT * EXCLUDE (told_bytes_per_second, total_ns), coalesce(message_bytes * 1e9 / nullif(transfer_ns, 0) * CASE
    WHEN operation = 'all_reduce' THEN 2.0 * (nranks - 1) / nranks
    WHEN operation IN ('all_gather', 'reduce_scatter', 'all_to_all', 'gather', 'scatter') THEN 1.0 * (nranks - 1) / nranks
    ELSE 1.0 END, told_bytes_per_second) AS bus_bytes_per_second
FROM told ORDER BY total_ns DESC NULLS LAST, communicator, operation, message_bytes LIMIT {LINES_MAX}
""",
        ASKED_SECONDS,
    )
    return tuple(Operation(**row) for row in rows.to_pylist())


def members(ask: Ask, job: str, communicator: str) -> tuple[Member, ...]:
    """Who is in a communicator, by its newest word; of one that no source describes, who took part in its operations."""
    where = f"{same('job', job)} AND communicator = {literal(communicator)} AND {ask.until('start_ns')}"
    rows = ask.rows(
        f"""
SELECT rank, communicator_rank, node, state, transports, library_version, last_enqueued, last_completed FROM communicators
WHERE {where} QUALIFY row_number() OVER (PARTITION BY rank ORDER BY start_ns DESC NULLS LAST) = 1
ORDER BY communicator_rank NULLS LAST, rank LIMIT {MEMBERS_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    if not rows:
        rows = ask.rows(
            f"""
SELECT rank, any_value(communicator_rank) AS communicator_rank, any_value(node) AS node, NULL AS state, NULL AS transports,
       NULL AS library_version, NULL AS last_enqueued, max(sequence) AS last_completed
FROM collectives WHERE {where} GROUP BY rank ORDER BY rank LIMIT {MEMBERS_MAX}
""",
            ASKED_SECONDS,
        ).to_pylist()
    return tuple(Member(**row) for row in rows)
