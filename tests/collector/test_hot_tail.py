"""Small hot files become one beside the commits: whatever happens meanwhile, readers have every row once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from warpline_collector import catalog
from warpline_collector.hot import Chunk, Crowd, HotTail
from warpline_collector.stores.duckdb import Config
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch
from warpline_proto.tables import LOG_EVENTS

TABLE = LOG_EVENTS.name
MESSAGES = "SELECT message FROM log_events ORDER BY time_ns"


def batch(number: int) -> Batch:
    return Batch(TABLE, "test", LOG_EVENTS.from_rows([{"message": f"line {number}", "time_ns": number}]))


def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[TendedStore], None]) -> TendedStore:
    """A store whose five hot files were merged while `meanwhile` was done."""
    store = TendedStore(tmp_path, Config(chunks_max=4, grace_seconds=0.0))
    for number in range(5):
        store.write([batch(number)])
    merged = HotTail.merged
    done: list[bool] = []

    def interrupted(tail: HotTail, crowd: Crowd) -> Chunk:
        chunk = merged(tail, crowd)
        if not done:
            done.append(True)
            meanwhile(store)
        return chunk

    monkeypatch.setattr(HotTail, "merged", interrupted)
    store.maintain()
    assert done
    return store


def test_rows_that_come_while_files_are_merged_stay_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody who stores them waits for it."""
    store = crowded(tmp_path, monkeypatch, lambda store: store.write([batch(5)]))
    assert [row["message"] for row in store.query(MESSAGES).to_pylist()] == [f"line {each}" for each in range(6)]
    assert len(catalog.read(tmp_path).tables[TABLE].chunks) == 2
    store.close()


def test_files_that_were_written_anew_meanwhile_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when their table was sealed or let go: the merged one is not listed, and goes."""

    def anew(store: TendedStore) -> None:
        store._stale.add(TABLE)
        store.write([batch(5)])

    store = crowded(tmp_path, monkeypatch, anew)
    assert [row["message"] for row in store.query(MESSAGES).to_pylist()] == [f"line {each}" for each in range(6)]
    listed = catalog.read(tmp_path).tables[TABLE].chunks
    store.maintain()
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "hot" / TABLE).iterdir()] == list(listed)
    store.close()


def test_a_damaged_file_is_written_anew_from_the_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = TendedStore(tmp_path, Config(chunks_max=4, grace_seconds=0.0))
    for number in range(5):
        store.write([batch(number)])
    damaged = tmp_path / catalog.read(tmp_path).tables[TABLE].chunks[2]
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"\0" * 8)
    for _ in range(2):
        store.maintain()
    assert [row["message"] for row in store.query(MESSAGES).to_pylist()] == [f"line {each}" for each in range(5)]
    assert "written anew" in caplog.text
    store.close()


def test_where_nobody_tends_the_store_files_stay_bounded(tmp_path: Path) -> None:
    """A look after the store that takes minutes keeps small files from being merged beside the commits: then in one."""
    store = TendedStore(tmp_path, Config(chunks_max=1, grace_seconds=0.0))
    for number in range(30):
        store.write([batch(number)])
        assert len(catalog.read(tmp_path).tables[TABLE].chunks) <= 8
    assert store.query(MESSAGES).num_rows == 30
    store.close()
