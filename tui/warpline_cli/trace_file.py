"""A Chrome trace as Perfetto reads it, written event by event: bounded memory, times exact to the nanosecond.

Times are microseconds with three decimals, counted from `baseTimeNanoseconds` (as Kineto writes it), so that a reader which
takes them for doubles still tells nanoseconds apart for three months. Slices of one track must not overlap there: those that
do go to a further track of the same name. Format: "Trace Event Format" of the Chromium project.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

LANES_MAX: Final = 64
"""Tracks of one name; a slice that overlaps with all of them is drawn on the last."""


@dataclass
class _Track:
    """Lanes of one name in one process: the number and the end (ns) of the last slice of each."""

    process: int
    name: str
    order: int
    lanes: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Drawn:
    """Where a slice was drawn."""

    process: int
    track: int
    start_ns: int


class TraceFile:
    """`open_` and `close` frame the file; `process`, `track`, `slice_` and `flow` add to it. Slices of a track come by start."""

    def __init__(self, stream: IO[str], base_ns: int, about: Mapping[str, Any]) -> None:
        self._stream = stream
        self._base_ns = base_ns
        self._about = about
        self._separator = "\n"
        self._processes: dict[Hashable, int] = {}
        self._tracks: dict[Hashable, _Track] = {}
        self._lanes = 0
        self.slices = 0

    def open_(self) -> None:
        """What stands before the events."""
        head = {"displayTimeUnit": "ns", "baseTimeNanoseconds": self._base_ns, "otherData": dict(self._about)}
        self._stream.write(json.dumps(head)[:-1] + ', "traceEvents": [')

    def close(self) -> None:
        """What stands after them."""
        self._stream.write("\n]}\n")

    def process(self, key: Hashable, name: str, order: int) -> int:
        """Number of a process; the first time it is named."""
        if key not in self._processes:
            number = self._processes[key] = len(self._processes) + 1
            self._meta("process_name", number, 0, {"name": name})
            self._meta("process_sort_index", number, 0, {"sort_index": order})
        return self._processes[key]

    def slice_(
        self, process: int, track: str, order: int, name: str, category: str, start_ns: int, duration_ns: int,
        arguments: Mapping[str, Any],
    ) -> Drawn:  # fmt: skip
        """One slice; one that lasts less than nothing, as profilers emit them, is drawn at its start and says so."""
        if duration_ns < 0:
            arguments = {**arguments, "duration_ns": duration_ns}
        lane = self._lane(process, track, order, start_ns, start_ns + max(duration_ns, 0))
        known = {key: value for key, value in arguments.items() if value is not None}
        self._write(
            f'{{"ph":"X","name":{json.dumps(name)},"cat":"{category}","pid":{process},"tid":{lane},'
            f'"ts":{self._microseconds(start_ns - self._base_ns)},"dur":{self._microseconds(max(duration_ns, 0))},'
            f'"args":{json.dumps(known)}}}'
        )
        self.slices += 1
        return Drawn(process, lane, start_ns)

    def flow(self, key: int, phase: str, at: Drawn) -> None:
        """An arrow through slices: phase s begins it, t goes on, f ends it."""
        self._write(
            f'{{"ph":"{phase}","name":"collective","cat":"collective","id":{key},"bp":"e","pid":{at.process},'
            f'"tid":{at.track},"ts":{self._microseconds(at.start_ns - self._base_ns)}}}'
        )

    def _lane(self, process: int, name: str, order: int, start_ns: int, end_ns: int) -> int:
        track = self._tracks.setdefault((process, name), _Track(process, name, order))
        for position, (number, busy_ns) in enumerate(track.lanes):
            if busy_ns <= start_ns:
                track.lanes[position] = number, end_ns
                return number
        if len(track.lanes) >= LANES_MAX:
            return track.lanes[-1][0]
        self._lanes += 1
        number = 1_000 + self._lanes
        shown = name if not track.lanes else f"{name} ({len(track.lanes) + 1})"
        self._meta("thread_name", process, number, {"name": shown})
        self._meta("thread_sort_index", process, number, {"sort_index": order * LANES_MAX + len(track.lanes)})
        track.lanes.append((number, end_ns))
        return number

    def _meta(self, name: str, process: int, track: int, arguments: Mapping[str, Any]) -> None:
        self._write(f'{{"ph":"M","name":"{name}","pid":{process},"tid":{track},"args":{json.dumps(arguments)}}}')

    def _write(self, event: str) -> None:
        self._stream.write(self._separator + event)
        self._separator = ",\n"

    @staticmethod
    def _microseconds(nanoseconds: int) -> str:
        whole, rest = divmod(abs(nanoseconds), 1_000)
        return f"{'-' if nanoseconds < 0 else ''}{whole}.{rest:03d}"
