"""The cluster codec: many durations of one kernel -> a few clusters with exact count and sum, and back to a distribution.

Durations of one (kernel, stream, rank) group are cut at the valleys of a Gaussian kernel density of their logarithms
(ARGUS, arXiv 2606.20374, section 5.2: bandwidth 1.06 sigma n^(-1/5)). A valley counts if both sides hold at least
SIDE_SAMPLES_MIN samples and the two peaks lie at least GAP_LN_MIN apart. Unlike the paper's (count, p50, p99) each cluster
keeps count, sum, min and max exactly, so that total time survives.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

QUANTILES: Final = (0.10, 0.50, 0.90, 0.99)
SIDE_SAMPLES_MIN: Final = 3
GAP_LN_MIN: Final = 0.15
GRID_POINTS: Final = 256
SINGLE_BELOW: Final = 8
"""Groups with fewer samples, or whose extremes lie closer than GAP_LN_MIN, are one cluster without a density."""

Durations = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cluster:
    """One cluster: `count`, `sum_ns`, `min_ns` and `max_ns` are exact, the quantiles are order statistics."""

    count: int
    sum_ns: int
    min_ns: int
    p10_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


def cluster(durations_ns: Durations) -> list[Cluster]:
    """Durations of one group, any order, ns -> its clusters, shortest first. No durations, no clusters.

    A duration of zero or less (profilers emit them) is counted and summed as it is.
    """
    if durations_ns.size == 0:
        return []
    ordered = np.sort(durations_ns)
    edges = [0, *_cuts(ordered), ordered.size]
    return [_summary(ordered[low:high]) for low, high in itertools.pairwise(edges)]


def quantiles(clusters: Sequence[Cluster], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Clusters -> the durations (ns) at cumulative shares `points` (0 to 1), linear between the kept order statistics."""
    shares: list[float] = []
    values: list[float] = []
    total = sum(item.count for item in clusters)
    below = 0
    for item in sorted(clusters, key=lambda each: each.min_ns):
        knots = (0.0, *QUANTILES, 1.0)
        durations = (item.min_ns, item.p10_ns, item.p50_ns, item.p90_ns, item.p99_ns, item.max_ns)
        shares += [(below + knot * item.count) / total for knot in knots]
        values += [float(duration) for duration in durations]
        below += item.count
    if not shares:
        return np.full(points.shape, np.nan)
    return np.interp(points, shares, values)


def wasserstein(left: Sequence[Cluster], right: Sequence[Cluster], points: int = 512) -> float:
    """First Wasserstein distance between two distributions, ns: the mean distance of their quantile functions."""
    grid = (np.arange(points) + 0.5) / points
    return float(np.mean(np.abs(quantiles(left, grid) - quantiles(right, grid))))


def _summary(ordered: Durations) -> Cluster:
    ranks = np.minimum((np.asarray(QUANTILES) * ordered.size).astype(np.int64), ordered.size - 1)
    p10, p50, p90, p99 = (int(value) for value in ordered[ranks])
    return Cluster(
        count=int(ordered.size),
        sum_ns=int(ordered.sum()),
        min_ns=int(ordered[0]),
        p10_ns=p10,
        p50_ns=p50,
        p90_ns=p90,
        p99_ns=p99,
        max_ns=int(ordered[-1]),
    )


def _cuts(ordered: Durations) -> list[int]:
    """Positions in the sorted durations at which a new cluster starts."""
    if ordered.size < SINGLE_BELOW:
        return []
    logs = np.log(np.maximum(ordered, 1).astype(np.float64))
    low, high = float(logs[0]), float(logs[-1])
    spread = float(logs.std())
    if high - low < GAP_LN_MIN or spread == 0.0:
        return []
    grid, density = _density(logs, low, high, 1.06 * spread * ordered.size ** (-0.2))
    inner = density[1:-1]
    peaks = np.flatnonzero((inner > density[:-2]) & (inner >= density[2:])) + 1
    cuts: list[int] = []
    last_peak, last_cut = peaks[0] if peaks.size else 0, 0
    for peak in peaks[1:]:
        valley = int(last_peak + np.argmin(density[last_peak : peak + 1]))
        position = int(np.searchsorted(logs, grid[valley]))
        wide = grid[peak] - grid[last_peak] >= GAP_LN_MIN
        if wide and position - last_cut >= SIDE_SAMPLES_MIN and ordered.size - position >= SIDE_SAMPLES_MIN:
            cuts.append(position)
            last_cut, last_peak = position, peak
        elif density[peak] > density[last_peak]:
            last_peak = peak
    return cuts


def _density(
    logs: npt.NDArray[np.float64], low: float, high: float, bandwidth: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Gaussian kernel density on a grid padded by three bandwidths, by binning and one convolution: O(n + grid)."""
    pad = 3.0 * bandwidth
    edges = np.linspace(low - pad, high + pad, GRID_POINTS + 1)
    width = edges[1] - edges[0]
    counts = np.bincount(
        np.minimum(((logs - edges[0]) / width).astype(np.int64), GRID_POINTS - 1), minlength=GRID_POINTS
    ).astype(np.float64)
    reach = min(int(np.ceil(3.0 * bandwidth / width)), GRID_POINTS // 2 - 1)
    offsets = np.arange(-reach, reach + 1) * width
    kernel = np.exp(-0.5 * (offsets / bandwidth) ** 2)
    return edges[:-1] + width / 2, np.convolve(counts, kernel, mode="same")
