"""A chart of one part of the steps: the accused as dots over the spread of its peers, told apart by signs, not by colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

from rich.text import Text
from textual import events
from textual.widgets import Static

from ..beside.steps import Line, Point
from ..words import duration

LABEL_COLUMNS: Final = 9
CELLS_A_STEP_MAX: Final = 4
ACCUSED: Final = "●"
MIDDLE: Final = "─"
SPREAD: Final = "░"
LEGEND: Final = f"{ACCUSED} accused  {MIDDLE} median of its peers  {SPREAD} where 8 of 10 of them are"
ALONE: Final = f"{ACCUSED} median of its ranks"
SPACE: Final = 0.05
"""So much of the span is left free above and below."""


class AgainstPeers(Static):
    """One line of `Steps`, drawn to the room that there is."""

    def __init__(self, *, id: str, classes: str | None = None) -> None:
        super().__init__("", id=id, classes=classes)
        self._line: Line | None = None
        self._onset_step: int | None = None

    def show(self, line: Line | None, onset_step: int | None) -> None:
        """Draw this part; nothing where there is none."""
        self._line, self._onset_step = line, onset_step
        self._draw()

    def on_resize(self, event: events.Resize) -> None:
        """There is another room."""
        self._draw()

    def _draw(self) -> None:
        room = self.size
        drawn = (
            Text("")
            if self._line is None or not room.width
            else chart(self._line, room.width, room.height, self._onset_step)
        )
        self.update(drawn)


def chart(line: Line, width: int, height: int, onset_step: int | None = None) -> Text:
    """The chart in `height` rows: a scale to the left, below it the steps, the onset, and what the signs mean."""
    rows = max(height - 2, 3)
    columns = _columns(line.points, max(width - LABEL_COLUMNS, 8))
    low, high = _bounds(columns)
    edges = [high - (high - low) * place / rows for place in range(rows + 1)]
    marked = (0, rows // 2, rows - 1)
    drawn = [
        _row(columns, top, bottom, duration((top + bottom) / 2) if place in marked else "")
        for place, (top, bottom) in enumerate(pairwise(edges))
    ]
    return Text("\n").join([*drawn, *_feet(columns, onset_step, width, any(each[2] is not None for each in columns))])


def _columns(points: Sequence[Point], width: int) -> list[Point]:
    """One point a cell: several steps become one by their medians' extremes, one step may take several cells."""
    if len(points) <= width:
        times = min(max(width // max(len(points), 1), 1), CELLS_A_STEP_MAX)
        return [point for point in points for _ in range(times)]
    cuts = [place * len(points) // width for place in range(width + 1)]
    return [_joined(points[first:last]) for first, last in pairwise(cuts)]


def _joined(points: Sequence[Point]) -> Point:
    mine, middle = (_known(point[at] for point in points) for at in (1, 2))
    low, high = (_known(point[at] for point in points) for at in (3, 4))
    return (
        points[0][0],
        max(mine, default=None),
        sorted(middle)[len(middle) // 2] if middle else None,
        min(low, default=None),
        max(high, default=None),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _bounds(columns: Sequence[Point]) -> tuple[float, float]:
    values = [value for point in columns for value in point[1:] if value is not None] or [0.0, 1.0]
    low, high = min(values), max(values)
    free = (high - low or high or 1.0) * SPACE
    return max(low - free, 0.0), high + free


def _row(columns: Sequence[Point], top: float, bottom: float, label: str) -> Text:
    text = Text(f"{label:>{LABEL_COLUMNS - 1}}│", "dim")
    for _, mine, middle, low, high in columns:
        if mine is not None and bottom <= mine < top:
            text.append(ACCUSED, "bold not dim")
        elif middle is not None and bottom <= middle < top:
            text.append(MIDDLE, "not dim")
        elif low is not None and high is not None and low < top and high >= bottom:
            text.append(SPREAD, "dim")
        else:
            text.append(" ")
    return text


def _feet(columns: Sequence[Point], onset_step: int | None, width: int, peers: bool) -> list[Text]:
    """The steps with the onset among them, and the legend."""
    first, last = f"step {columns[0][0]}", str(columns[-1][0])
    ruler = list(f"{first:<{max(len(columns) - len(last), len(first) + 1)}}{last}")
    at = next((place for place, point in enumerate(columns) if onset_step is not None and point[0] >= onset_step), None)
    if at is not None and onset_step is not None and columns[0][0] <= onset_step:
        mark = f"▲ since {onset_step}"
        begin = min(at, max(len(ruler) - len(mark), 0))
        ruler[begin : begin + len(mark)] = list(mark)
    legend = LEGEND if peers else ALONE
    return [
        Text(" " * LABEL_COLUMNS + "".join(ruler)[: max(width - LABEL_COLUMNS, 0)], "dim"),
        Text(" " * LABEL_COLUMNS + legend, "dim"),
    ]
