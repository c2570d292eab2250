"""A job: its iteration times as a line with what changed on it, and in turn what differs, ranks, groups, collectives, energy."""

from __future__ import annotations

from typing import Final

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import DataTable, Static

from .. import job_text
from ..place import Go, Place
from ..spans import RECENT, following
from ..views.job import Job, JobView
from ..views.job_steps import RankOff
from ..widgets.parts import Parts
from ..widgets.table import LiveTable
from .page import Page

TALL: Final = 40
"""From so many lines on the line of iteration times is drawn high."""


class JobPage(Page[Job]):
    """The line above, one of the parts below."""

    AUTO_FOCUS = ""
    """A table that takes the focus would bring its part to the front."""

    CSS = """
    JobPage #job { height: auto; max-height: 3; padding: 0 1; }
    JobPage #course { height: auto; max-height: 50%; padding: 0 1; }
    JobPage #job-operations { height: 1fr; }
    JobPage #members { height: auto; max-height: 50%; padding: 0 1; }
    """
    BINDINGS = [
        Binding("tab", "part(1)", "next part", id="job.next_part", tooltip="Show the next part below the line"),
        Binding(
            "shift+tab", "part(-1)", "previous part", show=False, id="job.previous_part", tooltip="Show the part before"
        ),
        Binding(
            "space",
            "scroll",
            "scroll",
            show=False,
            id="job.scroll",
            tooltip="Scroll the part; at its end, back to its start",
        ),
        Binding("w", "span", "longer", id="job.span", tooltip="Iteration times of the newest steps, a day or a month"),
        Binding(
            "b",
            "by",
            "group by",
            show=False,
            id="job.by",
            tooltip="Phases by stage, data-, tensor- or expert-parallel index",
        ),
        Binding(
            "t", "timeline", "timeline", show=False, id="job.timeline", tooltip="Timeline of the rank under the cursor"
        ),
        Binding("e", "kernels", "kernels", id="job.kernels", tooltip="Kernels of the rank under the cursor"),
        Binding("n", "node", "node", show=False, id="job.node", tooltip="Node of the rank under the cursor"),
        Binding(
            "left_square_bracket",
            "step(-1)",
            "previous job",
            show=False,
            id="job.previous",
            tooltip="Show the job before",
        ),
        Binding("right_square_bracket", "step(1)", "next job", show=False, id="job.next", tooltip="Show the job after"),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._job = place.job
        self._span = RECENT
        self._by: str | None = None
        self._communicator: str | None = None

    def content(self) -> ComposeResult:
        """Heading, line, parts."""
        yield Static("", id="job")
        yield Static("", id="course")
        operations = Vertical(LiveTable(job_text.OPERATION_COLUMNS, id="job-operations"), Static("", id="members"))
        yield Parts(
            {
                "overview": None,
                "ranks": LiveTable(job_text.RANK_COLUMNS, id="job-ranks"),
                "groups": None,
                "communicators": operations,
                "operations": None,
                "energy": None,
            },
            id="job-parts",
        )

    def wanted(self) -> JobView:
        """The chosen job with what was chosen of it."""
        return JobView(self._job, self._span, self._by, self._communicator)

    def draw(self, shown: Job) -> None:
        """Bring everything up to the job."""
        self.query_one("#job", Static).update(job_text.heading(shown))
        rows = 12 if self.size.height >= TALL else 4
        self.query_one("#course", Static).update(job_text.line(shown, self.size.width, rows))
        self.query_one("#job-ranks", LiveTable).show(
            [(str(each.rank), job_text.rank_row(each)) for each in shown.ranks]
        )
        self.query_one("#job-operations", LiveTable).show(
            [
                (f"{each.communicator} {each.operation} {each.message_bytes}", job_text.operation_row(each))
                for each in shown.operations
            ]
        )
        self.query_one("#members", Static).update(job_text.members(self._communicator, shown.members))
        parts = self.query_one(Parts)
        parts.say("overview", job_text.overview(shown))
        parts.say("groups", job_text.groups(shown))
        parts.say("operations", job_text.operations(shown.operations))
        parts.say("energy", job_text.account(shown.energy, shown.now_ns))
        off = sum((each.over_share or 0.0) >= job_text.WORTH_A_LOOK for each in shown.ranks)
        parts.mark("ranks", f"{off} !" if off else "")

    @on(Parts.TabActivated)
    def turned(self) -> None:
        """Another part: its table takes the keys."""
        parts = self.query_one(Parts)
        for table in parts.query_one(f"#pane-{parts.chosen}").query(LiveTable):
            table.focus()

    @on(DataTable.RowSelected, "#job-ranks")
    def rank_chosen(self) -> None:
        """What the rank did when."""
        self._go("timeline")

    @on(DataTable.RowSelected, "#job-operations")
    def communicator_chosen(self) -> None:
        """Who is in it."""
        key = self.query_one("#job-operations", LiveTable).selected_key
        listed = self.shown.operations if self.shown is not None else ()
        found = (each for each in listed if f"{each.communicator} {each.operation} {each.message_bytes}" == key)
        self._communicator = next((each.communicator for each in found), None)
        self.want()

    def action_part(self, by: int) -> None:
        """Another part."""
        self.query_one(Parts).step(by)

    def action_scroll(self) -> None:
        """Further down in the part."""
        self.query_one(Parts).page_down()

    def action_span(self) -> None:
        """Iteration times over a longer time."""
        self._span = following(self._span)
        self.want()

    def action_by(self) -> None:
        """Group by the next of what differs in this job."""
        found = self.shown.size.groups if self.shown is not None and self.shown.size is not None else ()
        if self.shown is not None and found:
            at = found.index(self.shown.by) if self.shown.by in found else -1
            self._by = found[(at + 1) % len(found)]
            self.query_one(Parts).choose("groups")
            self.want()

    def action_step(self, by: int) -> None:
        """The job before or after."""
        jobs = self.shown.jobs if self.shown is not None else ()
        if self.shown is not None and self.shown.job in jobs:
            self._job = jobs[(jobs.index(self.shown.job) + by) % len(jobs)]
            self._by = self._communicator = None
            self.want()

    def action_timeline(self) -> None:
        """What the rank did when."""
        self._go("timeline")

    def action_kernels(self) -> None:
        """Where the rank's time goes."""
        self._go("kernels")

    def action_node(self) -> None:
        """The machine of the rank."""
        self._go("node")

    @property
    def _rank(self) -> RankOff | None:
        """The rank under the cursor."""
        key = self.query_one("#job-ranks", LiveTable).selected_key
        return (
            next((each for each in self.shown.ranks if str(each.rank) == key), None) if self.shown is not None else None
        )

    def _go(self, screen: str) -> None:
        rank = self._rank
        if self.shown is None or rank is None:
            self.notify("no rank of this job told a step", severity="warning")
            return
        self.post_message(Go(Place(screen, node=rank.node, job=self.shown.job, rank=rank.rank)))
