"""A Chrome trace as Perfetto reads it, written event by event: bounded memory, times exact to the nanosecond.

Times are microseconds with three decimals, counted from `baseTimeNanoseconds` (as Kineto writes it), so that a reader which
takes them for doubles still tells nanoseconds apart for three months. Slices of one track must not overlap there: those that
do go to a further track of the same name. Format: "Trace Event Format" of the Chromium project; arrows are bound to their slices
by `bind_id`, not by a time that slices within one another share. Perfetto from before 2022 stops at a number in front of the
events, so what is said of the file stands behind them; and it takes `displayTimeUnit` for the unit of times, so none is given.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

LANES_MAX: Final = 64
"""Tracks of one name; a slice that overlaps with all of them is drawn on the last."""

_text: Final = json.JSONEncoder(ensure_ascii=False).encode
"""Letters as they are: the Perfetto UI shows an escape of one as it stands."""


@dataclass
class _Track:
    """Lanes of one name in one process: the number and the end (ns) of the last slice of each."""

    process: int
    name: str
    order: int
    lanes: list[tuple[int, int]] = field(default_factory=list)


class Track(NamedTuple):
    """Where something is drawn: the number of a process, a name in it, and its place among the names."""

    process: int
    name: str
    order: int


class Slice(NamedTuple):
    """What is drawn: a name, a category, a time (ns), and what is told of it; what is None is left out."""

    name: str
    category: str
    start_ns: int
    duration_ns: int
    told: Mapping[str, Any]


class Arrow(NamedTuple):
    """Slices of one `key` are joined in the order of time: the first has no arrow that comes, the last none that goes."""

    key: int
    comes: bool
    goes: bool


class TraceFile:
    """`open_` and `close` frame the file, the other methods add to it and count. Slices of a track best come by start."""

    def __init__(self, stream: IO[str], base_ns: int) -> None:
        self._stream = stream
        self._base_ns = base_ns
        self._separator = "\n"
        self._processes: dict[Hashable, int] = {}
        self._tracks: dict[Hashable, _Track] = {}
        self._lanes = 0
        self.slices = 0
        self.flows = 0
        self.counters = 0
        self.marks = 0

    def open_(self) -> None:
        """What stands before the events."""
        self._stream.write('{"traceEvents": [')

    def close(self, about: Mapping[str, Any]) -> None:
        """What stands after them."""
        rest = {"otherData": dict(about), "baseTimeNanoseconds": self._base_ns}
        self._stream.write("\n], " + _text(rest)[1:] + "\n")

    def process(self, key: Hashable, name: str, order: int) -> int:
        """Number of a process; the first time it is named."""
        if key not in self._processes:
            number = self._processes[key] = len(self._processes) + 1
            self._meta("process_name", number, 0, {"name": name})
            self._meta("process_sort_index", number, 0, {"sort_index": order})
        return self._processes[key]

    def slice_(self, track: Track, drawn: Slice, arrow: Arrow | None = None) -> int:
        """One slice, on which lane; one that lasts less than nothing, as profilers emit them, is drawn at its start."""
        lane = self._lane(track, drawn.start_ns, drawn.start_ns + max(drawn.duration_ns, 0))
        self._complete(track.process, lane, drawn, arrow)
        return lane

    def within(self, track: Track, lane: int, drawn: Slice) -> None:
        """A part of the slice that was last drawn on this lane."""
        self._complete(track.process, lane, drawn, None)

    def counter(self, process: int, name: str, unit: str, time_ns: int, value: float) -> None:
        """From this time on the counter has this value."""
        self._write(
            f'{{"ph":"C","name":{_text(name)},"pid":{process},"tid":0,"ts":{self._time(time_ns)},'
            f'"args":{{{_text(unit)}:{json.dumps(value)}}}}}'
        )
        self.counters += 1

    def mark(self, track: Track, drawn: Slice, everywhere: bool) -> None:
        """A moment on its track, or through all of the trace; the duration of `drawn` is not."""
        lane = self._lane(track, drawn.start_ns, drawn.start_ns)
        scope = "g" if everywhere else "t"
        self._write(
            f'{{"ph":"i","s":"{scope}","name":{_text(drawn.name)},"cat":"{drawn.category}","pid":{track.process},'
            f'"tid":{lane},"ts":{self._time(drawn.start_ns)},"args":{_known(drawn.told)}}}'
        )
        self.marks += 1

    def _complete(self, process: int, lane: int, drawn: Slice, arrow: Arrow | None) -> None:
        told = drawn.told if drawn.duration_ns >= 0 else {**drawn.told, "duration_ns": drawn.duration_ns}
        bound = ""
        if arrow is not None:
            bound = f'"bind_id":"0x{arrow.key:x}",'
            bound += '"flow_in":true,' * arrow.comes + '"flow_out":true,' * arrow.goes
            self.flows += not arrow.comes
        self._write(
            f'{{"ph":"X","name":{_text(drawn.name)},"cat":"{drawn.category}","pid":{process},"tid":{lane},{bound}'
            f'"ts":{self._time(drawn.start_ns)},"dur":{_microseconds(max(drawn.duration_ns, 0))},"args":{_known(told)}}}'
        )
        self.slices += 1

    def _lane(self, track: Track, start_ns: int, end_ns: int) -> int:
        held = self._tracks.setdefault((track.process, track.name), _Track(track.process, track.name, track.order))
        for position, (number, busy_ns) in enumerate(held.lanes):
            if busy_ns <= start_ns:
                held.lanes[position] = number, end_ns
                return number
        if len(held.lanes) >= LANES_MAX:
            return held.lanes[-1][0]
        self._lanes += 1
        number = 1_000 + self._lanes
        shown = held.name if not held.lanes else f"{held.name} ({len(held.lanes) + 1})"
        self._meta("thread_name", held.process, number, {"name": shown})
        self._meta("thread_sort_index", held.process, number, {"sort_index": held.order * LANES_MAX + len(held.lanes)})
        held.lanes.append((number, end_ns))
        return number

    def _meta(self, name: str, process: int, track: int, arguments: Mapping[str, Any]) -> None:
        self._write(f'{{"ph":"M","name":"{name}","pid":{process},"tid":{track},"args":{_text(arguments)}}}')

    def _write(self, event: str) -> None:
        self._stream.write(self._separator + event)
        self._separator = ",\n"

    def _time(self, time_ns: int) -> str:
        return _microseconds(time_ns - self._base_ns)


def _known(told: Mapping[str, Any]) -> str:
    return _text({key: value for key, value in told.items() if value is not None})


def _microseconds(nanoseconds: int) -> str:
    whole, rest = divmod(abs(nanoseconds), 1_000)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:03d}"
