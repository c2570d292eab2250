"""Times of different nodes put on one clock: what most nodes show, where clocks are known to be off by more than that matters.

What is compared between nodes here is compared in cells of seconds. A node nearer to the others than OFF_NS is taken as it is.
Of one that is farther off, times are moved by what was measured (table node_clocks). A time that a clock went through twice,
because it was set back, is either of two: it is nobody's, and nothing is judged by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .detector import Reader, literal
from .parts import by_part
from .remembered import once

OFF_NS: Final = 500_000_000
NODES_MAX: Final = 256
"""Nodes whose times are moved, those farthest off."""
PIECES_MAX: Final = 32
"""Changes of one clock that are heeded, the newest."""
_NEWEST: Final = (
    "SELECT node, arg_max(offset_ns, time_ns) AS offset_ns FROM node_clocks WHERE offset_ns IS NOT NULL GROUP BY node"
)
_OFF: Final = (
    "SELECT DISTINCT node FROM node_clocks WHERE node IS NOT NULL AND time_ns IS NOT NULL AND "
    f"(abs(offset_ns) > {OFF_NS} OR jump_ns IS NOT NULL)"
)


@dataclass(frozen=True)
class Moved:
    """One node: from each of `pieces` on (time on its own clock, rising) it is so far ahead; `twice` are times it had twice."""

    pieces: tuple[tuple[int, int], ...]
    twice: tuple[tuple[int, int], ...] = ()

    def sql(self, column: str) -> str:
        """The time on the one clock, NULL where it may be either of two."""
        cases = [f"WHEN {column} BETWEEN {first} AND {last} THEN NULL" for first, last in self.twice]
        cases += [f"WHEN {column} >= {since} THEN {column} - ({ahead})" for since, ahead in reversed(self.pieces[1:])]
        rest = f"{column} - ({self.pieces[0][1]})" if self.pieces else column
        return f"CASE {' '.join(cases)} ELSE {rest} END" if cases else rest


def on_one_clock(reader: Reader, column: str = "time_ns", node: str = "node") -> str:
    """SQL of a time on the clock that all nodes share: the column itself where no clock is off."""
    moved = _moved(reader)
    if not moved:
        return column
    cases = " ".join(f"WHEN {literal(name)} THEN {each.sql(column)}" for name, each in moved.items())
    return f"(CASE {node} {cases} ELSE {column} END)"


@once
def _moved(reader: Reader) -> Mapping[str, Moved]:
    parts = by_part(reader, "node_clocks", _OFF)
    off = {row["node"] for part in parts.values() for row in part.to_pylist()}
    if not off:
        return {}
    newest = reader.query(_NEWEST).to_pylist()
    shared = _shared([row["offset_ns"] for row in newest])
    far = {row["node"]: abs(row["offset_ns"] - shared) for row in newest}
    off |= {name for name, away in far.items() if away > OFF_NS}
    names = sorted(off, key=lambda name: (-far.get(name, 0), name))[:NODES_MAX]
    rows = reader.query(
        "SELECT node, boot, time_ns, steady_ns, offset_ns, jump_ns, before_ns FROM node_clocks WHERE offset_ns IS NOT NULL AND "
        f"time_ns IS NOT NULL AND node IN ({', '.join(map(literal, names))}) ORDER BY node, time_ns, steady_ns"
    )
    by_node: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for row in rows.to_pylist():
        by_node[row["node"]].append(row)
    found = {name: _of(listed, shared) for name, listed in by_node.items()}
    return {name: each for name, each in sorted(found.items()) if any(ahead for _, ahead in each.pieces) or each.twice}


def _shared(offsets: Sequence[int]) -> int:
    """What most clocks show within OFF_NS, the collector's among them; where that is open, what is nearest to the collector's."""
    votes = sorted([*offsets, 0])
    best, start = (0, 0, 0), 0
    for end, vote in enumerate(votes):
        while vote - votes[start] > OFF_NS:
            start += 1
        middle = votes[(start + end) // 2]
        best = max(best, (end - start + 1, -abs(middle), middle))
    return 0 if abs(best[2]) <= OFF_NS else best[2]


def _of(rows: Sequence[Mapping[str, Any]], shared: int) -> Moved:
    """Pieces of one clock, a new one where it changed by more than half of OFF_NS: small corrections are no change."""
    twice = tuple(sorted(_twice(rows)))
    told = [(row["time_ns"], row["offset_ns"]) for row in rows if not _inside(row["time_ns"], twice)]
    told += [
        (row["before_ns"] + 1, row["offset_ns"])
        for row in rows
        if (row["jump_ns"] or 0) < 0 and row["before_ns"] is not None
    ]
    pieces: list[tuple[int, int]] = []
    for time_ns, offset_ns in sorted(told):
        ahead = offset_ns - shared
        ahead = ahead if abs(ahead) > OFF_NS else 0
        if not pieces or abs(ahead - pieces[-1][1]) > OFF_NS // 2:
            pieces.append((time_ns, ahead))
    return Moved(tuple(pieces[-PIECES_MAX:]), twice[-PIECES_MAX:])


def _twice(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int]]:
    """From the first time before the jump that the agent saw, where that is later than the time after it."""
    found = []
    for row in rows:
        if (row["jump_ns"] or 0) >= 0 or row["before_ns"] is None or row["steady_ns"] is None:
            continue
        earlier = [
            each["time_ns"]
            for each in rows
            if each["boot"] == row["boot"] and (each["steady_ns"] or 0) < row["steady_ns"]
        ]
        found.append((max(row["time_ns"], min(earlier, default=row["time_ns"])), row["before_ns"]))
    return found


def _inside(time_ns: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(first <= time_ns <= last for first, last in spans)
