"""Statistics that one wild value, one slow rank or half a group of slow ranks does not upset."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from .medians import median as median
from .scatter import MEDIAN_VARIANCE, MEMBERS_MIN, PARTS_SCATTER, SIGMAS, between_members, over_steps, standard_error

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.intp]

EXCESS_GATE: Final = 0.10
"""A peer is slow from this excess over its peers' median on, whatever the scatter (three-way rule of the what-if analysis,
OSDI'25) ..."""
SURE_GATE: Final = 0.05
"""... and from this one on where the group's own scatter makes chance impossible."""
SHORT_ROWS: Final = 16
"""In windows of fewer rows only what chance makes impossible counts."""
SHARE_FLOOR: Final = 0.50
SHARE_CEILING: Final = 0.95
CHANCE_MAX: Final = 0.005
"""Largest probability, over all members, that mere rotation would have shown the same persistence."""
PAIR_CHANCE_MAX: Final = 0.001
"""The same in groups of two or three, where runs are common and every window is a new try."""
TOP_SHARE: Final = 64
"""In a group of n the slowest n // TOP_SHARE of a step count as slowest: among thousands somebody always hiccups."""
RECURRENT_SHARE: Final = 0.1
"""A member that is slow now and then is so in this share of rows; less is a matter of single stalls ..."""
SPELL_SHARE: Final = 0.5
"""... and at least so many of these rows lie beside another: lone ones far apart are single stalls too."""
RECURRENT_MIN: Final = 2
"""Blocks of rows at least: once is not again."""
RECURRENT_SCALES: Final = (1, 4, 8)
"""Rows taken together to see it: what lasts for some rows stands out of scatter that hides each of them."""
RECURRENT_RATIO: Final = 4
"""... and in so many times as many rows as any other member is nearly as slow in; of blocks of rows as many, and in them ..."""
TURNS_RATIO: Final = 2
"""... so many times as many single rows, in which scatter counts: members that take turns have runs of luck."""
OTHERS_SHARE: Final = 0.75
TOGETHER_SHARE: Final = 0.8
"""Of several members that are slow together so many are among the slowest of a row."""
SETS_MAX: Final = 8
"""Candidate sets of slow members looked at for one window."""


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


def slow_members(
    values: Array, rows_min: int, window_min: int, gate: float = SURE_GATE, apart: float = PARTS_SCATTER
) -> Slow | None:
    """Members slow in the newest regime of a (steps, members) matrix of times, or None.

    Looks at the whole window first, then at its newest half, quarter and so on down to `window_min` rows, so that a fault
    which starts late is found; where it starts and ends is then sought over the whole window. A regime of fewer than `rows_min`
    rows is none. Last, a member that is slow again and again but not lastingly is looked for. `apart` is by how much healthy
    members differ for good, where that is known better than from these.
    """
    scatter = over_steps(values / peers_median(values))
    for start in windows(len(values), window_min):
        found = _persistent(values[start:], gate, scatter, apart)
        if found is None and start >= SHORT_ROWS:
            found = _changed(values, start, gate, scatter)
        if found is None:
            continue
        begin, end = _regime(values, found, start)
        slow = _measured(values, found, begin, end) if end - begin >= rows_min else None
        if slow and slow.share >= SHARE_FLOOR and slow.worst >= gate:
            return slow
    return _recurrent(values, rows_min, gate, scatter)


def windows(rows: int, window_min: int) -> list[int]:
    """First rows of the windows to judge: all rows, the newest half, quarter and so on, last the newest `window_min` rows."""
    starts, length = [0], rows // 2
    while length > window_min:
        starts.append(rows - length)
        length //= 2
    return [*starts, rows - window_min] if rows > window_min else starts


def _persistent(window: Array, gate: float, scatter: float, apart: float) -> tuple[int, ...] | None:
    """The largest set of members that is slow by the gates in this window."""
    typical = median(window / median(window, axis=1)[:, None], axis=0)
    known = np.flatnonzero(~np.isnan(typical))
    order = known[np.argsort(typical[known], kind="stable")]
    for size in _sizes(typical[order], gate):
        slow, fast = order[-size:], order[:-size]
        if _above(window, slow, fast, gate, scatter, apart) and _holds(window, slow, fast, gate):
            return tuple(sorted(int(member) for member in slow))
    return None


