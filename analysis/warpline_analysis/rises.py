"""Lasting rises of a series of times: shifts of its level that its own past has nothing like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .robust import SURE_GATE, Array, lasting_drop

BEFORE_MIN: Final = 10
"""Values that make a baseline."""
AFTER_MIN: Final = 5
"""Values that a rise must have lasted."""
SCALES: Final = (1, 2, 4, 8, 16)
"""Lengths of blocks whose medians are compared: what alternates within a block, as accumulating gradients does, is level."""
BLOCKS_MIN: Final = 5
"""Blocks on either side of a change."""
EXCURSION_RATIO: Final = 2.0
"""A rise must be so many times the largest excursion that as many values in a row made before it."""
EXCURSION_VALUES_MAX: Final = 50
RESTLESS_MIN: Final = 30
"""Values on either side from which a rise is told by ranks where single values vary more than it."""
DRIFT_SHARE: Final = 0.6
"""The halves of either level differ by no more than this part of the rise."""
PAST_SHARE: Final = 0.6
"""The series before the rise parts nowhere by more than this part of its score."""
DEVIATIONS: Final = 5.0
RANKS_DEVIATIONS: Final = 4.5
"""The same of ranks, which no single value sways: with the two conditions above, 1 in 10,000 restless series passes. Also what
ranks or few blocks must show where values were taken together."""
MEDIAN_ERROR: Final = 1.2533
"""Standard error of a median over that of a mean, normal values."""
QUARTILES_APART: Final = 1.349
"""Quartiles of normal values lie so many standard deviations apart."""
UNLIKELY: Final = 10.0
"""Logarithm of likelihoods by which a change elsewhere explains the values worse, so that it was not there. Values drift
together, so that chance alone makes more of a difference than independent ones would."""
LEAST_DEVIATION: Final = 1e-4
"""Scatter of logarithms that any measured series has."""
FAR_DEVIATIONS: Final = 2.0
"""So far beyond either level a value counts no more for where the change was."""


def deviation(values: Array) -> float:
    """Standard deviation from the quartiles: rare values do not count. 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    low, high = np.quantile(values, (0.25, 0.75))
    return float(high - low) / QUARTILES_APART


@dataclass(frozen=True)
class Rise:
    """A level `before` and a higher one `after`, from index `start` on; `scale` values were taken together to see it.

    The scatter of the values leaves open where between `earliest` and `latest` it began.
    """

    start: int
    before: float
    after: float
    scale: int
    earliest: int
    latest: int

    @property
    def share(self) -> float:
        """Part of the former level that came on top."""
        return self.after / self.before - 1

    @property
    def doubt(self) -> int:
        """Values between the bounds of its beginning."""
        return self.latest - self.earliest


def lasting_rise(series: Array, share: float = SURE_GATE) -> Rise | None:
    """The newest level of a positive series if it lies at least `share` above the one before it and lasts; else None.

    Nine in ten blocks on either side keep to their side of the middle (`lasting_drop` of the rates), and the rise exceeds
    what the series did by itself before: work that varies from step to step, in turn or in drifts, is no rise.
    """
    for scale in SCALES:
        found = _at_scale(series, share, scale)
        if found is not None:
            return found
    return _by_ranks(series, share)


def rise_at(series: Array, start: int, before: float, after: float, scale: int) -> Rise:
    """A rise with the bounds of its beginning: where a change of level is not much less likely (likelihood ratio of normal
    logarithms; single long values count little)."""
    logs, low, high = np.log(series), math.log(before), math.log(after)
    spread = max(deviation(np.concatenate([logs[:start] - low, logs[start:] - high])), LEAST_DEVIATION)
    near = np.clip(logs, low - FAR_DEVIATIONS * spread, high + FAR_DEVIATIONS * spread)
    gain = ((near - high) ** 2 - (near - low) ** 2) / (2 * spread**2)
    likely = np.concatenate([[0.0], np.cumsum(gain)])
    places = np.flatnonzero(likely >= float(np.max(likely)) - UNLIKELY)
    last = len(series) - 1
    return Rise(start, before, after, scale, min(int(places[0]), start), min(max(int(places[-1]), start), last))


def _by_ranks(series: Array, share: float) -> Rise | None:
    """A rise of a series that varies more from value to value than it rose, by the ranks of all of its values.

    The halves of either level nearly agree, so that no long drift is a rise, and the series parted by itself nowhere nearly as
    well before.
    """
    count = len(series)
    if count < 2 * RESTLESS_MIN:
        return None
    scores = _scores(series)
    start = RESTLESS_MIN + int(np.argmax(scores[RESTLESS_MIN - 1 : count - RESTLESS_MIN]))
    score, logs = float(scores[start - 1]), np.log(series)
    if score < RANKS_DEVIATIONS:
        return None
    parts = [_level(half) for side in (logs[:start], logs[start:]) for half in np.array_split(side, 2)]
    before, after = _level(logs[:start]), _level(logs[start:])
    level = max(abs(parts[1] - parts[0]), abs(parts[3] - parts[2])) <= DRIFT_SHARE * (after - before)
    past = float(np.max(np.abs(_scores(series[:start])[BEFORE_MIN - 1 : start - BEFORE_MIN])))
    rise = rise_at(series, start, math.exp(before), math.exp(after), RESTLESS_MIN)
    return rise if level and past <= PAST_SHARE * score and rise.share >= share else None


