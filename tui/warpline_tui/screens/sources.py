"""Sources: what is fresh, stale, busy, denied or dropping, by source and by node, why, and what to do: silence is no health."""

from __future__ import annotations

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import DataTable, Static

from .. import sources_text
from ..place import Go, Place
from ..views.sources import BY, Sources, SourceState, SourcesView
from ..widgets.table import LiveTable
from .page import Page

PART_COLUMNS = ("state", "node", "source", "subject", "reason", "told", "dropped")


class SourcesPage(Page[Sources]):
    """Agents and costs in words, counts, the parts behind them with the worst first, and what to do about one."""

    CSS = """
    SourcesPage #costs { height: auto; max-height: 30%; padding: 0 1; }
    SourcesPage #groups { height: auto; max-height: 35%; }
    SourcesPage #of { height: 1; padding: 0 1; color: $text-muted; }
    SourcesPage #sources { height: 1fr; min-height: 4; }
    SourcesPage #what { height: auto; max-height: 4; padding: 0 1; }
    """
    AUTO_FOCUS = "#sources"
    BINDINGS = [
        Binding("b", "next_by", "by", id="sources.by", tooltip="Count by source or by node"),
        Binding(
            "enter",
            "choose",
            "only this",
            id="sources.choose",
            tooltip="List what is behind the count under the cursor; again: all",
        ),
        Binding("n", "node", "node", id="sources.node", tooltip="The node of the part under the cursor"),
    ]

    by: str = BY[0]
    of: str | None = None

    def content(self) -> ComposeResult:
        """Words, counts, parts, what to do."""
        yield Static("", id="costs")
        yield LiveTable(sources_text.group_columns(self.by), id="groups")
        yield Static("", id="of")
        yield LiveTable(PART_COLUMNS, id="sources")
        yield Static("", id="what")

    def wanted(self) -> SourcesView:
        """Counted by what was chosen."""
        return SourcesView(self.by, self.of)

    def draw(self, shown: Sources) -> None:
        """Fill them."""
        self.query_one("#costs", Static).update(sources_text.headline(shown))
        groups = self.query_one("#groups", LiveTable)
        groups.head(sources_text.group_columns(shown.by))
        groups.show([(each.key, sources_text.group_row(each, shown.now_ns)) for each in shown.groups])
        groups.set_class(not shown.groups, "empty")
        listed = (
            f"of {self.by} {self.of}; enter on it above: all" if self.of else "of all; tab, enter: only the one above"
        )
        self.query_one("#of", Static).update(Text(f"Parts {listed}, the worst first" if shown.parts else ""))
        self.query_one("#sources", LiveTable).show(
            [(_key(each), sources_text.part_row(each, shown.now_ns)) for each in shown.parts]
        )
        self._say()

    def _say(self) -> None:
        self.query_one("#what", Static).update(sources_text.what_to_do(self._part))

    @property
    def _part(self) -> SourceState | None:
        """The part under the cursor."""
        key = self.query_one("#sources", LiveTable).selected_key
        return next((each for each in self.shown.parts if _key(each) == key), None) if self.shown is not None else None

    @on(DataTable.RowHighlighted, "#sources")
    def highlighted(self) -> None:
        """Another part is under the cursor."""
        self._say()

    @on(DataTable.RowSelected, "#groups")
    def action_choose(self) -> None:
        """Only the parts of one group, or those of all again."""
        key = self.query_one("#groups", LiveTable).selected_key
        self.of = None if self.of == key else key
        self.want()

    def action_next_by(self) -> None:
        """Count by the other."""
        self.by = BY[(BY.index(self.by) + 1) % len(BY)]
        self.of = None
        self.want()

    @on(DataTable.RowSelected, "#sources")
    def action_node(self) -> None:
        """The machine itself."""
        if (part := self._part) is not None and part.node != "-":
            self.post_message(Go(Place("node", node=part.node)))


def _key(part: SourceState) -> str:
    return f"{part.node}/{part.source}/{part.subject}/{part.state}/{part.reason}"
