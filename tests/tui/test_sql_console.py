"""The SQL console: what somebody sees and does who asks the store in words of their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from seen import SIZES, Database, app_over, go, settle, words
from textual.pilot import Pilot

from warpline_collector.described import columns, sentence, views
from warpline_proto.tables import TABLES
from warpline_tui.console import history
from warpline_tui.console.catalogue import Console, Relation, tables
from warpline_tui.console.completion import candidates
from warpline_tui.console.texts import cell, written
from warpline_tui.place import Place
from warpline_tui.widgets.result_grid import ResultGrid
from warpline_tui.widgets.sql_editor import Completion, SqlEditor

NOW = 1_800_000_000_000_000_000
CATALOGUE = {name: Relation(sentence(name), columns(name)) for name in (*TABLES, *views())}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "warpline" / "sql_history.jsonl"


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    made.add("steps", [{"job": "train", "rank": 0, "step": step, "duration_ns": 10**9 + step} for step in range(300)])
    yield made
    made.connection.close()


def grid(pilot: Pilot[None]) -> ResultGrid:
    return pilot.app.screen.query_one(ResultGrid)


async def typed(pilot: Pilot[None], sql: str) -> None:
    pilot.app.screen.query_one(SqlEditor).write(sql)
    await settle(pilot)


@pytest.mark.parametrize("size", SIZES)
async def test_one_key_leads_there_and_says_what_can_be_asked_for(database: Database, size: tuple[int, int]) -> None:
    console = Console(database.query, lambda: CATALOGUE)
    async with app_over(database, NOW, console=console).run_test(size=size) as pilot:
        await settle(pilot)
        await pilot.press("9")
        await settle(pilot)
        told = dict(zip(*(column.to_pylist() for column in grid(pilot).rows.columns), strict=True))
        assert told["steps"] == TABLES["steps"].meaning and told["current_findings"] == sentence("current_findings")
        assert grid(pilot).size.height >= 8, "there is room for rows"


async def test_a_statement_runs_once_by_f5_and_its_rows_scroll(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql"))
        await typed(pilot, "SELECT step, duration_ns FROM steps ORDER BY step")
        await pilot.press("f5")
        await settle(pilot)
        assert words(pilot, "#said").startswith("300 rows in ")
        assert "step: 0" in words(pilot, "#value")
        await pilot.press("G", "l")
        await settle(pilot)
        assert "duration_ns: 1000000299" in words(pilot, "#value")
        assert grid(pilot).scroll_offset.y > 250
        asked = database.asked.count("SELECT step, duration_ns FROM steps ORDER BY step")
        assert asked == 1
        for _ in range(3):
            pilot.app.ask(again=True)  # type: ignore[attr-defined]  # as the clock does each second
            await settle(pilot)
        assert database.asked.count("SELECT step, duration_ns FROM steps ORDER BY step") == asked


async def test_an_error_is_told_in_words_and_the_rows_before_stay(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql", sql="SELECT 42 AS answer"))
        assert "answer: 42" in words(pilot, "#value"), "what is brought here runs"
        await typed(pilot, "SELECT nothing FROM nowhere")
        await pilot.press("f5")
        await settle(pilot)
        assert "error: " in words(pilot, "#said") and "nowhere" in words(pilot, "#said")
        assert grid(pilot).rows.column_names == ["answer"]


async def test_a_cut_result_says_so(database: Database) -> None:
    def query(sql: str) -> pa.Table:
        return pa.table({"n": [1, 2]}).replace_schema_metadata({"truncated": "true", "damaged": "one file"})

    async with app_over(database, NOW, console=Console(query)).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql", sql="SELECT 1"))
        said = words(pilot, "#said")
        assert "cut: only the first 2, there are more" in " ".join(said.split())
        assert "left out, cannot be read: one file" in " ".join(said.split())


async def test_words_are_completed_with_what_they_mean(database: Database) -> None:
    async with app_over(database, NOW, console=Console(database.query, lambda: CATALOGUE)).run_test(
        size=(80, 24)
    ) as pilot:
        await go(pilot, Place("sql"))
        await pilot.press(*"SELECT * FROM dev")
        await settle(pilot)
        assert "▶ device_samples" in words(pilot, "Completion")
        await pilot.press("tab")
        await settle(pilot)
        editor = pilot.app.screen.query_one(SqlEditor)
        assert editor.text == "SELECT * FROM device_samples"
        assert not pilot.app.screen.query_one(Completion).display
        await pilot.press("space", *"WHERE power_w")
        await settle(pilot)
        assert "power_watts  board power [W]" in words(pilot, "Completion")
        await pilot.press("escape")
        await settle(pilot)
        assert not pilot.app.screen.query_one(Completion).display
        await pilot.press("f2")
        await settle(pilot)
        assert words(pilot, "#said").startswith("device_samples: one reading of one GPU")


async def test_what_was_run_comes_back_and_is_kept(database: Database, state: Path) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql"))
        for sql in ("SELECT 1", "SELECT 2", "SELECT 1"):
            await typed(pilot, sql)
            await pilot.press("f5")
            await settle(pilot)
        await pilot.press("e", "ctrl+up")
        await settle(pilot)
        editor = pilot.app.screen.query_one(SqlEditor)
        assert editor.text == "SELECT 1"
        await pilot.press("ctrl+up", "ctrl+up")
        await settle(pilot)
        assert editor.text == "SELECT 2"
        await pilot.press("ctrl+down", "ctrl+down")
        await settle(pilot)
        assert editor.text == ""
    assert history.read(state) == ["SELECT 2", "SELECT 1"]
    assert state.stat().st_mode & 0o077 == 0, "nobody else reads what was asked"


async def test_rows_are_copied_and_saved(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql", sql="SELECT 'a,b' AS x, 1 AS y"))
        await pilot.press("tab", "c")
        await settle(pilot)
        assert pilot.app.clipboard == 'x,y\n"a,b",1\n'
        await pilot.press("t")
        await settle(pilot)
        assert pilot.app.clipboard == "x\ty\na,b\t1\n"
        await pilot.press("f3")
        await settle(pilot)
        assert pilot.app.clipboard == "SELECT 'a,b' AS x, 1 AS y"
        await pilot.press("f9")
        await settle(pilot)
        pilot.app.screen.query_one("#line").value = str(file)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await settle(pilot)
    assert file.read_text() == "x\ty\na,b\t1\n"


async def test_an_answer_that_is_waited_for_no_longer_changes_nothing(database: Database) -> None:
    """F4 while the collector is still at it: the statement is ended there."""
    page: list[Any] = []
    stopped = threading.Event()

    def query(sql: str) -> pa.Table:
        pilot.app.call_from_thread(page[0].action_stop)
        assert stopped.wait(30)
        return pa.table({"late": [1]})

    console = Console(query, stop=stopped.set)
    async with app_over(database, NOW, console=console).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql"))
        page.append(pilot.app.screen)
        await typed(pilot, "SELECT 1")
        await pilot.press("f5")
        await settle(pilot)
        assert words(pilot, "#said").strip() == "Stopped."
        assert "late" not in grid(pilot).rows.column_names


async def test_a_collector_that_does_not_answer_takes_no_key(database: Database) -> None:
    database.down = True
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("sql", sql="SELECT 1"))
        assert "no collector answers" in words(pilot, "#said")
        await pilot.press("end", *" + 1")
        await settle(pilot)
        assert pilot.app.screen.query_one(SqlEditor).text == "SELECT 1 + 1"


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        ("SELECT p", " FROM device_samples", "power_watts"),
        ("SELECT d.pow", " FROM device_samples d JOIN steps s USING (job)", "power_watts"),
        ("SELECT power_w", "", "power_watts"),
        ("SELECT * FROM ste", "", "steps"),
        ("SELECT * FROM steps JOIN dev", "", "device_samples"),
        ("sel", "", "SELECT"),
        ("SELECT job, watts", " FROM device_samples", "power_watts"),
    ],
)
def test_what_comes_first_is_what_fits_where_the_cursor_is(before: str, after: str, first: str) -> None:
    found = candidates(before + after, len(before), tables())
    assert found.listed[0].text == first


@pytest.mark.parametrize("before", ["SELECT 'ste", "-- ste", "SELECT 1", "SELECT * FROM steps", "/* ste", ""])
def test_nothing_is_offered_in_texts_comments_numbers_and_whole_names(before: str) -> None:
    assert not candidates(before, len(before), tables()).listed


def test_a_history_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert history.read(tmp_path / "none") == []
    (tmp_path / "odd").write_bytes(b'{"sql": 3}\nno json\n[]\n{"sql": "SELECT 1"}\n\xff\n')
    assert history.read(tmp_path / "odd") == ["SELECT 1"]


def test_copies_are_bounded_by_whole_rows() -> None:
    rows = pa.table({"n": list(range(1000)), "words": ["two\nlines"] * 1000})
    said, count = written(rows, bytes_max=200)
    assert len(said.encode()) <= 200 and said.endswith('"two\nlines"\n') and 0 < count < 1000
    assert said.count("two") == count
    assert cell(None) == "NULL" and cell("two\nlines") == "two lines"
