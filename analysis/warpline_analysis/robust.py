"""Statistics that one wild value, one slow rank or half a group of slow ranks does not upset."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

EXCESS_GATE: Final = 0.10
"""A peer is slow from this excess over its peers' median on (three-way rule of the what-if analysis, OSDI'25)."""
SHARE_FLOOR: Final = 0.50
SHARE_CEILING: Final = 0.95
CHANCE_MAX: Final = 0.005
"""Largest probability, over all members, that mere rotation would have shown the same persistence."""
TOP_SHARE: Final = 64
"""In a group of n the slowest n // TOP_SHARE of a step count as slowest: among thousands somebody always hiccups."""
TAIL_MAX: Final = 3
"""So many of the newest rows may be more even than the regime: some ranks' part of them may still be on its way."""
SETS_MAX: Final = 8
"""Candidate sets of slow members looked at for one window."""


def median(values: Array, axis: int | None = None) -> Any:
    """Median that passes over NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN slices are expected and stay NaN
        return np.nanmedian(values, axis=axis)


def peers_median(values: Array) -> Array:
    """(steps, members) -> for each cell the median of the step's other members; NaN where a cell has no peer."""
    order = np.argsort(values, axis=1)  # NaN last
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.argsort(order, axis=1)
    valid = np.sum(~np.isnan(values), axis=1)[:, None]
    others = np.maximum(valid - 1, 1)
    low, high = (others - 1) // 2, others // 2
    limit = values.shape[1] - 1
    # With a member taken out, everything behind it moves up by one place.
    lower = np.take_along_axis(ordered, np.minimum(low + (place <= low), limit), axis=1)
    upper = np.take_along_axis(ordered, np.minimum(high + (place <= high), limit), axis=1)
    result: Array = np.where(np.isnan(values) | (valid < 2), np.nan, (lower + upper) / 2)
    return result


def share_gate(slow: int, members: int) -> float:
    """Share of steps in which a member must be among the `slow` slowest to be called persistent: 2/n, within 50-95 %."""
    return min(SHARE_CEILING, max(SHARE_FLOOR, 2 * slow / members))


def by_chance(hits: int, tries: int, probability: float) -> float:
    """P(at least `hits` of `tries`) where each succeeds with `probability`."""
    if hits <= 0 or probability >= 1:
        return 1.0
    logs = [
        math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1)
        + k * math.log(probability) + (tries - k) * math.log1p(-probability)
        for k in range(hits, tries + 1)
    ]  # fmt: skip
    return min(1.0, sum(math.exp(value) for value in logs))


def steps_needed(slow: int, members: int) -> int:
    """Steps after which full persistence can no longer be chance."""
    return max(1, math.ceil(math.log(CHANCE_MAX / members) / math.log(slow / members)))


@dataclass(frozen=True)
class Slow:
    """Members of a group that are slow together and persistently, over rows `start` to before `stop`.

    `excess` is the typical excess of the least slow of them over the others' median, `worst` that of the slowest,
    `share` the smallest share of steps in which one of them is among the slowest, `lost` the slowest's typical excess in
    the unit of the matrix.
    """

    members: tuple[int, ...]
    start: int
    stop: int
    steps: int
    excess: float
    worst: float
    share: float
    lost: float

    def accused(self, members: int) -> list[tuple[int, ...]]:
        """A clear minority of so many members is accused one by one; where up to half of a group is slow, together."""
        return [(member,) for member in self.members] if 4 * len(self.members) <= members else [self.members]


def slow_members(values: Array, rows_min: int, window_min: int) -> Slow | None:
    """Members slow in the newest regime of a (steps, members) matrix of times, or None.

    Looks at the whole window first, then at its newest half, quarter and so on down to `window_min` rows, so that a fault
    which starts late is found; where it starts and ends is then sought over the whole window. A regime of fewer than `rows_min`
    rows is none.
    """
    for start in windows(len(values), window_min):
        found = _persistent(values[start:])
        if found is None:
            continue
        begin, end = _regime(values, found)
        if end - begin >= rows_min:
            return _measured(values, found, begin, end)
    return None


