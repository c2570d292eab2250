"""Incidents: what stands and what is over, each with what was folded under it; enter walks through one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from rich.text import Text
from textual import on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Input, Static

from warpline_proto.finding import GRAVITY, OPEN

from ..incident_text import alarms
from ..place import Go, Place
from ..telling import ticket
from ..views.incidents import Incidents, IncidentsView, Listed, swallowed
from ..widgets.filter import Filter, has
from ..widgets.table import Cell, LiveTable
from ..words import UNKNOWN, accused, age, cost, moment, since, since_when, who
from .page import Page

STYLES: Final = {"critical": "bold white on red", "warning": "bold black on yellow", "info": "bold"}
SIGNS: Final = {"critical": "‼", "warning": "!", "info": "i"}
"""A severity is told by its sign and its word, and by colour besides."""
ANSWERS_SHOWN: Final = 8
ORDERS: Final[dict[str, Callable[[Listed], tuple[object, ...]]]] = {
    "gravest": lambda each: (GRAVITY[each.incident.finding.severity], -(each.incident.updated_ns or 0)),
    "newest": lambda each: (-(each.incident.opened_ns or 0),),
    "dearest": lambda each: (
        -(each.lost.amount if each.lost else 0.0), -(each.incident.finding.cost.gpu_hours or 0.0),
        -(each.incident.finding.cost.seconds_per_step or 0.0), -(each.incident.finding.cost.joules or 0.0),
    ),
    "surest": lambda each: (-each.incident.finding.confidence,),
    "job": lambda each: (each.incident.finding.subject.job or "~",),
}  # fmt: skip
"""Order -> what it goes by; open ones come before those that are over."""


class IncidentsPage(Page[Incidents]):
    """A list above, the one under the cursor below."""

    AUTO_FOCUS = "#incidents"
    CSS = """
    #incidents { height: auto; max-height: 55%; }
    #said { height: auto; max-height: 2; padding: 0 1; }
    #about { height: 1fr; padding: 0 1; border-top: solid $panel; }
    """
    BINDINGS = [
        Binding(
            "enter",
            "walk",
            "walk through",
            id="incidents.walk",
            priority=True,
            tooltip="Walk through the incident under the cursor",
        ),
        Binding(
            "slash", "filter", "filter", id="incidents.filter", tooltip="Show only what has the words that you type"
        ),
        Binding(
            "s", "order", "sort", id="incidents.order", tooltip="Gravest, newest, dearest, surest first, or by job"
        ),
        Binding("o", "only_open", "open only", id="incidents.open", tooltip="Show only what stands, or all"),
        Binding("y", "copy", "copy", id="incidents.copy", tooltip="Copy the incident as Markdown, for a ticket"),
    ]

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._order = next(iter(ORDERS))
        self._only_open = False

    def content(self) -> ComposeResult:
        """What is filtered and how many there are, the list, and one of it."""
        yield Filter()
        yield Static("", id="said")
        yield LiveTable(_columns(None), id="incidents")
        with VerticalScroll(id="about", can_focus=False):
            yield Static("", id="incident")

    def wanted(self) -> IncidentsView:
        """All of them."""
        return IncidentsView()

    def draw(self, shown: Incidents) -> None:
        """List what is left by the filter."""
        left = self._left(shown)
        table = self.query_one("#incidents", LiveTable)
        table.head(_columns(shown.currency))
        table.show([(each.incident.finding.id, _row(each, shown.currency)) for each in left])
        table.set_class(not left, "empty")
        self.query_one("#said", Static).update(_said(shown, left, self._order, self._only_open))
        self._about()

    @on(Input.Changed)
    def narrowed(self) -> None:
        """Another letter was typed."""
        self._again()

    @on(Input.Submitted)
    def filtered(self) -> None:
        """The list has the keys again."""
        self.query_one("#incidents").focus()

    @on(DataTable.RowHighlighted, "#incidents")
    def highlighted(self) -> None:
        """Another one is under the cursor."""
        self._about()

    @on(DataTable.RowSelected, "#incidents")
    def action_walk(self) -> None:
        """Walk through it; what is typed has its own enter."""
        if isinstance(self.focused, Filter):
            raise SkipAction
        if (chosen := self._chosen()) is not None:
            self.post_message(Go(Place("incident", incident=chosen.incident.finding.id)))

    def action_filter(self) -> None:
        """Type what is to be left."""
        self.query_one(Filter).open()

    def action_order(self) -> None:
        """The next order."""
        orders = list(ORDERS)
        self._order = orders[(orders.index(self._order) + 1) % len(orders)]
        self._again()

    def action_only_open(self) -> None:
        """With those that are over, or without."""
        self._only_open = not self._only_open
        self._again()

    def action_copy(self) -> None:
        """Copy it for a ticket."""
        if (chosen := self._chosen()) is not None:
            self.app.copy_to_clipboard(ticket(chosen))
            self.notify(f"Copied {chosen.incident.finding.id} as Markdown")

    def _again(self) -> None:
        if self.shown is not None and self.is_mounted:
            self.draw(self.shown)

    def _left(self, shown: Incidents) -> list[Listed]:
        words = self.query_one(Filter).value
        left = [
            each for each in shown.listed
            if has(words, *_texts(each)) and (each.incident.state == OPEN or not self._only_open)
        ]  # fmt: skip
        return sorted(left, key=lambda each: (each.incident.state != OPEN, *ORDERS[self._order](each)))

    def _chosen(self) -> Listed | None:
        key = self.query_one("#incidents", LiveTable).selected_key
        listed = () if self.shown is None else self.shown.listed
        return next((each for each in listed if each.incident.finding.id == key), None)

    def _about(self) -> None:
        chosen = self._chosen()
        if self.shown is not None:
            told = about(chosen) if chosen is not None else nothing(self.shown)
            self.query_one("#incident", Static).update(told)


def about(listed: Listed) -> Text:
    """One incident in a few lines."""
    incident, finding = listed.incident, listed.incident.finding
    text = Text.assemble((finding.summary, "bold"), "\n", (f"→ {finding.next_step}", "bold green"), "\n")
    lost = "" if listed.lost is None else f", {listed.lost}"
    text.append(f"{accused(finding.subject)}; since {since(finding, 'a time that is not known')}\n")
    text.append(f"cost {cost(finding, 'not known')}{lost}; {finding.confidence:.0%} sure\n")
    text.append(
        f"{incident.state}, first seen {moment(incident.opened_ns)}, last written {moment(incident.updated_ns)}\n",
        "dim",
    )
    for kind, summary in listed.folded:
        text.append(f"└ {kind}: ", "bold").append(f"{summary}\n", "not bold")
    told = f"rows of evidence kept: {listed.rows}; stands for "
    text.append(told + ("alarms that were not counted" if incident.alarms is None else alarms(incident.alarms)), "dim")
    return text


def nothing(shown: Incidents) -> Text:
    """Why the list is empty, and what says that all is well, or that nobody can tell."""
    judged = [each for each in shown.answers if each.judged]
    unknown = [each for each in shown.answers if not each.judged]
    if shown.listed:
        return Text("Nothing is left by the filter (escape in it, `o`, show more).", "dim")
    if judged:
        text = Text.assemble(("HEALTHY: ", "bold green"), f"nothing is accused; {len(judged)} questions were judged.\n")
    else:
        text = Text.assemble(("CANNOT TELL: ", "bold yellow"), "nothing is accused, and no question could be judged.\n")
        text.append(
            "Key 4 tells what is read and what is missing; `warpline doctor` tells what works on a node.\n", "dim"
        )
    for each in (*unknown[:ANSWERS_SHOWN], *judged[: ANSWERS_SHOWN - len(unknown[:ANSWERS_SHOWN])]):
        text.append("healthy      " if each.judged else "cannot tell  ", "bold")
        text.append(f"{each.question}: {each.why}\n", "not bold")
    return text


def _said(shown: Incidents, left: Sequence[Listed], order: str, only_open: bool) -> Text:
    text = Text.assemble((f"{len(shown.open)} open", "bold"), f", {shown.total - len(shown.open)} over")
    if len(left) < shown.total:
        text.append(f"; {len(left)} shown{' (open only)' if only_open else ''}")
    text.append(f"; {order} first" if order != "job" else "; by job")
    judged = sum(each.judged for each in shown.answers)
    if shown.answers:
        text.append(f"; else {judged} questions judged healthy, {len(shown.answers) - judged} cannot be told")
    if shown.passed_ns is not None:
        text.append(f" ({age(shown.passed_ns, shown.now_ns)})", "dim")
    if shown.unread:
        text.append(f"; {shown.unread} of another version cannot be read here", "yellow")
    return text


def _columns(currency: str | None) -> tuple[str, ...]:
    priced = (currency,) if currency else ()
    return ("", "incident", "who", "since", "cost", *priced, "sure", "explains", "job")


def _row(listed: Listed, currency: str | None) -> list[Cell]:
    incident, finding = listed.incident, listed.incident.finding
    standing = incident.state == OPEN
    severity = str(finding.severity)
    marked = (
        Text(f" {SIGNS.get(severity, '')} {severity} ", STYLES.get(severity, ""))
        if standing
        else Text(f" {incident.state} ", "dim")
    )
    return [
        marked,
        str(finding.kind),
        who(finding.subject),
        since_when(finding),
        cost(finding),
        *([UNKNOWN if listed.lost is None else f"{listed.lost.amount:,.2f}"] if currency else []),
        f"{finding.confidence:.0%}",
        swallowed(listed) or "itself",
        finding.subject.job or UNKNOWN,
    ]


def _texts(listed: Listed) -> tuple[str | None, ...]:
    finding = listed.incident.finding
    return (
        finding.id, str(finding.severity), listed.incident.state, accused(finding.subject), finding.summary, swallowed(listed),
    )  # fmt: skip
