"""The fleet: every GPU as a cell that tells what was chosen, the one under the cursor in words, and a line about each job."""

from __future__ import annotations

from typing import Final

import numpy as np
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Input, Static

from warpline_proto.errors import ConfigError

from ..fleet.layout import BY, NOTHING_LAID, ORDERS, arranged, groups
from ..fleet.measures import MEASURES, Picture
from ..fleet.narrowing import HINT, Kept, narrowed
from ..fleet.telling import LINE_MAX, chosen, job_cells, legend
from ..place import Go, Place
from ..themes import scale
from ..views.fleet import Fleet, FleetView
from ..widgets.filter import Filter
from ..widgets.heat_grid import HeatGrid
from ..widgets.table import LiveTable
from .page import Page

EMPTY: Final = "No GPU has been heard of yet. Is `warpline agent` running? `warpline doctor` tells what works here."
EMPTY_THEN: Final = "At this moment no GPU had been heard of. `L` goes back to what is newest, `@` to another moment."
NO_GPU: Final = "No reading of a GPU is stored, only what ranks tell."
NOTHING_LEFT: Final = "Nothing is left of the fleet: `/` changes what is searched for, escape in it ends the search."
NAMES: Final = ", ".join(each.name for each in MEASURES)
JOB_COLUMNS: Final = ("job", "ranks", "step", "step time", "compute", "comm", "idle", "computes longest")


