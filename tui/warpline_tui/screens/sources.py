"""Sources: what is fresh, stale, unsupported, busy, denied or dropping, so that silence is never taken for health."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from ..views.sources import CaptureCost, Sources, SourceState, SourcesView
from ..widgets.table import Cell, LiveTable
from ..words import age
from .page import Page

COLUMNS = ("node", "source", "subject", "state", "age", "dropped", "reason")
STYLES = {"fresh": "green", "unsupported": "dim", "stale": "yellow", "busy": "yellow", "denied": "yellow"}
COST_STYLES = {"within": "green", "over": "bold red"}


class SourcesPage(Page[Sources]):
    """One row a source and subject, those with trouble first."""

    def content(self) -> ComposeResult:
        """What capture costs, and the table."""
        yield Static("", id="costs")
        yield LiveTable(COLUMNS, id="sources")

    def wanted(self) -> SourcesView:
        """Every source of every node."""
        return SourcesView()

    def draw(self, shown: Sources) -> None:
        """Fill them."""
        costs = self.query_one("#costs", Static)
        costs.display = bool(shown.costs)
        costs.update(Text("\n").join(map(_cost, shown.costs)))
        self.query_one("#sources", LiveTable).show(
            [(f"{each.node}/{each.source}/{each.subject}", _row(each, shown.now_ns)) for each in shown.sources]
        )


def _cost(cost: CaptureCost) -> Text:
    told = Text.assemble("capture of ", (cost.job, "bold"), f" ({cost.mode.replace('_', ' ')}) makes it slower by ")
    if cost.overhead_percent is None:
        return told.append("what cannot be told yet", "dim")
    told.append(f"{cost.overhead_percent:.1f} %", COST_STYLES.get(cost.verdict, ""))
    return told.append(f" ({cost.low_percent:.1f} to {cost.high_percent:.1f}); budget {cost.budget_percent:g} %")


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