def _changed(values: Array, start: int, gate: float, scatter: float) -> tuple[int, ...] | None:
    """Members slow from row `start` on beside what they were before, and still beside the others: no chip becomes another."""
    ratio = values / median(values, axis=1)[:, None]
    before: Array = median(ratio[:start], axis=0)
    found = _persistent(values[start:] / before, gate, scatter, 0.0)
    now: Array = median(ratio[start:], axis=0)
    return found if found and float(np.min(now[list(found)])) >= 1 + gate / 2 else None


def _sizes(ordered: Array, gate: float) -> list[int]:
    """Sizes of the slow set worth a look, largest first; one is always among them."""
    count = len(ordered)
    if count < 2:
        return []
    sizes = np.arange(1, count // 2 + 1)
    fast = count - sizes
    middle = (ordered[(fast - 1) // 2] + ordered[fast // 2]) / 2
    least, most = ordered[count - sizes], ordered[count - sizes - 1]
    apart = (least / middle >= 1 + gate) & (least - most >= (least - middle) / 2)
    chosen = sizes[apart][::-1][:SETS_MAX].tolist()
    return chosen if 1 in chosen else [*chosen, 1]


def _above(window: Array, slow: Indexes, fast: Indexes, gate: float, scatter: float, apart: float) -> bool:
    """Whether each of the slow lies above the fast by more than scatter makes likely, or above several by EXCESS_GATE and long.

    With `apart` 0 members are held against what they were before, and do not differ for good.
    """
    ratio = window / median(window[:, fast], axis=1)[:, None]
    typical: Array = median(ratio, axis=0)
    members_scatter = max(apart, between_members(typical[fast])) if apart else 0.0
    for member in slow:
        own = ratio[:, [member]]
        excess, rows = typical[member] - 1, int(np.sum(~np.isnan(own)))
        if np.isnan(excess) or excess < gate:
            return False
        steps_scatter = max(scatter, over_steps(own)) if rows > SHORT_ROWS else scatter
        sure = excess >= SIGMAS * standard_error(steps_scatter, members_scatter, rows, len(fast))
        told = excess >= max(gate, EXCESS_GATE) and rows >= SHORT_ROWS and len(fast) >= MEMBERS_MIN - 1
        if not sure and not told:
            return False
    return True


def _holds(window: Array, slow: Indexes, fast: Indexes, gate: float) -> bool:
    """Whether the slow are slowest persistently, and not in turn with others; rows in which they are hardly slow do not count."""
    members = len(slow) + len(fast)
    if len(slow) > 1 and _together(window, slow, members):
        return True
    top = max(len(slow), members // TOP_SHARE)
    reference = median(window[:, fast], axis=1)
    for member in slow:
        own = window[:, member]
        rows = ~np.isnan(own) & ~np.isnan(reference)
        slowest = _among_slowest(window[rows], own[rows], top) & (own[rows] >= (1 + gate / 2) * reference[rows])
        hits, tries = int(np.sum(slowest)), int(rows.sum())
        if not tries or hits / tries < share_gate(len(slow), members):
            return False
        if members * by_chance(hits, tries, top / members) > (
            CHANCE_MAX if members >= MEMBERS_MIN else PAIR_CHANCE_MAX
        ):
            return False
    return True


def _together(window: Array, slow: Indexes, members: int) -> bool:
    """Whether next to all of these are among as many slowest of most rows: of so many sets hardly ever the same one is."""
    size = len(slow)
    needed = math.ceil(TOGETHER_SHARE * size)
    slowest = np.argsort(np.where(np.isnan(window), -np.inf, window), axis=1)[:, -size:]
    hits, tries = int(np.sum(np.isin(slowest, slow).sum(axis=1) >= needed)), len(window)
    sets = math.comb(members, size)
    chance = sum(math.comb(size, k) * math.comb(members - size, size - k) for k in range(needed, size + 1)) / sets
    return hits >= SHARE_CEILING * tries and sets * by_chance(hits, tries, chance) <= CHANCE_MAX


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


def _regime(values: Array, slow: tuple[int, ...], seen: int) -> tuple[int, int]:
    """First row and end of the run of rows in which a set found slow from row `seen` on is: that with most slow rows to spare."""
    ratio, _ = _relative(values, slow)
    inside = ratio[seen:]
    level = float(median(inside[inside >= 1 + max(float(median(inside)) - 1, 0.0) / 2]))
    return longest_run(np.where(np.isnan(ratio), 0.0, np.where(ratio >= 1 + (level - 1) / 2, 1.0, -1.0)))


def longest_run(votes: Array) -> tuple[int, int]:
    """Start and end of the run of rows with the largest surplus of +1 over -1 (0 does not vote)."""
    total = np.concatenate([[0.0], np.cumsum(votes)])
    surplus = total - np.minimum.accumulate(total)
    end = len(surplus) - 1 - int(np.argmax(surplus[::-1]))
    return int(np.argmin(total[: end + 1])), end


def _recurrent(values: Array, rows_min: int, gate: float, scatter: float) -> Slow | None:
    """The one member that is slow by far in a good part of the rows, between which it is as fast as ever.

    Row by row first, then by blocks of rows, in which scatter counts less.
    """
    ratio = values / peers_median(values)
    if np.isnan(scatter) or not ratio.size:
        return None
    own = ratio / np.clip(median(ratio, axis=0), 1 - gate, 1 + gate / 2)  # chips differ for good
    return next(
        (found for scale in RECURRENT_SCALES if (found := _again(values, own, rows_min, gate, scatter, scale))), None
    )


def _again(values: Array, own: Array, rows_min: int, gate: float, scatter: float, scale: int) -> Slow | None:
    """`_recurrent` by blocks of `scale` rows; `own` are ratios to the peers beside what is usual of each member."""
    skipped = len(values) % scale
    blocks = median(own[skipped:].reshape(-1, scale, own.shape[1]), axis=1)
    error = scatter * math.sqrt(MEDIAN_VARIANCE / scale) if scale > 1 else scatter
    far = blocks >= 1 + max(gate, SIGMAS * error)
    counts = far.sum(axis=0)
    member = int(np.argmax(counts))
    hits = int(counts[member])
    if hits * scale < max(rows_min + 1, RECURRENT_SHARE * len(values)) or hits < RECURRENT_MIN:
        return None
    if scale == 1 and _beside_another(far[:, member]) < SPELL_SHARE:
        return None
    level = float(median(blocks[far[:, member], member]))
    if not (_oftener(blocks, member, level, RECURRENT_RATIO) and _oftener(own, member, level, TURNS_RATIO)):
        return None
    between = median(blocks[~far[:, member], member])
    if np.isnan(between) or between >= 1 + gate / 2:
        return None
    rows = skipped + np.flatnonzero(np.repeat(far[:, member], scale))
    start, stop = int(rows[0]), int(rows[-1]) + 1
    found = _measured(values[rows], (member,), 0, len(rows))
    newest = len(values) if len(values) - stop <= stop - start else stop
    return replace(
        found, start=start, stop=newest, steps=newest - start, share=found.share * len(rows) / (newest - start)
    )


def _beside_another(far: Flags) -> float:
    """Share of the rows told that come right before or after another such row."""
    held = np.concatenate(([False], far, [False]))
    return float(np.mean((held[:-2] | held[2:])[far]))


def _oftener(ratio: Array, member: int, level: float, times: float) -> bool:
    """Whether a member is nearly as slow as `level` so many times as often as any other."""
    counts = np.sum(ratio >= 1 + OTHERS_SHARE * (level - 1), axis=0)
    return bool(counts[member] >= times * np.delete(counts, member).max(initial=0))


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
