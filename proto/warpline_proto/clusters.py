"""The cluster codec: many durations of one kernel -> a few clusters with exact count and sum, and back to a distribution.

Durations of one (kernel, stream, rank) group are cut at the valleys of their density (warpline_proto.valleys, after ARGUS).
Unlike the paper's (count, p50, p99) each cluster keeps count, sum, min and max exactly, so that total time survives, and its
shape as runs (warpline_proto.runs), so that the distance between durations and what is read back has a bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import runs
from .valleys import valleys

QUANTILES: Final = (0.10, 0.50, 0.90, 0.99)
QUANTILE_COLUMNS: Final = ("p10_ns", "p50_ns", "p90_ns", "p99_ns")
SUMS: Final = "sums"
"""The grade of rows without a shape: count, sum, shortest and longest alone."""
NUMBERS: Final = ("count", "sum_ns", "min_ns", *QUANTILE_COLUMNS, "max_ns")

Durations = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """One cluster: `count`, `sum_ns`, `min_ns` and `max_ns` are exact, the quantiles are order statistics.

    `runs` are (count, mean in ns) of consecutive pieces of its sorted durations; empty where only the quantiles are known.
    """

    count: int
    sum_ns: int
    min_ns: int
    p10_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int
    runs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Cluster:
        """The cluster in one row of `kernel_clusters`, also of one written before there were runs."""
        counts, means = row.get("run_counts") or (), row.get("run_means_ns") or ()
        return cls(**{name: row[name] for name in NUMBERS}, runs=tuple(zip(counts, means, strict=True)))


@dataclass(frozen=True)
class Clusters:
    """Clusters of many groups as columns, in order of group and duration.

    `numbers` has one array for each of NUMBERS; `group` and `index` say whose cluster it is and which one. Runs of cluster c are
    run_counts[run_offsets[c] : run_offsets[c + 1]], and so are run_means_ns.
    """

    group: Durations
    index: Durations
    numbers: dict[str, Durations]
    run_offsets: Durations
    run_counts: Durations
    run_means_ns: Durations

    def __len__(self) -> int:
        return int(self.group.size)


def cluster(durations_ns: Durations) -> list[Cluster]:
    """Durations of one group, any order, ns -> its clusters, shortest first. No durations, no clusters.

    A duration of zero or less (profilers emit them) is counted and summed as it is.
    """
    if durations_ns.size == 0:
        return []
    found = cluster_groups(np.sort(durations_ns), np.array([0]), np.array([durations_ns.size]))
    offsets = found.run_offsets.tolist()
    return [
        Cluster(
            **{name: int(column[at]) for name, column in found.numbers.items()},
            runs=tuple(
                zip(
                    found.run_counts[offsets[at] : offsets[at + 1]].tolist(),
                    found.run_means_ns[offsets[at] : offsets[at + 1]].tolist(),
                    strict=True,
                )
            ),
        )
        for at in range(len(found))
    ]


def cluster_groups(ordered: Durations, first: Durations, size: Durations, density: bool = True) -> Clusters:
    """Clusters of all groups: group g is ordered[first[g] : first[g] + size[g]], ns, ascending, groups one after the other.

    Without `density` each group is one cluster.
    """
    cuts = valleys(ordered, first, size) if density else np.zeros(0, dtype=np.int64)
    pieces = runs.split(ordered, first, size, cuts)
    start = np.sort(np.concatenate([first, cuts]))
    count = np.diff(np.append(start, ordered.size))
    sums = np.concatenate([[0], np.cumsum(ordered)])
    lead = np.searchsorted(start, first)
    group = np.repeat(np.arange(first.size), np.diff(np.append(lead, start.size)))
    numbers = {"count": count, "sum_ns": sums[start + count] - sums[start], "min_ns": ordered[start]}
    for share, name in zip(QUANTILES, QUANTILE_COLUMNS, strict=True):
        numbers[name] = ordered[start + np.minimum((share * count).astype(np.int64), count - 1)]
    numbers["max_ns"] = ordered[start + count - 1]
    run_counts = pieces.end - pieces.start
    means = np.rint((sums[pieces.end] - sums[pieces.start]) / run_counts).astype(np.int64)
    offsets = np.append(np.searchsorted(pieces.start, start), pieces.start.size)
    return Clusters(group, np.arange(start.size) - lead[group], numbers, offsets, run_counts, means)


def quantiles(clusters: Sequence[Cluster], points: Reals) -> Reals:
    """Clusters -> the durations (ns) at cumulative shares `points` (0 to 1): the mean of the run that holds the share.

    Clusters without runs are linear between their order statistics.
    """
    shares: list[float] = []
    values: list[float] = []
    total = sum(item.count for item in clusters)
    below = 0
    for item in sorted(clusters, key=lambda each: each.min_ns):
        for knot, duration in _knots(item):
            shares.append((below + knot) / total)
            values.append(float(duration))
        below += item.count
    if not shares:
        return np.full(points.shape, np.nan)
    return np.interp(points, shares, values)


def _knots(item: Cluster) -> list[tuple[float, int]]:
    """Number of durations below, and the duration there."""
    if not item.runs:
        ends = (item.min_ns, item.p10_ns, item.p50_ns, item.p90_ns, item.p99_ns, item.max_ns)
        return [(share * item.count, value) for share, value in zip((0.0, *QUANTILES, 1.0), ends, strict=True)]
    knots: list[tuple[float, int]] = []
    below = 0
    for count, mean_ns in item.runs:
        knots += [(below, mean_ns), (below + count, mean_ns)]
        below += count
    return knots


def wasserstein(left: Sequence[Cluster], right: Sequence[Cluster], points: int = 512) -> float:
    """First Wasserstein distance between two distributions, ns: the mean distance of their quantile functions."""
    grid = (np.arange(points) + 0.5) / points
    return float(np.mean(np.abs(quantiles(left, grid) - quantiles(right, grid))))
