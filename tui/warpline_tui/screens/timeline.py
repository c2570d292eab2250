"""The timeline of a rank: steps, phases, streams, collectives and gaps over a span of time, zoomed, panned and searched."""

from __future__ import annotations

import re
from typing import Final

from textual import on
from textual.app import ComposeResult
from textual.widgets import Static

from warpline_proto.errors import ConfigError

from ..lanes import Kind
from ..place import Go, Place
from ..prompt import LinePrompt
from ..travel import moment_ns
from ..views.timeline import Jump, RankKey, Timeline, TimelineView
from ..views.timeline_beside import Beside
from ..widgets.lanes import LABEL_COLUMNS, Lanes
from . import timeline_words as words
from .page import Page
from .timeline_keys import KEYS, PAN

SPAN_MIN_NS: Final = 200
SPAN_MAX_NS: Final = 7 * 86_400 * 10**9
MARGIN: Final = 0.1
"""Beside what is fitted into the screen."""
DETAIL_ROWS: Final = 6
"""At least so many lines are left for what is under the cursor."""
OTHER_ROWS: Final = 6
"""Status, heading, notes, keys and lines between."""
_STEP: Final = re.compile(r"(?:step\s*|s)(\d{1,12})", re.IGNORECASE)


class TimelinePage(Page[Timeline]):
    """What one rank did when; the newest steps while no other span was chosen."""

    BINDINGS = KEYS

    DEFAULT_CSS = """
    TimelinePage #heading, TimelinePage #notes { height: auto; max-height: 3; padding: 0 1; }
    TimelinePage #under { height: 1fr; min-height: 6; padding: 0 1; border-top: solid $panel; }
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._who: RankKey | None = None if place.job is None else (place.job, place.rank)
        self._any_rank = place.rank is None
        self._from_ns = place.start_ns
        self._span = None if place.start_ns is None or place.end_ns is None else (place.start_ns, place.end_ns)
        self._needle = ""
        self._jump: Jump | None = None
        self._beside: Beside | None = None
        self._command = ""
        self._seeks = False

    def content(self) -> ComposeResult:
        """Whose, the lanes, what is missing, and what is under the cursor."""
        yield Static("", id="heading", markup=False)
        yield Lanes(id="lanes")
        yield Static("", id="notes", markup=False)
        yield Static("", id="under", markup=False)

    def wanted(self) -> TimelineView:
        """The span that is looked at, as wide as the screen."""
        start_ns, end_ns = self._span or (self._from_ns, None)
        columns = max((self.size.width or self.app.size.width) - LABEL_COLUMNS - 1, 16)
        return TimelineView(
            self._who, self._any_rank, start_ns, end_ns, columns, self._needle, self._jump, self._beside
        )

    def draw(self, shown: Timeline) -> None:
        """Draw the lanes; go where a jump led."""
        if self._jump is not None and shown.jump == self._jump:
            self._jumped(shown, self._jump)
        lanes = self.query_one(Lanes)
        sides = self._sides(shown) if any(lane.side for lane in shown.lanes) else ("", "")
        lanes.styles.max_height = max(self.size.height - DETAIL_ROWS - OTHER_ROWS, 3)
        lanes.show(shown.lanes, self._span or (shown.start_ns, shown.end_ns), sides, shown.shift_ns)
        if self._seeks:
            self._seek(shown, lanes)
        self.query_one("#notes", Static).update(words.notes(shown))
        self._tell()

    def _sides(self, shown: Timeline) -> tuple[str, str]:
        if self._beside is None or self._beside.other_time:
            return "", "then"
        return (f"r{shown.who[1]}" if shown.who else ""), f"r{self._beside.rank}"

    def _seek(self, shown: Timeline, lanes: Lanes) -> None:
        """To the stream of the kernel that was searched for."""
        of_streams = (each for each in shown.lanes if each.kind is Kind.KERNEL and each.side == 0)
        for lane in of_streams:
            found = lane.at(lanes.cursor_ns)
            if found is not None and found.hit:
                self._seeks = False
                lanes.choose(lane)
                return

    def _tell(self) -> None:
        """What is under the cursor, and whose timeline it is."""
        shown, lanes = self.shown, self.query_one(Lanes)
        if shown is None:
            return
        start_ns, end_ns = self._span or (shown.start_ns, shown.end_ns)
        self.query_one("#heading", Static).update(
            words.heading(shown, self._span is None and self._from_ns is None, self._needle, (start_ns, end_ns))
        )
        under = self._command or words.about(shown, lanes.lane, lanes.cursor_ns, lanes.slack_ns, self.size.width - 2)
        self.query_one("#under", Static).update(under)

    @on(Lanes.Moved)
    def moved(self) -> None:
        """Other details."""
        self._command = ""
        self._tell()

    @on(Lanes.Zoom)
    def zoomed(self, message: Lanes.Zoom) -> None:
        """By the mouse."""
        self.action_zoom(message.factor)

    @on(Lanes.Resized)
    def resized(self) -> None:
        """More or fewer columns."""
        if self.shown is not None:
            self.draw(self.shown)
        self.want()

    def _here(self) -> tuple[int, int]:
        """The span that is drawn."""
        if self._span is not None:
            return self._span
        return (0, 1) if self.shown is None else (self.shown.start_ns, self.shown.end_ns)

    def _look(self, start_ns: int, span_ns: int) -> None:
        """Look at another span: what is known of it at once, the rest when it comes."""
        self._span = (start_ns, start_ns + min(max(span_ns, SPAN_MIN_NS), SPAN_MAX_NS))
        self._command = ""
        self.query_one(Lanes).look(self._span)
        self._tell()
        self.want()

    def action_zoom(self, factor: float) -> None:
        """Around the cursor."""
        start_ns, end_ns = self._here()
        cursor_ns = self.query_one(Lanes).cursor_ns
        part = (cursor_ns - start_ns) / max(end_ns - start_ns, 1)
        span = min(max(int((end_ns - start_ns) * factor), SPAN_MIN_NS), SPAN_MAX_NS)
        self._look(cursor_ns - int(part * span), span)

    def action_pan(self, part: float) -> None:
        """Earlier or later; the cursor stays in its column."""
        start_ns, end_ns = self._here()
        by_ns = int((end_ns - start_ns) * part)
        self.query_one(Lanes).cursor_ns += by_ns
        self._look(start_ns + by_ns, end_ns - start_ns)

    def action_cursor(self, columns: int) -> None:
        """Along the lane; at the edge time moves."""
        lanes = self.query_one(Lanes)
        start_ns, end_ns = self._here()
        at_ns = lanes.cursor_ns + columns * max(lanes.slack_ns, 1)
        if not start_ns <= at_ns < end_ns:
            self.action_pan(PAN if columns > 0 else -PAN)
        lanes.point(at_ns)

    def action_lane(self, by: int) -> None:
        """To another lane."""
        self.query_one(Lanes).point(lanes=by)

    def action_slice(self, by: int) -> None:
        """To the next thing of the lane that is drawn."""
        lanes = self.query_one(Lanes)
        if lanes.lane is None or self.shown is None:
            return
        shift_ns = self.shown.shift_ns if lanes.lane.side else 0
        starts = sorted({each.start_ns - shift_ns for each in lanes.lane.slices})
        if by > 0:
            found = next((each for each in starts if each > lanes.cursor_ns), None)
        else:
            found = next((each for each in reversed(starts) if each < lanes.cursor_ns), None)
        start_ns, end_ns = self._here()
        if found is None or not start_ns <= found < end_ns:
            self.action_pan(PAN if by > 0 else -PAN)
        else:
            lanes.point(found)

    def action_step(self, back: bool) -> None:
        """To the start of the next step, or of the one before."""
        self._go(Jump("step", self.query_one(Lanes).cursor_ns, back))

    def action_whole(self) -> None:
        """All that is kept of the rank."""
        self._go(Jump("whole"))

    def action_newest(self) -> None:
        """Follow the newest steps."""
        self._span = self._from_ns = None
        self.want()

    def action_fit(self) -> None:
        """What is under the cursor fills the screen."""
        lanes = self.query_one(Lanes)
        if lanes.lane is None or self.shown is None:
            return
        shift_ns = self.shown.shift_ns if lanes.lane.side else 0
        found = lanes.lane.at(lanes.cursor_ns + shift_ns, lanes.slack_ns)
        if found is not None and found.end_ns > found.start_ns:
            margin = int((found.end_ns - found.start_ns) * MARGIN)
            self._look(found.start_ns - shift_ns - margin, found.end_ns - found.start_ns + 2 * margin)

    def action_search(self) -> None:
        """Ask for a part of a kernel's name."""
        hint = "A part of a kernel's name, as in gemm or AllReduce. n and N go on; nothing ends the search."
        self.app.push_screen(LinePrompt("Search for which kernel?", hint, self._needle), self._searched)

    def _searched(self, written: str | None) -> None:
        if written is not None:
            self._needle = written
            self.action_again(False)

    def action_again(self, back: bool) -> None:
        """To the next kernel that was searched for."""
        if self._needle:
            self._go(Jump("kernel", self.query_one(Lanes).cursor_ns, back, self._needle))
        else:
            self.want()

    def _go(self, jump: Jump) -> None:
        self._jump = jump
        self.want()

    def _jumped(self, shown: Timeline, jump: Jump) -> None:
        """Show what a jump led to."""
        self._jump = None
        if shown.found_ns is None:
            way = "earlier" if jump.back else "later"
            what = f"kernel with {jump.needle!r} in its name" if jump.what == "kernel" else "step"
            self.notify(f"No {way} {what} is kept.", timeout=4)
            self.want()
            return
        (start_ns, end_ns), found = self._here(), shown.found_ns
        lanes = self.query_one(Lanes)
        if jump.what == "whole":
            margin = int((found[1] - found[0]) * MARGIN / 5)
            self._look(found[0] - margin, found[1] - found[0] + 2 * margin)
            return
        lanes.cursor_ns = found[0]
        self._seeks = jump.what == "kernel"
        span = max(end_ns - start_ns, int((found[1] - found[0]) * (1 + 2 * MARGIN)) if jump.what == "step" else 0)
        inside = start_ns <= found[0] < end_ns
        self._look(start_ns if inside else found[0] - int(span * PAN), span if not inside else end_ns - start_ns)

    def action_rank(self, by: int) -> None:
        """The next rank, around the ends; the same time."""
        if self.shown is None or self.shown.who is None:
            return
        ranks = [each for each in self.shown.ranks if each[0] == self.shown.who[0]]
        if ranks:
            here = ranks.index(self.shown.who) if self.shown.who in ranks else 0
            self._who, self._any_rank = ranks[(here + by) % len(ranks)], False
            self.want()

    def action_compare(self) -> None:
        """Ask what is to stand beside."""
        if self.shown is None or self.shown.who is None:
            return
        job, mine = self.shown.who
        others = [str(rank) for at, rank in self.shown.ranks if at == job and rank != mine][:16]
        known = f"Ranks: {', '.join(others)}. " if others else ""
        hint = f"{known}A rank, as in 3; another step of this rank, as in step 12; a time, as in -15m; nothing for nothing."
        self.app.push_screen(LinePrompt("What shall stand beside it?", hint), self._compared)

    def _compared(self, written: str | None) -> None:
        if written is None or self.shown is None:
            return
        self._beside = None
        if written:
            try:
                self._beside = self._read(written, self.shown)
            except ConfigError as error:
                self.notify(str(error), severity="warning")
        self.want()

    def _read(self, written: str, shown: Timeline) -> Beside:
        """A rank, a step or a time; ConfigError if it is none of them."""
        number = written.lower().removeprefix("rank").strip()
        if number.isascii() and number.isdigit() and len(number) < 10:
            return Beside(rank=int(number))
        cursor_ns = self.query_one(Lanes).cursor_ns
        if found := _STEP.fullmatch(written):
            return Beside(
                rank=shown.who[1] if shown.who else None, other_time=True, step=int(found[1]), anchor_ns=cursor_ns
            )
        at_ns = moment_ns(written, shown.end_ns)
        return Beside(rank=shown.who[1] if shown.who else None, other_time=True, at_ns=at_ns, anchor_ns=cursor_ns)

    def action_open(self) -> None:
        """The finding under the cursor, or what is there in full width."""
        lanes = self.query_one(Lanes)
        found = None if lanes.lane is None else lanes.lane.at(lanes.cursor_ns, lanes.slack_ns)
        if found is not None and found.incident is not None:
            self.post_message(Go(Place("incident", incident=found.incident)))
        else:
            self.action_fit()

    def action_sql(self) -> None:
        """The SQL of the lane."""
        lane = self.query_one(Lanes).lane
        if lane is not None:
            self.post_message(Go(Place("sql", sql=lane.sql)))

    def action_export(self) -> None:
        """Show the command, and copy it."""
        if self.shown is None or self.shown.who is None:
            return
        start_ns, end_ns = self._here()
        job, rank = self.shown.who
        beside = None if self._beside is None or self._beside.other_time else self._beside.rank
        self._command = words.export_command(
            job, [each for each in (rank, beside) if each is not None], start_ns, end_ns
        )
        self.app.copy_to_clipboard(self._command)
        self._tell()

    def action_copy(self) -> None:
        """Copy what is under the cursor."""
        lanes = self.query_one(Lanes)
        if self.shown is not None and lanes.lane is not None:
            told = words.about(self.shown, lanes.lane, lanes.cursor_ns, lanes.slack_ns)
            self.app.copy_to_clipboard(f"{told.plain}\n\n{lanes.lane.sql}\n")
            self.notify("Copied what is under the cursor, with its SQL.", timeout=2)
