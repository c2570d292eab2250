"""One rank's kernels: where its GPU time went, largest first; another rank is one key away."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.message import Message
from textual.widgets import Static

from ..snapshot import Kernel, RankKey, Snapshot
from ..widgets.table import Cell, LiveTable
from ..words import duration
from .page import Page

COLUMNS = ("share", "total", "calls", "median", "p99", "longest", "shortest", "category", "kernel")
EMPTY = (
    "No kernel of this rank is stored. Kernel timelines come from trace files or from capture in the training process."
)
STYLES = {"communication": "cyan", "memcpy": "magenta", "memset": "magenta"}


class KernelsScreen(Page):
    """The kernel table of the chosen rank."""

    BINDINGS = [
        Binding(
            "left_square_bracket", "step(-1)", "previous rank", id="kernels.previous", tooltip="Show the rank before"
        ),
        Binding("right_square_bracket", "step(1)", "next rank", id="kernels.next", tooltip="Show the rank after"),
    ]

    class Selected(Message):
        """Another rank was chosen; whoever feeds the screen should ask for its kernels."""

        def __init__(self, key: RankKey) -> None:
            super().__init__()
            self.key = key

    def content(self) -> ComposeResult:
        """Heading and table."""
        yield Static("", id="heading")
        yield LiveTable(COLUMNS, id="kernels")

    def draw(self, snapshot: Snapshot) -> None:
        """Name the rank, list its kernels."""
        self.query_one("#heading", Static).update(_heading(snapshot))
        self.query_one("#kernels", LiveTable).show(
            [(f"{place}", _row(kernel)) for place, kernel in enumerate(snapshot.kernels)]
        )

    def action_step(self, by: int) -> None:
        """Go to the rank before or after, around the ends."""
        keys = [rank.key for rank in self.snapshot.ranks]
        if keys:
            here = keys.index(self.snapshot.selected) if self.snapshot.selected in keys else 0
            self.post_message(self.Selected(keys[(here + by) % len(keys)]))


def _heading(snapshot: Snapshot) -> Text:
    if snapshot.selected is None:
        return Text("No rank is known yet.")
    job, rank = snapshot.selected
    title = Text.assemble((f"rank {rank}" if rank is not None else "rank not known", "bold"), f" of {job}   ")
    title.append("[ and ] change the rank" if snapshot.kernels else EMPTY, "dim")
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
