"""TraceLens' statistics of collectives: per rank, and per operation over all ranks with the waiting taken out."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COLLECTIVES

from ..parsers import nccl, values
from ..parsers.process_groups import group_key
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

ROWS_MAX: Final = 200_000
"""Lines kept of one table; the rest is counted as dropped."""

_COMMON: Final = ("Collective name", "In msg nelems", "dtype", "Group size")
_PER_RANK: Final = ("rank", "dur_mean", "dur_min", "dur_max", "operation_count")
_OVER_RANKS: Final = ("comm_latency_mean", "comm_latency_min", "comm_latency_max", "count")


class TracelensNccl:
    """`nccl_summary_long.csv` or `nccl_summary_implicit_sync.csv`; times are microseconds, sizes elements."""

    name = "tracelens_nccl"

    def recognises(self, candidate: Input) -> bool:
        """By the column names of either table."""
        header = set(candidate.head.split(b"\n", 1)[0].decode("utf-8", "replace").strip().split(","))
        return header.issuperset(_COMMON) and (header.issuperset(_PER_RANK) or header.issuperset(_OVER_RANKS))

    def read(self, candidate: Input) -> Reading:
        """Lines -> summaries in `collectives`. Rows over all ranks have no rank and a duration without waiting."""
        rows: list[Row] = []
        dropped = 0
        for line in _lines(candidate):
            if len(rows) >= ROWS_MAX:
                dropped += 1
            else:
                rows.append(_row(line))
        if not rows:
            raise Refused("holds a header and no statistics")
        batch = Rows("collectives", COLLECTIVES.from_rows(rows), dropped)
        ranks = {row["rank"] for row in rows} - {None}
        facts = {"rows": len(rows), "ranks": len(ranks), "operations": sum(row["count"] or 0 for row in rows)}
        notes = [] if ranks else ["durations are those of the rank that waited least: a transfer time, without waiting"]
        return Reading([batch], facts, _origin(rows, batch), notes)


def _lines(candidate: Input) -> Iterator[Mapping[str, Any]]:
    try:
        yield from csv.DictReader(candidate.lines())
    except csv.Error as error:
        raise Refused(f"is a damaged table: {error}") from None


def _row(line: Mapping[str, Any]) -> Row:
    operation = values.text(line.get("Collective name")) or ""
    known = nccl.operation(operation)
    dtype = nccl.datatype(values.text(line.get("dtype")) or "")
    nranks = values.small(line.get("Group size"))
    elements = _passed(known, line, nranks)
    size = nccl.message_bytes(known, elements, dtype, nranks) if known and elements is not None else None
    group, ranks = values.text(line.get("Process Group Name")), _ranks(line.get("Process Group Ranks"))
    return {
        "source": "tracelens_nccl",
        "rank": values.small(line.get("rank")),
        "communicator": None if group is None else group_key(group, ranks or None),
        "group_name": group,
        "operation": known or operation or None,
        "datatype": dtype,
        "elements": elements,
        "message_bytes": values.count(size),
        "nranks": nranks,
        "stream": values.whole(line.get("stream")),
        "timing": "summary",
        **(_per_rank(line) if "dur_mean" in line else _over_ranks(line)),
    }


def _per_rank(line: Mapping[str, Any]) -> Row:
    return {
        "duration_ns": values.scaled(line.get("dur_mean"), 1e3),
        "min_ns": values.scaled(line.get("dur_min"), 1e3),
        "max_ns": values.scaled(line.get("dur_max"), 1e3),
        "count": values.count(line.get("operation_count")),
    }


def _over_ranks(line: Mapping[str, Any]) -> Row:
    algorithm, bus = (values.real(line.get(f"{kind} bw (GB/s)_mean")) for kind in ("algo", "bus"))
    return {
        "duration_ns": values.scaled(line.get("comm_latency_mean"), 1e3),
        "min_ns": values.scaled(line.get("comm_latency_min"), 1e3),
        "max_ns": values.scaled(line.get("comm_latency_max"), 1e3),
        "count": values.count(line.get("count")),
        "algorithm_bytes_per_second": None if algorithm is None else algorithm * 1e9,
        "bus_bytes_per_second": None if bus is None else bus * 1e9,
    }


def _passed(operation: str | None, line: Mapping[str, Any], nranks: int | None) -> int | None:
    """The count that NCCL was given, one rank's share: what goes in, divided up where that is the shares of all ranks."""
    elements = values.count(line.get("In msg nelems"))
    if elements is None or operation not in ("reduce_scatter", "all_to_all", "scatter"):
        return elements
    return elements // nranks if nranks and nranks > 0 and elements % nranks == 0 else None


def _ranks(value: Any) -> tuple[int, ...]:
    parts = (values.text(value) or "").strip("[] ").split(",")
    ranks = [values.small(part.strip()) for part in parts]
    return tuple(rank for rank in ranks if rank is not None) if None not in ranks else ()


def _origin(rows: list[Row], batch: Rows) -> Origin:
    sizes = [row["nranks"] for row in rows if row["nranks"] is not None]
    ranks = [row["rank"] for row in rows if row["rank"] is not None]
    whole = max(sizes, default=0) == max(ranks, default=-1) + 1
    return Origin(world_size=max(sizes) if whole and sizes else None, content=values.digest([batch]))
