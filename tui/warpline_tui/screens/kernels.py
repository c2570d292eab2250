"""One rank's kernels: where its GPU time went, largest first; another rank is one key away."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Static

from ..place import Place
from ..views.kernels import Kernel, Kernels, KernelsView, RankKey
from ..widgets.table import Cell, LiveTable
from ..words import duration
from .page import Page

COLUMNS = ("share", "total", "calls", "median", "p99", "longest", "shortest", "category", "kernel")
EMPTY = (
    "No kernel of this rank is stored. Kernel timelines come from trace files or from capture in the training process."
)
STYLES = {"communication": "cyan", "memcpy": "magenta", "memset": "magenta"}


class KernelsPage(Page[Kernels]):
    """The kernel table of the chosen rank."""

    BINDINGS = [
        Binding(
            "left_square_bracket", "step(-1)", "previous rank", id="kernels.previous", tooltip="Show the rank before"
        ),
        Binding("right_square_bracket", "step(1)", "next rank", id="kernels.next", tooltip="Show the rank after"),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._rank: RankKey | None = None if place.job is None else (place.job, place.rank)

    def content(self) -> ComposeResult:
        """Heading and table."""
        yield Static("", id="heading")
        yield LiveTable(COLUMNS, id="kernels")

    def wanted(self) -> KernelsView:
        """Those of the rank that was chosen."""
        return KernelsView(self._rank)

    def draw(self, shown: Kernels) -> None:
        """Name the rank, list its kernels."""
        self.query_one("#heading", Static).update(_heading(shown))
        self.query_one("#kernels", LiveTable).show(
            [(f"{place}", _row(kernel)) for place, kernel in enumerate(shown.kernels)]
        )

    def action_step(self, by: int) -> None:
        """Go to the rank before or after, around the ends."""
        if self.shown is not None and self.shown.ranks:
            keys, here = self.shown.ranks, self._rank or self.shown.selected
            self._rank = keys[((keys.index(here) if here in keys else 0) + by) % len(keys)]
            self.want()


def _heading(shown: Kernels) -> Text:
    if shown.selected is None:
        return Text("No rank is known yet.")
    job, rank = shown.selected
    title = Text.assemble((f"rank {rank}" if rank is not None else "rank not known", "bold"), f" of {job}   ")
    title.append("[ and ] change the rank" if shown.kernels else EMPTY, "dim")
    return title


def _row(kernel: Kernel) -> list[Cell]:
    return [
        f"{100 * kernel.share:.1f}%",
        duration(kernel.sum_ns),
        f"{kernel.count:,}",
        duration(kernel.p50_ns),
        duration(kernel.p99_ns),
        duration(kernel.max_ns),
        duration(kernel.min_ns),
        Text(kernel.category, STYLES.get(kernel.category, "")),
        kernel.name,
    ]
