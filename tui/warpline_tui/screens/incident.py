"""One incident as a walk, one key onward: verdict, evidence, steps, kernels, the SQL behind it, what to do next."""

from __future__ import annotations

from typing import Final

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.widget import Widget
from textual.widgets import ContentSwitcher, DataTable, Static

from ..capturing import Look, Operates
from ..place import Go, Place
from ..telling import ticket
from ..views.incident import EVIDENCE, KERNELS, NEXT, SQL, STEPS, VERDICT, WALK, Walk, WalkView
from ..widgets import timed
from ..widgets.against import AgainstPeers
from ..widgets.mirror import Mirror
from ..widgets.reading import Reading
from ..widgets.table import LiveTable
from . import incident_parts as parts
from .page import Page

GONE: Final = "There is no incident {} at the moment looked at: it may have begun later (`L` shows the newest)."


class IncidentPage(Page[Walk]):
    """The parts lie over each other; enter, n or right leads onward, b or left back."""

    CSS = """
    #way { height: 1; padding: 0 1; }
    #whom { height: auto; max-height: 2; padding: 0 1; }
    #parts { height: 1fr; }
    #parts VerticalScroll { padding: 0 1; }
    .told { height: auto; max-height: 6; padding: 0 1; }
    #chart { height: 2fr; min-height: 6; }
    #lines, #timed { height: 1fr; min-height: 4; }
    #mirror { height: 2fr; min-height: 6; padding: 0 1; }
    #queries { height: auto; max-height: 40%; }
    #looks { height: auto; max-height: 4; }
    """
    BINDINGS = [
        Binding(
            "enter,n,right",
            "walk(1)",
            "onward",
            id="incident.onward",
            priority=True,
            tooltip="To the next part of the walk",
        ),
        Binding("b,left", "walk(-1)", "back", id="incident.back", priority=True, tooltip="To the part before"),
        Binding(
            "e",
            "edit",
            "edit SQL",
            id="incident.edit",
            tooltip="Open the SQL behind what is shown in the console, to change and run it",
        ),
        Binding("t", "timeline", "timeline", id="incident.timeline", tooltip="Open the timeline of the accused rank"),
        Binding(
            "y", "copy", "copy", id="incident.copy", tooltip="Copy the incident as Markdown; where SQL is shown, that"
        ),
        Binding(
            "c", "capture", "capture", id="incident.capture", tooltip="Send the request for a closer look (--operator)"
        ),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._part = VERDICT
        self._line: str | None = None
        self._kernel: str | None = None
        self._armed: Look | None = None

    def content(self) -> ComposeResult:
        """Where one is, whom it is about, and the parts."""
        yield Static("", id="way")
        yield Static("", id="whom")
        with ContentSwitcher(id="parts", initial=VERDICT):
            yield Reading(Static("", id="said"), id=VERDICT)
            yield Reading(Static("", id="shown"), id=EVIDENCE)
            yield Vertical(
                Static(parts.ASKING, id="compared", classes="told"),
                AgainstPeers(id="chart"),
                LiveTable(parts.LINE_COLUMNS, id="lines"),
                id=STEPS,
            )
            yield Vertical(
                Static(parts.ASKING, id="durations", classes="told"),
                LiveTable(timed.COLUMNS, id="timed"),
                Mirror(id="mirror"),
                id=KERNELS,
            )
            yield Vertical(
                Static(parts.SQL_SAID, classes="told"),
                LiveTable(parts.QUERY_COLUMNS, id="queries"),
                VerticalScroll(Static("", id="query"), can_focus=False),
                id=SQL,
            )
            yield Vertical(
                VerticalScroll(Static(parts.ASKING, id="next_step"), can_focus=False),
                LiveTable(parts.LOOK_COLUMNS, id="looks"),
                id=NEXT,
            )

    def wanted(self) -> WalkView:
        """What the part in front wants to know."""
        return WalkView(self.place.incident or "", self._part, self._kernel if self._part == KERNELS else None)

    def draw(self, shown: Walk) -> None:
        """Bring the part in front up to the answer."""
        self.query_one("#way", Static).update(parts.way(self._part))
        if shown.listed is None:
            self.query_one("#whom", Static).update(Text(GONE.format(self.place.incident), "bold"))
            return
        self.query_one("#whom", Static).update(parts.whom(shown.listed))
        if shown.part == self._part:
            {
                VERDICT: self._verdict, EVIDENCE: self._evidence, STEPS: self._steps, KERNELS: self._kernels, SQL: self._sql,
                NEXT: self._next,
            }[self._part](shown)  # fmt: skip

    def action_walk(self, by: int) -> None:
        """Onward or back; the ends are ends."""
        place = min(max(WALK.index(self._part) + by, 0), len(WALK) - 1)
        if WALK[place] != self._part:
            self._part, self._armed = WALK[place], None
            self.query_one("#parts", ContentSwitcher).current = self._part
            self.query_one("#way", Static).update(parts.way(self._part))
            self._focus()
            if self.shown is not None and self.shown.listed is not None and self._part in (VERDICT, EVIDENCE, SQL):
                self.show(Walk(self.shown.now_ns, self._part, self.shown.listed))
            self.want()

    def action_edit(self) -> None:
        """To the console, with the query under the cursor."""
        if (sql := self._query()) is not None:
            self.post_message(Go(Place("sql", sql=sql)))

    def action_timeline(self) -> None:
        """To the timeline of the first of the accused."""
        listed = None if self.shown is None else self.shown.listed
        if listed is not None:
            subject = listed.incident.finding.subject
            ranks = self.shown.who.accused if self.shown is not None else ()
            rank = (
                subject.rank if subject.rank is not None else next((each for each in ranks if each is not None), None)
            )
            self.post_message(Go(Place("timeline", node=subject.node, job=subject.job, rank=rank)))

    def action_copy(self) -> None:
        """Copy what is shown as text."""
        listed = None if self.shown is None else self.shown.listed
        if listed is None:
            return
        sql = self._query() if self._part in (SQL, KERNELS) else None
        self.app.copy_to_clipboard(ticket(listed) if sql is None else sql)
        self.notify("Copied the SQL" if sql is not None else f"Copied {listed.incident.finding.id} as Markdown")

    def action_capture(self) -> None:
        """The first time say what would be sent, the second time send it."""
        look = self._look()
        if self._part != NEXT or look is None:
            self.notify("The last part of the walk has the requests that can be sent.")
        elif not (isinstance(self.app, Operates) and self.app.operator):
            self.notify(
                f"Read-only: start with --operator to send it from here, or type\n{look.command}", severity="warning"
            )
        elif self._armed != look:
            self._armed = look
            self.notify(f"Press c again to run\n{look.command}")
        else:
            self._armed = None
            self.app.run_command(look.words)

    @on(DataTable.RowHighlighted, "#lines")
    def line_chosen(self, event: DataTable.RowHighlighted) -> None:
        """Another part of the steps is charted."""
        self._line = event.row_key.value
        self._chart()

    @on(DataTable.RowHighlighted, "#timed")
    def kernel_chosen(self, event: DataTable.RowHighlighted) -> None:
        """The distribution of another kernel is wanted."""
        if event.row_key.value != self._kernel:
            self._kernel = event.row_key.value
            self.want()

    @on(DataTable.RowHighlighted, "#queries")
    def query_chosen(self) -> None:
        """Another query is shown."""
        self.query_one("#query", Static).update(parts.query(self._query()))

    def _focus(self) -> None:
        """The keys go to what can be moved in."""
        inside = self.query_one(f"#{self._part}", Widget)
        target = next(iter(inside.query(LiveTable)), None) or inside
        target.focus()

    def _verdict(self, shown: Walk) -> None:
        assert shown.listed is not None
        self.query_one("#said", Static).update(parts.verdict(shown.listed))

    def _evidence(self, shown: Walk) -> None:
        assert shown.listed is not None
        self.query_one("#shown", Static).update(parts.evidence(shown.listed))

    def _steps(self, shown: Walk) -> None:
        table = self.query_one("#lines", LiveTable)
        table.show([(line.name, parts.line_row(line)) for line in shown.steps.lines])
        if self._line not in {line.name for line in shown.steps.lines}:
            first = parts.telling(shown.steps)
            self._line = None if first is None else first.name
            if first is not None:
                table.move_cursor(row=shown.steps.lines.index(first))
        self._chart()

    def _chart(self) -> None:
        if self.shown is not None:
            steps = self.shown.steps
            line = next((each for each in steps.lines if each.name == self._line), None)
            self.query_one("#compared", Static).update(parts.compared_said(self.shown, self._line))
            self.query_one("#chart", AgainstPeers).show(line, steps.onset_step)

    def _kernels(self, shown: Walk) -> None:
        self.query_one("#durations", Static).update(parts.durations_said(shown))
        found = shown.durations
        self.query_one("#timed", LiveTable).show([(item.key, timed.row(item)) for item in found.items])
        item = next((each for each in found.items if each.key == found.chosen), None)
        self.query_one("#mirror", Mirror).show(item, found.bins, shown.who.accused_said, shown.who.peers_said)

    def _sql(self, shown: Walk) -> None:
        assert shown.listed is not None
        evidence = shown.listed.incident.finding.evidence
        self.query_one("#queries", LiveTable).show(
            [(str(at), parts.query_row(each)) for at, each in enumerate(evidence)]
        )
        self.query_one("#query", Static).update(parts.query(self._query()))

    def _next(self, shown: Walk) -> None:
        self.query_one("#next_step", Static).update(parts.next_step(shown))
        self.query_one("#looks", LiveTable).show([(each.command, [each.command, each.about]) for each in shown.looks])

    def _query(self) -> str | None:
        """The query behind what is in front: of the kernels their own, else the one of the evidence that is chosen."""
        if self._part == KERNELS and self.shown is not None and self.shown.durations.sql:
            return self.shown.durations.sql
        listed = None if self.shown is None else self.shown.listed
        key = self.query_one("#queries", LiveTable).selected_key
        evidence = () if listed is None else listed.incident.finding.evidence
        at = int(key) if key is not None else 0
        return evidence[at].sql if at < len(evidence) else None

    def _look(self) -> Look | None:
        key = self.query_one("#looks", LiveTable).selected_key
        found = () if self.shown is None else self.shown.looks
        return next((each for each in found if each.command == key), None)
