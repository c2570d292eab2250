"""Kernels of which only clusters are kept, as sums: one slice a kernel name, step and stream, one behind the other.

Where within the step each kernel ran is not kept: a slice is as long as all of them together, and says so in its name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from warpline_proto.clusters import QUANTILE_COLUMNS, Cluster, quantiles

from .file import Slice, Track
from .slices import SUMS_ORDER, Drawing, stream, stream_order
from .tables import Row

NAMES_OF_STEP: Final = 40
"""Kernels of a step and stream that are drawn by name, those that took longest; the others are one slice."""
_DRAWN: Final = "one behind the other: when each ran within the step is not kept"
_OF_STEP: Final = ("start_ns", "job", "rank", "node", "step", "device", "stream")


def draw(drawing: Drawing, rows: Iterator[Row]) -> Iterator[int]:
    """Rows by start, rank, step and stream: gives how many it has drawn, a step and stream at once."""
    for _, same in itertools.groupby(rows, lambda row: [row[key] for key in _OF_STEP]):
        found = list(same)
        row = found[0]
        begin_ns = drawing.at(row)
        if not drawing.outside(row, row["end_ns"] - row["start_ns"]):
            name = f"sums of {stream(row)}"
            track = Track(drawing.ranks.process(drawing.trace, row), name, stream_order(row, SUMS_ORDER))
            for shown, category, told in _named(found, drawing.names):
                took_ns = max(int(told["sum_ns"]), 0)
                drawing.trace.slice_(
                    track, Slice(shown, category, begin_ns, took_ns, {"step": row["step"], **told, "drawn": _DRAWN})
                )
                begin_ns += took_ns
        yield len(found)


def _named(rows: Sequence[Row], names: Mapping[int, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, category and figures of each kernel, the one that took longest first."""
    by_kernel: dict[int, list[Row]] = {}
    for row in rows:
        by_kernel.setdefault(row["kernel_id"], []).append(row)
    ordered = sorted(by_kernel.items(), key=lambda item: -sum(row["sum_ns"] for row in item[1]))
    for kernel_id, own in ordered[:NAMES_OF_STEP]:
        told = _figures(own)
        name = names.get(kernel_id) or f"kernel {kernel_id}"
        told["kernel_id"] = str(kernel_id)
        yield f"sum of {told['count']} × {name}", f"{own[0]['category'] or 'kernel'}_sum", told
    rest = [row for _, own in ordered[NAMES_OF_STEP:] for row in own]
    if rest:
        told = {"count": sum(row["count"] for row in rest), "sum_ns": sum(row["sum_ns"] for row in rest)}
        yield f"sum of {told['count']} × {len(ordered) - NAMES_OF_STEP} other kernels", "other_sum", told


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Exact count and sum; median and 99th percentile of all clusters together, None where a shape is not kept."""
    told: dict[str, Any] = {
        "count": sum(row["count"] for row in rows),
        "sum_ns": sum(row["sum_ns"] for row in rows),
        "min_ns": min(row["min_ns"] for row in rows),
        "max_ns": max(row["max_ns"] for row in rows),
        "p50_ns": rows[0]["p50_ns"],
        "p99_ns": rows[0]["p99_ns"],
    }
    if len(rows) > 1:
        shaped = all(row[column] is not None for row in rows for column in QUANTILE_COLUMNS)
        middle, high = (
            quantiles([Cluster.of(row) for row in rows], np.array([0.5, 0.99])).tolist() if shaped else (None, None)
        )
        told |= {"p50_ns": middle and round(middle), "p99_ns": high and round(high)}
    return told
