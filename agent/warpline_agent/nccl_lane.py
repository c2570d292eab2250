"""One queue of launches: what some communicators were asked for, beside the kernels that ran on their streams, both in order.

Every launch that NCCL tells of becomes one kernel, and a queue keeps its order. So the n-th launch after a moment when nothing
was pending is the n-th kernel after it, as long as no record of either is lost. That is taken as true only once it has been
seen: at a later moment a kernel runs before the next launch is made, so nothing is pending again, and the two counts agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .nccl_names import Vocabulary

TOLD_LATE_NS: Final = 1_000_000
"""NCCL tells of a launch after it; a kernel may have begun so long before, where the thread was interrupted."""
CAUGHT_UP_NS: Final = 200_000
"""A kernel that begins so long before the next launch is told shows that nothing was pending: launches are told at once."""
IDLE_NS: Final = 150_000
"""A GPU without any work for so long has none pending; a launch takes a tenth of it to arrive."""
IDLE_BEFORE_NS: Final = 50_000
IDLE_AFTER_NS: Final = 50_000
"""A launch that is told so shortly before or after the GPU fell idle may lie on either side."""
DOUBT_NS: Final = 300_000_000
"""What is not proven after so long is looked at again."""
LAUNCHES_MAX: Final = 65_536
"""Launches and kernels that wait in one queue; more are given up, oldest first."""
LOST: Final = -1
"""In place of a span of capture: records are lost here, or were not captured."""

_EVER: Final = 1 << 62

LAUNCH: Final = np.dtype(
    [
        ("time", "<i8"),
        ("number", "<i8"),
        ("count", "<i4"),
        ("code", "<i4"),
        ("communicator", "<i8"),
        ("gap", "?"),
        ("near", "?"),
    ]
)
"""One launch: when it was told, its number, how many operations it is of, code of the group; `gap` says that operations
of its communicator are missing before it, `near` that some of any communicator are missing about this time."""
RUN: Final = np.dtype(
    [("start", "<i8"), ("end", "<i8"), ("span", "<i8"), ("stream", "<i8"), ("order", "<i8"), ("code", "<i4")]
)
"""One kernel; `span` is when the capture that it lies in began, or LOST; `order` that in which kernels were launched."""

Launches = npt.NDArray[np.void]
Runs = npt.NDArray[np.void]
NO_LAUNCHES: Final = np.zeros(0, LAUNCH)
NO_RUNS: Final = np.zeros(0, RUN)


class Pairs(NamedTuple):
    """Launches and the kernels that they became."""

    launches: Launches
    runs: Runs


class Idle(NamedTuple):
    """Times in which the GPU did nothing, ns, in order; and the span of capture that each lies in."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]


