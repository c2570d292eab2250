"""How a workload's power spikes: a histogram of power over the GPU's limit, how alike two of them are, and their classes.

The feature of Minos (arXiv 2604.03591): power from the energy counter's growth, smoothed by half, over the limit; from 0.5 to 2.0
in 30 bins of 0.05, each the share of what lies there. Profiles are alike by the cosine between them, and joined by Ward's rule.
Minos samples every 1-2 ms; NVML's counter moves ten times a second at most and is read once a second. What is seen is therefore
the mean of a second: how long a workload stays near its limit, and swings that last seconds. Spikes above the limit that last
milliseconds are not in it, and a profile is never to be compared with one that was taken at another pace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .signals import Numbers, Reals, Samples
from .states import GAP_SECONDS_MAX, Flags

SMOOTHING: Final = 0.5
RATIO_MIN: Final = 0.5
RATIO_MAX: Final = 2.0
BINS: Final = 30
CUT: Final = 0.7
"""Classes part where joining costs more than this share of the last join."""
JOINED_MAX: Final = 512
"""Profiles that are joined at once: their distances take 2 MB, joining them a second."""
KEPT_MIN: Final = 30
"""Samples that a profile takes at least."""
SPIKE_RATIO: Final = 0.9
HIGH_SHARE: Final = 2 / 3
LOW_SHARE: Final = 1 / 3
"""Power from SPIKE_RATIO of the limit on for more than HIGH_SHARE of what counts is high, for less than LOW_SHARE low. Minos' own
classes are clusters that were named by hand; these names hold for one profile by itself."""
CLASSES: Final = ("high-spike", "hybrid", "low-spike")


@dataclass(frozen=True)
class Profile:
    """`histogram` adds up to 1, NaN where fewer than KEPT_MIN samples count.

    `kept` samples are in it, `below` under half the limit, `above` beyond twice. `counted`: share of them by the counter.
    """

    histogram: Reals
    kept: int
    below: int
    above: int
    counted: float

    @property
    def kind(self) -> str | None:
        """One of CLASSES; None where too little counts."""
        if self.kept < KEPT_MIN:
            return None
        share = float(self.histogram[round((SPIKE_RATIO - RATIO_MIN) * BINS / (RATIO_MAX - RATIO_MIN)) :].sum())
        return CLASSES[0] if share > HIGH_SHARE else CLASSES[2] if share < LOW_SHARE else CLASSES[1]


def watts(samples: Samples) -> tuple[Reals, Flags]:
    """Power up to each sample, by the counter's growth where it was read at both ends; and where that is so."""
    found, counted = samples.watts.copy(), np.zeros(len(samples), dtype=bool)
    if len(samples) > 1:
        seconds = np.diff(samples.time_ns) / 1e9
        grown = np.diff(samples.joules)
        with np.errstate(invalid="ignore"):
            fit = (np.diff(samples.gpu) == 0) & (seconds > 0) & (seconds <= GAP_SECONDS_MAX) & (grown >= 0)
        at = np.flatnonzero(fit) + 1
        found[at] = grown[fit] / seconds[fit]
        counted[at] = True
    return found, counted


def smoothed(values: Reals, fresh: Flags) -> Reals:
    """Half of the value before and half of this one, begun anew where `fresh`; unknown values are left out."""
    found = np.full(len(values), np.nan)
    before = float("nan")
    for at, (value, anew) in enumerate(zip(values.tolist(), fresh.tolist(), strict=True)):
        if anew:
            before = float("nan")
        if value == value:
            before = value if before != before else SMOOTHING * before + (1 - SMOOTHING) * value
            found[at] = before
    return found


def profile(samples: Samples, limits: Reals | None = None, chosen: Flags | None = None) -> Profile:
    """Of all samples, or those `chosen` (a job's); `limits` are watts by sample where the GPUs do not tell theirs."""
    power, counted = watts(samples)
    limit = samples.limit_watts if limits is None else limits
    fresh = np.ones(len(samples), dtype=bool)
    fresh[1:] = (np.diff(samples.gpu) != 0) | (np.diff(samples.time_ns) > GAP_SECONDS_MAX * 1e9)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = smoothed(power, fresh) / np.where(limit > 0, limit, np.nan)
    known = ~np.isnan(ratio) & (chosen if chosen is not None else True)
    return of_ratios(ratio[known], float(counted[known].mean()) if known.any() else 0.0)


