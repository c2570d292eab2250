"""Compressor: GPU records in, clusters of their durations out, with the loss it admits.

Records of one (device, step, stream, kernel) become a few rows of `kernel_clusters` (warpline_proto.clusters). Count and
sum are exact, and so are shortest and longest; what is lost is the order of the records and the shape of each cluster
within its runs, which `reconstruction_error` measures. Everything is done for all groups together, in numpy: one sort of
records packed into one number each, one density for all groups, a few passes for the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.clusters import NUMBERS, Cluster, Clusters, cluster_groups, quantiles
from warpline_proto.tables import KERNEL_CLUSTERS

from .kernels import CATEGORIES, NO_STEP, Kernels, Times

STEP_ROWS_MAX: Final = 2_000
"""Rows of one step on average (about 12 kB of it on the wire) beyond which detail falls from clusters to one row a kernel."""
ROWS_MAX: Final = 500_000
"""Largest number of cluster rows from one call; the groups that come last in (device, step) beyond it are dropped."""
_KEY_BITS: Final = 63
_RANGE_MAX: Final = 4_096
"""Values of a column that lie closer together are counted from the lowest; others are sorted first."""
_CODE_BITS: Final = 62
"""More combinations of values than fit so many bits are numbered by what occurs, which costs a sort of all columns."""


@dataclass(frozen=True)
class Compressed:
    """Rows of `kernel_clusters`; `records` went in, `dropped` rows fell off at ROWS_MAX."""

    rows: pa.RecordBatch
    records: int
    dropped: int


@dataclass(frozen=True)
class _Groups:
    """Group g is ordered[first[g] : first[g] + size[g]] (ns, ascending); the other arrays have one value a group."""

    ordered: Times
    first: Times
    size: Times
    device: Times
    step: Times
    stream: Times
    name_id: Times


def compress(kernels: Kernels, *, rank: int | None = None, clock: str | None = None) -> Compressed:
    """Records of one rank in any order -> clusters in order of device, step, stream and kernel.

    The window of a row is that of all activity of its (device, step), so that rows of one step share it.
    """
    if not len(kernels):
        return Compressed(KERNEL_CLUSTERS.empty(), 0, 0)
    groups = _grouped(kernels)
    found, grade = _clustered(groups)
    rows = _rows(kernels, groups, found, {"rank": rank, "clock": clock, "grade": grade})
    return Compressed(rows.slice(0, ROWS_MAX), len(kernels), max(rows.num_rows - ROWS_MAX, 0))


def reconstruction_error(durations_ns: Times, clusters: list[Cluster]) -> float:
    """Mean distance between the sorted durations and those read back from their clusters, over the mean duration.

    This is the first Wasserstein distance W1 between both distributions over the mean (the measure by which the
    literature states the loss of such codes); 0 means nothing was lost.
    """
    ordered = np.sort(durations_ns).astype(np.float64)
    shares = (np.arange(ordered.size) + 0.5) / ordered.size
    mean = float(ordered.mean())
    return float(np.abs(quantiles(clusters, shares) - ordered).mean()) / mean if mean > 0 else 0.0


def _grouped(kernels: Kernels) -> _Groups:
    code, decode = _coded(
        [np.asarray(c, np.int64) for c in (kernels.device, kernels.step, kernels.stream, kernels.name_id)]
    )
    used, ordered, first, size = _sorted(code, kernels.duration_ns)
    return _Groups(ordered, first, size, *decode(used))


def _coded(columns: list[Times]) -> tuple[Times, Callable[[Times], list[Times]]]:
    """One number for each combination of values, in their order, and the way back from such numbers to the values."""
    places = [_places(column) for column in columns]
    shape = [values.size for _, values in places]
    if math.prod(shape).bit_length() > _CODE_BITS:
        found, code = np.unique(np.stack(columns), axis=1, return_inverse=True)
        return code.reshape(-1), lambda used: list(found[:, used])
    code = places[0][0]
    for place, values in places[1:]:
        code = code * values.size + place
    return code, lambda used: [
        values[at] for (_, values), at in zip(places, np.unravel_index(used, shape), strict=True)
    ]


def _places(column: Times) -> tuple[Times, Times]:
    """Each value's place among the values that can occur, and those values: a range where it is small, else what occurs."""
    low, high = int(column.min()), int(column.max())
    if high - low < _RANGE_MAX:
        return column - low, np.arange(low, high + 1)
    values, place = np.unique(column, return_inverse=True)
    return place, values


