"""Where the cells of a fleet lie: grouped by node, rack or job, in lines as wide as there is room for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ..views.fleet import GPUS_MAX, Gpus, Numbers

BY: Final = ("node", "rack", "job")
ORDERS: Final = ("name", "highest first", "lowest first", "accused first")
LABEL_MAX: Final = 20
SMALL_GROUP: Final = 16
"""Groups no larger than this share a line; a larger one begins its own."""
_NUMBERS: Final = re.compile(r"([0-9]+)")
_LAST_NUMBER: Final = re.compile(r"[-_.]?[a-zA-Z]*\d+$")

Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """`slots[line, column]` is a GPU's number, -1 for a gap; a label stands before each line. `columns` is a cell's width."""

    slots: Places
    labels: tuple[str, ...]
    label_width: int
    columns: int
    shown: int
    spots: Places
    """Of each GPU: its place in `slots`, counted along the lines, -1 where it is not shown."""

    def same(self, other: Layout) -> bool:
        """Whether everything lies as in the other."""
        return (
            self.labels == other.labels
            and self.columns == other.columns
            and np.array_equal(self.slots, other.slots)
            and len(self.spots) == len(other.spots)
        )


NOTHING_LAID: Final = Layout(np.zeros((0, 0), np.int32), (), 0, 1, 0, np.zeros(0, np.int32))


def rack(node: str) -> str:
    """The rack that a node's name tells: all but its last number, where it has several; else the node itself."""
    found = _LAST_NUMBER.search(node)
    shortened = "" if found is None else node[: found.start()]
    return shortened if any(each.isdigit() for each in shortened) else node


def groups(gpus: Gpus, by: str) -> list[str]:
    """Of each GPU: the group that it belongs to."""
    if by == "job":
        return [each or "(no job)" for each in gpus.texts("job")]
    nodes = [str(each) for each in gpus.texts("node")]
    return nodes if by == "node" else [rack(each) for each in nodes]


def arranged(
    gpus: Gpus, names: list[str], kept: npt.NDArray[np.bool_], values: Numbers, order: str, room: tuple[int, int]
) -> Layout:
    """Groups in order, each with its GPUs by node and index; `room` is columns and lines, and cells are two wide if all fit."""
    members: dict[str, list[int]] = {}
    for at in np.flatnonzero(kept).tolist():
        members.setdefault(names[at], []).append(at)
    ordered = _ordered(gpus, members, values, order)
    label_width = min(max((len(each) for each in ordered), default=0), LABEL_MAX) + 1
    wide = _placed(ordered, members, max((room[0] - label_width) // 2, 1))
    if len(wide) <= room[1]:
        return _made(wide, label_width, 2, len(gpus))
    return _made(_placed(ordered, members, max(room[0] - label_width, 1)), label_width, 1, len(gpus))


def _ordered(gpus: Gpus, members: dict[str, list[int]], values: Numbers, order: str) -> list[str]:
    """Names of groups. Those of which nothing is known come last."""
    if order == ORDERS[0]:
        return sorted(members, key=_natural)
    if order == ORDERS[3]:
        gravity = np.where(gpus.accused < 0, len(gpus), gpus.accused)
        return sorted(members, key=lambda name: int(gravity[members[name]].min()))
    sign = -1.0 if order == ORDERS[1] else 1.0
    key = {}
    for name, each in members.items():
        known = sign * values[each]
        known = known[np.isfinite(known)]
        key[name] = float(known.min()) if known.size else np.inf
    return sorted(members, key=lambda name: key[name])


@lru_cache(GPUS_MAX)
def _natural(name: str) -> list[tuple[bool, int, str]]:
    """node-9 before node-10; kept, since names are put in order at each letter of a search."""
    return [(each.isdecimal(), int(each) if each.isdecimal() else 0, each) for each in _NUMBERS.split(name)]


def _placed(ordered: list[str], members: dict[str, list[int]], width: int) -> list[tuple[str, list[int]]]:
    """(label, slots) of each line, at most `width` slots long."""
    lines: list[tuple[str, list[int]]] = []
    shared = False
    for name in ordered:
        each = members[name]
        if shared and len(each) <= SMALL_GROUP and len(lines[-1][1]) + 1 + len(each) <= width:
            lines[-1][1].extend([-1, *each])
            continue
        shared = len(each) <= min(width, SMALL_GROUP)
        lines.extend((name if start == 0 else "", each[start : start + width]) for start in range(0, len(each), width))
    return lines


def _made(lines: list[tuple[str, list[int]]], label_width: int, columns: int, gpus: int) -> Layout:
    width = max((len(slots) for _, slots in lines), default=0)
    slots = np.full((len(lines), width), -1, np.int32)
    for at, (_, each) in enumerate(lines):
        slots[at, : len(each)] = each
    spots = np.full(gpus, -1, np.int32)
    places = np.flatnonzero(slots.ravel() >= 0).astype(np.int32)
    spots[slots.ravel()[places]] = places
    return Layout(slots, tuple(label for label, _ in lines), label_width, columns, len(places), spots)
