"""Lanes as text: pure functions from slices and a scale to characters with their styles. Signs differ as well as colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..lanes import Form, Kind, Lane, Slice
from ..words import duration

Cell = tuple[str, str]
"""One character and the name of its style in STYLES."""
BLANK: Final[Cell] = (" ", "")
LEVELS: Final = "▁▂▃▄▅▆▇█"
"""How much of a column was taken, where what lies in it is shorter than the column."""
SHADES: Final = "░▒▓█"
"""The same of communication."""
WAIT, TRANSFER, TOGETHER = "┄", "▓", "▒"
"""Of a collective: waiting for other ranks, moving data, and both where they cannot be told apart."""
LEGENDS: Final = {
    "kernel": "━ compute  ≈ communication  » copies  ▁▂▃ ░▒▓ how much of a column  [Σ ] sums of a step  ◆ searched for",
    "collective": "┄ waiting for other ranks  ▓ transfer  ▒ not told apart",
}
"""What the signs of a lane mean."""
START: Final = "▏"
HIT: Final = "◆"
"""In this column is what was searched for."""
LABEL_CELLS: Final = 4
"""From so many columns on a slice has its name in it."""

FILLS: Final = {
    Kind.STEP: "─",
    Kind.PHASE: "╌",
    Kind.DATA: "┈",
    Kind.GC: "▪",
    Kind.KERNEL: "━",
    Kind.COLLECTIVE: TOGETHER,
    Kind.GAP: "·",
    Kind.FINDING: "═",
    Kind.LOG: "!",
}
"""What a slice is drawn with behind its name."""
CATEGORY_FILLS: Final = {"communication": "≈", "memcpy": "»", "memset": "»"}
MARKS: Final = {Kind.FINDING: "▼", Kind.LOG: "!"}
STYLES: Final = (
    "step", "phase", "data", "gc", "kernel", "communication", "memcpy", "memset", "wait", "transfer", "together", "gap",
    "finding", "log", "power", "clock", "sums", "sums-communication", "dim", "hit",
)  # fmt: skip
"""Names of styles; the widget has the colours."""


@dataclass(frozen=True)
class Scale:
    """Time across `columns` columns; `shift_ns` is taken off what is drawn."""

    start_ns: int
    end_ns: int
    columns: int
    shift_ns: int = 0

    @property
    def column_ns(self) -> float:
        """Time of one column."""
        return max(self.end_ns - self.start_ns, 1) / max(self.columns, 1)

    def column(self, time_ns: int) -> int:
        """The column that a time lies in; may lie outside."""
        return int((time_ns - self.shift_ns - self.start_ns) // self.column_ns)

    def time_ns(self, column: float) -> int:
        """The time in which a column begins, of the rank that is looked at."""
        return self.start_ns + int(column * self.column_ns)


def line_of(lane: Lane, slices: Iterable[Slice], scale: Scale) -> list[Cell]:
    """One line of a lane."""
    cells = [BLANK] * scale.columns
    taken = [0.0] * scale.columns
    wide = []
    for each in slices:
        first, last = _columns(each, scale)
        if last < 0 or first >= scale.columns:
            continue
        if lane.kind in MARKS:
            _mark(cells, lane.kind, each, first, last)
        elif last == first or each.form is Form.MANY:
            _thin(cells, taken, lane.kind, each, first, scale)
        else:
            wide.append((each, first, last))
    for each, first, last in wide:
        _wide(cells, lane.kind, each, first, last, scale)
    return cells


def _columns(each: Slice, scale: Scale) -> tuple[int, int]:
    """First and last column of a slice; what goes beyond the screen goes one column beyond."""
    first = scale.column(each.start_ns)
    last = max(scale.column(each.end_ns - 1) if each.end_ns > each.start_ns else first, first)
    return max(first, -1) if last >= 0 else first, min(last, scale.columns) if first < scale.columns else last


def _thin(cells: list[Cell], taken: list[float], kind: Kind, each: Slice, first: int, scale: Scale) -> None:
    """What is no longer than a column fills the column as far as it took it."""
    if 0 <= first < scale.columns:
        taken[first] = min(taken[first] + each.busy_ns / scale.column_ns, 1.0)
        style = "hit" if each.hit else _style(kind, each)
        if each.wait_ns is not None and each.busy_ns:
            cells[first] = (WAIT, "wait") if each.wait_ns > each.busy_ns / 2 else (TRANSFER, "transfer")
        else:
            levels = SHADES if each.category == "communication" else LEVELS
            sign = TOGETHER if kind is Kind.COLLECTIVE else _level(taken[first], levels)
            cells[first] = (HIT if each.hit else sign, style)


def _wide(cells: list[Cell], kind: Kind, each: Slice, first: int, last: int, scale: Scale) -> None:
    if each.form is Form.SUMS:
        drawn = _sums(kind, each, last - first + 1)
    elif each.wait_ns is not None:
        drawn = _waited(each, first, last, scale)
    else:
        fill = CATEGORY_FILLS.get(each.category) if kind is Kind.KERNEL else None
        drawn = _labelled(
            name_of(each), last - first + 1, fill or FILLS[kind], "hit" if each.hit else _style(kind, each)
        )
    _put(cells, first, drawn)


def _sums(kind: Kind, each: Slice, width: int) -> list[Cell]:
    """Sums of a step stand in brackets, on dots: they say how much, not where."""
    what = f"{each.count} kernels, " if kind is Kind.KERNEL else ""
    short = f"Σ {duration(each.busy_ns)}"
    said = () if each.partial else (f"{short}, {what}{percent(each.share)}", short, f"{percent(each.share)}")
    words = next((each_words for each_words in said if len(each_words) + 2 <= width), "")
    style = (
        "hit"
        if each.hit
        else (
            "sums-communication"
            if each.category == "communication"
            else "sums"
            if kind is Kind.KERNEL
            else _style(kind, each)
        )
    )
    if width < 3:
        return [(_level(each.share, LEVELS), style)] * width
    inside = words + _level(each.share, LEVELS) * (width - 2 - len(words))
    return [("[", style), *((sign, style) for sign in inside), ("]", style)]


def _waited(each: Slice, first: int, last: int, scale: Scale) -> list[Cell]:
    """A collective: waiting first, transfer last; all ranks end together."""
    width = last - first + 1
    turn = scale.column(each.start_ns + (each.wait_ns or 0)) - first if each.wait_ns else 0
    turn = min(
        max(turn, 1 if each.wait_ns and each.share and width > 1 and each.wait_ns > each.busy_ns / 2 else 0), width
    )
    if each.wait_ns and each.wait_ns >= each.busy_ns:
        turn = width
    drawn = [(WAIT, "wait")] * turn + [(TRANSFER, "transfer")] * (width - turn)
    style = "hit" if each.hit else "wait" if turn > width // 2 else "transfer"
    words = f" {each.name} wait {duration(each.wait_ns)} " if turn >= width // 2 and each.wait_ns else f" {each.name} "
    room = turn if turn > width // 2 else width
    if len(words) > room - 2:
        words = f" {each.name} " if len(each.name) + 4 <= room else ""
    return [(START, drawn[0][1]), *drawn[1:2], *((sign, style) for sign in words), *drawn[2 + len(words) :]][:width]


def _labelled(name: str, width: int, fill: str, style: str) -> list[Cell]:
    words = _short(name, width - 2) if width >= LABEL_CELLS else ""
    return [(START, style), *((sign, style) for sign in words.ljust(width - 1, fill))][:width]


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: max(width - 1, 0)] + "…"


def name_of(each: Slice) -> str:
    """A kernel's name without what stands around it in C++."""
    name = each.name.removeprefix("void ")
    cut = min((name.index(sign) for sign in "<(" if sign in name and name.index(sign) > 0), default=len(name))
    return name[:cut].rpartition("::")[2] or name


