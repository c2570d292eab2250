"""When kernels of a process were captured without a gap, and when its GPUs had nothing to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from warpline_hook import ring

from .nccl_lane import IDLE_NS, LOST, Idle
from .ring_file import Records

LOSSES_MAX: Final = 1_024
"""Times of loss that are remembered."""
LATE_NS: Final = 1_000_000_000
"""What CUPTI dropped may have run so long before it was missed: two flushes."""
REMEMBER_NS: Final = 30_000_000_000
"""Times without work are remembered for so long."""
RECORDS_MAX: Final = 1_000_000
"""Records that wait to be settled; more are forgotten, with the times in which they ran (16 MB)."""
GAP_CUPTI_DROPPED: Final = 2
FOREVER: Final = 1 << 62

Window = tuple[int, int | None]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Spans:
    """Times of capture without a gap, in order."""

    start: Times
    end: Times

    def at(self, times: Times) -> Times:
        """Start of the span that each moment lies in, LOST outside all of them."""
        if not self.start.size:
            return np.full(times.shape, LOST, dtype=np.int64)
        place = np.searchsorted(self.start, times, side="right") - 1
        inside = (place >= 0) & (times < self.end[place])
        return np.where(inside, self.start[place], LOST)


def spans_of(windows: Iterable[Window], losses: Iterable[tuple[int, int]]) -> Spans:
    """Windows of capture less the times in which records were lost; neither need be in order."""
    holes = sorted(losses)
    found: list[tuple[int, int]] = []
    for start, end in sorted((start, FOREVER if end is None else end) for start, end in windows):
        at = start
        for lost, over in holes:
            if over > at and lost < end:
                if lost > at:
                    found.append((at, lost))
                at = max(at, over + 1)
        if at < end:
            found.append((at, end))
    edges = np.array(found, dtype=np.int64).reshape(-1, 2)
    return Spans(edges[:, 0], edges[:, 1])


class Activity:
    """What ran on the GPUs of one process, and what of it was lost."""

    def __init__(self) -> None:
        self._losses: deque[tuple[int, int]] = deque(maxlen=LOSSES_MAX)
        self._waiting: list[tuple[Times, Times]] = []
        self._settled: tuple[Times, Times] | None = None
        self._busy_to_ns = 0
        self._idle: deque[tuple[int, int]] = deque()
        self._asked = False
        self._spans = self._whole = spans_of((), ())

    def add(self, start_ns: Times, end_ns: Times) -> None:
        """Records of anything that ran."""
        if len(start_ns):
            self._waiting.append((start_ns, end_ns))
        while sum(len(start) for start, _ in self._waiting) > RECORDS_MAX:
            start, end = self._waiting.pop(0)
            self._losses.append((int(start.min()), int(end.max())))

    def lose(self, records: Records) -> None:
        """Note the gaps among records of the kernel lane or of events."""
        for gap in records[records["kind"] == ring.GAP].tolist():
            told = dict(zip(records.dtype.names or (), gap, strict=True))
            early = LATE_NS if told["extra"] == GAP_CUPTI_DROPPED else 0
            start = min(told["start_ns"], FOREVER)
            self._losses.append((start - early, min(start + told["duration_ns"], FOREVER)))

    def settle(self, settled_ns: int, windows: Iterable[Window]) -> Spans:
        """Nothing more comes that began before a moment; the spans of capture."""
        windows = list(windows)
        self._spans, self._whole = spans_of(windows, ()), spans_of(windows, self._losses)
        settled: list[tuple[Times, Times]] = []
        waiting: list[tuple[Times, Times]] = []
        for start, end in self._waiting:
            early = start < settled_ns
            if early.all():
                settled.append((start, end))
                continue
            if early.any():
                settled.append((start[early], end[early]))
                start, end = start[~early], end[~early]
            waiting.append((start, end))
        self._waiting = waiting
        self._forget_last()
        none = np.zeros(0, dtype=np.int64)
        self._settled = (
            np.concatenate([none, *(start for start, _ in settled)]),
            np.concatenate([none, *(end for _, end in settled)]),
        )
        while self._idle and self._idle[0][0] < settled_ns - REMEMBER_NS:
            self._idle.popleft()
        if not self._asked:
            self._idle.clear()
        elif self._settled is not None:
            self._look()
        self._asked = False
        return self._spans

    def idle(self) -> Idle:
        """Times without work, of late; how far back depends on since when they are asked for."""
        self._asked = True
        self._look()
        edges = np.array(self._idle, dtype=np.int64).reshape(-1, 2)
        whole = self._whole.at(edges[:, 0])
        known = (whole != LOST) & (whole == self._whole.at(edges[:, 1]))
        return Idle(edges[:, 0], edges[:, 1], np.where(known, self._spans.at(edges[:, 0]), LOST))

    def _forget_last(self) -> None:
        """What was not looked at says only how long the GPU was busy."""
        if self._settled is not None and len(self._settled[1]):
            self._busy_to_ns = max(self._busy_to_ns, int(self._settled[1].max()))
        self._settled = None

    def _look(self) -> None:
        """Find the times without work among what has settled last."""
        if self._settled is None:
            return
        start, end = self._settled
        self._settled = None
        if not len(start):
            return
        order = np.argsort(start, kind="stable")
        start = start[order]
        reached = np.maximum.accumulate(np.maximum(end[order], self._busy_to_ns))
        before = np.append(self._busy_to_ns, reached[:-1])
        for at in np.flatnonzero(start - before > IDLE_NS).tolist():
            self._idle.append((int(before[at]), int(start[at])))
        self._busy_to_ns = int(reached[-1])
