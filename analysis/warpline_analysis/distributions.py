"""Distributions of durations rebuilt from stored clusters, pooled over steps and ranks, and how far two of them lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.clusters import QUANTILES

from .robust import Array

COLUMNS: Final = ("count", "sum_ns", "min_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns")
"""Columns of kernel_clusters that a distribution is rebuilt from, in the order of `Distribution.clusters`."""
RUNS: Final = ("run_counts", "run_means_ns")
"""Columns with the shape of a cluster as runs, where it is known."""
GRID_POINTS: Final = 512
TAIL: Final = 0.9
"""Share of launches above which a difference is one of the tail."""
_SHARES: Final = np.array((0.0, *QUANTILES, 1.0))


@dataclass(frozen=True)
class Distribution:
    """Durations of a kernel's launches: (clusters, 8) of COLUMNS, ns. Clusters may overlap: those of other steps and ranks.

    `runs` are (runs, 3) of cluster, launches, mean in ns; clusters without any are taken as linear between their quantiles.
    """

    clusters: Array
    runs: Array

    @property
    def launches(self) -> float:
        """How many launches it stands for, exact."""
        return float(self.clusters[:, 0].sum())

    @property
    def mean_ns(self) -> float:
        """Mean duration, exact."""
        return float(self.clusters[:, 1].sum()) / self.launches

    def part(self, chosen: Array) -> Distribution:
        """Only the clusters where `chosen` is true."""
        places = np.cumsum(chosen) - 1
        kept = chosen[self.runs[:, 0].astype(np.int64)]
        runs = self.runs[kept].copy()
        runs[:, 0] = places[runs[:, 0].astype(np.int64)]
        return Distribution(self.clusters[chosen], runs)

    def below(self, durations_ns: Array) -> Array:
        """Share of launches that take at most so long: the clusters' own distributions, weighted by their counts."""
        share = np.zeros(len(durations_ns))
        order = np.argsort(self.runs[:, 2])
        total = np.concatenate([[0.0], np.cumsum(self.runs[order, 1])])
        share += total[np.searchsorted(self.runs[order, 2], durations_ns, side="right")]
        for cluster in self._without_runs():
            knots = np.maximum.accumulate(cluster[2:])  # foreign rows may hold quantiles out of order
            share += cluster[0] * np.interp(durations_ns, knots, _SHARES, left=0.0, right=1.0)
        return share / self.launches

    def knots(self) -> Array:
        """Durations at which its shape changes: means of runs, ends of clusters without, and points between the outermost."""
        ends = self._without_runs()[:, (2, 7)].ravel()
        known: Array = np.unique(np.concatenate([self.runs[:, 2], ends]))
        step = max(1, len(ends) // GRID_POINTS) if not len(self.runs) else 1
        between = np.geomspace(max(known[0], 1.0), max(known[-1], 2.0), GRID_POINTS)
        return np.concatenate([known[::step], between, [known[0] * 0.999, known[-1] * 1.001]])

    def quantile_ns(self, share: float) -> float:
        """The duration that so large a share of launches does not exceed."""
        grid = np.unique(self.knots())
        return float(np.interp(share, self.below(grid), grid))

    def _without_runs(self) -> Array:
        bare = np.ones(len(self.clusters), dtype=bool)
        bare[self.runs[:, 0].astype(np.int64)] = False
        return self.clusters[bare]


@dataclass(frozen=True)
class Distance:
    """First Wasserstein distance of two distributions, ns, and the part of it that lies in the slowest tenth of launches."""

    wasserstein_ns: float
    tail_share: float


def distance(left: Distribution, right: Distribution) -> Distance:
    """The area between the two cumulative distributions (ARGUS, arXiv 2606.20374, level 3)."""
    grid = np.unique(np.concatenate([left.knots(), right.knots()]))
    one, two = left.below(grid), right.below(grid)
    area = np.abs(one - two)[:-1] * np.diff(grid)
    total = float(area.sum())
    tail = float(area[np.minimum(one, two)[:-1] >= TAIL].sum())
    return Distance(total, tail / total if total > 0 else 0.0)


def of_rows(rows: pa.Table) -> Distribution:
    """Rows of kernel_clusters with at least one launch each -> their launches as one distribution, cluster by row."""
    clusters = np.column_stack([rows.column(name).to_numpy().astype(np.float64) for name in COLUMNS])
    return Distribution(clusters, _runs(rows))


def _runs(rows: pa.Table) -> Array:
    """(runs, 3) of row, launches, mean; none of them where a list is not whole."""
    none: Array = np.empty((0, 3))
    if not set(RUNS) <= set(rows.schema.names):
        return none
    counts, means = (rows.column(name).combine_chunks() for name in RUNS)
    sizes = [pc.fill_null(pc.list_value_length(each), 0).to_numpy(zero_copy_only=False) for each in (counts, means)]
    flat = [each.flatten() for each in (counts, means)]
    if not np.array_equal(*sizes) or any(each.null_count for each in flat):
        return none
    at = np.repeat(np.arange(rows.num_rows), sizes[0])
    return np.column_stack([at, *(each.to_numpy(zero_copy_only=False) for each in flat)]).astype(np.float64)