def _mark(cells: list[Cell], kind: Kind, each: Slice, first: int, last: int) -> None:
    """Where it began, and how long it stood."""
    style = _style(kind, each)
    if kind is Kind.FINDING and last > first:
        begins = first >= 0
        words = [(MARKS[kind] if begins else "◀", style), *((sign, style) for sign in f"{each.name} ")]
        drawn = [*words, *[(FILLS[kind], style)] * (last - max(first, 0) + 1 - len(words))]
        _put(cells, max(first, 0), drawn[: last - max(first, 0) + 1])
    elif 0 <= first < len(cells):
        _put(cells, first, [(MARKS[kind], style), *((sign, style) for sign in each.name)])


def _put(cells: list[Cell], first: int, drawn: Sequence[Cell]) -> None:
    for place, cell in enumerate(drawn, start=first):
        if 0 <= place < len(cells):
            cells[place] = cell


def _style(kind: Kind, each: Slice) -> str:
    if kind is Kind.KERNEL:
        return each.category if each.category in STYLES else "kernel"
    return "together" if kind is Kind.COLLECTIVE else kind.value


def percent(share: float) -> str:
    """A share; one that is small, but not nothing, says so."""
    return "<1%" if 0 < share < 0.01 else f"{share:.0%}"


def _level(share: float, levels: str) -> str:
    return levels[min(max(int(share * len(levels)), 0), len(levels) - 1)]


def spark_of(lane: Lane, scale: Scale) -> list[Cell]:
    """Readings as a line of levels from nothing to the top; dots where no reading holds."""
    cells: list[Cell] = [("·", "dim")] * scale.columns
    for each in lane.readings:
        first = max(scale.column(each.time_ns), 0)
        last = min(max(scale.column(each.until_ns - 1), first), scale.columns - 1)
        sign = _level(each.value / lane.top if lane.top else 0.0, LEVELS)
        for place in range(first, last + 1):
            cells[place] = (sign, lane.kind.value)
    return cells


def ruler(scale: Scale, width: int = 12) -> str:
    """Ticks of round times from the left edge on."""
    step_ns = _round_step(scale.column_ns * width)
    line = [" "] * scale.columns
    for number in range(scale.columns):
        at_ns = number * step_ns
        place = int(at_ns / scale.column_ns)
        words = f"├{'' if number == 0 else '+'}{duration(at_ns)}"
        if place + len(words) > scale.columns:
            break
        line[place : place + len(words)] = words
    return "".join(line)


def _round_step(least_ns: float) -> int:
    """The next of 1, 2, 5, 10, 20, ... ns."""
    power = 1
    while True:
        for digit in (1, 2, 5):
            if digit * power >= least_ns:
                return digit * power
        power *= 10