def windows(rows: int, window_min: int) -> list[int]:
    """First rows of the windows to judge: all rows, the newest half, quarter and so on down to `window_min` rows."""
    starts, length = [0], rows // 2
    while length >= window_min:
        starts.append(rows - length)
        length //= 2
    return starts


def _persistent(window: Array) -> tuple[int, ...] | None:
    """The largest set of members that is slow by the gates in this window."""
    typical = median(window / median(window, axis=1)[:, None], axis=0)
    known = np.flatnonzero(~np.isnan(typical))
    order = known[np.argsort(typical[known], kind="stable")]
    for size in _sizes(typical[order]):
        slow = order[-size:]
        if _holds(window, slow, order[:-size], len(order)):
            return tuple(sorted(int(member) for member in slow))
    return None


def _sizes(ordered: Array) -> list[int]:
    """Sizes of the slow set worth a look, largest first; one is always among them."""
    count = len(ordered)
    if count < 2:
        return []
    sizes = np.arange(1, count // 2 + 1)
    fast = count - sizes
    middle = (ordered[(fast - 1) // 2] + ordered[fast // 2]) / 2
    least, most = ordered[count - sizes], ordered[count - sizes - 1]
    apart = (least / middle >= 1 + EXCESS_GATE) & (least - most >= (least - middle) / 2)
    chosen = sizes[apart][::-1][:SETS_MAX].tolist()
    return chosen if 1 in chosen else [*chosen, 1]


def _holds(window: Array, slow: npt.NDArray[np.intp], fast: npt.NDArray[np.intp], members: int) -> bool:
    reference = median(window[:, fast], axis=1)
    top = max(len(slow), members // TOP_SHARE)
    for member in slow:
        own = window[:, member]
        rows = ~np.isnan(own) & ~np.isnan(reference)
        if not rows.any() or median(own[rows] / reference[rows]) < 1 + EXCESS_GATE:
            return False
        hits = int(np.sum(_among_slowest(window[rows], own[rows], top)))
        tries = int(rows.sum())
        if hits / tries < share_gate(len(slow), members):
            return False
        if members * by_chance(hits, tries, top / members) > CHANCE_MAX:
            return False
    return True


def _among_slowest(window: Array, own: Array, top: int) -> Flags:
    slower: Flags = np.sum(window > own[:, None], axis=1) < top
    return slower


def _relative(values: Array, slow: tuple[int, ...]) -> tuple[Array, Array]:
    """Per row: the slow members' smallest time over the others' median, and that median."""
    fast = [member for member in range(values.shape[1]) if member not in set(slow)]
    reference: Array = median(values[:, fast], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        least: Array = np.nanmin(values[:, list(slow)], axis=1)
    return least / reference, reference


def _regime(values: Array, slow: tuple[int, ...]) -> tuple[int, int]:
    """First row and end of the run of rows in which the set is slow: the one with the largest surplus of slow rows."""
    ratio, _ = _relative(values, slow)
    level = float(np.nanmedian(ratio[ratio >= 1 + EXCESS_GATE / 2]))
    return longest_run(np.where(np.isnan(ratio), 0.0, np.where(ratio >= 1 + (level - 1) / 2, 1.0, -1.0)))


def longest_run(votes: Array) -> tuple[int, int]:
    """Start and end of the run of rows with the largest surplus of +1 over -1 (0 does not vote)."""
    total = np.concatenate([[0.0], np.cumsum(votes)])
    surplus = total - np.minimum.accumulate(total)
    end = len(surplus) - 1 - int(np.argmax(surplus[::-1]))
    return int(np.argmin(total[: end + 1])), end


def _measured(values: Array, slow: tuple[int, ...], start: int, stop: int) -> Slow:
    regime = values[start:stop]
    ratio, reference = _relative(regime, slow)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        slowest = np.nanmax(regime[:, list(slow)], axis=1)
    top = max(len(slow), values.shape[1] // TOP_SHARE)
    shares = [float(np.mean(_among_slowest(regime[seen], regime[seen, member], top)))
              for member in slow if (seen := ~np.isnan(regime[:, member])).any()]  # fmt: skip
    return Slow(
        members=slow,
        start=start,
        stop=stop,
        steps=len(regime),
        excess=float(median(ratio)) - 1,
        worst=float(median(slowest / reference)) - 1,
        share=min(shares),
        lost=float(median(slowest - reference)),
    )


@dataclass(frozen=True)
class Evenness:
    """How even a group is from row `start` on, whoever is slow: typical excess of the slowest, who it mostly is, how often.

    `spread` is the typical excess of the member at the upper quartile.
    """

    start: int
    steps: int
    excess: float
    slowest: int
    share: float
    spread: float


def evenness(values: Array, window_min: int) -> Evenness:
    """Of a (steps, members) matrix with at least one row of two members.

    Over all rows, or over the newest regime in which the excess passes the gate if there is one.
    """
    ratio = values / peers_median(values)
    filled = np.where(np.isnan(ratio), -np.inf, ratio)
    excess = filled.max(axis=1) - 1
    start = next((row for row in windows(len(values), window_min) if np.median(excess[row:]) >= EXCESS_GATE), None)
    if start is not None:
        level = max(float(np.median(excess[start:])) / 2, EXCESS_GATE / 2)
        first, end = longest_run(np.where(excess >= level, 1.0, -1.0))
        lasts = len(values) - end <= TAIL_MAX and 2 * (end - first) >= window_min
        start = first if lasts else start
    begin = start or 0
    slowest = np.argmax(filled[begin:], axis=1)
    winners = np.bincount(slowest, minlength=values.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        quartile = np.nanpercentile(values[begin:], 75, axis=1) / np.nanmedian(values[begin:], axis=1)
    return Evenness(
        start=begin,
        steps=len(slowest),
        excess=float(np.median(excess[begin:])),
        slowest=int(np.argmax(winners)),
        share=float(winners.max() / len(slowest)),
        spread=float(median(quartile)) - 1,
    )


@dataclass(frozen=True)
class Drop:
    """A lasting fall of a series from `before` to `after`, from index `start` on."""

    start: int
    before: float
    after: float

    @property
    def share(self) -> float:
        """Part of the level that is gone, 0 to 1."""
        return 1 - self.after / self.before


LASTING: Final = 0.9
"""Share of the values on either side of a change point that must lie on their side of the middle."""


def lasting_drop(series: Array, share: float, before_min: int, after_min: int) -> Drop | None:
    """The newest regime of a positive series, if it lies at least `share` below the one before it; else None.

    The split that parts the values' ranks best (least squares over ranks: neither outliers nor units count) gives the two
    levels; the new regime is then the end of the series with the largest surplus of values on the low level's side.
    """
    count = len(series)
    if count < before_min + after_min:
        return None
    ranks = np.argsort(np.argsort(series, kind="stable"), kind="stable").astype(np.float64)
    left = np.cumsum(ranks)[:-1]
    sizes = np.arange(1, count)
    gain = left**2 / sizes + (ranks.sum() - left) ** 2 / (count - sizes)
    gain[: before_min - 1] = -np.inf
    gain[count - after_min :] = -np.inf
    split = int(np.argmax(gain)) + 1
    middle = float(np.median(series[:split]) + np.median(series[split:])) / 2
    surplus = np.cumsum(np.where(series < middle, 1, -1)[::-1])[::-1]
    start = int(np.argmax(surplus))
    if not before_min <= start <= count - after_min:
        return None
    drop = Drop(start, float(np.median(series[:start])), float(np.median(series[start:])))
    kept = np.mean(series[start:] < middle) >= LASTING and np.mean(series[:start] > middle) >= LASTING
    return drop if drop.share >= share and kept else None
