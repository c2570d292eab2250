"""Distributions of durations rebuilt from stored clusters, pooled over steps and ranks, and how far two of them lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from warpline_proto.clusters import QUANTILES

from .robust import Array

COLUMNS: Final = ("count", "sum_ns", "min_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "max_ns")
"""Columns of kernel_clusters that a distribution is rebuilt from, in the order of `Distribution.clusters`."""
GRID_POINTS: Final = 512
TAIL: Final = 0.9
"""Share of launches above which a difference is one of the tail."""
_SHARES: Final = np.array((0.0, *QUANTILES, 1.0))


@dataclass(frozen=True)
class Distribution:
    """Durations of a kernel's launches: (clusters, 8) of COLUMNS, ns. Clusters may overlap: those of other steps and ranks."""

    clusters: Array

    @property
    def launches(self) -> float:
        """How many launches it stands for, exact."""
        return float(self.clusters[:, 0].sum())

    @property
    def mean_ns(self) -> float:
        """Mean duration, exact."""
        return float(self.clusters[:, 1].sum()) / self.launches

    def below(self, durations_ns: Array) -> Array:
        """Share of launches that take at most so long: the clusters' own distributions, weighted by their counts."""
        share = np.zeros(len(durations_ns))
        for cluster in self.clusters:
            knots = np.maximum.accumulate(cluster[2:])  # foreign rows may hold quantiles out of order
            share += cluster[0] * np.interp(durations_ns, knots, _SHARES, left=0.0, right=1.0)
        return share / self.launches

    def quantile_ns(self, share: float) -> float:
        """The duration that so large a share of launches does not exceed."""
        grid = _grid(self.clusters)
        return float(np.interp(share, self.below(grid), grid))


@dataclass(frozen=True)
class Distance:
    """First Wasserstein distance of two distributions, ns, and the part of it that lies in the slowest tenth of launches."""

    wasserstein_ns: float
    tail_share: float


def distance(left: Distribution, right: Distribution) -> Distance:
    """The area between the two cumulative distributions (ARGUS, arXiv 2606.20374, level 3)."""
    grid = _grid(np.concatenate([left.clusters, right.clusters]))
    one, two = left.below(grid), right.below(grid)
    area = np.abs(one - two)[:-1] * np.diff(grid)
    total = float(area.sum())
    tail = float(area[np.minimum(one, two)[:-1] >= TAIL].sum())
    return Distance(total, tail / total if total > 0 else 0.0)


def of_rows(rows: pa.Table) -> Distribution:
    """Rows of kernel_clusters -> their launches as one distribution; clusters without a launch are left out."""
    columns = [rows.column(name).to_numpy().astype(np.float64) for name in COLUMNS]
    clusters = np.column_stack(columns)
    return Distribution(clusters[clusters[:, 0] > 0])


def _grid(clusters: Array) -> Array:
    """Durations from the shortest to the longest, evenly spaced in their logarithms, with every cluster's ends among them."""
    low, high = max(float(clusters[:, 2].min()), 1.0), max(float(clusters[:, 7].max()), 2.0)
    ends = np.unique(np.concatenate([clusters[:, 2], clusters[:, 7]]))
    step = max(1, len(ends) // GRID_POINTS)
    grid: Array = np.unique(
        np.concatenate([np.geomspace(low, high, GRID_POINTS), ends[::step], [low * 0.999, high * 1.001]])
    )
    return grid