def _sorted(code: Times, duration_ns: Times) -> tuple[Times, Times, Times, Times]:
    """Codes that occur, and the durations in order of code and length with first and size of each code."""
    floor = int(duration_ns.min())
    bits = (int(duration_ns.max()) - floor).bit_length()
    if int(code.max()).bit_length() + bits < _KEY_BITS:
        keys = np.sort((code << bits) | (duration_ns - floor))
        codes, ordered = keys >> bits, (keys & ((1 << bits) - 1)) + floor
    else:
        order = np.lexsort((duration_ns, code))
        codes, ordered = code[order], duration_ns[order]
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[first], ordered, first, np.diff(np.append(first, codes.size))


def _clustered(groups: _Groups) -> tuple[Clusters, str]:
    """As much detail as the bounds allow: clusters, or one of each kernel, which costs no density either."""
    steps = np.unique(np.column_stack([groups.device, groups.step]), axis=0).shape[0]
    allowed = min(STEP_ROWS_MAX * steps, ROWS_MAX)
    if groups.size.size <= allowed:
        found = cluster_groups(groups.ordered, groups.first, groups.size)
        if len(found) <= allowed:
            return found, "clusters"
    return cluster_groups(groups.ordered, groups.first, groups.size, density=False), "kernels"


def _windows(kernels: Kernels, groups: _Groups) -> tuple[Times, Times]:
    """First start and last end over each group's (device, step)."""
    changed = np.concatenate(
        [[False], (groups.device[1:] != groups.device[:-1]) | (groups.step[1:] != groups.step[:-1])]
    )
    window = np.cumsum(changed)
    if window[-1] == 0:
        return np.array([kernels.start_ns.min()])[window], np.array([kernels.end_ns.max()])[window]
    order = np.lexsort((kernels.step, kernels.device))
    device, step = kernels.device[order], kernels.step[order]
    edges = np.flatnonzero(np.concatenate([[True], (device[1:] != device[:-1]) | (step[1:] != step[:-1])]))
    return (
        np.minimum.reduceat(kernels.start_ns[order], edges)[window],
        np.maximum.reduceat(kernels.end_ns[order], edges)[window],
    )


def _rows(kernels: Kernels, groups: _Groups, found: Clusters, place: dict[str, Any]) -> pa.RecordBatch:
    window_start, window_end = _windows(kernels, groups)
    name_id = groups.name_id[found.group]
    categories = np.zeros(len(kernels.names), dtype=np.uint8)
    categories[kernels.name_id] = kernels.category
    offsets = pa.array(found.run_offsets, pa.int32())
    values: dict[str, Any] = {
        **place,
        "device": _or_null(groups.device[found.group], -1),
        "step": _or_null(groups.step[found.group], NO_STEP),
        "stream": _or_null(groups.stream[found.group], -1),
        "start_ns": window_start[found.group],
        "end_ns": window_end[found.group],
        "kernel_id": kernels.kernel_ids()[name_id],
        "category": pa.array(CATEGORIES).take(pa.array(categories[name_id])),
        "cluster_index": pa.array(found.index),
        "run_counts": pa.ListArray.from_arrays(offsets, pa.array(found.run_counts, pa.int32())),
        "run_means_ns": pa.ListArray.from_arrays(offsets, pa.array(found.run_means_ns)),
    }
    return KERNEL_CLUSTERS.from_columns(values | {name: found.numbers[name] for name in NUMBERS})


def _or_null(values: npt.NDArray[Any], unknown: int) -> pa.Array:
    return pa.array(values, mask=values == unknown)
