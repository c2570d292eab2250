"""The DuckDB store: sealing, damage, crashes, and readers in the middle of it all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from warpline_collector import catalog, engine, schema, segments
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import Config, DuckDBStore
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import StoreError
from warpline_proto.tables import LOG_EVENTS, TABLES

MakeFrame = Callable[..., Frame]
EACH_ONCE = "SELECT count(*) AS rows, count(DISTINCT (step, rank)) AS distinct_rows, max(step) AS newest FROM steps"
WRITER = Path(__file__).parent / "writer_process.py"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns

    def pass_seconds(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[DuckDBStore]:
    """A store that seals after 10 rows or 100 s and compacts 4 files."""
    opened = DuckDBStore(tmp_path, Config(seal_rows=10, seal_seconds=100.0, compact_files=4, grace_seconds=60.0), clock)
    yield opened
    opened.close()


def files(directory: Path, folder: str, table: str = "steps") -> list[str]:
    return sorted(path.name for path in (directory / folder / table).glob("*.parquet"))


def test_sealing_keeps_every_row_exactly_once(store: DuckDBStore, tmp_path: Path, make_frame: MakeFrame) -> None:
    """Rows move from the DuckDB file into segments, and no question sees them twice or not at all."""
    for sequence in range(1, 41):
        store.append([make_frame(sequence)])
        store.maintain()
        assert store.query(EACH_ONCE).to_pylist() == [
            {"rows": 3 * sequence, "distinct_rows": 3 * sequence, "newest": sequence}
        ]
    assert len(files(tmp_path, "segments")) == 10
    store.close()
    with CatalogReader(tmp_path) as reader:
        assert reader.query(EACH_ONCE).to_pylist() == [{"rows": 120, "distinct_rows": 120, "newest": 40}]


def test_many_rows_at_once_are_a_segment_at_once_and_full_segments_become_large_ones(
    tmp_path: Path, make_frame: MakeFrame
) -> None:
    """What thousands of ranks send is written once, is durable once it is acknowledged, and does not stay thousands of files."""
    store = TendedStore(tmp_path, Config(seal_rows=50, direct_rows=3, merge_rows=12, grace_seconds=0.0))
    for sequence in range(1, 11):
        store.append([make_frame(sequence)])
        assert len(files(tmp_path, "segments")) == sequence and not files(tmp_path, "hot")
        assert store.query(EACH_ONCE).to_pylist() == [
            {"rows": 3 * sequence, "distinct_rows": 3 * sequence, "newest": sequence}
        ]
    for _ in range(4):
        store.maintain()
        assert store.query(EACH_ONCE).to_pylist() == [{"rows": 30, "distinct_rows": 30, "newest": 10}]
    assert len(files(tmp_path, "segments")) == 4
    store.close()
    again = DuckDBStore(tmp_path)
    assert again.query(EACH_ONCE).to_pylist() == [{"rows": 30, "distinct_rows": 30, "newest": 10}]
    again.close()


def test_many_full_segments_become_one_however_few_rows_they_have(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Each is a file that every question opens."""
    store = TendedStore(tmp_path, Config(direct_rows=3, grace_seconds=0.0))
    for sequence in range(1, 64):
        store.append([make_frame(sequence)])
    store.maintain()
    assert len(files(tmp_path, "segments")) == 63
    store.append([make_frame(64)])
    for _ in range(2):
        store.maintain()
    assert len(files(tmp_path, "segments")) == 1
    assert store.query(EACH_ONCE).to_pylist() == [{"rows": 192, "distinct_rows": 192, "newest": 64}]
    store.close()


def test_a_damaged_segment_does_not_keep_others_from_becoming_one(tmp_path: Path, make_frame: MakeFrame) -> None:
    """It is left out and told of; the next attempt does without it."""
    store = TendedStore(tmp_path, Config(direct_rows=3, merge_rows=9, grace_seconds=0.0))
    for sequence in range(1, 5):
        store.append([make_frame(sequence)])
    damaged = tmp_path / "segments" / "steps" / files(tmp_path, "segments")[1]
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"\0" * 8)
    for _ in range(3):
        store.maintain()
    assert store.query(EACH_ONCE).to_pylist() == [{"rows": 9, "distinct_rows": 9, "newest": 4}]
    assert len(files(tmp_path, "segments")) == 2
    store.close()


