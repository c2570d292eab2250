"""Lanes of a timeline below a ruler: draws the lines that are seen, with a cursor that is a lane and a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..lanes import Kind, Lane, Slice, stacked
from .lane_cells import BLANK, STYLES, Cell, Scale, line_of, ruler, spark_of

LABEL_COLUMNS: Final = 15
CURSOR: Final = "│"
SPARKS: Final = (Kind.POWER, Kind.CLOCK)


@dataclass(frozen=True)
class Line:
    """One line of the screen: of which lane, with which label, and what lies on it."""

    lane: int
    label: str
    slices: tuple[Slice, ...]


class Lanes(ScrollView, can_focus=True):
    """Shows lanes over a scale; `start_ns` to `end_ns` may move before the lanes of the new span are there."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"lanes--{name}" for name in (*STYLES, "label", "chosen", "ruler")}
    DEFAULT_CSS = """
    Lanes { height: auto; scrollbar-size-vertical: 1; overflow-x: hidden; }
    Lanes > .lanes--label { color: $text-muted; }
    Lanes > .lanes--chosen { text-style: bold reverse; }
    Lanes > .lanes--ruler { color: $text-muted; }
    Lanes > .lanes--step { text-style: bold; }
    Lanes > .lanes--phase { color: $primary; }
    Lanes > .lanes--data { color: $warning; }
    Lanes > .lanes--gc { color: $error; }
    Lanes > .lanes--kernel { color: $success; }
    Lanes > .lanes--communication { color: $secondary; }
    Lanes > .lanes--memcpy { color: $foreground; }
    Lanes > .lanes--memset { color: $foreground; }
    Lanes > .lanes--wait { color: $warning; }
    Lanes > .lanes--transfer { color: $secondary; }
    Lanes > .lanes--together { color: $secondary; }
    Lanes > .lanes--gap { color: $error; }
    Lanes > .lanes--finding { color: $error; text-style: bold; }
    Lanes > .lanes--log { color: $error; text-style: bold; }
    Lanes > .lanes--power { color: $warning; }
    Lanes > .lanes--clock { color: $primary; }
    Lanes > .lanes--sums { color: $success; text-style: italic; }
    Lanes > .lanes--sums-communication { color: $secondary; text-style: italic; }
    Lanes > .lanes--dim { color: $text-muted; }
    Lanes > .lanes--hit { text-style: bold reverse; }
    """

    class Moved(Message):
        """The cursor is elsewhere."""

    class Zoom(Message):
        """Less time (factor < 1) or more is to be seen, around the cursor."""

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

    class Resized(Message):
        """There are more or fewer columns than before."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._lanes: tuple[Lane, ...] = ()
        self._lines: list[Line] = []
        self._sides = ("", "")
        self._scale = Scale(0, 1, 1)
        self._shift_ns = 0
        self._chosen: tuple[str, str, int] | None = None
        self.cursor_ns = 0

    @property
    def columns(self) -> int:
        """Columns of time."""
        return max(self.size.width - LABEL_COLUMNS - 1, 1)

    @property
    def lane(self) -> Lane | None:
        """The lane that the cursor is in."""
        return self._lanes[self._place()] if self._lanes else None

    @property
    def slack_ns(self) -> int:
        """So near counts as under the cursor."""
        return int(self._scale.column_ns)

    def show(self, lanes: Sequence[Lane], span: tuple[int, int], sides: tuple[str, str], shift_ns: int) -> None:
        """Draw. `sides` name the rank that is looked at and what is beside it, "" where nothing is."""
        self._lanes, self._sides, self._shift_ns = tuple(lanes), sides, shift_ns
        self._lines = list(_lines(self._lanes, sides))
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        self.styles.height = len(self._lines) + 1
        self.look(span)

    def look(self, span: tuple[int, int]) -> None:
        """Look at another span."""
        self._scale = Scale(*span, self.columns)
        if not span[0] <= self.cursor_ns < span[1]:
            self.cursor_ns = (span[0] + span[1]) // 2
        self.refresh()

    def point(self, time_ns: int | None = None, lanes: int = 0) -> None:
        """Move the cursor to a time, or by so many lanes."""
        if time_ns is not None:
            self.cursor_ns = time_ns
        if lanes and self._lanes:
            place = min(max(self._place() + lanes, 0), len(self._lanes) - 1)
            self._chosen = self._lanes[place].key
            self._show_lane(place)
        self.refresh()
        self.post_message(self.Moved())

    def choose(self, lane: Lane) -> None:
        """Put the cursor into a lane."""
        self._chosen = lane.key
        self._show_lane(self._place())
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The ruler, or a line of a lane."""
        number = y - 1 + self.scroll_offset.y
        if y == 0:
            style = self.get_component_rich_style("lanes--ruler")
            words = " " * LABEL_COLUMNS + ruler(Scale(self._scale.start_ns, self._scale.end_ns, self.columns))
            return Strip([Segment(words, style)]).extend_cell_length(self.size.width, self.rich_style)
        if number >= len(self._lines):
            return Strip.blank(self.size.width, self.rich_style)
        line = self._lines[number]
        lane = self._lanes[line.lane]
        chosen = line.lane == self._place()
        label = self.get_component_rich_style("lanes--chosen" if chosen else "lanes--label")
        segments = [
            Segment(line.label[: LABEL_COLUMNS - 1].ljust(LABEL_COLUMNS - 1), label),
            Segment(" ", self.rich_style),
        ]
        segments += self._segments(self._cells(lane, line), chosen)
        return Strip(segments).extend_cell_length(self.size.width, self.rich_style)

    def _cells(self, lane: Lane, line: Line) -> list[Cell]:
        scale = Scale(self._scale.start_ns, self._scale.end_ns, self.columns, self._shift_ns if lane.side else 0)
        return spark_of(lane, scale) if lane.kind in SPARKS else line_of(lane, line.slices, scale)

    def _segments(self, cells: list[Cell], chosen: bool) -> Iterable[Segment]:
        """Neighbours of one style as one segment; the cursor stands in its column."""
        at = self._scale.column(self.cursor_ns)
        text, name = "", ""
        for place, (sign, style) in enumerate(cells):
            if place == at:
                yield from self._segment(text, name)
                base = self._style(style)
                sign = CURSOR if (sign, style) == BLANK else sign
                yield Segment(sign, base + self.get_component_rich_style("lanes--chosen") if chosen else base)
                text = ""
                continue
            if style != name:
                yield from self._segment(text, name)
                text, name = "", style
            text += sign
        yield from self._segment(text, name)

    def _segment(self, text: str, name: str) -> Iterable[Segment]:
        if text:
            yield Segment(text, self._style(name))

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"lanes--{name}") if name else self.rich_style

    def _place(self) -> int:
        """Which lane the cursor is in: the one that was chosen, else the steps."""
        keys = [each.key for each in self._lanes]
        if self._chosen in keys:
            return keys.index(self._chosen)
        return next((at for at, each in enumerate(self._lanes) if each.kind is Kind.STEP), 0)

    def _show_lane(self, place: int) -> None:
        of_lane = [number for number, line in enumerate(self._lines) if line.lane == place]
        if of_lane:
            self.scroll_to_region(Region(0, of_lane[0], 1, len(of_lane) + 1), animate=False)

    def on_click(self, event: Click) -> None:
        """The cursor goes where the mouse is."""
        number = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and number < len(self._lines):
            self._chosen = self._lanes[self._lines[number].lane].key
        if event.x >= LABEL_COLUMNS:
            self.cursor_ns = self._scale.time_ns(event.x - LABEL_COLUMNS + 0.5)
        self.point()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """With ctrl: closer."""
        self._wheel(event, 0.5)

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """With ctrl: farther."""
        self._wheel(event, 2.0)

    def _wheel(self, event: MouseScrollUp | MouseScrollDown, factor: float) -> None:
        if event.ctrl:
            event.stop()
            event.prevent_default()
            self.post_message(self.Zoom(factor))

    def on_resize(self, event: Resize) -> None:
        """Another width wants another question."""
        self.virtual_size = Size(self.size.width, len(self._lines) + 1)
        self.post_message(self.Resized())


def _lines(lanes: Sequence[Lane], sides: tuple[str, str]) -> Iterable[Line]:
    for place, lane in enumerate(lanes):
        label = f"{sides[lane.side]} {lane.label}".strip()
        if lane.kind in SPARKS:
            yield Line(place, _with_last(label, lane), ())
            continue
        stack = stacked(lane.slices)
        for number, slices in enumerate(stack.lines):
            deeper = f"+{stack.hidden} deeper" if stack.hidden and number == len(stack.lines) - 1 else ""
            yield Line(place, label if number == 0 else deeper, slices)


def _with_last(label: str, lane: Lane) -> str:
    """A label with the newest value, as far as there is room."""
    if not lane.readings:
        return label
    value = f"{label} {lane.readings[-1].value:.0f}"
    return next((each for each in (f"{value} {lane.unit}", value) if len(each) < LABEL_COLUMNS), label)
