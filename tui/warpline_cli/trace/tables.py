"""Rows of the selection as SQL: kernels, their sums where none is kept, steps, phases, collectives; and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from warpline_cli.asking import Query, text

from .selection import Selection

PAGE_ROWS: Final = 50_000
"""Rows of one question: a collector answers no more than twice as many."""
Row = Mapping[str, Any]

PLACE: Final = ("job", "rank", "node", "clock")
RANKED: Final = (*PLACE, "gpu_uuid", "pp", "dp", "tp", "ep")
KERNELS: Final = (*PLACE, "start_ns", "duration_ns", "device", "stream", "step", "kernel_id", "category", "gpu_uuid")
SUMS: Final = (
    *PLACE, "step", "device", "stream", "kernel_id", "category", "cluster_index", "start_ns", "end_ns", "count", "sum_ns",
    "min_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns", "run_counts", "run_means_ns",
)  # fmt: skip
STEPS: Final = (
    *PLACE,
    "start_ns",
    "duration_ns",
    "device",
    "step",
    "scope",
    "kernels",
    "busy_ns",
    "idle_ns",
    "data_wait_ns",
)
PHASES: Final = (*PLACE, "start_ns", "duration_ns", "step", "phase", "kind", "microbatch", "chunk", "sequence")
TOLD_OF_COLLECTIVES: Final = (
    "step", "communicator", "sequence", "datatype", "message_bytes", "nranks", "algorithm", "protocol", "timing", "state",
    "bus_bytes_per_second",
)  # fmt: skip
TOGETHER: Final = ("source", "communicator", "sequence", "pairing", "step", "turn", "job")
"""What rows of one operation have alike."""
_MORE: Final = ("start_ns", "duration_ns", "operation", "group_name", "ranks_seen", "shortest_ns")
COLLECTIVES: Final = tuple(dict.fromkeys(("begun_ns", *TOGETHER, *PLACE, *_MORE, *TOLD_OF_COLLECTIVES)))
_PAIRING: Final = """CASE operation WHEN 'send' THEN coalesce(communicator_rank || '>' || peer, 'send of ' || rank)
WHEN 'recv' THEN coalesce(peer || '>' || communicator_rank, 'recv of ' || rank) ELSE operation END"""
"""What ranks do together under one number: an operation, or a send and its receive."""
_ON_ANY_AXIS: Final = "coalesce(clock, '') NOT LIKE 'step@%'"
"""Times that count from the start of a step have no place on a common axis."""


def records(chosen: Selection) -> str:
    """Kernels as they were sent, by a closer look or several."""
    rows = f"{chosen.of_job()} AND {chosen.within()}"
    if chosen.capture is not None:
        rows = f"capture_id = {text(chosen.capture)}"
    return f"(SELECT * FROM raw_kernels WHERE {rows})"


def kernels(chosen: Selection) -> str:
    """The same, each once."""
    return f"(SELECT DISTINCT {', '.join(KERNELS)} FROM {records(chosen)})"


def sums(chosen: Selection) -> str:
    """Clusters of the steps of which no kernel is kept one by one."""
    return (
        f"(SELECT * FROM kernel_clusters AS clusters WHERE {chosen.of_job()} AND {chosen.within('end_ns')} "
        "AND end_ns IS NOT NULL AND NOT EXISTS (FROM raw_kernels AS kept WHERE kept.job IS NOT DISTINCT FROM clusters.job "
        "AND kept.rank IS NOT DISTINCT FROM clusters.rank AND kept.step IS NOT DISTINCT FROM clusters.step "
        "AND kept.start_ns < clusters.end_ns AND kept.start_ns + greatest(kept.duration_ns, 1) > clusters.start_ns))"
    )


def steps(chosen: Selection) -> str:
    return f"(SELECT * FROM steps WHERE {chosen.of_job()} AND {chosen.within()})"


def phases(chosen: Selection) -> str:
    return f"(SELECT * FROM phases WHERE {chosen.of_job()} AND {chosen.within()} AND {_ON_ANY_AXIS})"


def collectives(chosen: Selection) -> str:
    """Each with what is known of its operation on all ranks: when it was begun, by how many, how long the quickest took.

    What a rank did several times under one number in one step is told apart by `turn`.
    """
    job = Selection(job=chosen.job).of_job()
    time = f"{chosen.within()} AND count IS NULL"
    numbered = "communicator IS NOT NULL AND sequence IS NOT NULL"
    mine = f"FROM collectives WHERE {chosen.of_job()} AND {time}"
    beside = f" AND communicator IN (SELECT communicator {mine})" if chosen.ranks else ""
    together = "job, source, communicator, sequence, pairing, step"
    rows = f"SELECT *, {_PAIRING} AS pairing FROM collectives WHERE {job} AND {time} AND {numbered}{beside}"
    turns = f"SELECT *, row_number() OVER (PARTITION BY {together}, rank ORDER BY start_ns) AS turn FROM ({rows})"
    joined = (
        "SELECT *, min(start_ns) OVER same AS begun_ns, count(*) OVER same AS ranks_seen, "
        f"min(duration_ns) OVER same AS shortest_ns FROM ({turns}) WINDOW same AS (PARTITION BY {together}, turn)"
    )
    alone = (
        "SELECT *, operation AS pairing, 1 AS turn, start_ns AS begun_ns, 1 AS ranks_seen, duration_ns AS shortest_ns "
        f"{mine} AND NOT ({numbered})"
    )
    return f"(SELECT * FROM ({joined}) WHERE {chosen.of_job()} UNION ALL BY NAME {alone})"


def pages(query: Query, columns: Sequence[str], table: str, by: str = "start_ns") -> Iterator[Row]:
    """All rows in the order of a time; rows of one time that a page breaks off are skipped by number in the next."""
    listed = ", ".join(columns)
    cursor, skip = "true", 0
    while True:
        page = query(
            f"SELECT {listed} FROM {table} WHERE {cursor} ORDER BY {by}, {listed} LIMIT {PAGE_ROWS} OFFSET {skip}"
        )
        times = page.column(by).to_pylist()
        yield from page.to_pylist()
        if page.num_rows < PAGE_ROWS:
            return
        same = times.count(times[-1])
        skip = skip + same if cursor == f"{by} >= {times[-1]}" else same
        cursor = f"{by} >= {times[-1]}"