def test_old_hot_rows_are_sealed_however_few(
    store: DuckDBStore, tmp_path: Path, clock: Clock, make_frame: MakeFrame
) -> None:
    """A quiet table does not keep its rows hot for ever."""
    store.append([make_frame(1)])
    clock.pass_seconds(99)
    store.maintain()
    assert files(tmp_path, "segments") == []
    clock.pass_seconds(1)
    store.maintain()
    assert len(files(tmp_path, "segments")) == 1
    assert store.query(EACH_ONCE).to_pylist() == [{"rows": 3, "distinct_rows": 3, "newest": 1}]


def test_small_segments_become_one(store: DuckDBStore, tmp_path: Path, clock: Clock, make_frame: MakeFrame) -> None:
    """Four segments of a quiet table are written as one; the old files go once no reader can hold them."""
    for sequence in range(1, 5):
        store.append([make_frame(sequence, rows=2)])
        clock.pass_seconds(100)
        store.maintain()
    listed = catalog.read(tmp_path).tables["steps"].segments
    assert len(listed) == 1
    assert len(files(tmp_path, "segments")) == 5
    assert store.query(EACH_ONCE).to_pylist() == [{"rows": 8, "distinct_rows": 8, "newest": 4}]
    clock.pass_seconds(61)
    store.maintain()
    assert files(tmp_path, "segments") == [Path(listed[0]).name]


def test_small_tables_stay_in_the_duckdb_file(tmp_path: Path) -> None:
    """Log events are never sealed, and their hot files are merged before they grow many."""
    store = TendedStore(tmp_path)
    for number in range(100):
        rows = LOG_EVENTS.from_rows([{"message": f"line {number}", "time_ns": number}])
        store.write([Batch(LOG_EVENTS.name, "test", rows)])
        store.maintain()
    assert files(tmp_path, "segments", "log_events") == []
    assert len(catalog.read(tmp_path).tables["log_events"].chunks) <= 33
    found = store.query("SELECT message FROM log_events").to_pylist()
    assert [row["message"] for row in found] == [f"line {number}" for number in range(100)]
    store.close()


def test_a_torn_segment_is_told_and_the_rest_serves(
    store: DuckDBStore, tmp_path: Path, clock: Clock, make_frame: MakeFrame
) -> None:
    """One file cut short costs its own rows, is named in source_health, and comes back when it is put right."""
    for sequence in range(1, 9):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    torn = sorted((tmp_path / "segments" / "steps").glob("*.parquet"))[0]
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    reopened = DuckDBStore(tmp_path, clock=clock)
    assert reopened.query(EACH_ONCE).to_pylist() == [{"rows": 12, "distinct_rows": 12, "newest": 8}]
    told = reopened.query("SELECT subject, state, reason FROM source_health").to_pylist()
    assert [(row["subject"], row["state"]) for row in told] == [(f"segments/steps/{torn.name}", "refused")]
    assert "steps" in told[0]["reason"]
    reopened.close()
    torn.write_bytes(whole)
    mended = DuckDBStore(tmp_path, clock=clock)
    assert mended.query(EACH_ONCE).to_pylist() == [{"rows": 24, "distinct_rows": 24, "newest": 8}]
    mended.close()


@pytest.mark.parametrize("harm", ["missing", "empty", "garbage", "flipped"])
def test_a_reader_leaves_out_what_is_damaged_under_it(
    store: DuckDBStore, tmp_path: Path, make_frame: MakeFrame, harm: str
) -> None:
    """A segment that goes bad while a reader is open costs its own rows, not the answer."""
    for sequence in range(1, 9):
        store.append([make_frame(sequence)])
        store.maintain()
    with CatalogReader(tmp_path) as reader:
        assert reader.query(EACH_ONCE).to_pylist()[0]["rows"] == 24
        path = sorted((tmp_path / "segments" / "steps").glob("*.parquet"))[0]
        _damage(path, harm)
        with CatalogReader(tmp_path) as fresh:
            assert fresh.query(EACH_ONCE).to_pylist() == [{"rows": 12, "distinct_rows": 12, "newest": 8}]
            assert [item.path for item in fresh.damaged] == [f"segments/steps/{path.name}"]
        assert reader.query("SELECT count(*) AS rows FROM log_events").to_pylist() == [{"rows": 0}]