def of_ratios(ratio: Reals, counted: float = 0.0) -> Profile:
    """Profile of smoothed power over the limit."""
    places = np.floor((ratio - RATIO_MIN) * BINS / (RATIO_MAX - RATIO_MIN) + 1e-9).astype(np.int64)
    inside = (places >= 0) & (places < BINS)
    counts = np.bincount(places[inside], minlength=BINS).astype(float)
    kept = int(inside.sum())
    histogram = counts / kept if kept >= KEPT_MIN else np.full(BINS, np.nan)
    return Profile(histogram, kept, int((places < 0).sum()), int((places >= BINS).sum()), counted)


def distances(histograms: Reals) -> Reals:
    """1 - cosine between each two rows, n x n."""
    length = np.linalg.norm(histograms, axis=1, keepdims=True)
    unit = histograms / np.where(length > 0, length, 1.0)
    apart: Reals = np.clip(1.0 - unit @ unit.T, 0.0, None)
    np.fill_diagonal(apart, 0.0)
    return apart


def nearest(one: Profile, known: Mapping[str, Profile], count: int = 2) -> Sequence[tuple[str, float]]:
    """Names of the profiles most like `one`, and how far they are, the nearest first: what a new workload borrows curves from."""
    told = {name: each for name, each in known.items() if each.kept >= KEPT_MIN}
    if not told or one.kept < KEPT_MIN:
        return []
    far = distances(np.vstack([one.histogram, *(each.histogram for each in told.values())]))[0, 1:]
    return sorted(zip(told, far.tolist(), strict=True), key=lambda pair: pair[1])[:count]


def ward(apart: Reals) -> list[tuple[int, int, float, int]]:
    """Joins in order of cost: two clusters (n + i is what join i made), cost, members; ValueError beyond JOINED_MAX.

    Lance and Williams' recurrence with Ward's weights.
    """
    count = len(apart)
    if count > JOINED_MAX:
        raise ValueError(f"at most {JOINED_MAX} profiles are joined at once")
    square = apart.astype(float) ** 2
    np.fill_diagonal(square, np.inf)
    names, sizes = list(range(count)), np.ones(count)
    alive = np.ones(count, dtype=bool)
    joins: list[tuple[int, int, float, int]] = []
    for step in range(count - 1):
        one, other = sorted(map(int, np.unravel_index(int(np.argmin(square)), square.shape)))
        first, second = sorted((names[one], names[other]))
        cost = float(np.sqrt(square[one, other]))
        _join(square, sizes, alive, one, other)
        names[one] = count + step
        joins.append((first, second, cost, int(sizes[one])))
    return joins


def _join(square: Reals, sizes: Reals, alive: Flags, one: int, other: int) -> None:
    """`other` becomes part of `one`."""
    rest = alive.copy()
    rest[[one, other]] = False
    total = sizes[one] + sizes[other] + sizes[rest]
    joined = (
        (sizes[one] + sizes[rest]) * square[one, rest] + (sizes[other] + sizes[rest]) * square[other, rest]
    ) - sizes[rest] * square[one, other]
    square[one, rest] = square[rest, one] = joined / total
    square[other, :] = square[:, other] = np.inf
    sizes[one] += sizes[other]
    alive[other] = False


def clusters(apart: Reals, cut: float = CUT) -> Numbers:
    """Cluster of each profile, numbered as they first come: joins that cost more than `cut` of the last one are undone."""
    count = len(apart)
    joins = ward(apart)
    most = max((cost for _, _, cost, _ in joins), default=0.0)
    parent = list(range(2 * count))
    for step, (one, other, cost, _) in enumerate(joins):
        if cost <= cut * most:
            parent[one] = parent[other] = count + step
    roots = [_root(parent, at) for at in range(count)]
    order: npt.NDArray[np.int64] = np.array([list(dict.fromkeys(roots)).index(root) for root in roots], dtype=np.int64)
    return order


def _root(parent: Sequence[int], at: int) -> int:
    while parent[at] != at:
        at = parent[at]
    return at
