"""A grid of cells, one a GPU, drawn line by line: only lines that are seen, and of these only what changed."""

from __future__ import annotations

from typing import Final

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..fleet.layout import Layout
from ..fleet.measures import LEVELS, Picture

CURSOR: Final = "◆"
ACCUSED: Final = "!"
STYLES_MAX: Final = 200


class HeatGrid(ScrollView, can_focus=True):
    """Shows a Picture laid out by a Layout. The cursor is a GPU's number, and stays with it when cells move."""

    BINDINGS = [
        Binding("left,h", "move(-1)", "left", show=False, id="grid.left", tooltip="The cell to the left"),
        Binding("right,l", "move(1)", "right", show=False, id="grid.right", tooltip="The cell to the right"),
        Binding("up,k", "climb(-1)", "up", show=False, id="grid.up", tooltip="The line above"),
        Binding("down,j", "climb(1)", "down", show=False, id="grid.down", tooltip="The line below"),
        Binding("pageup,ctrl+b", "turn(-1)", "page up", show=False, id="grid.page_up", tooltip="A page up"),
        Binding("pagedown,ctrl+f", "turn(1)", "page down", show=False, id="grid.page_down", tooltip="A page down"),
        Binding("g,home", "edge(0)", "first", show=False, id="grid.first", tooltip="The first cell"),
        Binding("G,end", "edge(-1)", "last", show=False, id="grid.last", tooltip="The last cell"),
        Binding("enter", "open", "open", id="grid.open", tooltip="Go to what is under the cursor"),
    ]

    class Moved(Message):
        """The cursor is on another GPU."""

    class Resized(Message):
        """There is more or less room; whoever lays the cells out should do so again."""

    class Opened(Message):
        """The GPU under the cursor is to be looked at."""

    def __init__(self, scale: tuple[Style, ...], *, id: str) -> None:
        """`scale` is a style a level, the last for what is not known; without colours all of it may be plain."""
        super().__init__(id=id)
        self._scale = scale
        self._layout: Layout | None = None
        self._picture: Picture | None = None
        self._accused = np.zeros(0, np.bool_)
        self._styles: dict[tuple[Style, int, bool, bool], Style] = {}
        self.cursor: int | None = None

    def recolour(self, scale: tuple[Style, ...]) -> None:
        """Draw with other styles."""
        self._scale = scale
        self._styles.clear()
        self.refresh()

    def show(self, layout: Layout, picture: Picture, accused: np.typing.NDArray[np.bool_]) -> None:
        """Draw; where cells lie as before, only lines with a changed cell."""
        before, self._picture, drawn = self._picture, picture, self._accused
        self._accused = accused
        if layout is not self._layout or before is None:
            self._layout = layout
            self.virtual_size = Size(layout.label_width + layout.slots.shape[1] * layout.columns, len(layout.labels))
            self.refresh()
            return
        changed = (before.levels != picture.levels) | (before.signs != picture.signs) | (drawn != accused)
        self._refresh_cells(np.flatnonzero(changed))

    def point(self, gpu: int | None, follow: bool = True) -> None:
        """Put the cursor on a GPU, and scroll there if `follow`."""
        before, self.cursor = self.cursor, gpu
        self._refresh_cells(np.array([each for each in (before, gpu) if each is not None], np.int64))
        if follow:
            self.follow()

    def follow(self) -> None:
        """Scroll to where the cursor is."""
        place = None if self.cursor is None else self._place(self.cursor)
        if place is not None and self._layout is not None:
            x = self._layout.label_width + place[1] * self._layout.columns
            self.scroll_to_region(Region(x, place[0], self._layout.columns, 1), animate=False)

    def on_resize(self) -> None:
        """Cells may fit otherwise now."""
        self.post_message(self.Resized())

    def render_line(self, y: int) -> Strip:
        """One line of the window."""
        scroll_x, scroll_y = self.scroll_offset
        layout, picture = self._layout, self._picture
        line = y + scroll_y
        if layout is None or picture is None or line >= len(layout.labels):
            return Strip.blank(self.size.width, self.rich_style)
        base = self.rich_style
        label = layout.labels[line][: layout.label_width - 1].ljust(layout.label_width)
        segments = [Segment(label, base + Style(dim=True)), *self._cells(layout, picture, layout.slots[line], base)]
        return Strip(segments).crop_extend(scroll_x, scroll_x + self.size.width, base)

    def _cells(
        self, layout: Layout, picture: Picture, slots: np.typing.NDArray[np.int32], base: Style
    ) -> list[Segment]:
        """Neighbours of one style as one segment."""
        shown = np.where(slots >= 0, picture.levels[slots], LEVELS + 1)
        accused = (slots >= 0) & self._accused[slots]
        signs = np.where(accused, ACCUSED, picture.signs[slots])
        made: list[Segment] = []
        text, kind = "", None
        for level, sign, blamed, gpu in zip(
            shown.tolist(), signs.tolist(), accused.tolist(), slots.tolist(), strict=True
        ):
            here = (level, blamed, gpu == self.cursor and gpu >= 0)
            if gpu < 0 and kind is not None and not (kind[1] or kind[2]):
                here = kind  # a blank looks the same in every colour, and a change of colour costs twenty bytes
            if here != kind:
                if kind is not None:
                    made.append(Segment(text, self._style(base, *kind)))
                text, kind = "", here
            cell = " " if gpu < 0 else CURSOR if here[2] else sign
            text += cell.ljust(layout.columns) if blamed or here[2] or cell in " ·" else cell * layout.columns
        if kind is not None:
            made.append(Segment(text, self._style(base, *kind)))
        return made

    def _style(self, base: Style, level: int, accused: bool, cursor: bool) -> Style:
        """One that was made before is given again: there are few, and they are asked for at each run of cells."""
        found = self._styles.get((base, level, accused, cursor))
        if found is None:
            found = base if level > LEVELS else base + self._scale[level]
            if accused or cursor:
                found += Style(bold=True, reverse=accused != cursor)
            if len(self._styles) >= STYLES_MAX:
                self._styles.clear()
            self._styles[base, level, accused, cursor] = found
        return found

    def _place(self, gpu: int) -> tuple[int, int] | None:
        """Line and column of a GPU, None where it is not shown."""
        layout = self._layout
        if layout is None or gpu >= len(layout.spots) or layout.spots[gpu] < 0:
            return None
        line, column = divmod(int(layout.spots[gpu]), int(layout.slots.shape[1]))
        return line, column

    def _refresh_cells(self, gpus: np.typing.NDArray[np.int64]) -> None:
        """Draw these anew where they are seen: once a line, since Textual sends a line from its beginning for each region."""
        layout = self._layout
        if layout is None or not gpus.size:
            return
        spots = layout.spots[gpus[gpus < len(layout.spots)]]
        lines, columns = np.divmod(spots[spots >= 0], layout.slots.shape[1])
        left, top = self.scroll_offset
        for line in range(top, min(top + self.size.height, len(layout.labels))):
            here = columns[lines == line]
            if here.size:
                first = layout.label_width + int(here.min()) * layout.columns - left
                width = (int(here.max()) - int(here.min()) + 1) * layout.columns
                self.refresh(Region(first, line - top, width, 1))

    def action_move(self, by: int) -> None:
        """Along the line, and on to the next."""
        if (order := self._order()).size:
            here = self._here(order)
            self._go(int(order[min(max(here + by, 0), len(order) - 1)]))

    def action_climb(self, by: int) -> None:
        """To the nearest cell so many lines away."""
        place = None if self.cursor is None else self._place(self.cursor)
        if self._layout is None or place is None:
            self.action_move(0)
            return
        line = min(max(place[0] + by, 0), len(self._layout.labels) - 1)
        self._go_near(line, place[1])

    def action_turn(self, by: int) -> None:
        """A page up or down."""
        self.action_climb(by * max(self.size.height - 1, 1))

    def action_edge(self, at: int) -> None:
        """To the first or the last."""
        if (order := self._order()).size:
            self._go(int(order[at]))

    def action_open(self) -> None:
        """Look at the GPU under the cursor."""
        if self.cursor is not None:
            self.post_message(self.Opened())

    def on_click(self, event: Click) -> None:
        """Put the cursor there; there already, look at it."""
        layout = self._layout
        if layout is None:
            return
        line = event.y + self.scroll_offset.y
        column = (event.x + self.scroll_offset.x - layout.label_width) // layout.columns
        if 0 <= line < len(layout.labels) and 0 <= column < layout.slots.shape[1] and layout.slots[line, column] >= 0:
            if layout.slots[line, column] == self.cursor:
                self.action_open()
            else:
                self._go(int(layout.slots[line, column]))

    def _order(self) -> np.typing.NDArray[np.int32]:
        """GPUs as they lie."""
        cells = np.zeros(0, np.int32) if self._layout is None else self._layout.slots.ravel()
        return cells[cells >= 0]

    def _here(self, order: np.typing.NDArray[np.int32]) -> int:
        found = np.flatnonzero(order == (-1 if self.cursor is None else self.cursor))
        return int(found[0]) if found.size else 0

    def _go_near(self, line: int, column: int) -> None:
        assert self._layout is not None
        filled = np.flatnonzero(self._layout.slots[line] >= 0)
        self._go(int(self._layout.slots[line, filled[np.argmin(np.abs(filled - column))]]))

    def _go(self, gpu: int) -> None:
        self.point(gpu)
        self.post_message(self.Moved())