class FleetPage(Page[Fleet]):
    """A grid, its legend, the GPU under the cursor, and the jobs."""

    BINDINGS = [
        Binding("slash", "search", "search", id="fleet.search", tooltip=f"Show only some: {HINT}"),
        Binding("i", "incident", "incident", id="fleet.incident", tooltip="Go to what is found against this GPU"),
        Binding("c", "next_measure", "colour", id="fleet.measure", tooltip=f"Colour by {NAMES}"),
        Binding("b", "next_by", "by", id="fleet.by", tooltip="Group by " + ", ".join(BY)),
        Binding("o", "next_order", "order", id="fleet.order", tooltip="Order groups by " + ", ".join(ORDERS)),
        Binding("y", "copy", "copy", show=False, id="fleet.copy", tooltip="Copy what is said of this GPU"),
    ]  # fmt: skip

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.measure = MEASURES[0]
        self.by = BY[0]
        self.order = ORDERS[0]
        self._words = ""
        self._arranged: tuple[object, ...] = ()
        self._kept: Kept = np.zeros(0, np.bool_)
        self._wrong: str | None = None
        self._pointed: str | None = None
        self._picture: Picture | None = None
        self._layout = NOTHING_LAID

    def content(self) -> ComposeResult:
        """Search line, grid, legend, the chosen GPU, jobs; or a sentence while there is nothing."""
        yield Static(EMPTY, id="empty")
        yield Filter(HINT, id="search")
        yield HeatGrid(scale(self.app.theme), id="grid")
        yield Static("", id="legend")
        yield Static("", id="chosen")
        yield LiveTable(JOB_COLUMNS, id="jobs")

    def on_mount(self) -> None:
        """Follow the theme."""
        self.app.theme_changed_signal.subscribe(self, lambda theme: self._grid.recolour(scale(theme.name)))
        super().on_mount()
        self.query(HeatGrid).focus()  # none is there where the screen is closed while it opens

    @property
    def _grid(self) -> HeatGrid:
        return self.query_one(HeatGrid)

    def wanted(self) -> FleetView:
        """All of it; what is seen of it is chosen here."""
        return FleetView()

    def draw(self, shown: Fleet) -> None:
        """Cells, legend, the chosen GPU, jobs."""
        self.set_class(not len(shown.gpus), "without-gpus")
        self.query_one("#empty", Static).display = not len(shown.gpus)
        self.query_one("#empty", Static).update(NO_GPU if shown.jobs else EMPTY_THEN if shown.past else EMPTY)
        jobs = self.query_one("#jobs", LiveTable)
        jobs.set_class(not shown.jobs, "empty")
        listed = sorted(shown.jobs, key=lambda job: job.job not in shown.accused_jobs)
        jobs.show([(job.job, job_cells(job, job.job in shown.accused_jobs)) for job in listed])
        if len(shown.gpus):
            self._draw_grid(shown)

    def _draw_grid(self, shown: Fleet) -> None:
        same = self._arranged and self._arranged[0] is shown.gpus.listed and self._arranged[3] is self.measure
        picture = self._picture = self.measure.picture(shown).steadied(self._picture if same else None)
        kept = self._narrowed(shown)
        room = (self._grid.size.width or self.size.width, self._grid.size.height or self.size.height)
        wanted = (shown.gpus.listed, self.by, self.order, self.measure, self._words, room)
        if not self._is_arranged(wanted, kept):
            names = groups(shown.gpus, self.by)
            layout = arranged(shown.gpus, names, kept, picture.values, self.order, room)
            self._layout = self._layout if layout.same(self._layout) else layout
            self._arranged, self._kept = wanted, kept
            self._grid.show(self._layout, picture, shown.gpus.accused >= 0)
            self._grid.point(self._start(shown), follow=False)
            self.call_after_refresh(self._grid.follow)
        else:
            self._grid.show(self._layout, picture, shown.gpus.accused >= 0)
        self._tell(shown)

    def _is_arranged(self, wanted: tuple[object, ...], kept: Kept) -> bool:
        """Cells lie as they should. The list is compared as an object: as long as it is the same, so are its GPUs."""
        before = self._arranged
        return bool(before and before[0] is wanted[0] and before[1:] == wanted[1:] and np.array_equal(kept, self._kept))

    def _narrowed(self, shown: Fleet) -> Kept:
        """What the search leaves; a word that cannot be understood narrows nothing, and the legend says so."""
        try:
            kept = narrowed(shown, self._words)
        except ConfigError as error:
            self._wrong = str(error)
            return np.ones(len(shown.gpus), np.bool_)
        self._wrong = None
        return kept

    def _start(self, shown: Fleet) -> int | None:
        """Where the cursor belongs: on its GPU, else on the one that was asked for, the gravest accused, the first."""
        keys = shown.gpus.keys
        spots = self._layout.spots
        if self._pointed in keys and spots[keys.index(self._pointed)] >= 0:
            return keys.index(self._pointed)
        if not self._layout.shown:
            return None
        if self._pointed is None:
            for column, value in (("gpu_uuid", self.place.gpu), ("node", self.place.node)):
                if value is not None and value in (listed := shown.gpus.texts(column)):
                    return listed.index(value)
        accused = np.flatnonzero((shown.gpus.accused >= 0) & (spots >= 0))
        if accused.size:
            return int(accused[np.argmin(shown.gpus.accused[accused])])
        return int(self._layout.slots[self._layout.slots >= 0][0])

    @on(HeatGrid.Moved)
    def moved(self) -> None:
        """Another GPU is under the cursor."""
        if self.shown is not None and self._grid.cursor is not None:
            self._pointed = self.shown.gpus.keys[self._grid.cursor]
            self._tell(self.shown)

    def _tell(self, shown: Fleet) -> None:
        picture = self._picture
        assert picture is not None
        said = Text()
        if self._wrong is not None:
            said.append(f"{self._wrong}   ", "bold yellow")
        elif self._words:
            said.append(f"{self._layout.shown:,} of {len(shown.gpus):,} GPUs   ", "bold")
        said.append_text(legend(self.measure, picture, scale(self.app.theme)))
        said.append(f"   by {self.by}, {self.order}", "dim")
        self._say("#legend", said)
        at = self._grid.cursor
        self._say("#chosen", Text(NOTHING_LEFT, "dim") if at is None else chosen(shown, at, self.size.width - 2))

    def _say(self, selector: str, words: Text) -> None:
        """Write it where it says something new. The room for it stays the same: to lay out anew is to paint everything anew."""
        widget = self.query_one(selector, Static)
        if widget.content != words:
            widget.update(words, layout=False)

    @on(Filter.Changed, "#search")
    def searched(self, event: Input.Changed) -> None:
        """Show what is left, at each letter."""
        self._words = event.value.strip()
        self._redraw()

    @on(Filter.Submitted, "#search")
    def left(self) -> None:
        """Back to the grid."""
        self._grid.focus()

    @on(HeatGrid.Opened)
    def opened(self) -> None:
        """To the node of the GPU under the cursor."""
        if self.shown is not None and self._grid.cursor is not None:
            row = self.shown.gpus.row(self._grid.cursor)
            self.post_message(Go(Place("node", node=row["node"], gpu=row["gpu_uuid"])))

    @on(DataTable.RowSelected, "#jobs")
    def job_chosen(self, event: DataTable.RowSelected) -> None:
        """To a job."""
        if event.row_key.value is not None:
            self.post_message(Go(Place("job", job=str(event.row_key.value))))

    def action_incident(self) -> None:
        """To what is found against the GPU under the cursor."""
        at = self._grid.cursor
        found = None if self.shown is None or at is None else self.shown.gpus.accusation(at)
        if found is None:
            self.notify("Nothing is found against this GPU.")
        else:
            self.post_message(Go(Place("incident", incident=found.id)))

    def action_copy(self) -> None:
        """What is said of the GPU under the cursor."""
        if self.shown is not None and self._grid.cursor is not None:
            self.app.copy_to_clipboard(chosen(self.shown, self._grid.cursor, LINE_MAX).plain)
            self.notify("Copied what is said of this GPU.")

    def action_search(self) -> None:
        """Write what to search for."""
        self.query_one(Filter).open()

    def action_next_measure(self) -> None:
        """Colour by the next."""
        self.measure = MEASURES[(MEASURES.index(self.measure) + 1) % len(MEASURES)]
        self._redraw()

    def action_next_by(self) -> None:
        """Group by the next."""
        self.by = BY[(BY.index(self.by) + 1) % len(BY)]
        self._redraw()

    def action_next_order(self) -> None:
        """Order groups by the next."""
        self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        self._redraw()

    @on(HeatGrid.Resized)
    def resized(self) -> None:
        """There is more or less room for the grid."""
        self._redraw()

    def _redraw(self) -> None:
        if self.shown is not None and self.is_mounted:
            self.draw(self.shown)
