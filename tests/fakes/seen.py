"""For tests of the screen: a database with every table, the app over it, and what a widget says."""

from __future__ import annotations

import asyncio
import time
from importlib import resources
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import textual.app
import textual.pilot
from rich.console import Console
from textual._wait import wait_for_idle
from textual.app import App
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
STILL_SECONDS_MAX = 60.0
STILL_LOOKS = 3
"""The screen stands still once nothing was on its way so many times in a row."""
TURNS = 50
"""A message that leads to another takes a turn of the loop each; a key that moves the focus takes a handful."""


async def _idle(min_sleep: float = 0, max_sleep: float = 1) -> None:
    """Textual's own takes a process that got no CPU for 20 ms for one that has nothing to do: on a busy machine that is any."""
    await wait_for_idle(min_sleep, max_sleep)
    for _ in range(TURNS):
        await asyncio.sleep(0)


for _module in (textual.app, textual.pilot):
    setattr(_module, "wait_for_idle", _idle)  # noqa: B010  # no name that Textual exports
WarplineApp.NOTIFICATION_TIMEOUT = STILL_SECONDS_MAX  # what was told is there yet when it is looked for


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
    """Wait for the questions that are on their way, for what follows from their answers, and for the drawing."""
    end, looks = time.monotonic() + STILL_SECONDS_MAX, 0
    while looks < STILL_LOOKS:
        assert time.monotonic() < end, "the screen never stood still"
        await pilot.pause()
        await pilot.app.workers.wait_for_complete()
        looks = 0 if _moving(pilot.app) else looks + 1


def _moving(app: App[None]) -> bool:
    """Whether a question, a message or something to draw is on its way."""
    screen = app.screen
    pumps = (app, *screen.walk_children(with_self=True))
    drawing = (
        screen._layout_required, screen._repaint_required, screen._scroll_required, screen._recompose_required,
        screen._dirty_widgets, screen._callbacks,
    )  # fmt: skip
    return (
        any(drawing)
        or any(pump.message_queue_size or pump._next_callbacks for pump in pumps)
        or any(not worker.is_finished for worker in app.workers)
    )


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
