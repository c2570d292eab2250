"""Where to cut sorted durations into clusters: at the valleys of a Gaussian kernel density of their logarithms.

ARGUS (arXiv 2606.20374, section 5.2), bandwidth 1.06 sigma n^(-1/5), for many groups in one pass: samples are binned on a grid
of GRID_POINTS padded by three bandwidths and smoothed by one Fourier transform. A valley counts if both sides hold at least
SIDE_SAMPLES_MIN samples and the two peaks lie at least GAP_LN_MIN apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

SIDE_SAMPLES_MIN: Final = 3
GAP_LN_MIN: Final = 0.15
GRID_POINTS: Final = 256
DEPTH_MAX: Final = 0.6
"""Density at a valley, at most, over that at the lower of its peaks."""
SINGLE_BELOW: Final = 8
"""Groups with fewer samples, or whose extremes lie closer than GAP_LN_MIN, are one cluster without a density."""
GROUPS_AT_ONCE: Final = 256
"""Groups of one pass over the grid: bounds its memory to some megabytes."""
_NOTHING: Final = 1e-9
"""Densities below this many samples are rounding of the transform."""

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def valleys(ordered: Numbers, first: Numbers, size: Numbers) -> Numbers:
    """Positions in `ordered` at which a cluster starts that is not the first of its group, ascending.

    Group g is ordered[first[g] : first[g] + size[g]] (ns, ascending within the group); groups follow each other.
    """
    shortest, longest = ordered[first], ordered[first + size - 1]
    spread = np.log(np.maximum(longest, 1)) - np.log(np.maximum(shortest, 1))
    many = np.flatnonzero((size >= SINGLE_BELOW) & (spread >= GAP_LN_MIN))
    found = [
        _in_some(ordered, first[some], size[some])
        for some in np.split(many, range(GROUPS_AT_ONCE, len(many), GROUPS_AT_ONCE))
        if len(some)
    ]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _in_some(ordered: Numbers, first: Numbers, size: Numbers) -> Numbers:
    owner = np.repeat(np.arange(len(size)), size)
    start = np.cumsum(size) - size
    logs = np.log(np.maximum(ordered[np.arange(len(owner)) + (first - start)[owner]], 1).astype(np.float64))
    mean = np.add.reduceat(logs, start) / size
    deviation = np.sqrt(np.add.reduceat((logs - mean[owner]) ** 2, start) / size)
    bandwidth = 1.06 * deviation * size ** (-0.2)
    low = logs[start] - 3.0 * bandwidth
    width = (logs[start + size - 1] + 3.0 * bandwidth - low) / GRID_POINTS
    place = np.minimum(((logs - low[owner]) / width[owner]).astype(np.int64), GRID_POINTS - 1)
    counts = np.bincount(owner * GRID_POINTS + place, minlength=len(size) * GRID_POINTS).reshape(-1, GRID_POINTS)
    density = _smoothed(counts, bandwidth / width)
    return _chosen(density, counts, width, first, size)


def _smoothed(counts: Numbers, bandwidth_bins: Reals) -> Reals:
    """Each row convolved with a Gaussian; padded, so that its ends do not meet."""
    padded = 2 * GRID_POINTS
    frequency = np.fft.rfftfreq(padded)
    gaussian = np.exp(-2.0 * (np.pi * bandwidth_bins[:, None] * frequency) ** 2)
    smooth: Reals = np.fft.irfft(np.fft.rfft(counts, padded) * gaussian, padded)[:, :GRID_POINTS]
    return np.where(smooth < _NOTHING, 0.0, smooth)


def _chosen(density: Reals, counts: Numbers, width: Reals, first: Numbers, size: Numbers) -> Numbers:
    inner = density[:, 1:-1]
    row, column = np.nonzero((inner > density[:, :-2]) & (inner >= density[:, 2:]))
    column += 1
    several = np.flatnonzero(np.bincount(row, minlength=len(size)) > 1)
    below = np.cumsum(counts, axis=1)
    cuts: list[int] = []
    ends = np.searchsorted(row, several, side="right")
    for group, low, high in zip(several.tolist(), np.searchsorted(row, several).tolist(), ends.tolist(), strict=True):
        peaks = column[low:high]
        kept = _cuts(density[group], peaks.tolist(), below[group], GAP_LN_MIN / float(width[group]), int(size[group]))
        cuts += [int(first[group]) + cut for cut in kept]
    return np.array(cuts, dtype=np.int64)


def _cuts(density: Reals, peaks: list[int], below: Numbers, gap_bins: float, size: int) -> list[int]:
    """Positions within one group. A valley that does not count leaves the higher of its two peaks."""
    cuts: list[int] = []
    last_peak, last_cut = peaks[0], 0
    for peak in peaks[1:]:
        position = 0
        valley = last_peak + int(density[last_peak : peak + 1].argmin())
        if peak - last_peak >= gap_bins and density[valley] <= DEPTH_MAX * min(density[last_peak], density[peak]):
            position = int(below[valley - 1])
        if position - last_cut >= SIDE_SAMPLES_MIN and size - position >= SIDE_SAMPLES_MIN:
            cuts.append(position)
            last_cut, last_peak = position, peak
        elif density[peak] > density[last_peak]:
            last_peak = peak
    return cuts
