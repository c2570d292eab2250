"""Detail: how much an agent tells while the collector takes less than it has, so that nothing has to fall off the spool.

It falls at once with what waits in the spool, and step by step where the collector gives too little credit; it rises one step
at a time once what waits has become little for a while. Steps, phases, collectives, samples of GPUs, progress, log events and
all that a diagnosis accuses by are told at every level; what a level leaves out is counted, and the counts are told.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .kernels import NO_STEP, Kernels
from .source import Health
from .waiting import Standing


class Level(IntEnum):
    """From everything to what a diagnosis cannot do without."""

    FULL = 0
    COARSE = 1
    SPARSE = 2
    ESSENTIAL = 3


class Plan(NamedTuple):
    """What a level tells: kernels as `grade` (a place in compressor.GRADES) of one step in `steps` (0: of none), one round of the
    sources RARER in `rounds`, one regular dump of stacks in `stacks` (0: none), closer looks or not."""

    grade: int
    steps: int
    rounds: int
    stacks: int
    looks: bool
    words: str


PLANS: Final[Mapping[Level, Plan]] = {
    Level.FULL: Plan(0, 1, 1, 1, True, "everything is told"),
    Level.COARSE: Plan(1, 1, 2, 4, False, "one row a kernel and step, no closer looks, hosts and links half as often"),
    Level.SPARSE: Plan(2, 8, 4, 16, False, "sums of kernels in one step of 8, hosts and links a quarter as often"),
    Level.ESSENTIAL: Plan(
        2, 0, 8, 0, False, "no kernels and no stacks but of hangs, hosts and links an eighth as often"
    ),
}
RARER: Final = frozenset({"host", "infiniband"})
"""Sources of which rounds are left out: readings of counters and gauges, of which later ones tell most of what is missed."""
KERNELS: Final = "kernels"
STACKS: Final = "stacks"
LOOKS: Final = "closer_looks"
FILL: Final[Mapping[Level, float]] = {Level.COARSE: 0.25, Level.SPARSE: 0.5, Level.ESSENTIAL: 0.75}
"""From this share of any bound of the spool on (bytes, frames, age, memory) the level is that or lower."""
FILL_LEFT: Final = 0.6
"""It is left where the share is below this part of the one at which it began."""
STARVED_SECONDS: Final = 10.0
"""The collector takes too little where over so long"""
STARVED_SHARE: Final = 0.5
"""frames waited for credit during this part of it, what waits grew,"""
WAITED_SECONDS: Final = 5.0
"""and the oldest frame has waited for longer than this."""
CALM_SECONDS: Final = 60.0
"""A level is left once nothing has asked for it for so long."""
_COUNTED: Final = (KERNELS, STACKS, LOOKS, *sorted(RARER))


@runtime_checkable
class Heeds(Protocol):
    """A Source that tells less where it is asked to; it is given the detail before it is opened."""

    def heed(self, detail: Detail) -> None: ...


class Detail:
    """One for an agent: `look` in its loop, everything else from any thread."""

    def __init__(self) -> None:
        self.level = Level.FULL
        self._mutex = threading.Lock()
        self._left_out: Counter[str] = Counter()
        self._turns: Counter[str] = Counter()
        self._past: deque[tuple[float, Standing, float]] = deque()
        self._asked_for = 0.0
        self._why = ""

    @property
    def plan(self) -> Plan:
        """What is told now."""
        return PLANS[self.level]

    def look(self, spool: Standing, starved_seconds: float, now: float) -> Level:
        """The level from now on; `starved_seconds` is as an exporter counts them, `now` seconds of one clock."""
        self._past.append((now, spool, starved_seconds))
        while len(self._past) > 1 and now - self._past[1][0] >= STARVED_SECONDS:
            self._past.popleft()
        if (needed := _at(spool.fill)) > self.level:
            self._lower(needed, now, f"the spool is {100 * spool.fill:.0f} % full")
        elif self.level < Level.ESSENTIAL and self._starved():
            self._lower(Level(self.level + 1), now, "the collector takes less than there is to tell")
        elif _at(spool.fill / FILL_LEFT) >= self.level or spool.oldest_seconds > WAITED_SECONDS:
            self._asked_for = now
        elif now - self._asked_for >= CALM_SECONDS:
            self.level, self._asked_for = Level(max(self.level - 1, 0)), now
        return self.level

    def skips(self, what: str) -> bool:
        """Whether this turn of `what` (STACKS, LOOKS or one of RARER) is left out; it is counted then."""
        plan = self.plan
        every = {STACKS: plan.stacks, LOOKS: int(plan.looks)}.get(what, plan.rounds)
        with self._mutex:
            self._turns[what] += 1
            left_out = every == 0 or self._turns[what] % every != 0
            self._left_out[what] += left_out
        return left_out

    def chosen(self, kernels: Kernels) -> Kernels:
        """The kernels that are told; the others are counted. Those of no step belong to the ones that all ranks tell."""
        every = self.plan.steps
        if every == 1 or not len(kernels):
            return kernels
        told = (
            np.zeros(len(kernels), np.bool_) if every == 0 else (kernels.step % every == 0) | (kernels.step == NO_STEP)
        )
        with self._mutex:
            self._left_out[KERNELS] += len(kernels) - int(np.count_nonzero(told))
        return kernels.select(told)

    def left_out(self) -> Mapping[str, int]:
        """Since the start: kernels, dumps of stacks, closer looks, rounds of sources."""
        with self._mutex:
            return {what: self._left_out[what] for what in _COUNTED}

    def health(self) -> Health:
        """Fresh, or what is not told and why."""
        if self.level is Level.FULL:
            return Health("detail", "fresh", "")
        return Health(
            "detail", "busy", f"level {int(self.level)} of {int(Level.ESSENTIAL)}, {self.plan.words}: {self._why}"
        )

    def _lower(self, level: Level, now: float, why: str) -> None:
        self.level, self._asked_for, self._why = level, now, why
        self._past.clear()  # what comes of this level is seen before the next is chosen

    def _starved(self) -> bool:
        """Whether frames wait for credit and become more."""
        (begun, before, starved_before), (now, spool, starved) = self._past[0], self._past[-1]
        if now - begun < STARVED_SECONDS or starved - starved_before < STARVED_SHARE * (now - begun):
            return False
        return spool.bytes > before.bytes and spool.oldest_seconds > WAITED_SECONDS


def _at(fill: float) -> Level:
    """The level that so full a spool asks for."""
    return max((level for level, share in FILL.items() if fill >= share), default=Level.FULL)