def _damage(path: Path, harm: str) -> None:
    data = bytearray(path.read_bytes())
    if harm == "missing":
        path.unlink()
        return
    if harm == "flipped":  # the footer stays whole, every page does not
        footer = int.from_bytes(data[-8:-4], "little") + 8
        data[4:-footer] = bytes(255 - each for each in data[4:-footer])
    path.unlink()
    path.write_bytes({"empty": b"", "garbage": b"\xff" * len(data)}.get(harm, bytes(data)))


def test_a_reader_that_missed_a_change_of_files_asks_again(
    store: DuckDBStore, tmp_path: Path, clock: Clock, make_frame: MakeFrame
) -> None:
    """Files that were sealed and unlinked behind an open reader are no error."""
    store.append([make_frame(1)])
    with CatalogReader(tmp_path) as reader:
        reader.query(EACH_ONCE)
        for sequence in range(2, 20):
            store.append([make_frame(sequence)])
            store.maintain()
            clock.pass_seconds(120)
        store.maintain()
        assert reader.query(EACH_ONCE).to_pylist() == [{"rows": 57, "distinct_rows": 57, "newest": 19}]


def test_readers_never_see_a_row_twice_or_miss_one_while_sealing_runs(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Counts only grow, by whole frames, with no duplicates, while another thread appends, seals, compacts and unlinks."""
    store = TendedStore(tmp_path, Config(seal_rows=30, compact_files=2, chunks_max=4, grace_seconds=0.0))
    acknowledged = [0]

    def write() -> None:
        for sequence in range(1, 151):
            store.append([make_frame(sequence)])
            acknowledged[0] = sequence
            store.maintain()

    writer = threading.Thread(target=write)
    with CatalogReader(tmp_path) as reader:
        writer.start()
        newest = 0
        while newest < 150:
            before = acknowledged[0]
            row = reader.query(EACH_ONCE).to_pylist()[0]
            newest = row["newest"] or 0
            assert row["rows"] == row["distinct_rows"] == 3 * newest
            assert newest >= before
    writer.join()
    store.close()


def test_nothing_acknowledged_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    """kill -9 in the middle, five times over the same store: acknowledged is a part of stored, nothing twice, nothing torn."""
    dice = random.Random(7)
    for boot in (f"boot-{number}" for number in range(5)):
        newest = _write_and_kill(tmp_path, boot, lines=dice.randint(3, 25))
        store = DuckDBStore(tmp_path)
        stored = store.acknowledged("node", boot)
        assert stored >= newest
        rows = store.query(
            "SELECT step, count(*) AS rows, count(DISTINCT rank) AS ranks FROM steps WHERE job = ? GROUP BY step",
            [boot],
        ).to_pylist()
        assert sorted(row["step"] for row in rows) == list(range(1, stored + 1))
        assert {(row["rows"], row["ranks"]) for row in rows} == {(40, 40)}
        store.close()
        listed = catalog.read(tmp_path).tables["steps"]
        on_disk = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/steps/*")}
        assert on_disk == {*listed.segments, *listed.chunks}


def _write_and_kill(directory: Path, boot: str, lines: int) -> int:
    """The newest sequence that the writer told before it was killed."""
    command = [sys.executable, str(WRITER), str(directory), boot]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    return max(int(line) for line in told if line.endswith("\n"))


def test_a_store_without_its_duckdb_file_is_not_swept_away(
    store: DuckDBStore, tmp_path: Path, make_frame: MakeFrame
) -> None:
    """Losing the one file must not cost the segments: the store refuses to start and touches nothing."""
    for sequence in range(1, 9):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    before = files(tmp_path, "segments")
    (tmp_path / "warpline.duckdb").unlink()
    with pytest.raises(StoreError, match="holds rows but no"):
        DuckDBStore(tmp_path)
    assert files(tmp_path, "segments") == before


def test_a_young_store_without_its_duckdb_file_is_not_swept_away(
    store: DuckDBStore, tmp_path: Path, make_frame: MakeFrame
) -> None:
    """Nothing is sealed yet: the hot copies are all that is left of the rows."""
    store.append([make_frame(1)])
    store.close()
    before = files(tmp_path, "hot")
    (tmp_path / "warpline.duckdb").unlink()
    with pytest.raises(StoreError, match=r"put warpline\.duckdb back"):
        DuckDBStore(tmp_path)
    assert files(tmp_path, "hot") == before != []


@pytest.mark.parametrize("size", ["lots", "1", "", "-1GB", "1 PB"])
def test_a_size_that_is_none_is_told_before_the_file_is_opened(size: str) -> None:
    with pytest.raises(ValueError, match="is no size such as 1GB"):
        Config(memory_limit=size)


def test_a_store_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    """A damaged DuckDB file is told with its path, and the lock is given back."""
    (tmp_path / "warpline.duckdb").write_bytes(b"not a database" * 1_000)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"warpline\.duckdb cannot be opened"):
            DuckDBStore(tmp_path)


def test_a_directory_without_a_store_is_a_sentence(tmp_path: Path) -> None:
    """Asking the wrong directory names it."""
    with pytest.raises(StoreError, match="no store at"):
        CatalogReader(tmp_path / "nowhere")


def test_a_damaged_catalog_is_a_sentence(store: DuckDBStore, tmp_path: Path) -> None:
    """The next start of a collector writes it anew."""
    store.close()
    (tmp_path / catalog.NAME).write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        CatalogReader(tmp_path)
    DuckDBStore(tmp_path).close()
    CatalogReader(tmp_path).close()


def test_segments_are_small_and_of_a_form_any_reader_knows(tmp_path: Path, make_frame: MakeFrame) -> None:
    """Sealed rows are plain Parquet with the declared columns, zstd, whole numbers as deltas."""
    store = DuckDBStore(tmp_path, Config(seal_rows=1))
    store.append([make_frame(1, rows=1_000)])
    store.maintain()
    store.close()
    path = next((tmp_path / "segments" / "steps").glob("*.parquet"))
    column = pq.ParquetFile(path).metadata.row_group(0).column(pq.read_schema(path).get_field_index("start_ns"))
    assert (column.compression, "DELTA_BINARY_PACKED" in column.encodings) == ("ZSTD", True)
    assert pq.read_table(path).num_rows == 1_000


def test_segments_of_an_older_version_still_answer(
    store: DuckDBStore, tmp_path: Path, clock: Clock, make_frame: MakeFrame
) -> None:
    """A column that a segment does not have is NULL for its rows; the newer segments keep theirs."""
    for sequence in range(1, 9):
        store.append([make_frame(sequence)])
        store.maintain()
    store.close()
    document = json.loads((tmp_path / catalog.NAME).read_text())
    first = document["tables"]["steps"]["segments"].pop(0)
    document["tables"]["steps"]["older"].append(first)
    (tmp_path / catalog.NAME).write_text(json.dumps(document))
    pq.write_table(pq.read_table(tmp_path / first).drop_columns(["scope"]), tmp_path / first)
    with CatalogReader(tmp_path) as reader:
        found = reader.query(
            "SELECT scope, count(*) AS rows FROM steps GROUP BY scope ORDER BY rows, scope"
        ).to_pylist()
        assert sorted((row["scope"] or "", row["rows"]) for row in found) == [("", 12), ("step", 12)]


def test_a_commit_reckons_no_fingerprint_for_each_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of weeks has thousands of segments, and there are ten commits a second."""
    asked: list[Any] = []
    wanted = schema.fingerprint(TABLES["steps"].schema)
    monkeypatch.setattr(segments, "_FINGERPRINTS", {})

    def fingerprint(columns: Any) -> str:
        asked.append(columns)
        return wanted

    monkeypatch.setattr(segments, "fingerprint", fingerprint)
    listed = [segments.Segment(number, "steps", "path", 1, 1, wanted, 1, 1, 1) for number in range(1_000)]
    assert all(each.current for each in listed)
    assert len(asked) == 1


def test_a_small_table_of_many_rows_is_exported_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a start all of it is written anew: as one piece a year of logs would not fit into memory. Gaps cost no row."""
    monkeypatch.setattr(engine, "PART_ROWS", 10)
    rows = [{"node": "n", "kind": "xid", "time_ns": second * 10**9} for second in range(95)]
    store = DuckDBStore(tmp_path)
    store.write([Batch(LOG_EVENTS.name, "test", LOG_EVENTS.from_rows(rows))])
    store.close()
    with duckdb.connect(str(tmp_path / engine.FILE)) as file:
        file.execute("DELETE FROM log_events WHERE time_ns BETWEEN 15000000000 AND 44000000000")
    store = DuckDBStore(tmp_path)
    left = (
        store.query("SELECT time_ns // 1000000000 AS second FROM log_events ORDER BY ALL").column("second").to_pylist()
    )
    assert left == [*range(15), *range(45, 95)]
    store.close()