def risen_from(series: Array, start: int, deviations: float, share: float) -> Rise | None:
    """A rise at an index that something else has told, if the later values' ranks are higher by so many standard scores."""
    if start < BEFORE_MIN or len(series) - start < AFTER_MIN or float(_scores(series)[start - 1]) < deviations:
        return None
    logs = np.log(series)
    rise = Rise(start, math.exp(_level(logs[:start])), math.exp(_level(logs[start:])), 1, start, start)
    return rise if rise.share >= share else None


def _scores(series: Array) -> Array:
    """For each split the standard score of the later values' ranks (rank-sum test): large where they are higher."""
    count = len(series)
    ranks = np.argsort(np.argsort(series, kind="stable"), kind="stable").astype(np.float64)
    sizes = np.arange(1, count)
    surplus = (count - 1) / 2 * sizes - np.cumsum(ranks)[:-1]
    scores: Array = surplus / np.sqrt(sizes * (count - sizes) * (count + 1) / 12)
    return scores


def _level(logs: Array) -> float:
    """Mean of the middle four fifths."""
    ordered = np.sort(logs)
    cut = len(ordered) // 10
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def _at_scale(series: Array, share: float, scale: int) -> Rise | None:
    blocks = len(series) // scale
    least = [max(math.ceil(values / scale), BLOCKS_MIN) for values in (BEFORE_MIN, AFTER_MIN)]
    if blocks < sum(least):
        return None
    skipped = len(series) - blocks * scale
    medians = np.median(series[skipped:].reshape(blocks, scale), axis=1)
    drop = lasting_drop(1 / medians, 1 - 1 / (1 + share), *least)
    if drop is None:
        return None
    start = _sharpened(series, skipped + drop.start * scale, scale)
    rise = rise_at(series, start, 1 / drop.before, 1 / drop.after, scale)
    certain = _beyond_chance(np.log(medians), drop.start) and _unlike_the_past(series, rise)
    certain = certain and (scale == 1 or _few_but_sure(series, start, np.log(medians), drop.start))
    return rise if rise.share >= share and certain else None


def _beyond_chance(logs: Array, start: int) -> bool:
    """Whether the levels differ by DEVIATIONS standard errors of a median: few or restless values prove little."""
    before, after = logs[:start], logs[start:]
    error = MEDIAN_ERROR * deviation(before) * math.sqrt(1 / len(before) + 1 / len(after))
    return float(np.median(after) - np.median(before)) >= DEVIATIONS * error


def _few_but_sure(series: Array, start: int, logs: Array, split: int) -> bool:
    """Whether the values' ranks tell the levels apart, or else the blocks by their own scatter, which a few of them know badly
    (Student's t as a standard score, Wallace's approximation)."""
    if float(_scores(series)[start - 1]) >= RANKS_DEVIATIONS:
        return True
    before, after = logs[:split], logs[split:]
    free = len(logs) - 2
    error = math.sqrt(
        (np.var(before) * len(before) + np.var(after) * len(after)) / free * (1 / len(before) + 1 / len(after))
    )
    apart = float(np.mean(after) - np.mean(before)) / max(error, LEAST_DEVIATION)
    return (8 * free + 1) / (8 * free + 3) * math.sqrt(free * math.log1p(apart**2 / free)) >= RANKS_DEVIATIONS


def _sharpened(series: Array, start: int, scale: int) -> int:
    """The index near `start` that parts the two levels best, by absolute deviations of logarithms."""
    if scale == 1:
        return start
    logs = np.log(series)
    low, high = max(start - scale, 1), min(start + scale, len(series) - 1)
    excess = np.abs(logs - np.median(logs[:start])) - np.abs(logs - np.median(logs[start:]))
    return int(low + np.argmin(np.cumsum(excess)[low - 1 : high]))


def _unlike_the_past(series: Array, rise: Rise) -> bool:
    past = np.log(series[: rise.start])
    length = min(len(series) - rise.start, len(past) // 2, EXCURSION_VALUES_MAX)
    rounds = max(length // rise.scale, 1) * rise.scale
    medians = np.median(sliding_window_view(past, rounds), axis=1)
    excursion = float(np.max(np.abs(medians - math.log(rise.before))))
    return math.log1p(rise.share) >= EXCURSION_RATIO * excursion
