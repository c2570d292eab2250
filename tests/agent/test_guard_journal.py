"""The source `guard`: what the guard told arrives as rows, once, over restarts and changes of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.guard.journal import JOURNAL, Journal
from warpline_agent.sources.guard import GuardJournal, GuardJournalConfig
from warpline_proto.errors import Unsupported
from warpline_proto.tables import GUARD_ACTIONS

ROW = {
    "gpu_uuid": "GPU-1", "gpu_index": 0, "time_ns": 5, "action": "restore", "dry_run": False, "reason": "work",
    "sm_clock_mhz": None, "memory_clock_mhz": None, "call_ns": 7, "lowered_seconds": 1.5, "saved_joules": 66,
    "latency_ns": 9,
}  # fmt: skip


def source(folder: Path) -> GuardJournal:
    return GuardJournal(GuardJournalConfig(directory=str(folder), positions=str(folder / "positions.json")))


def read(reading: GuardJournal) -> tuple[list[dict[str, Any]], int]:
    rows: list[dict[str, Any]] = []
    dropped = 0
    for table, batch, lost in reading.read():
        assert table == GUARD_ACTIONS.name
        rows += batch.to_pylist()
        dropped += lost
    return rows, dropped


def test_an_action_becomes_a_row(tmp_path: Path) -> None:
    Journal(tmp_path).write(ROW)
    reading = source(tmp_path)
    reading.open()
    (row,), dropped = read(reading)
    assert {name: row[name] for name in ROW} == ROW
    assert dropped == 0
    assert read(reading) == ([], 0)
    reading.close()


def test_after_a_restart_nothing_comes_twice_and_nothing_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(ROW)
    first = source(tmp_path)
    first.open()
    read(first)
    first.close()
    journal.write({**ROW, "time_ns": 6})
    second = source(tmp_path)
    second.open()
    assert [row["time_ns"] for row in read(second)[0]] == [6]
    second.close()


def test_the_journal_is_bounded_and_followed_over_its_turns(tmp_path: Path) -> None:
    journal, times = Journal(tmp_path, bytes_max=2000), []
    journal.write({**ROW, "time_ns": 0})
    reading = source(tmp_path)
    reading.open()
    for time_ns in range(1, 50):
        journal.write({**ROW, "time_ns": time_ns})
        times += [row["time_ns"] for row in read(reading)[0]]
    assert times == list(range(50))
    assert sum(path.stat().st_size for path in tmp_path.glob(f"{JOURNAL}*")) <= 4000
    reading.close()


def test_lines_that_are_no_actions_are_counted_and_values_that_do_not_fit_are_unknown(tmp_path: Path) -> None:
    odd = {**ROW, "gpu_index": "zero", "call_ns": 2**70, "dry_run": 1, "more": "x"}
    lines = ["{", "[]", '{"time_ns": "now", "action": "lower"}', "[" * 100_000, json.dumps(odd)]
    (tmp_path / JOURNAL).write_text("\n".join(lines) + "\n")
    reading = source(tmp_path)
    reading.open()
    (row,), dropped = read(reading)
    assert (row["gpu_index"], row["call_ns"], row["dry_run"], row["action"]) == (None, None, None, "restore")
    assert dropped >= 4
    reading.close()


def test_rows_that_could_not_be_written_are_told_with_the_next(tmp_path: Path) -> None:
    blocked = tmp_path / JOURNAL
    blocked.mkdir()
    journal = Journal(tmp_path)
    assert not journal.write(ROW)
    assert not journal.write(ROW)
    blocked.rmdir()
    assert journal.write(ROW)
    reading = source(tmp_path)
    reading.open()
    rows, dropped = read(reading)
    assert (len(rows), dropped) == (1, 2)
    reading.close()


def test_without_a_guard_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no power guard"):
        source(tmp_path).open()
