"""Compressor: GPU records in, clusters of their durations out, with the loss it admits.

Records of one (device, step, stream, kernel) become a few rows of `kernel_clusters` (warpline_proto.clusters). Count and
sum are exact, and so are shortest and longest; what is lost is the order of the records and the shape of each cluster
within its runs, which `reconstruction_error` measures. Everything is done for all groups together, in numpy: one sort of
records packed into one number each, one density for all groups, a few passes for the runs. Coarser grades leave out the
density, then the sort and the runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.clusters import SUMS, Cluster, Clusters, cluster_groups, quantiles
from warpline_proto.tables import KERNEL_CLUSTERS

from .kernels import CATEGORIES, NO_STEP, Kernels, Times

GRADES: Final = ("clusters", "kernels", SUMS)
"""Detail from fine to coarse: clusters; one row a kernel; the same without the shape of its durations."""
STEP_ROWS_MAX: Final = 2_000
"""Rows of one step on average (about 12 kB of it on the wire) beyond which detail falls from clusters to one row a kernel."""
ROWS_MAX: Final = 500_000
"""Largest number of cluster rows from one call; the groups that come last in (device, step) beyond it are dropped."""
_KEY_BITS: Final = 63
_RANGE_MAX: Final = 4_096
"""Values of a column that lie closer together are counted from the lowest; others are sorted first."""
_FEW_CODES: Final = 1 << 16
_SHORT_BITS: Final = 32
_LARGE_GROUP: Final = 64
"""Records of a group in the mean from which groups are sorted one by one."""
_DENSE: Final = 16
"""Numbers for each record up to which a table of all of them is cheaper than a sort of those that occur."""
_EXACT: Final = 2**53
"""Sums below are exact in floating point."""
_CODE_BITS: Final = 62
"""More combinations of values than fit so many bits are numbered by what occurs, which costs a sort of all columns."""


@dataclass(frozen=True)
class Compressed:
    """Rows of `kernel_clusters`; `records` went in, `dropped` rows fell off at ROWS_MAX."""

    rows: pa.RecordBatch
    records: int
    dropped: int


@dataclass(frozen=True)
class _Where:
    """Whose each group is, in order."""

    device: Times
    step: Times
    stream: Times
    name_id: Times


@dataclass(frozen=True)
class _Told:
    """What is told of each row: its group, its columns and its detail."""

    group: Times
    columns: dict[str, Any]
    grade: str


def compress(
    kernels: Kernels,
    *,
    rank: int | None = None,
    clock: str | None = None,
    grade: str = GRADES[0],
    step_rows_max: int = STEP_ROWS_MAX,
) -> Compressed:
    """Records of one rank in any order -> clusters in order of device, step, stream and kernel.

    The window of a row is that of all activity of its (device, step), so that rows of one step share it. Detail is that of
    `grade` (one of GRADES), or coarser where steps have more than `step_rows_max` rows.
    """
    if not len(kernels):
        return Compressed(KERNEL_CLUSTERS.empty(), 0, 0)
    code, decode = _coded(
        [np.asarray(c, np.int64) for c in (kernels.device, kernels.step, kernels.stream, kernels.name_id)]
    )
    if grade == SUMS:
        where, told = _summed(code, decode, kernels.duration_ns)
    else:
        where, told = _clustered(code, decode, kernels.duration_ns, grade, step_rows_max)
    rows = _rows(kernels, where, told, {"rank": rank, "clock": clock})
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


Decode = Callable[[Times], list[Times]]


def _coded(columns: list[Times]) -> tuple[Times, Decode]:
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
    if int(code.max()) < _FEW_CODES and bits <= _SHORT_BITS:
        counts = np.bincount(code)
        used = np.flatnonzero(counts)
        if used.size * _LARGE_GROUP <= code.size:
            return _sorted_by_group(code, duration_ns, floor, used, counts[used])
    if int(code.max()).bit_length() + bits < _KEY_BITS:
        keys = np.sort((code << bits) | (duration_ns - floor))
        codes, ordered = keys >> bits, (keys & ((1 << bits) - 1)) + floor
    else:
        order = np.lexsort((duration_ns, code))
        codes, ordered = code[order], duration_ns[order]
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[first], ordered, first, np.diff(np.append(first, codes.size))


def _sorted_by_group(
    code: Times, duration_ns: Times, floor: int, used: Times, size: Times
) -> tuple[Times, Times, Times, Times]:
    """The same in less than half of the time where groups are large: a sort by so short codes counts, and each group by itself
    is sorted in half as many bytes."""
    order = np.argsort(code.astype(np.uint16), kind="stable")
    above = (duration_ns - floor).astype(np.uint32)[order]
    ends = np.cumsum(size)
    first = ends - size
    for start, end in zip(first.tolist(), ends.tolist(), strict=True):
        above[start:end].sort()
    return used, above.astype(np.int64) + floor, first, size


def _clustered(code: Times, decode: Decode, duration_ns: Times, grade: str, step_rows_max: int) -> tuple[_Where, _Told]:
    """As much detail as the bounds allow: clusters, or one of each kernel, which costs no density either."""
    used, ordered, first, size = _sorted(code, duration_ns)
    where = _Where(*decode(used))
    steps = np.unique(np.column_stack([where.device, where.step]), axis=0).shape[0]
    allowed = min(step_rows_max * steps, ROWS_MAX)
    if grade == GRADES[0] and size.size <= allowed:
        found = cluster_groups(ordered, first, size)
        if len(found) <= allowed:
            return where, _told(found, grade)
    return where, _told(cluster_groups(ordered, first, size, density=False), GRADES[1])


def _told(found: Clusters, grade: str) -> _Told:
    offsets = pa.array(found.run_offsets, pa.int32())
    runs = {
        "run_counts": pa.ListArray.from_arrays(offsets, pa.array(found.run_counts, pa.int32())),
        "run_means_ns": pa.ListArray.from_arrays(offsets, pa.array(found.run_means_ns)),
    }
    return _Told(found.group, {**found.numbers, **runs, "cluster_index": pa.array(found.index)}, grade)


def _summed(code: Times, decode: Decode, duration_ns: Times) -> tuple[_Where, _Told]:
    """Count, sum, shortest and longest of each group, without a sort of the records."""
    if int(code.max()) < _DENSE * code.size:
        counts = np.bincount(code)
        used = np.flatnonzero(counts)
        group = np.cumsum(counts > 0)[code] - 1
    else:
        used, group = np.unique(code, return_inverse=True)
    longest = np.full(used.size, np.iinfo(np.int64).min)
    shortest = np.full(used.size, np.iinfo(np.int64).max)
    np.maximum.at(longest, group, duration_ns)
    np.minimum.at(shortest, group, duration_ns)
    numbers = {"count": np.bincount(group), "sum_ns": _sums(group, duration_ns), "min_ns": shortest, "max_ns": longest}
    every = np.arange(used.size)
    return _Where(*decode(used)), _Told(every, {**numbers, "cluster_index": pa.array(np.zeros_like(every))}, SUMS)


def _sums(group: Times, duration_ns: Times) -> Times:
    """Exact, however large."""
    reach = max(-int(duration_ns.min()), int(duration_ns.max())) * duration_ns.size
    if reach < _EXACT:
        return np.bincount(group, duration_ns).astype(np.int64)
    sums = np.zeros(int(group.max()) + 1, dtype=np.int64)
    np.add.at(sums, group, duration_ns)
    return sums


def _windows(kernels: Kernels, where: _Where) -> tuple[Times, Times]:
    """First start and last end over each group's (device, step)."""
    changed = np.concatenate([[False], (where.device[1:] != where.device[:-1]) | (where.step[1:] != where.step[:-1])])
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


def _rows(kernels: Kernels, where: _Where, told: _Told, place: dict[str, Any]) -> pa.RecordBatch:
    window_start, window_end = _windows(kernels, where)
    name_id = where.name_id[told.group]
    categories = np.zeros(len(kernels.names), dtype=np.uint8)
    categories[kernels.name_id] = kernels.category
    values: dict[str, Any] = {
        **place,
        "grade": told.grade,
        "device": _or_null(where.device[told.group], -1),
        "step": _or_null(where.step[told.group], NO_STEP),
        "stream": _or_null(where.stream[told.group], -1),
        "start_ns": window_start[told.group],
        "end_ns": window_end[told.group],
        "kernel_id": kernels.kernel_ids()[name_id],
        "category": pa.array(CATEGORIES).take(pa.array(categories[name_id])),
    }
    return KERNEL_CLUSTERS.from_columns(values | told.columns)


def _or_null(values: npt.NDArray[Any], unknown: int) -> pa.Array:
    return pa.array(values, mask=values == unknown)
