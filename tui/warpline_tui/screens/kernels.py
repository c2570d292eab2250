"""One rank's kernels: where its GPU time goes, beside its peers, another rank or other steps; enter shows the distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.text import Text
from textual import on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Input, Static

from ..beside.durations import OPERATIONS, Timed
from ..place import Place
from ..prompt import LinePrompt
from ..views.kernels import PEERS, Kernels, KernelsView, RankKey, against
from ..widgets import timed
from ..widgets.filter import Filter, has
from ..widgets.mirror import Mirror
from ..widgets.table import LiveTable
from .page import Page

EMPTY: Final = (
    "Neither kernels nor operations of this rank are kept. Kernels come from trace files or from capture in the training process "
    "(`warpline run`); [ and ] show another rank."
)
AGAINST: Final = "peers; rank 5; steps 10-20; rank 5 steps 10-20"
ORDERS: Final[dict[str, Callable[[Timed], tuple[object, ...]]]] = {
    "time lost to peers": lambda item: (-item.excess_ns, -(item.mine.total_ns or 0.0)),
    "total": lambda item: (-(item.mine.total_ns or 0.0),),
    "ratio": lambda item: (-(item.ratio or 0.0),),
    "median": lambda item: (-(item.mine.p50_ns or 0.0),),
    "times": lambda item: (-(item.mine.count or 0.0),),
    "name": lambda item: (item.name.lower(),),
}


class KernelsPage(Page[Kernels]):
    """The kernel table of the chosen rank, and on demand one distribution below it."""

    AUTO_FOCUS = "#kernels"
    CSS = """
    #heading { height: auto; max-height: 3; padding: 0 1; }
    #kernels { height: 1fr; }
    #name { height: auto; max-height: 2; padding: 0 1; }
    #mirror { height: 1fr; min-height: 7; padding: 0 1; }
    """
    BINDINGS = [
        Binding(
            "enter",
            "look",
            "distribution",
            id="kernels.look",
            priority=True,
            tooltip="Show or hide the distribution of the kernel under the cursor",
        ),
        Binding(
            "left_square_bracket", "step(-1)", "previous rank", id="kernels.previous", tooltip="Show the rank before"
        ),
        Binding("right_square_bracket", "step(1)", "next rank", id="kernels.next", tooltip="Show the rank after"),
        Binding(
            "c",
            "compare",
            "compare",
            id="kernels.compare",
            tooltip="Hold it against peers, rank 5, steps 10-20, or rank 5 steps 10-20",
        ),
        Binding("y", "copy", "copy SQL", id="kernels.copy", tooltip="Copy the query behind the table"),
        Binding("s", "order", "sort", id="kernels.order", tooltip="By time lost, total, ratio, median, times or name"),
        Binding(
            "slash",
            "filter",
            "filter",
            id="kernels.filter",
            tooltip="Show only kernels that have the words that you type",
        ),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._rank: RankKey | None = None if place.job is None else (place.job, place.rank)
        self._against = PEERS
        self._chosen: str | None = None
        self._order = next(iter(ORDERS))

    def content(self) -> ComposeResult:
        """Lines to type in, heading, table, and one distribution."""
        yield Filter()
        yield Static("", id="heading")
        yield LiveTable(timed.COLUMNS, id="kernels")
        yield Static("", id="name", classes="empty")
        yield Mirror(id="mirror", classes="empty")

    def wanted(self) -> KernelsView:
        """Those of the rank that was chosen."""
        return KernelsView(self._rank, self._against, self._chosen, self.place.start_ns, self.place.end_ns)

    def draw(self, shown: Kernels) -> None:
        """Name the rank, list its kernels, draw the distribution."""
        found = shown.durations
        left = [item for item in found.items if has(self.query_one(Filter).value, item.name, item.category)]
        left.sort(key=ORDERS[self._order])
        self.query_one("#heading", Static).update(_heading(shown, self._order, len(left)))
        self.query_one("#kernels", LiveTable).show([(item.key, timed.row(item)) for item in left])
        item = next((each for each in left if each.key == found.chosen), None)
        self.query_one("#name", Static).update(Text("" if item is None else item.name, "bold"))
        self.query_one("#mirror", Mirror).show(item, found.bins, shown.who.accused_said, shown.against)

    @on(Input.Changed)
    def narrowed(self) -> None:
        """Another letter was typed."""
        self._again()

    @on(Input.Submitted)
    def filtered(self) -> None:
        """The table has the keys again."""
        self.query_one("#kernels").focus()

    @on(DataTable.RowHighlighted, "#kernels")
    def highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The distribution of another kernel is wanted."""
        if event.row_key.value != self._chosen:
            self._chosen = event.row_key.value
            self.want()

    @on(DataTable.RowSelected, "#kernels")
    def action_look(self) -> None:
        """Show the distribution, or hide it; what is typed has its own enter."""
        if isinstance(self.focused, Filter):
            raise SkipAction
        self.query("#name, #mirror").toggle_class("empty")

    def action_step(self, by: int) -> None:
        """Go to the rank before or after, around the ends."""
        if self.shown is not None and self.shown.ranks:
            keys, here = self.shown.ranks, self._rank or self.shown.selected
            self._rank = keys[((keys.index(here) if here in keys else 0) + by) % len(keys)]
            self.want()

    def action_compare(self) -> None:
        """Ask what to hold it against."""
        self.app.push_screen(LinePrompt("Hold its kernels against what?", AGAINST), self._compared)

    def action_filter(self) -> None:
        """Type what is to be left."""
        self.query_one(Filter).open()

    def action_order(self) -> None:
        """The next order."""
        orders = list(ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._again()

    def action_copy(self) -> None:
        """Copy the query, to run it in the console or anywhere else."""
        if self.shown is not None and self.shown.durations.sql:
            self.app.copy_to_clipboard(self.shown.durations.sql)
            self.notify("Copied the SQL behind the table")

    def _compared(self, typed: str | None) -> None:
        """Nothing typed leaves it as it is."""
        wanted = against(typed or "")
        if wanted is not None:
            self._against = wanted
            self.want()
        elif typed:
            self.notify(f"{typed!r} is none of these: {AGAINST}", severity="warning")

    def _again(self) -> None:
        if self.shown is not None and self.is_mounted:
            self.draw(self.shown)


def _heading(shown: Kernels, order: str, left: int) -> Text:
    if shown.selected is None:
        return Text(
            "No rank is known yet: ranks come from steps, which the hook (`warpline run`), NCCL's plugin or trace files tell."
        )
    job, rank = shown.selected
    title = Text.assemble((f"rank {rank}" if rank is not None else "the only rank", "bold"), f" of {job}")
    found = shown.durations
    if not found.items:
        return title.append(f": {shown.who.why or EMPTY}", "bold")
    title.append(f" against {shown.against}")
    if found.steps is not None:
        title.append(f"; steps {found.steps[0]} to {found.steps[1]}", "dim")
    title.append(f"; {left} of {len(found.items)} {found.what}, by {order}", "dim")
    if found.what == OPERATIONS:
        title.append("\nNo kernel of it is kept: these are the operations that the framework names.", "yellow")
    if found.shapeless > 0:
        title.append(
            f"\n{found.shapeless:.0%} of the one looked at is told by sums alone and stands at its mean.", "yellow"
        )
    return title
