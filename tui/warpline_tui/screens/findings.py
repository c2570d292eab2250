"""Findings: what, who, since when, what it costs; and below, the evidence of the chosen one and what to do."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Static

from warpline_proto.finding import OPEN

from ..incident import Incident, open_ones
from ..views.findings import Findings, FindingsView
from ..widgets.table import Cell, LiveTable
from ..words import UNKNOWN, accused, cost, moment, since, since_when, who
from .page import Page

COLUMNS = ("", "finding", "who", "since", "cost", "sure", "job")
NOTHING = "No finding is open. `sources` (key 4) tells whether everything is being read."
STYLES = {"critical": "bold white on red", "warning": "bold black on yellow", "info": "dim"}


class FindingsPage(Page[Findings]):
    """List above, the chosen one below."""

    def content(self) -> ComposeResult:
        """The list, and a scrolling detail."""
        yield LiveTable(COLUMNS, id="findings")
        with VerticalScroll(id="detail"):
            yield Static(NOTHING, id="evidence")

    def wanted(self) -> FindingsView:
        """All of them."""
        return FindingsView()

    def draw(self, shown: Findings) -> None:
        """Open findings first, resolved ones after."""
        table = self.query_one("#findings", LiveTable)
        table.show([(incident.finding.id, _row(incident)) for incident in _ordered(shown)])
        table.set_class(not shown.incidents, "empty")
        self._show(table.selected_key)

    @on(DataTable.RowHighlighted, "#findings")
    def highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another finding is under the cursor."""
        self._show(None if event.row_key is None else event.row_key.value)

    def _show(self, key: str | None) -> None:
        chosen = next(
            (each for each in (() if self.shown is None else self.shown.incidents) if each.finding.id == key), None
        )
        self.query_one("#evidence", Static).update(NOTHING if chosen is None else detail(chosen))


def detail(incident: Incident) -> RenderableType:
    """Everything an operator needs about one finding."""
    finding = incident.finding
    facts = Table.grid(padding=(0, 2))
    for name, words in (
        ("who", accused(finding.subject)),
        ("since", since(finding)),
        ("cost", cost(finding)),
        ("confidence", f"{finding.confidence:.0%}"),
        ("state", f"{incident.state}, first seen {moment(incident.opened_ns)}"),
        ("ruled out", "; ".join(finding.ruled_out) or UNKNOWN),
        ("missing", "; ".join(finding.missing) or "nothing"),
    ):
        facts.add_row(Text(name, "bold"), words)
    parts: list[RenderableType] = [
        Text(finding.summary, "bold"),
        Text(f"→ {finding.next_step}", "bold green"),
        facts,
    ]
    for evidence in finding.evidence:
        parts += [Syntax(evidence.sql.strip(), "sql", word_wrap=True, background_color="default"), _rows(evidence.rows)]
    return Group(*parts)


def _ordered(findings: Findings) -> list[Incident]:
    shown = list(open_ones(findings.incidents))
    return shown + [incident for incident in findings.incidents if incident not in shown]


def _row(incident: Incident) -> list[Cell]:
    finding = incident.finding
    style = STYLES.get(str(finding.severity), "") if incident.state == OPEN else "dim strike"
    return [
        Text(f" {finding.severity} " if incident.state == OPEN else f" {incident.state} ", style),
        str(finding.kind),
        who(finding.subject),
        since_when(finding),
        cost(finding),
        f"{finding.confidence:.0%}",
        finding.subject.job or UNKNOWN,
    ]


def _rows(rows: tuple[object, ...]) -> RenderableType:
    table = Table(box=None, header_style="bold dim")
    listed = [row for row in rows if isinstance(row, dict)]
    if not listed:
        return Text("(no rows kept)", "dim")
    for name in listed[0]:
        table.add_column(name)
    for row in listed:
        table.add_row(*(UNKNOWN if value is None else _short(value) for value in row.values()))
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
