"""Compressor: GPU records in, clusters of their durations out, with the loss it admits.

Records of one (device, step, stream, kernel) become a few rows of `kernel_clusters` (warpline_proto.clusters). Count and
sum are exact, and so are shortest and longest; what is lost is the order of the records and the shape of each cluster
between its quantiles, which `reconstruction_error` measures. Groups that are one cluster by rule (few records, or all of
nearly one duration) are summed up together in numpy, so that only the others pay for a density.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.clusters import GAP_LN_MIN, QUANTILES, SINGLE_BELOW, Cluster, cluster, quantiles
from warpline_proto.tables import KERNEL_CLUSTERS

from .kernels import CATEGORIES, NO_STEP, Kernels, Times

ROWS_MAX: Final = 500_000
"""Largest number of cluster rows from one call; the groups that come last in (device, step) beyond it are dropped."""
_QUANTILE_COLUMNS: Final = ("p10_ns", "p50_ns", "p90_ns", "p99_ns")
_NUMBERS: Final = ("count", "sum_ns", "min_ns", *_QUANTILE_COLUMNS, "max_ns")


@dataclass(frozen=True)
class Compressed:
    """Rows of `kernel_clusters`; `records` went in, `dropped` rows fell off at ROWS_MAX."""

    rows: pa.RecordBatch
    records: int
    dropped: int


@dataclass(frozen=True)
class _Groups:
    """Records sorted by device, step, stream, kernel and duration: group g is records[first[g] : first[g] + size[g]]."""

    kernels: Kernels
    first: Times
    size: Times


def compress(kernels: Kernels, *, rank: int | None = None, clock: str | None = None) -> Compressed:
    """Records of one rank in any order -> clusters in order of device, step, stream and kernel.

    The window of a row is that of all activity of its (device, step), so that rows of one step share it.
    """
    if not len(kernels):
        return Compressed(KERNEL_CLUSTERS.empty(), 0, 0)
    groups = _grouped(kernels)
    single, many = _split(groups)
    columns = _columns(groups, single, many)
    total = columns["group"].size
    kept = min(total, ROWS_MAX)
    rows = _rows(groups, {name: column[:kept] for name, column in columns.items()}, rank, clock)
    return Compressed(rows, len(kernels), total - kept)


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
    keys = (kernels.name_id, kernels.stream, kernels.step, kernels.device)
    ordered = kernels.select(np.lexsort((kernels.duration_ns, *keys)))
    changed = np.zeros(len(ordered), dtype=np.bool_)
    changed[0] = True
    for column in (ordered.name_id, ordered.stream, ordered.step, ordered.device):
        changed[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(changed).astype(np.int64)
    return _Groups(ordered, first, np.diff(np.append(first, len(ordered))))


def _split(groups: _Groups) -> tuple[Times, Times]:
    """Numbers of the groups that are one cluster by rule, and of the others."""
    shortest = groups.kernels.duration_ns[groups.first]
    longest = groups.kernels.duration_ns[groups.first + groups.size - 1]
    spread = np.log(np.maximum(longest, 1)) - np.log(np.maximum(shortest, 1))
    single = (groups.size < SINGLE_BELOW) | (spread < GAP_LN_MIN)
    return np.flatnonzero(single).astype(np.int64), np.flatnonzero(~single).astype(np.int64)


def _columns(groups: _Groups, single: Times, many: Times) -> dict[str, Times]:
    """Number columns of all clusters, with the group and the place within it, in order of both."""
    durations = groups.kernels.duration_ns
    found = [cluster(durations[groups.first[g] : groups.first[g] + groups.size[g]]) for g in many]
    pieces = [piece for pieces in found for piece in pieces]
    counts = np.array([len(pieces) for pieces in found], dtype=np.int64)
    owner = np.repeat(many, counts)
    place = np.arange(owner.size, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
    summed = _summaries(groups, single)
    columns = {
        name: np.concatenate([summed[name], np.array([getattr(piece, name) for piece in pieces], dtype=np.int64)])
        for name in _NUMBERS
    }
    columns["group"] = np.concatenate([single, owner])
    columns["cluster_index"] = np.concatenate([np.zeros(single.size, dtype=np.int64), place])
    order = np.lexsort((columns["cluster_index"], columns["group"]))
    return {name: column[order] for name, column in columns.items()}


def _summaries(groups: _Groups, single: Times) -> dict[str, Times]:
    durations = groups.kernels.duration_ns
    first, size = groups.first[single], groups.size[single]
    columns = {
        "count": size,
        "sum_ns": np.add.reduceat(durations, groups.first)[single],
        "min_ns": durations[first],
        "max_ns": durations[first + size - 1],
    }
    for share, name in zip(QUANTILES, _QUANTILE_COLUMNS, strict=True):
        columns[name] = durations[first + np.minimum((share * size).astype(np.int64), size - 1)]
    return columns


def _windows(groups: _Groups) -> tuple[Times, Times]:
    """First start and last end over each group's (device, step)."""
    ordered = groups.kernels
    changed = np.zeros(len(ordered), dtype=np.bool_)
    changed[1:] = (ordered.device[1:] != ordered.device[:-1]) | (ordered.step[1:] != ordered.step[:-1])
    window = np.cumsum(changed)
    edges = np.concatenate([[0], np.flatnonzero(changed)])
    owner = window[groups.first]
    return (
        np.minimum.reduceat(ordered.start_ns, edges)[owner],
        np.maximum.reduceat(ordered.end_ns, edges)[owner],
    )


def _rows(groups: _Groups, columns: dict[str, Times], rank: int | None, clock: str | None) -> pa.RecordBatch:
    chosen = groups.first[columns["group"]]
    ordered = groups.kernels
    window_start, window_end = _windows(groups)
    labels = pa.array(CATEGORIES)
    values: dict[str, Any] = {
        "rank": rank,
        "clock": clock,
        "device": _or_null(ordered.device[chosen], -1),
        "step": _or_null(ordered.step[chosen], NO_STEP),
        "stream": _or_null(ordered.stream[chosen], -1),
        "start_ns": window_start[columns["group"]],
        "end_ns": window_end[columns["group"]],
        "kernel_id": ordered.kernel_ids()[ordered.name_id[chosen]],
        "category": labels.take(pa.array(ordered.category[chosen])),
        "cluster_index": pa.array(columns["cluster_index"]),
    }
    return KERNEL_CLUSTERS.from_columns(values | {name: columns[name] for name in _NUMBERS})


def _or_null(values: npt.NDArray[Any], unknown: int) -> pa.Array:
    return pa.array(values, mask=values == unknown)