@dataclass
class Lane:
    """`launches` and `runs` wait for each other; `synced` says that the first of the one is the first of the other.

    `runs` are in the order in which they were launched.
    """

    launches: Launches = field(default_factory=lambda: NO_LAUNCHES)
    runs: Runs = field(default_factory=lambda: NO_RUNS)
    synced: bool = True
    span: int | None = None
    begun: int = 0
    _unproven: list[Pairs] = field(default_factory=list)

    @property
    def frontier_ns(self) -> int:
        """Launches told before this are decided: they are joined, or never will be."""
        waiting = [part.launches for part in self._unproven[:1]] + [self.launches]
        return min((int(launches["time"][0]) for launches in waiting if len(launches)), default=_EVER)

    def lose(self) -> None:
        """Nothing is known any more of which kernel is whose; what is not proven is forgotten."""
        self.synced = False
        self._unproven.clear()

    def rewind(self) -> None:
        """Put what is paired and not proven back."""
        self.launches = np.concatenate([*(part.launches for part in self._unproven), self.launches])
        self.runs = np.concatenate([*(part.runs for part in self._unproven), self.runs])
        self._unproven.clear()

    def give_up(self) -> None:
        """Give up all launches: their kernels do not come."""
        if self.frontier_ns < _EVER:
            self.lose()
            self.launches = self.launches[:0]

    def expire(self, before_ns: int) -> None:
        """Give up what has waited since before a moment."""
        if self.frontier_ns < before_ns or (len(self.runs) and self.runs["start"].min() < before_ns):
            self.lose()
            self.launches = self.launches[self.launches["time"] >= before_ns]
            self.runs = self.runs[self.runs["start"] >= before_ns]

    def put_in_order(self, by: str) -> None:
        """Launches in the order in which they were told, kernels in that of their `start`, or of their `order`."""
        self.launches, self.runs = _sorted(self.launches, "time"), _sorted(self.runs, by)
        if max(len(self.launches), len(self.runs)) > LAUNCHES_MAX:
            self.lose()
            self.launches, self.runs = self.launches[-LAUNCHES_MAX:], self.runs[-LAUNCHES_MAX:]

    def join(self, words: Vocabulary, idle: Callable[[], Idle], *, all_told: bool) -> list[Pairs]:
        """Pairs that are certain now; `idle` is asked where the two sides have to be aligned anew.

        `all_told` says that all launches of these kernels are there.
        """
        proven: list[Pairs] = []
        while len(self.runs) or self._contradicted(idle):
            span = int(self.runs["span"][0])
            if span != self.span:
                self._enter(span)
            if span == LOST:
                self.runs = self.runs[_prefix(self.runs["span"] == LOST) :]
            elif not self.synced and not self._align(idle(), all_told):
                if not self._give_up_span():
                    break
            elif not self._advance(words, proven, all_told):
                break
        if all_told and self.synced and not len(self.launches) and not len(self.runs):
            proven.extend(self._unproven)  # nothing is pending
            self._unproven.clear()
        return proven

    def _contradicted(self, idle: Callable[[], Idle]) -> bool:
        """Whether the GPU had nothing to do since, which ought to have proven it: it is put back, to be aligned anew."""
        if not self.synced or not self._unproven:
            return False
        first, last = (int(self._unproven[each].runs["start"][each]) for each in (0, -1))
        if last - first < DOUBT_NS:
            return False
        found = idle()
        if not ((found.span == self.span) & (found.start > first) & (found.end <= last)).any():
            return False
        self.rewind()
        self.lose()
        self.begun = max(self.begun, first + 1)
        return True

    def _gaps(self) -> npt.NDArray[np.bool_]:
        """Before which launches some may be missing. One that is missing is noticed at once by its name, or by the next of its
        kind, whose number is too high; but not where another communicator has kernels of the same name."""
        gap: npt.NDArray[np.bool_] = self.launches["gap"]
        communicator = self.launches["communicator"]
        alone = not len(communicator) or (communicator == communicator[0]).all()
        return gap if alone else gap | self.launches["near"]

    def _enter(self, span: int) -> None:
        """Of what was launched before the capture began some kernels are not there."""
        if self.span is not None or span == LOST or (len(self.launches) and self.launches["time"][0] < span):
            self.lose()
        self.span = span

    def _give_up_span(self) -> bool:
        """Leave out kernels that nothing aligns, where kernels of a later span follow."""
        own = _prefix(self.runs["span"] == self.span)
        if own == len(self.runs):
            return False
        self.runs = self.runs[own:]
        return True

    def _align(self, idle: Idle, all_told: bool) -> bool:
        """Begin again behind the first time in which the GPU had nothing to do."""
        times, starts = self.launches["time"], np.sort(self.runs["start"])
        after = np.searchsorted(times, idle.start - IDLE_BEFORE_NS)
        kernel = np.searchsorted(starts, idle.end)
        usable = (idle.span == self.span) & (idle.start >= self.begun) & (kernel < len(starts))
        usable &= after == np.searchsorted(times, idle.start + IDLE_AFTER_NS)
        usable &= ~np.append(self._gaps(), not all_told)[after]
        if not usable.any():
            return False
        first = int(usable.argmax())
        self.launches, self.runs = self.launches[int(after[first]) :], self.runs[int(kernel[first]) :]
        self.synced = True
        return True

    def _advance(self, words: Vocabulary, proven: list[Pairs], all_told: bool) -> bool:
        """Pair what can be paired; False where more records have to come first."""
        launches = self.launches[: _prefix(~self._gaps())]
        runs = self.runs[: _prefix(self.runs["span"] == self.span)]
        count = min(len(runs), len(launches))
        fits = words.fit(launches["code"][:count], runs["code"][:count])
        fits &= runs["start"][:count] >= launches["time"][:count] - TOLD_LATE_NS
        good = _prefix(fits)
        caught = _caught_up(self.launches["time"][: good + 1], runs["start"][:good])
        if caught:
            proven.extend([*self._unproven, Pairs(launches[:caught], runs[:caught])])
            self._unproven.clear()
        if good > caught:
            self._unproven.append(Pairs(launches[caught:good], runs[caught:good]))
        self.launches, self.runs = self.launches[good:], self.runs[good:]
        if good == count and len(runs) == count:
            return True
        if good == count and count == len(self.launches) + good and not all_told:
            return False
        self.begun = max(self.begun, int(self.runs["start"][0]))
        self.lose()
        return True


def _caught_up(told: npt.NDArray[np.int64], start: npt.NDArray[np.int64]) -> int:
    """How many pairs lie before the last moment at which all of them had begun, and the next launch was not made."""
    known = min(len(told) - 1, len(start))
    if known <= 0:
        return 0
    caught = told[1 : known + 1] - np.maximum.accumulate(start[:known]) > CAUGHT_UP_NS
    return known - int(caught[::-1].argmax()) if caught.any() else 0


def _sorted(records: npt.NDArray[np.void], by: str) -> npt.NDArray[np.void]:
    key = records[by]
    return records if (key[1:] >= key[:-1]).all() else records[np.argsort(key, kind="stable")]


def _prefix(holds: npt.NDArray[np.bool_]) -> int:
    """How many hold from the first on."""
    return int(holds.size if holds.all() else holds.argmin())
