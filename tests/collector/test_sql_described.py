"""What can be asked for is described: every table, every view and every column, where an operator reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from warpline_cli.main import main
from warpline_collector.described import meaning, sentence, views
from warpline_collector.reader import CatalogReader
from warpline_collector.sight import OPERATORS_ONLY, PRIVATE
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.tables import TABLES

ROOT = Path(__file__).parents[2]
COLUMNS = (
    "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND schema_name = 'main' ORDER BY ALL"
)


def test_every_column_of_every_view_has_a_meaning_and_its_unit(tmp_path: Path) -> None:
    """views.toml says what a view's own columns are; the rest mean what they mean in the tables behind it."""
    DuckDBStore(tmp_path).close()
    with CatalogReader(tmp_path) as reader:
        found = reader.query(COLUMNS).to_pylist()
    assert set(views()) == {row["table_name"] for row in found} - set(TABLES)
    assert all(sentence(row["table_name"]) for row in found)
    nothing = [tuple(row.values()) for row in found if not meaning(row["table_name"], row["column_name"])]
    assert nothing == [], "say in views.toml what these are"
    units = {"_ns": "[ns]", "_bytes": "[B]", "_watts": "[W]", "_joules": "[J]", "_percent": "[%]"}
    for row in found:
        for ending, unit in units.items():
            if row["column_name"].endswith(ending):
                assert unit in meaning(row["table_name"], row["column_name"]), row


def test_no_column_is_described_that_is_not_there(tmp_path: Path) -> None:
    """A view that changed must not keep words of what it was."""
    DuckDBStore(tmp_path).close()
    with CatalogReader(tmp_path) as reader:
        found = {tuple(row.values()) for row in reader.query(COLUMNS).to_pylist()}
    assert {(name, column) for name, view in views().items() for column in view.columns} <= found


def test_the_command_line_tells_them(capsys: pytest.CaptureFixture[str]) -> None:
    """`warpline sql --describe`: all of them, or the columns of one; a typo names the nearest."""
    assert main(["sql", "--describe"]) == 0
    said = capsys.readouterr().out
    for name in (*TABLES, *views()):
        assert f"{name} " in said
        assert sentence(name) in said
    assert main(["sql", "--describe", "kernel_totals"]) == 0
    said = capsys.readouterr().out
    assert "share of the rank's kernel time, 0 to 1" in said
    assert main(["sql", "--describe", "gpu_processes"]) == 0
    assert "for a viewer NULL" in capsys.readouterr().out
    assert main(["sql", "--describe", "kernel_total"]) != 0
    assert "kernel_totals" in capsys.readouterr().err


def test_the_handbook_names_every_view_and_all_that_is_private() -> None:
    """deploy/README.md, where an operator reads: a view that is new stands there too."""
    handbook = (ROOT / "deploy/README.md").read_text()
    section = handbook.split("## SQL for people")[1].split("\n## ")[0]
    for name, view in views().items():
        assert f"| `{name}` | {view.sentence} |" in section
    for name in OPERATORS_ONLY:
        assert f"`{name}`" in section
    for name, columns in PRIVATE.items():
        for column in columns:
            assert re.search(rf"`{name}`[^;]*`{column}`", section), (name, column)
