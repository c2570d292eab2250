"""For tests of the screen: a database with every table, and what a widget says."""

from __future__ import annotations

from importlib import resources
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from warpline_proto.errors import QueryError
from warpline_proto.tables import TABLES


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


async def settle(pilot: Pilot[None]) -> None:
    """Wait for the snapshots that are on their way, and for the drawing."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def words(pilot: Pilot[None], selector: str) -> str:
    """What a widget says, as plain text."""
    widget = pilot.app.screen.query_one(selector)
    if isinstance(widget, DataTable):
        return "\n".join(" | ".join(str(cell) for cell in widget.get_row_at(row)) for row in range(widget.row_count))
    assert isinstance(widget, Static)
    console = Console(width=200, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(widget.content)
    return capture.get()
