"""A store written by another version: its rows are there, in both directions, with a collector on it and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from warpline_collector import catalog
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Frame

MakeFrame = Callable[..., Frame]
COUNT = "SELECT count(*) AS rows, count(scope) AS scopes, max(step) AS newest FROM steps"


@pytest.fixture
def older(tmp_path: Path, make_frame: MakeFrame) -> Path:
    """A store of a version that knew neither the column `scope` of steps nor the table metrics: sealed and hot rows."""
    store = DuckDBStore(tmp_path, Config(seal_rows=10))
    for sequence in range(1, 6):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    for path in tmp_path.glob("*/steps/*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["scope"]), path)
    document = json.loads((tmp_path / catalog.NAME).read_text())
    del document["tables"]["metrics"]
    for files in document["tables"].values():
        del files["columns"]
    (tmp_path / catalog.NAME).write_text(json.dumps(document))
    with duckdb.connect(str(tmp_path / "warpline.duckdb")) as connection:
        connection.execute("ALTER TABLE steps DROP COLUMN scope")
        connection.execute("DROP TABLE metrics")
        for segment in (tmp_path / "segments" / "steps").glob("*.parquet"):
            connection.execute(
                "UPDATE manifest SET bytes = ?, columns = 'older' WHERE path = ?",
                [segment.stat().st_size, f"segments/steps/{segment.name}"],
            )
    return tmp_path


def test_a_newer_reader_answers_on_an_older_store_that_no_collector_writes_to(older: Path) -> None:
    """Columns that the files lack are NULL, tables that the catalog does not name are empty, views answer."""
    with CatalogReader(older) as reader:
        assert reader.query(COUNT).to_pylist() == [{"rows": 15, "scopes": 0, "newest": 5}]
        assert reader.query("SELECT count(*) AS rows FROM metrics").to_pylist() == [{"rows": 0}]
        assert reader.query("SELECT * FROM iteration_times").num_rows == 0
        parts = reader.by_part("steps", "SELECT count(*) AS rows, count(scope) AS scopes FROM steps")
        assert sum(part.column("rows")[0].as_py() for part in parts.values()) == 15
        assert reader.damaged == ()


def test_a_newer_collector_goes_on_with_an_older_store(older: Path, make_frame: MakeFrame) -> None:
    """What came before lacks the column, what comes now has it, and merging both keeps that."""
    store = DuckDBStore(older, Config(seal_rows=10, compact_files=2))
    store.append([make_frame(6)])
    wanted = [{"rows": 18, "scopes": 3, "newest": 6}]
    assert store.query(COUNT).to_pylist() == wanted
    for _ in range(3):
        store.maintain()
    assert store.query(COUNT).to_pylist() == wanted
    store.close()


def test_an_older_reader_answers_on_a_newer_store(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Columns, tables and keys of the catalog that it does not know are passed over."""
    store = DuckDBStore(tmp_path, Config(seal_rows=10))
    for sequence in range(1, 6):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    for path in tmp_path.glob("*/steps/*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.append_column("of_tomorrow", rows.column("step")), path)
    document = json.loads((tmp_path / catalog.NAME).read_text())
    document["tables"]["steps"] |= {"columns": "newer", "of_tomorrow": 1}
    document["tables"]["of_tomorrow"] = document["tables"]["steps"]
    (tmp_path / catalog.NAME).write_text(json.dumps(document))
    with CatalogReader(tmp_path) as reader:
        assert reader.query(COUNT).to_pylist() == [{"rows": 15, "scopes": 15, "newest": 5}]
        assert "of_tomorrow" not in reader.query("SELECT * FROM steps").schema.names


def test_an_older_collector_keeps_what_a_newer_one_wrote(tmp_path: Path, make_frame: MakeFrame) -> None:
    """After a step back to the older version: files with columns that it does not know are not merged without them."""
    store = DuckDBStore(tmp_path, Config(seal_rows=3))
    for sequence in range(1, 4):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    with duckdb.connect(str(tmp_path / "warpline.duckdb")) as connection:
        for path in (tmp_path / "segments" / "steps").glob("*.parquet"):
            rows = pq.read_table(path)
            pq.write_table(rows.append_column("of_tomorrow", rows.column("step")), path)
            connection.execute(
                "UPDATE manifest SET bytes = ?, columns = 'newer' WHERE path = ?",
                [path.stat().st_size, f"segments/steps/{path.name}"],
            )
    store = DuckDBStore(tmp_path, Config(seal_rows=1_000, compact_files=2))
    for _ in range(3):
        store.maintain()
    assert store.query(COUNT).to_pylist() == [{"rows": 9, "scopes": 9, "newest": 3}]
    store.close()
    kept = [pq.read_table(path) for path in (tmp_path / "segments" / "steps").glob("*.parquet")]
    assert sum(rows.column("of_tomorrow").length() - rows.column("of_tomorrow").null_count for rows in kept) == 9
