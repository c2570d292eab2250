"""Times of nodes put on the collector's clock, as far as the view `clock_spans` says how far off they were.

A node is moved where its clock was off by more than the measurement may err: one that agrees with the collector's within the
error is left as it is, because a clock that is kept by NTP is nearer to the truth than a coarse measurement of it. Between two
measurements that agree within their errors the offset goes from the one to the other in a straight line, so that slices of one
stream do not leap; after a jump the new one holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_cli.asking import Query, text

SPANS_MAX: Final = 100_000
"""Measurements heeded, the newest: a minute each, so 64 nodes for a day."""
NODES_TOLD_MAX: Final = 64
DRIFT_PARTS: Final = 10_000
"""Since the last measurement a clock may have run 1/10,000 too fast or too slow, as views.sql says."""
_OF_REALTIME: Final = "realtime@"


@dataclass
class _Node:
    """Measurements of one clock, rising: from when (on itself), ns ahead of the collector's, how wrong that may be."""

    from_ns: list[int] = field(default_factory=list)
    offset_ns: list[int] = field(default_factory=list)
    error_ns: list[int] = field(default_factory=list)

    def is_off(self) -> bool:
        return any(abs(offset) > error for offset, error in zip(self.offset_ns, self.error_ns, strict=True))

    def ahead(self, time_ns: int) -> int:
        """By how much it was ahead then; before the first measurement as at the first."""
        place = max(bisect_right(self.from_ns, time_ns) - 1, 0)
        here = self.offset_ns[place]
        if place + 1 == len(self.from_ns) or time_ns <= self.from_ns[place]:
            return here
        change = self.offset_ns[place + 1] - here
        if abs(change) > self.error_ns[place] + self.error_ns[place + 1]:
            return here
        begin_ns, end_ns = self.from_ns[place], self.from_ns[place + 1]
        return here + change * (time_ns - begin_ns) // (end_ns - begin_ns)

    def error(self, moved: bool, end_ns: int) -> int:
        """What the drawn times may be wrong by, at most, up to `end_ns`."""
        bounds = self.error_ns
        if not moved:
            bounds = [abs(offset) + error for offset, error in zip(self.offset_ns, self.error_ns, strict=True)]
        return max(bounds) + max(end_ns - self.from_ns[-1], 0) // DRIFT_PARTS


class Clocks:
    """One clock for all nodes; a node of which nothing is known keeps its own."""

    def __init__(self, measured: Mapping[str, _Node]) -> None:
        self._measured = measured
        self._moved = {name: each for name, each in measured.items() if each.is_off()}

    @property
    def least_ahead_ns(self) -> int:
        """No clock was ahead by less; 0 or, where one that is moved was behind, below it."""
        return min((min(each.offset_ns) for each in self._moved.values() if min(each.offset_ns) < 0), default=0)

    @property
    def most_ahead_ns(self) -> int:
        """None was ahead by more; 0 or above."""
        return max((max(each.offset_ns) for each in self._moved.values() if max(each.offset_ns) > 0), default=0)

    def moved(self, clock: str | None, time_ns: int) -> int:
        """A time of the clock `realtime@NODE`, where it is on the collector's; times of other clocks are as they are."""
        if not self._moved or clock is None or not clock.startswith(_OF_REALTIME):
            return time_ns
        found = self._moved.get(clock[len(_OF_REALTIME) :])
        return time_ns if found is None else time_ns - found.ahead(time_ns)

    def of_node(self, node: str | None, time_ns: int) -> int:
        """The same for a time of the node's real-time clock."""
        return time_ns if node is None else self.moved(_OF_REALTIME + node, time_ns)

    def error_ns(self, nodes: Iterable[str], end_ns: int) -> int | None:
        """Times of these nodes lie no farther from the collector's clock; None where one of them was not measured."""
        known = [
            self._measured[node].error(node in self._moved, end_ns) if node in self._measured else None
            for node in nodes
        ]
        return None if not known or None in known else max(each for each in known if each is not None)

    def told(self, nodes: Iterable[str], end_ns: int) -> dict[str, str]:
        """What is known of each clock, in words."""
        return {node: self._words(node, end_ns) for node in sorted(nodes)[:NODES_TOLD_MAX]}

    def _words(self, node: str, end_ns: int) -> str:
        found = self._measured.get(node)
        if found is None:
            return "not compared with the collector's: its own time"
        within = f"within {found.error(node in self._moved, end_ns) / 1e6:.3f} ms of the collector's"
        if node not in self._moved:
            return within
        return f"moved by {-found.offset_ns[-1] / 1e6:+.3f} ms, {within}"


def clocks(query: Query, nodes: Iterable[str]) -> Clocks:
    """What was measured of the clocks of `nodes`."""
    listed = ", ".join(text(node) for node in sorted(nodes))
    if not listed:
        return Clocks({})
    rows: list[dict[str, Any]] = query(
        "SELECT node, from_ns, offset_ns, error_ns FROM clock_spans "
        f"WHERE node IN ({listed}) ORDER BY from_ns DESC LIMIT {SPANS_MAX}"
    ).to_pylist()
    measured: dict[str, _Node] = {}
    for row in reversed(rows):
        each = measured.setdefault(row["node"], _Node())
        each.from_ns.append(row["from_ns"])
        each.offset_ns.append(row["offset_ns"])
        each.error_ns.append(row["error_ns"])
    return Clocks(measured)
