"""A pass asks only the files that came since: what it hears is what it would hear of the whole table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from warpline_collector import reader as reader_module
from warpline_collector.parts import Kept
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import STEPS

SUMS = (
    "SELECT step, sum(duration_ns)::BIGINT AS total, any_value(node) AS node, any_value(device) AS device FROM steps "
    "GROUP BY step"
)


def rows(step: int, ranks: range) -> Batch:
    listed = [
        {"job": "j", "rank": rank, "scope": "step", "step": step, "duration_ns": 10 + rank, "node": "n"}
        for rank in ranks
    ]
    return Batch(STEPS.name, "test", STEPS.from_rows(listed))


def totals(reader: CatalogReader, skipped: frozenset[str] = frozenset()) -> dict[int, int]:
    """Step -> time, added up over the parts."""
    found: dict[int, int] = {}
    for part in reader.by_part("steps", SUMS, skipped).values():
        for row in part.to_pylist():
            found[row["step"]] = found.get(row["step"], 0) + row["total"]
    return found


def test_only_files_that_came_since_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come late, for a step that was read before, are read with the others."""
    store = DuckDBStore(tmp_path)
    asked: list[str] = []
    ask = CatalogReader._ask

    def counted(reader: CatalogReader, sql: str, parameters: Sequence[Any], rows_max: int | None) -> pa.Table:
        asked.append(sql)
        return ask(reader, sql, parameters, rows_max)

    monkeypatch.setattr(CatalogReader, "_ask", counted)
    with CatalogReader(tmp_path) as reader:
        store.write([rows(1, range(3))])
        store.write([rows(2, range(3))])
        assert totals(reader) == {1: 33, 2: 33}
        assert len(asked) == 2
        store.write([rows(1, range(3, 5))])
        assert totals(reader) == {1: 60, 2: 33}
        assert len(asked) == 3
        assert totals(reader) == {1: 60, 2: 33}
        assert len(asked) == 3
    store.close()


def test_files_that_were_sealed_merged_or_went_away_answer_no_more(tmp_path: Path) -> None:
    store = DuckDBStore(tmp_path, Config(seal_rows=2, compact_files=2, grace_seconds=0.0))
    with CatalogReader(tmp_path) as reader:
        for step in range(4):
            store.write([rows(step, range(3))])
            assert totals(reader) == dict.fromkeys(range(step + 1), 33)
            store.maintain()
            assert totals(reader) == dict.fromkeys(range(step + 1), 33)
        oldest = next(iter(reader.by_part("steps", SUMS)))
        assert totals(reader, frozenset({oldest})) == {1: 33, 2: 33, 3: 33}
    store.close()


def test_what_is_kept_is_small_and_bounded() -> None:
    """Questions not asked for longest are forgotten first; the newest is answered whole however long it is."""

    def part(value: int) -> pa.Table:
        return pa.table({"value": [value] * 10})

    kept = Kept(bytes_max=170)
    assert kept.unknown(("steps", "a"), ["x", "y"]) == ["x", "y"]
    assert list(kept.lend(("steps", "a"), ["x", "y"], {"x": part(1), "y": part(2)})) == ["x", "y"]
    assert kept.unknown(("steps", "a"), ["x", "y", "z"]) == ["z"]
    assert kept.lend(("steps", "b"), ["x"], {"x": part(3)})["x"].equals(part(3))
    assert kept.unknown(("steps", "a"), ["x"]) == ["x"]
    assert kept.unknown(("steps", "b"), ["x"]) == []
    long = {name: part(4) for name in "uvw"}
    assert kept.lend(("steps", "c"), list(long), long) == long
    assert kept.unknown(("steps", "c"), ["u"]) == ["u"]


def test_columns_without_a_value_take_no_room(tmp_path: Path) -> None:
    store = DuckDBStore(tmp_path)
    store.write([rows(1, range(3))])
    with CatalogReader(tmp_path) as reader:
        (part,) = reader.by_part("steps", SUMS).values()
    store.close()
    assert pa.types.is_null(part.schema.field("device").type)
    assert part.column("node").to_pylist() == ["n"]


def test_what_nobody_asks_any_more_and_what_files_answered_that_are_gone_is_forgotten() -> None:
    """Jobs end, and small files are merged, for as long as the collector runs."""
    now = [0.0]
    kept = Kept(monotonic=lambda: now[0])
    rows = pa.table({"a": [1]})
    for each in range(40):
        now[0] += 100.0
        for question in (("steps", f"job {each // 10}"), ("steps", "jobs")):
            kept.lend(question, ["one", f"{each}"], dict.fromkeys(kept.unknown(question, ["one", f"{each}"]), rows))
    assert kept.unknown(("steps", "job 1"), ["one"]) == ["one"]
    assert kept.unknown(("steps", "job 3"), ["one"]) == []
    kept.keep_only({"one"})
    assert kept.unknown(("steps", "jobs"), ["one", "39"]) == ["39"]


def test_an_engine_that_knows_too_many_files_that_are_gone_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps what it read of each for good; views and answers are the same before and after."""
    monkeypatch.setattr(reader_module, "GONE_FILES_MAX", 1)
    store = DuckDBStore(tmp_path, Config(chunks_max=1, grace_seconds=0.0))
    with CatalogReader(tmp_path) as reader, CatalogReader(tmp_path, renews=False) as other:
        engines = {id(reader.connection): reader.connection}
        for step in range(12):
            store.write([rows(step, range(3))])
            assert reader.query("SELECT count(*) AS rows FROM steps").to_pylist() == [{"rows": 3 * step + 3}]
            assert reader.query("FROM source_state").num_rows == 0
            engines[id(reader.connection)] = reader.connection
        assert 2 <= len(engines) <= 20
        before = other.connection
        assert other.query("SELECT count(*) AS rows FROM steps").to_pylist() == [{"rows": 36}]
        assert other.connection is before
    store.close()
