"""A result on the screen: any number of rows and columns, of which only what is in sight is made into text."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

import pyarrow as pa
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..console.texts import cell

WIDTH_MAX: Final = 48
"""Widest column; the whole of a value is told below while the cursor is on it."""
MEASURED_ROWS: Final = 200
"""Rows by which widths are set."""
_BETWEEN: Final = 2
_NUMBERS: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


class ResultGrid(ScrollView, can_focus=True):
    """Rows under a heading that stays; a cursor goes from cell to cell."""

    COMPONENT_CLASSES = {"result-grid--head", "result-grid--cursor", "result-grid--row", "result-grid--null"}
    DEFAULT_CSS = """
    ResultGrid {
        height: 1fr;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
    }
    ResultGrid > .result-grid--head { text-style: bold; background: $panel; }
    ResultGrid > .result-grid--row { background: $surface; }
    ResultGrid > .result-grid--cursor { text-style: reverse; }
    ResultGrid > .result-grid--null { color: $text-muted; }
    """
    BINDINGS = [
        Binding("j,down", "move(1, 0)", "down", show=False, id="result.down", tooltip="A row down"),
        Binding("k,up", "move(-1, 0)", "up", show=False, id="result.up", tooltip="A row up"),
        Binding("l,right", "move(0, 1)", "right", show=False, id="result.right", tooltip="A column to the right"),
        Binding("h,left", "move(0, -1)", "left", show=False, id="result.left", tooltip="A column to the left"),
        Binding("pagedown", "page(1)", "page down", show=False, id="result.page_down", tooltip="A page down"),
        Binding("pageup", "page(-1)", "page up", show=False, id="result.page_up", tooltip="A page up"),
        Binding("g,home", "edge(-1)", "first row", show=False, id="result.first", tooltip="The first row"),
        Binding("G,end", "edge(1)", "last row", show=False, id="result.last", tooltip="The last row"),
    ]

    class Moved(Message):
        """The cursor is on another value."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.rows = pa.table({})
        self._widths: list[int] = []
        self._row = self._column = 0

    def show(self, rows: pa.Table) -> None:
        """Other rows, from their first on."""
        self.rows = rows
        self._row = self._column = 0
        some = rows.slice(0, MEASURED_ROWS).to_pydict() if len(set(rows.column_names)) == rows.num_columns else {}
        self._widths = [
            min(max([len(name), *(len(cell(value)) for value in some.get(name, ()))]), WIDTH_MAX)
            for name in rows.column_names
        ]
        self.virtual_size = Size(sum(self._widths) + _BETWEEN * len(self._widths), rows.num_rows + 1)
        self.scroll_to(0, 0, animate=False)
        self.refresh()
        self.post_message(self.Moved())

    @property
    def value(self) -> tuple[str, object] | None:
        """Name of the column and value under the cursor."""
        if not (self.rows.num_rows and self.rows.num_columns):
            return None
        return self.rows.column_names[self._column], self.rows.column(self._column)[self._row].as_py()

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor."""
        self._go(self._row + rows, self._column + columns)

    def action_page(self, pages: int) -> None:
        """So many screens of rows."""
        self._go(self._row + pages * max(self.size.height - 2, 1), self._column)

    def action_edge(self, side: int) -> None:
        """To the first or the last row."""
        self._go(0 if side < 0 else self.rows.num_rows - 1, self._column)

    def _go(self, row: int, column: int) -> None:
        self._row = max(min(row, self.rows.num_rows - 1), 0)
        self._column = max(min(column, self.rows.num_columns - 1), 0)
        left = [0, *accumulate(width + _BETWEEN for width in self._widths)]
        if self._widths:
            target = Region(
                left[self._column], self._row, self._widths[self._column] + 1, 2
            )  # the heading hides a line
            self.scroll_to_region(target, animate=False)
        self.refresh()
        self.post_message(self.Moved())

    def render_line(self, y: int) -> Strip:
        """The heading, or the row in that place."""
        if not self.rows.num_columns:
            return Strip.blank(self.size.width, self.rich_style)
        row = y - 1 + self.scroll_offset.y
        if y and row >= self.rows.num_rows:
            return Strip.blank(self.size.width, self.rich_style)
        segments = self._row_segments(row) if y else self._heading()
        whole = Strip(segments)
        return whole.crop_extend(self.scroll_offset.x, self.scroll_offset.x + self.size.width, segments[-1].style)

    def _heading(self) -> list[Segment]:
        style = self.get_component_rich_style("result-grid--head")
        return [
            Segment(_fit(name, width, self._is_number(at)) + " " * _BETWEEN, style)
            for at, (name, width) in enumerate(zip(self.rows.column_names, self._widths, strict=True))
        ]

    def _row_segments(self, row: int) -> list[Segment]:
        plain = self.get_component_rich_style("result-grid--row") if row % 2 else self.rich_style
        segments = []
        for at, width in enumerate(self._widths):
            value = self.rows.column(at)[row].as_py()
            style = plain + self.get_component_rich_style("result-grid--null", partial=True) if value is None else plain
            if row == self._row and at == self._column and self.has_focus:
                style += Style(reverse=True)
            segments += [Segment(_fit(cell(value), width, self._is_number(at)), style), Segment(" " * _BETWEEN, plain)]
        return segments

    def _is_number(self, column: int) -> bool:
        kind = self.rows.schema.field(column).type
        return any(each(kind) for each in _NUMBERS)


def _fit(words: str, width: int, right: bool) -> str:
    cut = words if len(words) <= width else words[: width - 1] + "…"
    return cut.rjust(width) if right else cut.ljust(width)
