"""What every store must hold, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warpline_collector.reader import CatalogReader
from warpline_collector.store import Store
from warpline_collector.stores import STORES
from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import QueryError, StoreError
from warpline_proto.tables import FINDINGS, TABLES

Open = Callable[[], Store]
MakeFrame = Callable[..., Frame]
COUNT = "SELECT count(*) AS rows, count(DISTINCT step) AS steps FROM steps"


@pytest.fixture(params=sorted(STORES))
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same directory again and again; closes what was left open."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(STORES[request.param](tmp_path))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def test_a_frame_sent_twice_is_stored_once(open_store: Open, make_frame: MakeFrame) -> None:
    """An agent that never saw the acknowledgement sends again, and no row counts double."""
    store = open_store()
    assert list(store.append([make_frame(1), make_frame(2)])) == [True, True]
    assert list(store.append([make_frame(2), make_frame(3), make_frame(3)])) == [False, True, False]
    assert store.query(COUNT).to_pylist() == [{"rows": 9, "steps": 3}]


def test_the_same_numbers_of_another_boot_or_agent_are_other_frames(open_store: Open, make_frame: MakeFrame) -> None:
    """A restarted agent begins at 1 again and loses nothing."""
    store = open_store()
    frames = [make_frame(1), make_frame(1, boot="boot-2"), make_frame(1, agent="node-2")]
    assert list(store.append(frames)) == [True, True, True]
    assert store.acknowledged("node-1", "boot-1") == 1
    assert store.acknowledged("node-1", "boot-3") == 0


def test_rows_come_back_in_the_order_they_were_sent(open_store: Open, make_frame: MakeFrame) -> None:
    """Order within a table is the order of arrival."""
    store = open_store()
    for sequence in range(1, 6):
        store.append([make_frame(sequence)])
    assert [row["step"] for row in store.query("SELECT step FROM steps").to_pylist()] == [
        step for step in range(1, 6) for _ in range(3)
    ]


def test_a_gap_is_stored_and_told(open_store: Open, make_frame: MakeFrame) -> None:
    """Frames that never arrive do not stop the ones behind them, and their absence is a row."""
    store = open_store()
    store.append([make_frame(1)])
    assert list(store.append([make_frame(5)])) == [True]
    assert store.acknowledged("node-1", "boot-1") == 5
    told = store.query("SELECT state, reason FROM source_health WHERE subject = 'agent node-1'").to_pylist()
    assert told == [{"state": "dropped", "reason": "3 frames never arrived or were refused: 2 to 4 of boot boot-1"}]


def test_rows_that_fell_off_at_the_agent_are_counted(open_store: Open, make_frame: MakeFrame) -> None:
    """`dropped` of a batch ends up where a user can ask for it."""
    store = open_store()
    store.append([make_frame(1, dropped=7)])
    store.append([make_frame(1, dropped=7)])
    told = store.query("SELECT source, subject, dropped FROM source_health WHERE dropped IS NOT NULL").to_pylist()
    assert told == [{"source": "synthetic", "subject": "steps", "dropped": 7}]


def test_other_processes_see_rows_at_once(open_store: Open, make_frame: MakeFrame, tmp_path: Path) -> None:
    """What append took is there for a reader that was already open, and for a new one."""
    store = open_store()
    with CatalogReader(tmp_path) as reader:
        for sequence in range(1, 4):
            store.append([make_frame(sequence)])
            assert reader.query(COUNT).to_pylist() == [{"rows": 3 * sequence, "steps": sequence}]
    with CatalogReader(tmp_path) as reader:
        assert reader.query(COUNT).to_pylist() == [{"rows": 9, "steps": 3}]


def test_every_table_exists_before_any_row(open_store: Open) -> None:
    """A question about a table without rows is answered, not refused, and has all its columns."""
    store = open_store()
    for table in TABLES.values():
        assert store.query(f"SELECT * FROM {table.name}").schema.equals(table.schema)


def test_rows_of_the_collectors_own_are_kept(open_store: Open) -> None:
    """Findings survive as well as telemetry does."""
    store = open_store()
    store.write([Batch(FINDINGS.name, "analysis", FINDINGS.from_rows([{"id": "x", "state": "open"}]))])
    store.close()
    assert open_store().query("SELECT id FROM current_findings").to_pylist() == [{"id": "x"}]


def test_everything_is_there_after_closing_and_opening(open_store: Open, make_frame: MakeFrame) -> None:
    """Rows and the ledger outlive the process."""
    store = open_store()
    store.append([make_frame(1), make_frame(2)])
    store.close()
    store.close()
    store = open_store()
    assert store.acknowledged("node-1", "boot-1") == 2
    assert list(store.append([make_frame(2), make_frame(3)])) == [False, True]
    assert store.query(COUNT).to_pylist() == [{"rows": 9, "steps": 3}]


def test_a_second_writer_is_told_so(open_store: Open) -> None:
    """Two collectors on one directory would undo each other: the second does not start."""
    open_store()
    with pytest.raises(StoreError, match="another collector"):
        open_store()


def test_a_question_that_fails_says_why(open_store: Open, make_frame: MakeFrame) -> None:
    """A wrong column is a sentence, and the next question works."""
    store = open_store()
    store.append([make_frame(1)])
    with pytest.raises(QueryError, match="no_such_column"):
        store.query("SELECT no_such_column FROM steps")
    assert store.query("SELECT count(*) AS rows FROM steps WHERE rank = ?", [1]).to_pylist() == [{"rows": 1}]


def test_maintaining_changes_no_answer(open_store: Open, make_frame: MakeFrame) -> None:
    """Housekeeping may be called at any time."""
    store = open_store()
    store.maintain()
    store.append([make_frame(1)])
    store.maintain()
    store.maintain()
    assert store.query(COUNT).to_pylist() == [{"rows": 3, "steps": 1}]


def test_a_closed_store_takes_nothing_and_says_so(open_store: Open, make_frame: MakeFrame) -> None:
    """What comes too late is refused, not lost in silence."""
    store = open_store()
    store.append([make_frame(1)])
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.append([make_frame(2)])
    with pytest.raises(StoreError, match="closed"):
        store.maintain()
    assert open_store().acknowledged("node-1", "boot-1") == 1


def test_rows_of_any_date_are_kept(open_store: Open) -> None:
    """Recorded rows may be years old and clocks may be wrong: what was just stored is not too old to be kept."""
    store = open_store()
    dates = [1, 10**18, 4 * 10**18, None]
    rows = [{"job": "a", "start_ns": date} for date in dates]
    store.write([Batch("phases", "test", TABLES["phases"].from_rows(rows))])
    for _ in range(3):
        store.maintain()
    store.close()
    store = open_store()
    store.maintain()
    assert sorted(store.query("SELECT start_ns FROM phases").to_pylist(), key=str) == sorted(
        ({"start_ns": date} for date in dates), key=str
    )


def test_rows_are_there_for_readers_when_no_store_is_open(
    open_store: Open, make_frame: MakeFrame, tmp_path: Path
) -> None:
    """A collector that is stopped leaves a directory that answers, hot rows included, and one that is started goes on."""
    store = open_store()
    store.append([make_frame(1), make_frame(2)])
    store.close()
    with CatalogReader(tmp_path) as reader:
        assert reader.query(COUNT).to_pylist() == [{"rows": 6, "steps": 2}]
        store = open_store()
        store.append([make_frame(3)])
        assert reader.query(COUNT).to_pylist() == [{"rows": 9, "steps": 3}]
        assert reader.damaged == ()
