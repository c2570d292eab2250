"""Sources: what is fresh, stale, unsupported, busy, denied or dropping, so that silence is never taken for health."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from ..snapshot import Snapshot, SourceState
from ..widgets.table import Cell, LiveTable
from ..words import age
from .page import Page

COLUMNS = ("node", "source", "subject", "state", "age", "dropped", "reason")
STYLES = {"fresh": "green", "unsupported": "dim", "stale": "yellow", "busy": "yellow", "denied": "yellow"}


class SourcesScreen(Page):
    """One row a source and subject, those with trouble first."""

    def content(self) -> ComposeResult:
        """The table."""
        yield LiveTable(COLUMNS, id="sources")

    def draw(self, snapshot: Snapshot) -> None:
        """Fill the table."""
        self.query_one("#sources", LiveTable).show(
            [(f"{each.node}/{each.source}/{each.subject}", _row(each, snapshot.taken_ns)) for each in snapshot.sources]
        )


def _row(state: SourceState, now_ns: int) -> list[Cell]:
    return [
        state.node,
        state.source,
        state.subject,
        Text(state.state, STYLES.get(state.state, "bold red")),
        age(state.time_ns, now_ns),
        f"{state.dropped:,}",
        state.reason,
    ]
