"""How much of a ring is safe with the agent, written into the ring itself: one that is killed leaves no gap and repeats nothing.

Rows of a ring are safe once the frame that holds them is on disk. Before it is written the mark names it, afterwards the mark
holds; an agent that is killed in between is followed by one that finds the frame in its spool, or does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from warpline_hook import ring

from .ring_file import RingFile

FRAME_BYTES: Final = 16
"""By so many a frame is named."""
NO_FRAME: Final = bytes(FRAME_BYTES)
_NUMBERS: Final = 2**62 - 1

WasPut = Callable[[bytes], bool]
"""Whether a frame was written before this agent began, by its name."""


class LaneMark(NamedTuple):
    """Of the first `read` records `safe` are; `dropped` of those that found no room have been told."""

    read: int = 0
    safe: int = 0
    dropped: int = 0


class Mark(NamedTuple):
    """What is safe of a ring: of what was read all but the records that began at `told_ns` or later and wait for their step.

    `keep` are positions by lane from which on records wait; steps since `whole_ns` were captured without a gap, 0 unknown.
    """

    told_ns: int
    whole_ns: int
    lanes: tuple[LaneMark, ...]
    keep: tuple[int, ...] = ()


@dataclass
class RingMark:
    """The mark of one ring at the end of one round."""

    file: RingFile
    mark: Mark
    _written: bool = False

    def intend(self, frame: bytes) -> None:
        """The frame of this name is about to be written."""
        self._written = True
        number = self.file.number(ring.SETTLED_AT) + 1
        counts = [count for lane in self.mark.lanes for count in lane]
        numbers = (_fit(count) for count in (self.mark.told_ns, self.mark.whole_ns, *counts))
        block = ring.MARK.pack(number & _NUMBERS, frame, *numbers)
        self.file.write(_place(number), block)

    def settle(self) -> None:
        """It is written, or there was nothing to write: what it holds needs no room in the ring any more."""
        if not self._written:
            self.intend(NO_FRAME)
        self.file.write(ring.SETTLED_AT, (self.file.number(ring.SETTLED_AT) + 1 & _NUMBERS).to_bytes(8, "little"))
        for lane, position in zip(ring.LANES, self.mark.keep, strict=True):
            self.file.release_to(lane, position)


@dataclass(frozen=True)
class Marks:
    """Those of all rings."""

    of: Sequence[RingMark] = ()

    def intend(self, frame: bytes) -> None:
        """The frame of this name is about to be written."""
        for each in self.of:
            with suppress(OSError):  # its disk has failed: then it is read from where it stood
                each.intend(frame)

    def settle(self) -> None:
        """It is written."""
        for each in self.of:
            with suppress(OSError):
                each.settle()


def found_mark(file: RingFile, was_put: WasPut) -> Mark | None:
    """What an agent before this one left; None where there was none, or what it left makes no sense."""
    settled = file.number(ring.SETTLED_AT)
    for number in (settled + 1, settled):
        block = file.peek(_place(number), ring.MARK.size)
        if len(block) < ring.MARK.size or not number:
            continue
        its, frame, told_ns, whole_ns, *counts = ring.MARK.unpack(block)
        if its == number and (number == settled or was_put(frame)):
            lanes = tuple(LaneMark(*counts[at : at + 3]) for at in range(0, len(counts), 3))
            return Mark(told_ns, whole_ns, lanes) if _sound(told_ns, whole_ns, lanes) else None
    return None


def _sound(told_ns: int, whole_ns: int, lanes: Sequence[LaneMark]) -> bool:
    counts = [count for lane in lanes for count in lane]
    return max(told_ns, whole_ns, *counts) <= 1 << 62 and all(lane.safe <= lane.read for lane in lanes)


def _fit(count: int) -> int:
    """Counts of a ring that was made up may be anything."""
    return min(max(count, 0), 1 << 62)


def _place(number: int) -> int:
    return ring.MARKS_AT + number % 2 * ring.MARK.size
