"""What recurs in a stream of operations and how steadily: the latest occurrences of every kind, kept in bounded memory.

Some kinds come in bursts, one for each layer or bucket. Only the first of a burst is kept: one that comes after a pause which is
long for its kind. So a kind that occurs a thousand times a step recurs once a step too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

KEYS_MAX: Final = 2_048
"""Kinds that are told apart: four megabytes. A program has some hundreds; further ones are not looked at."""
DEPTH: Final = 64
"""Occurrences of a kind that are remembered."""
CHUNK: Final = 4_096
"""Events that are taken at once."""
HOLES_MAX: Final = 64
"""Times without records that are remembered."""
PAUSE: Final = 0.3
"""A burst begins after a pause of so much of the longest usual one."""
FORGET: Final = 0.98
"""What is usual is forgotten by so much with each beginning,"""
FORGET_MAX: Final = 8
"""at most so many times at once."""
GROWTH: Final = 2.0
"""And grows at most so much at once: a checkpoint is no new habit."""
SETTLING: Final = 4
"""After so many occurrences a kind has a habit."""
LONE_TOLERANCE: Final = 0.25
"""A gap within so much of the median is one period; within a little more of two to four times it, so many with losses."""
MANY_TOLERANCE: Final = 0.3
MANY_MAX: Final = 4
SINGLE_SHARE_MIN: Final = 0.65
WHOLE_SHARE_MIN: Final = 0.8
"""Steady is a kind with so many gaps of one period, and so many of whole ones; the rest are evaluations and checkpoints."""

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Events(NamedTuple):
    """Operations or kernels: when (ns), of what kind (any number that tells kinds apart), how heavy (bytes or ns), and NCCL's
    number of each, -1 where there is none. All of one length."""

    time_ns: Times
    kind: Times
    weight: Times
    sequence: Times


@dataclass(frozen=True)
class Kind:
    """What is known of a kind besides its times: `heavy` reduces gradients or the like, `gathers` as much; `group` is its
    communicator, `order` puts kinds of equal standing into the same order on every rank."""

    order: tuple[Any, ...] = ()
    group: int = 0
    size: int = 0
    heavy: bool = False
    gathers: bool = False
    counts: bool = True


class Habits(NamedTuple):
    """Of each kind: its period (ns, NaN unknown), the gaps seen, whether they are steady, all occurrences, how many times it
    began (bursts), and when it was seen first and last (ns)."""

    period_ns: Floats
    gaps: npt.NDArray[np.int64]
    steady: Flags
    seen: Times
    begun: Times
    first_ns: Times
    last_ns: Times


class Keys:
    """The kinds of one process. Feed it in order of time.

    `beyond` counts kinds that found no room, `watched_ns` is the time in which nothing was missing.
    """

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self.beyond = 0
        self.watched_ns = 0
        self._now_ns = 0
        self._numbers: dict[int, int] = {}
        self._known = np.empty(0, dtype=np.int64)  # kinds in order, and the number of each
        self._places = np.empty(0, dtype=np.int64)
        self._holes = np.empty(0, dtype=np.int64)
        self._forgotten = 0  # holes that are remembered no more
        self._seen, self._bursts, self._first, self._last, self._weight = np.zeros((5, KEYS_MAX), dtype=np.int64)
        self._longest = np.zeros(KEYS_MAX)
        shape = (4, KEYS_MAX, DEPTH)  # the system gives memory for what is used of it
        self._time, self._sequence, self._before, self._epoch = np.zeros(shape, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.kinds)

    def hole(self, at_ns: int) -> None:
        """Records were missing at this time: a gap over it says nothing."""
        holes = np.sort(np.append(self._holes, at_ns))
        self._forgotten += max(holes.size - HOLES_MAX, 0)
        self._holes = holes[-HOLES_MAX:]

    def crosses(self, from_ns: int, to_ns: int) -> bool:
        """Whether records are missing between two times."""
        return bool(np.any((self._holes > from_ns) & (self._holes <= to_ns)))

    @property
    def weight(self) -> Times:
        """All that the occurrences of each kind weigh."""
        return self._weight[: len(self)]

    def take(self, events: Events, describe: Callable[[int], Kind]) -> None:
        """More events; `describe` tells the kind of an event by its place, for kinds that are new."""
        begin, end = int(events.time_ns.min()), int(events.time_ns.max())
        known = self._now_ns > 0 and not self.crosses(self._now_ns, begin)
        self.watched_ns += max(end - (self._now_ns if known else begin), 0)
        self._now_ns = max(self._now_ns, end)
        number = self.number(events.kind)
        if (number < 0).any():
            self._learn(events.kind, np.flatnonzero(number < 0), describe)
            number = self.number(events.kind)
        for begin in range(0, len(events.time_ns), CHUNK):
            self._chunk(Events(*(column[begin : begin + CHUNK] for column in events)), number[begin : begin + CHUNK])

    def number(self, kind: Times) -> Times:
        """The number of each kind, -1 for those not known."""
        if not self._known.size:
            return np.full(kind.shape, -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._known, kind), self._known.size - 1)
        return np.where(self._known[place] == kind, self._places[place], -1)

    def last_ns(self, number: int) -> int:
        """When a kind was seen last."""
        return int(self._last[number])

    def habits(self) -> Habits:
        """How steadily each kind recurs."""
        count = len(self)
        gaps = self._gaps()
        known = np.isfinite(gaps)
        total = known.sum(axis=1)
        some = np.maximum(total, 1)
        rows = total > 0
        period = np.maximum(_medians(gaps, total), 1.0)  # made-up times may all be one
        ratio = np.where(known, gaps / period[:, None], np.nan)
        many = np.rint(ratio)
        off = np.abs(ratio - many)
        single = known & (many == 1) & (off <= LONE_TOLERANCE)
        whole = single | (known & (many >= 2) & (many <= MANY_MAX) & (off <= MANY_TOLERANCE))
        steady = (single.sum(axis=1) >= SINGLE_SHARE_MIN * some) & (whole.sum(axis=1) >= WHOLE_SHARE_MIN * some)
        columns = (self._seen, self._bursts, self._first, self._last)
        return Habits(period, total, steady & rows, *(column[:count] for column in columns))

    def beginnings(self, number: int) -> tuple[Times, Times]:
        """Times and sequence numbers of the remembered occurrences of one kind, oldest first."""
        kept = min(int(self._bursts[number]), DEPTH)
        places = np.arange(int(self._bursts[number]) - kept, int(self._bursts[number])) % DEPTH
        chosen = places[self._begins(np.array([number]))[0, places]]
        return self._time[number, chosen], self._sequence[number, chosen]

    def _begins(self, rows: Times) -> Flags:
        """Whether each remembered occurrence begins a burst by what is usual now."""
        before = self._before[rows]
        found: Flags = (before < 0) | (before >= PAUSE * self._longest[rows][:, None])
        return found

    def _gaps(self) -> Floats:
        """Gaps between remembered beginnings, a row a kind; NaN where there is none or records were missing."""
        rows = np.arange(len(self))
        used = np.arange(DEPTH)[None, :] < self._bursts[rows][:, None]
        used &= self._begins(rows)
        origin = int(self._first[rows].min()) if rows.size else 0
        times = np.where(used, (self._time[rows] - origin).astype(np.float64), np.nan)
        order = np.argsort(times, axis=1)  # unknown ones come last
        times = np.take_along_axis(times, order, axis=1)
        epoch = np.take_along_axis(self._epoch[rows], order, axis=1)
        gaps = np.diff(times, axis=1)
        gaps[np.diff(epoch, axis=1) != 0] = np.nan
        return gaps

    def _learn(self, kind: Times, unknown: Times, describe: Callable[[int], Kind]) -> None:
        unique, first = np.unique(kind[unknown], return_index=True)
        fresh = list(zip(unique.tolist(), unknown[first].tolist(), strict=True))
        for each, at in fresh:
            if len(self.kinds) >= KEYS_MAX:
                self.beyond += 1
                continue
            self._numbers[each] = len(self.kinds)
            self.kinds.append(describe(at))
        known = sorted(self._numbers.items())
        self._known = np.array([each for each, _ in known], dtype=np.int64)
        self._places = np.array([number for _, number in known], dtype=np.int64)

    def _chunk(self, events: Events, number: Times) -> None:
        known = np.flatnonzero(number >= 0)
        order = known[np.lexsort((events.time_ns[known], number[known]))]
        if not order.size:
            return
        key, time, sequence = number[order], events.time_ns[order], events.sequence[order]
        leads = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        unique, counts = key[leads], np.diff(np.r_[leads, key.size])
        previous = np.r_[0, time[:-1]]
        previous[leads] = self._last[unique]
        apart = np.searchsorted(self._holes, time, side="right") != np.searchsorted(self._holes, previous, side="right")
        gap = np.where((previous == 0) | apart, -1, np.maximum(time - previous, 0))
        admitted = (gap < 0) | (gap >= PAUSE * self._longest[key])
        self._keep(key[admitted], time[admitted], sequence[admitted], gap[admitted], unique)
        self._usual(unique, np.maximum.reduceat(gap, leads), np.add.reduceat(admitted.astype(np.int64), leads))
        fresh = self._seen[unique] == 0
        self._first[unique[fresh]] = time[leads][fresh]
        self._seen[unique] += counts
        np.add.at(self._weight, key, events.weight[order])
        self._last[unique] = np.maximum(self._last[unique], time[leads + counts - 1])

    def _keep(self, key: Times, time: Times, sequence: Times, gap: Times, unique: Times) -> None:
        leads = np.searchsorted(key, unique)
        within = np.arange(key.size) - leads[np.searchsorted(unique, key)]
        counts = np.diff(np.r_[leads, key.size])
        last = within >= counts[np.searchsorted(unique, key)] - DEPTH
        key, time, sequence, gap, within = key[last], time[last], sequence[last], gap[last], within[last]
        place = (self._bursts[key] + within) % DEPTH
        self._time[key, place], self._sequence[key, place], self._before[key, place] = time, sequence, gap
        self._epoch[key, place] = self._forgotten + np.searchsorted(self._holes, time, side="right")
        self._bursts[unique] += counts

    def _usual(self, unique: Times, longest: Times, begun: Times) -> None:
        """Learn how long pauses usually are."""
        usual = self._longest[unique] * FORGET ** np.clip(begun, 1, FORGET_MAX)
        bounded = np.where(self._bursts[unique] > SETTLING, np.maximum(GROWTH * usual, 1), np.inf)
        self._longest[unique] = np.maximum(usual, np.minimum(np.maximum(longest, 0), bounded))


def _medians(gaps: Floats, total: npt.NDArray[np.int64]) -> Floats:
    """Of each row of so many known gaps; NaN where there is none."""
    order, rows = np.sort(gaps, axis=1), np.arange(total.size)  # unknown ones come last
    found: Floats = (order[rows, np.maximum(total - 1, 0) // 2] + order[rows, total // 2]) / 2
    return found
