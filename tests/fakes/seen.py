"""For tests of the screen: a database with every table, the app over it, and what a widget says."""

from __future__ import annotations

from importlib import resources
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from rich.console import Console
from textual.pilot import Pilot
from textual.scroll_view import ScrollView
from textual.widgets import DataTable, Static

from warpline_proto.errors import QueryError
from warpline_proto.tables import TABLES
from warpline_tui.answers import Answers
from warpline_tui.app import WarplineApp
from warpline_tui.place import Go, Place
from warpline_tui.power import Prices
from warpline_tui.view import Ask, Moment, View

Shown = TypeVar("Shown")
SIZES = [(80, 24), (200, 60)]
"""Terminals that every page is tried in: columns, lines."""


class Database:
    """All tables and views in memory; `down` makes it unreachable, `asked` is every question it was asked."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.down = False
        self.asked: list[str] = []
        for name, table in TABLES.items():
            self.connection.register("given", pa.Table.from_batches([table.empty()]))
            self.connection.execute(f"CREATE TABLE {name} AS FROM given")
        self.connection.execute(resources.files("warpline_collector").joinpath("views.sql").read_text(encoding="utf-8"))

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        self.connection.register("given", pa.Table.from_batches([TABLES[name].from_rows(rows)]))
        self.connection.execute(f"INSERT INTO {name} FROM given")

    def query(self, sql: str) -> pa.Table:
        if self.down:
            raise QueryError("no collector answers at 127.0.0.1:1")
        self.asked.append(sql)
        try:
            return self.connection.cursor().sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(str(error)) from error


def app_over(database: Database, now_ns: int, **more: Any) -> WarplineApp:
    """The app, asking `database` at a clock that stands still; `more` are its further arguments."""
    return WarplineApp(database.query, clock=lambda: now_ns, **more)


def take(
    database: Database, view: View[Shown], now_ns: int, at_ns: int | None = None, prices: Prices | None = None
) -> Shown:
    """What a view gives, without a screen; at a past moment where `at_ns` is given."""
    return view.take(Ask(Answers(database.query, lambda: now_ns), now_ns, Moment(at_ns), prices))


async def go(pilot: Pilot[None], place: Place) -> None:
    """Be at a place, as if a page had led there."""
    pilot.app.post_message(Go(place))
    await settle(pilot)


async def settle(pilot: Pilot[None]) -> None:
    """Wait for the questions that are on their way, and for the drawing."""
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def words(pilot: Pilot[None], selector: str) -> str:
    """What a widget says, as plain text: every row of a table, of what scrolls what is seen."""
    widget = pilot.app.screen.query_one(selector)
    if isinstance(widget, DataTable):
        return "\n".join(" | ".join(str(cell) for cell in widget.get_row_at(row)) for row in range(widget.row_count))
    if isinstance(widget, ScrollView):
        return "\n".join(widget.render_line(line).text.rstrip() for line in range(widget.size.height))
    assert isinstance(widget, Static)
    console = Console(width=200, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(widget.content)
    return capture.get()
