"""Steps of one stream of operations or kernels: looks for what ends them, then tells each as it ends.

A step is told only where its end is sure: not over a time without records, nor where an end between was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from .anchor_choice import Choice
from .anchors import Events, Keys, Kind, Times

LOOK_NS: Final = 1_000_000_000
"""The soonest look after a look, by the clock of the stream; while nothing is found ever more rarely, as more has been seen."""
LOOK_SHARE: Final = 0.05
LOOK_NS_MAX: Final = 30_000_000_000
SILENT_PERIODS: Final = 30.0
SILENT_NS: Final = 120_000_000_000
"""What has not been seen for so many periods, and so long, ends no steps any more."""
DOUBTS_MAX: Final = 2
"""So many looks in a row that find another period make it the new one."""
CHANGED: Final = 0.25
"""A period that differs by so much is another."""
SHORT: Final = 0.4
"""An occurrence after less of a period ends nothing."""
LONG: Final = 1.6
"""After so much of a period an end may have been lost."""
COMMON_SHARE_MIN: Final = 0.5
"""Share of equal differences of NCCL's numbers from which they count steps."""
CELL: Final = 0.6
"""Where nothing is numbered a step is numbered by the time of its end, in powers of two below so much of a period."""


class Ended(NamedTuple):
    """One step: its number, from when, how long (ns)."""

    number: int
    start_ns: int
    duration_ns: int


class Numbering:
    """Numbers that are the same on every rank: NCCL's own number of the operation over how many a step has, else the time."""

    def __init__(self, sequences: Times, period_ns: float, above: int) -> None:
        apart = np.diff(sequences)
        values, counts = np.unique(apart[apart > 0], return_counts=True)
        common = bool(counts.size) and counts.max() >= COMMON_SHARE_MIN * apart.size
        self.stride = int(values[np.argmax(counts)]) if common else 0
        self._cell_ns = 1 << int(np.log2(CELL * period_ns))
        self._last = above
        self._moved = 0

    def of(self, end_ns: int, sequence: int) -> int:
        """The number of the step that ends here; numbers only rise."""
        number = (sequence // self.stride if self.stride else end_ns // self._cell_ns) + self._moved
        if number <= self._last:
            self._moved += self._last + 1 - number
            number = self._last + 1
        self._last = number
        return number

    @property
    def last(self) -> int:
        """The highest so far."""
        return self._last

    def lost(self, before: int, after: int) -> bool:
        """Whether numbers say that an end between two was lost."""
        apart = after - before
        return bool(self.stride) and apart > self.stride and apart % self.stride == 0


class Anchored:
    """One stream. `choose` looks for what ends steps."""

    def __init__(self, choose: Callable[[Keys], Choice | None]) -> None:
        self.keys = Keys()
        self.choice: Choice | None = None
        self.now_ns = 0
        self._choose = choose
        self._began_ns = 0
        self._look_ns = 0
        self._doubts = 0
        self._numbering: Numbering | None = None
        self._last = (0, 0)  # time and sequence of the latest end
        self._settled_ns = 0
        self._told_ns = 0  # what came before has been told, by another kind

    def take(self, events: Events, describe: Callable[[int], Kind]) -> list[Ended]:
        """More events; the steps that ended since."""
        if not events.time_ns.size:
            return []
        self.keys.take(events, describe)
        self.now_ns = max(self.now_ns, int(events.time_ns.max()))
        self._began_ns = self._began_ns or int(events.time_ns.min())
        if self.now_ns >= self._look_ns:
            self._look()
        return self._ended()

    def settle(self, choice: Choice | None) -> None:
        """From now on this ends steps, or nothing does."""
        above = -1 if self._numbering is None else self._numbering.last
        if choice is not None and (self.choice is None or choice.number != self.choice.number):
            self._settled_ns = self.now_ns
            self._told_ns, self._last = max(self._told_ns, self._last[0]), (0, 0)
        self.choice, self._doubts = choice, 0
        if choice is not None:
            _, sequences = self.keys.beginnings(choice.number)
            self._numbering = Numbering(sequences, choice.period_ns, above)

    def _look(self) -> None:
        wait = min(max(LOOK_NS, int(LOOK_SHARE * (self.now_ns - self._began_ns))), LOOK_NS_MAX)
        self._look_ns = self.now_ns + wait
        found = self._choose(self.keys)
        if self.choice is None:
            if found is not None:
                self.settle(found)
            return
        silent_ns = self.now_ns - self.keys.last_ns(self.choice.number)
        if silent_ns > max(SILENT_PERIODS * self.choice.period_ns, SILENT_NS):
            self.settle(found)
        elif found is not None and abs(found.period_ns / self.choice.period_ns - 1) > CHANGED:
            self._doubts += 1
            if self._doubts >= DOUBTS_MAX:
                self.settle(found)
        else:
            self._doubts = 0

    def _ended(self) -> list[Ended]:
        if self.choice is None or self._numbering is None:
            return []
        times, sequences = self.keys.beginnings(self.choice.number)
        told: list[Ended] = []
        for time_ns, sequence in zip(times.tolist(), sequences.tolist(), strict=True):
            before_ns, before = self._last
            if time_ns <= max(before_ns, self._told_ns) or (
                before_ns and time_ns - before_ns < SHORT * self.choice.period_ns
            ):
                continue
            self._last = (time_ns, sequence)
            number = self._numbering.of(time_ns, sequence)
            if before_ns and self._sure(before_ns, time_ns, before, sequence):
                told.append(Ended(number, before_ns, time_ns - before_ns))
        return told

    def _sure(self, from_ns: int, to_ns: int, before: int, after: int) -> bool:
        """Whether nothing between two ends is missing."""
        assert self.choice is not None and self._numbering is not None
        if self.keys.crosses(from_ns, to_ns) or (before and self._numbering.lost(before, after)):
            return False
        if to_ns - from_ns < LONG * self.choice.period_ns:
            return True
        if from_ns < self._settled_ns:
            return False  # before steps were known there may have been no step
        between = [self.keys.beginnings(each)[0] for each in self.choice.companions]
        counts = [int(((times > from_ns) & (times <= to_ns)).sum()) for times in between]
        return not counts or float(np.median(counts)) < 2
