"""What capture costs a training job, measured on its own steps: those with capture beside those without, close in time.

A block of steps with capture is set against as many steps before it as after it, so that a steady drift cancels, and no step
serves two blocks, so that blocks are independent. Of the blocks the Hodges-Lehmann estimate is told, with the interval that
inverts Wilcoxon's signed-rank test (Hollander and Wolfe, Nonparametric Statistical Methods, 2nd edition, sections 3.2 and 3.3):
neither assumes how step times are distributed, and single wild blocks move neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from warpline_hook import ring

from .kernels import StepSpan
from .ring_file import Records

SIDE_STEPS: Final = (3, 5)
"""Steps without capture that a block needs on either side, and the most that are taken."""
BLOCK_STEPS_MAX: Final = 40
"""Steps without capture on either side of a longer block are too far from each other to say what is drift."""
BLOCKS_MAX: Final = 64
"""The newest blocks that an estimate is made of."""
BLOCKS_MIN: Final = 8
"""With fewer no interval of this confidence exists."""
CONFIDENCE: Final = 0.99
FIRST_STEPS: Final = 10
"""Of a process: they compile, allocate and tune, and are passed over."""
RECENT_STEPS: Final = 256
"""Steps that tell what is usual; one more than twice as long as 98 % of them is a stall or a checkpoint, and passed over."""
USUAL_PERCENTILE: Final = 98
STALL_RATIO: Final = 2.0
USUAL_STEPS_MIN: Final = 32
CHANGES_MAX: Final = 256
"""Beginnings and ends of capture that are remembered."""
ON: Final = ring.KERNELS | ring.GRAPHS
"""With either of them capture is on."""


class Block(NamedTuple):
    """One block. `capturing` is the mean time that a step with capture takes beyond one without, `turning` what the steps in
    which capture began or ended took beyond it in all; both as parts of a usual step."""

    capturing: float
    turning: float
    on_steps: int
    off_steps: int


class Estimate(NamedTuple):
    """Percent, with its interval at CONFIDENCE."""

    percent: float
    low: float
    high: float


class Change(NamedTuple):
    """From `begun_ns` to `ended_ns` capture was being turned on or off; `mask` is what is captured since, None if a profiler of
    the user's or damaged records have ended it."""

    begun_ns: int
    ended_ns: int
    mask: int | None


@dataclass
class CaptureTimes:
    """When capture was on, as the process tells."""

    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=CHANGES_MAX))
    _on_ns: int = 0

    def take(self, events: Records) -> None:
        """New records of the event lane."""
        for event in events[events["kind"] == ring.CAPTURE] if len(events) else ():
            begun_ns, mask = int(event["start_ns"]), int(event["value"])
            self._on_ns = self.on_ns(begun_ns)
            forced = bool(event["name"]) and not mask
            self.changes.append(Change(begun_ns, begun_ns + int(event["duration_ns"]), None if forced else mask))

    def begin(self, now_ns: int, mask: int) -> None:
        """Capture had begun before anything was read."""
        self.changes.append(Change(now_ns, now_ns, mask))

    @property
    def on(self) -> bool:
        """Whether capture is on since the last change."""
        return bool(self.changes and (self.changes[-1].mask or 0) & ON)

    def on_ns(self, now_ns: int) -> int:
        """How long it has been on in all."""
        return self._on_ns + (max(now_ns - self.changes[-1].ended_ns, 0) if self.on else 0)

    def mask(self, span: StepSpan) -> int | None:
        """What was captured all through a step; -1 where that changed, None where it is not known."""
        end_ns = span.start_ns + span.duration_ns
        for change in reversed(self.changes):
            if change.ended_ns < span.start_ns:
                return change.mask
            if change.begun_ns <= end_ns:
                return -1 if change.mask is not None else None
        return None


@dataclass
class Steps:
    """Makes blocks of the steps of one process, which are told in their order."""

    blocks: deque[Block] = field(default_factory=lambda: deque(maxlen=BLOCKS_MAX))
    made: int = 0
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _without: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _stall_ns: float | None = None
    _seen: int = 0
    _before: list[int] = field(default_factory=list)
    _turning: list[int] = field(default_factory=list)
    _on: list[int] = field(default_factory=list)
    _after: list[int] = field(default_factory=list)
    _next: int = -1

    def take(self, span: StepSpan, mask: int | None) -> None:
        """One more step, and what was captured of it."""
        self._learn(span.duration_ns)
        if span.step != self._next or mask is None:
            self._forget()
        self._next = span.step + 1
        if mask is None or span.step < FIRST_STEPS or self._stall_ns is None:
            return
        if mask >= 0 and span.duration_ns > self._stall_ns:
            return  # a stall; one in a step in which capture was turned may well be capture's
        if mask == 0:
            self._after.append(span.duration_ns)
            self._without.append(span.duration_ns)
            return
        if self._after:
            self._close()
        (self._turning if mask < 0 else self._on).append(span.duration_ns)

    def clear(self) -> None:
        """Forget what was measured: it no longer says what is captured now."""
        self.blocks.clear()
        self._forget()

    def _learn(self, duration_ns: int) -> None:
        self._recent.append(duration_ns)
        self._seen += 1
        if self._seen % USUAL_STEPS_MIN == 0:
            self._stall_ns = STALL_RATIO * float(np.percentile(self._recent, USUAL_PERCENTILE))

    def _forget(self) -> None:
        self._before, self._turning, self._on, self._after = [], [], [], []

    def _close(self) -> None:
        """Steps without capture have ended: half of them belong to the block before, half to the one that begins."""
        least, most = SIDE_STEPS
        half = min(len(self._after) // 2, most)
        after, before = self._after[:half], self._after[len(self._after) - half :]
        if min(half, len(self._before)) >= least and 0 < len(self._on) <= BLOCK_STEPS_MAX:
            off_ns = (float(np.mean(self._before)) + float(np.mean(after))) / 2
            usual_ns = float(np.mean(self._without))
            capturing = (float(np.mean(self._on)) - off_ns) / usual_ns
            turning = (sum(self._turning) - len(self._turning) * off_ns) / usual_ns
            self.blocks.append(Block(capturing, turning, len(self._on), len(self._before) + len(after)))
            self.made += 1
        self._before, self._turning, self._on, self._after = before, [], [], []


def estimate(blocks: Sequence[Block], share: float, turns: float) -> Estimate | None:
    """What capture of a `share` of the steps costs, with `turns` blocks a step; None with fewer than BLOCKS_MIN blocks."""
    values = np.array([each.capturing * share + each.turning * turns for each in blocks])
    if values.size < BLOCKS_MIN:
        return None
    first, second = np.triu_indices(values.size)
    averages = np.sort((values[first] + values[second]) / 2)
    cut = _cut(values.size)
    return Estimate(*(100 * float(each) for each in (np.median(averages), averages[cut], averages[-1 - cut])))


@lru_cache(maxsize=BLOCKS_MAX)
def _cut(count: int) -> int:
    """How many of the Walsh averages of `count` values lie outside the interval at either end."""
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, count + 1):
        ways[rank:] += ways[:-rank].copy()
        ways /= 2
    return max(int(np.searchsorted(np.cumsum(ways), (1 - CONFIDENCE) / 2, side="right")) - 1, 0)
