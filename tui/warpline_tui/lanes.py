"""What a timeline is made of: lanes, and in them slices of time or readings; each lane knows the SQL that it was drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

DEPTH_MAX: Final = 4
"""Slices of a lane that lie in each other take so many lines at most."""


class Form(StrEnum):
    """How a slice is to be read."""

    ONE = "one"
    """One thing, exactly where it was."""
    MANY = "many"
    """Several things, each shorter than a column: where the first began and the last ended, and how much of it they took."""
    SUMS = "sums"
    """What a step had altogether; where in the step is not known."""


class Kind(StrEnum):
    """What a lane shows; in the order in which lanes stand below each other."""

    FINDING = "finding"
    LOG = "log"
    STEP = "step"
    PHASE = "phase"
    DATA = "data"
    GC = "gc"
    KERNEL = "kernel"
    COLLECTIVE = "collective"
    GAP = "gap"
    POWER = "power"
    CLOCK = "clock"


ORDER: Final = {kind: place for place, kind in enumerate(Kind)}


@dataclass(frozen=True)
class Slice:
    """Time from start_ns to end_ns, of which busy_ns were taken by `count` things; the longest is called `name`.

    `wait_ns` is the part of a collective spent waiting for other ranks, None where that cannot be told; `last` is the rank that
    came last to it. `hit` says that something in it is what was searched for. `about` is what else is known, in words.
    Of SUMS, `partial` says that this is a part of the step, taken to be as busy as all of it.
    """

    start_ns: int
    end_ns: int
    name: str
    category: str = ""
    form: Form = Form.ONE
    count: int = 1
    busy_ns: int = 0
    longest_ns: int = 0
    step: int | None = None
    wait_ns: int | None = None
    last: int | None = None
    hit: bool = False
    kernel_id: int | None = None
    incident: str | None = None
    about: str = ""
    partial: bool = False

    @property
    def share(self) -> float:
        """How much of its time was taken, 0 to 1."""
        return min(max(self.busy_ns / max(self.end_ns - self.start_ns, 1), 0.0), 1.0)


@dataclass(frozen=True)
class Reading:
    """A measured value, mean of `count` readings, that holds until `until_ns` or the next."""

    time_ns: int
    until_ns: int
    value: float
    lowest: float
    highest: float
    count: int = 1


@dataclass(frozen=True)
class Lane:
    """One lane of one rank. `side` is 0 for the rank that is looked at, 1 for the one beside it.

    `left_out` counts what was kept but not asked for, because there is too much of it.
    """

    kind: Kind
    label: str
    slices: tuple[Slice, ...] = ()
    readings: tuple[Reading, ...] = ()
    top: float = 0.0
    unit: str = ""
    sql: str = ""
    side: int = 0
    left_out: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """The same lane in another answer."""
        return self.kind, self.label, self.side

    def at(self, time_ns: int, slack_ns: int = 0) -> Slice | None:
        """The slice there: the shortest of those around it, else the nearest within `slack_ns`."""
        around = [each for each in self.slices if each.start_ns <= time_ns < max(each.end_ns, each.start_ns + 1)]
        if around:
            return min(around, key=lambda each: each.end_ns - each.start_ns)
        near = [(min(abs(each.start_ns - time_ns), abs(each.end_ns - time_ns)), each) for each in self.slices]
        away, found = min(near, key=lambda one: one[0], default=(slack_ns + 1, None))
        return found if away <= slack_ns else None

    def reading_at(self, time_ns: int) -> Reading | None:
        """The newest reading that still holds."""
        held = [each for each in self.readings if each.time_ns <= time_ns < each.until_ns]
        return held[-1] if held else None


@dataclass(frozen=True)
class Stack:
    """Slices of a lane by line: what lies in another slice stands below it. `hidden` is how many lie too deep to be drawn."""

    lines: tuple[tuple[Slice, ...], ...] = field(default_factory=tuple)
    hidden: int = 0


def stacked(slices: tuple[Slice, ...], depth_max: int = DEPTH_MAX) -> Stack:
    """Put each slice on the first line where it overlaps with none."""
    lines: list[list[Slice]] = [[]]
    ends: list[int] = [0]
    hidden = 0
    for each in sorted(slices, key=lambda one: (one.start_ns, -one.end_ns)):
        place = next((at for at, end in enumerate(ends) if not lines[at] or each.start_ns >= end), len(lines))
        if place >= depth_max:
            hidden += each.count
            continue
        if place == len(lines):
            lines.append([])
            ends.append(0)
        lines[place].append(each)
        ends[place] = max(ends[place], each.end_ns)
    return Stack(tuple(map(tuple, lines)), hidden)
