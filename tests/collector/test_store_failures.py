"""The DuckDB store when disk and engine fail it between any two steps: nothing acknowledged is lost, and it comes back alone."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from warpline_collector import catalog, engine, parquet
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_proto.batch import Frame
from warpline_proto.errors import StoreError

MakeFrame = Callable[..., Frame]
EACH_ONCE = "SELECT count(*) AS rows, count(DISTINCT (step, rank)) AS distinct_rows, max(step) AS newest FROM steps"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """No file of this process grows past `size` bytes: what a full disk says, said at the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def whole(newest: int, rows: int) -> list[dict[str, int]]:
    return [{"rows": rows * newest, "distinct_rows": rows * newest, "newest": newest}]


@pytest.mark.parametrize("limit_kilobytes", [600, 900, 1_500])
def test_a_full_disk_costs_no_acknowledged_row_and_the_store_comes_back_when_there_is_room(
    tmp_path: Path, make_frame: MakeFrame, limit_kilobytes: int
) -> None:
    """The log cannot grow, then the engine gives up; once there is room the same store takes frames again."""
    store = DuckDBStore(tmp_path, Config(seal_rows=4_000))
    stored = failures = 0
    with files_no_larger_than(limit_kilobytes * 1024):
        while failures < 4:
            try:
                store.append([make_frame(stored + 1, rows=500)])
                stored += 1
            except StoreError:
                failures += 1
            try:
                store.maintain()
            except StoreError:
                failures += 1
        assert store.query(EACH_ONCE).to_pylist() == whole(stored, 500)
        listed = catalog.read(tmp_path).tables["steps"].segments
        on_disk = list((tmp_path / "segments" / "steps").glob("*"))
        assert len(on_disk) <= len(listed) + 1, "a disk that is full is not filled with files that nobody lists"
    assert list(store.append([make_frame(stored, rows=500), make_frame(stored + 1, rows=500)])) == [False, True]
    store.maintain()
    assert store.query(EACH_ONCE).to_pylist() == whole(stored + 1, 500)
    store.close()
    reopened = DuckDBStore(tmp_path)
    assert reopened.acknowledged("node-1", "boot-1") == stored + 1
    assert reopened.query(EACH_ONCE).to_pylist() == whole(stored + 1, 500)
    reopened.close()


def test_files_stay_while_the_catalog_that_lists_them_cannot_be_replaced(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Sealing went through, the new catalog did not: readers go by the one before, so its files are not unlinked."""
    clock = Clock()
    store = DuckDBStore(tmp_path, Config(seal_rows=10, grace_seconds=60.0), clock)
    for sequence in range(1, 5):
        store.append([make_frame(sequence)])
    in_the_way = tmp_path / f"{catalog.NAME}.tmp"
    in_the_way.mkdir()
    store.maintain()
    clock.now_ns += 120 * 10**9
    store.maintain()
    with CatalogReader(tmp_path) as reader:
        assert reader.query(EACH_ONCE).to_pylist() == whole(4, 3)
        assert reader.damaged == ()
    in_the_way.rmdir()
    store.maintain()
    with CatalogReader(tmp_path) as reader:
        assert reader.query(EACH_ONCE).to_pylist() == whole(4, 3)
    assert len(catalog.read(tmp_path).tables["steps"].segments) == 1
    assert list((tmp_path / "hot" / "steps").iterdir()) == []
    store.close()


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_a_store_that_is_not_where_it_was_acknowledges_nothing(
    tmp_path: Path, make_frame: MakeFrame, fate: str
) -> None:
    """Rows written into a file without a name would be acknowledged and gone."""
    place = tmp_path / "store"
    store = DuckDBStore(place)
    store.append([make_frame(1)])
    place.rename(tmp_path / "elsewhere")
    if fate == "replaced":
        place.mkdir()
        (place / "warpline.duckdb").touch()
    if fate == "deleted":
        for path in sorted((tmp_path / "elsewhere").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"is gone|is another one"):
            store.append([make_frame(2)])
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.append([make_frame(2)])


def test_segments_of_middling_size_are_merged_too(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Two thirds of a full segment every few minutes must not become a thousand files a week."""
    clock = Clock()
    store = DuckDBStore(tmp_path, Config(seal_rows=30, seal_seconds=10.0, compact_files=16, grace_seconds=0.0), clock)
    for sequence in range(1, 41):
        store.append([make_frame(sequence, rows=20)])
        clock.now_ns += 11 * 10**9
        store.maintain()
    assert len(catalog.read(tmp_path).tables["steps"].segments) <= 21
    assert store.query(EACH_ONCE).to_pylist() == whole(40, 20)
    store.close()


def test_no_commit_lies_in_a_log_whose_name_a_loss_of_power_may_take(
    tmp_path: Path, make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine begins a new log after each checkpoint: its name is forced to disk before the frame is acknowledged."""
    place = tmp_path / "store"
    synced: list[tuple[Path, frozenset[int]]] = []

    def told(path: Path) -> None:
        real(path)
        synced.append((path, logs()))

    def logs() -> frozenset[int]:
        return frozenset(path.stat().st_ino for path in place.glob("warpline.duckdb.*"))

    real = parquet.sync_directory
    monkeypatch.setattr(engine, "sync_directory", told)
    store = DuckDBStore(place)
    store.append([make_frame(1)])
    assert [path for path, _ in synced] == [place, tmp_path], "the store's own name too"
    for sequence in range(2, 8):
        if sequence % 2:
            store.connections()[0].execute("CHECKPOINT")
        before = len(synced)
        store.append([make_frame(sequence)])
        assert logs(), "a commit is in a log"
        assert (place, logs()) in synced
        assert len(synced) - before == sequence % 2, "a log is named once"
    store.close()
