"""Databases of an eBPF tracer: what was traced is read, what the tracer concluded is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from warpline_agent.recordings.archive import Limits, file_input
from warpline_agent.source import Reading
from warpline_agent.sources import FORMATS
from warpline_agent.sources.ingero import Ingero
from warpline_proto.errors import Refused

SCHEMA = """
CREATE TABLE events (timestamp INTEGER, pid INTEGER, tid INTEGER, source INTEGER, op INTEGER, duration INTEGER,
    stack_hash INTEGER);
CREATE TABLE ops (source_id INTEGER, op_id INTEGER, name TEXT);
CREATE TABLE process_names (pid INTEGER, name TEXT);
CREATE TABLE stack_traces (hash INTEGER, frames TEXT);
CREATE TABLE event_aggregates (bucket INTEGER, source INTEGER, op INTEGER, pid INTEGER, count INTEGER, stored INTEGER,
    sum_dur INTEGER, max_dur INTEGER);
INSERT INTO ops VALUES (1, 5, 'cudaStreamSync');
INSERT INTO process_names VALUES (7, 'python3');
"""
MINUTE = 60 * 10**9
START = 30_000_000 * MINUTE


def recorded(data: Path, name: str) -> Reading:
    file = data / "F-nsys" / "ingero" / f"{name}.db.gz"
    candidate = file_input(file, str(file), Limits())
    assert next(each for each in FORMATS if each.recognises(candidate)).name == "ingero"
    return Ingero().read(candidate)


def made(tmp_path: Path, *statements: str) -> Reading:
    file = tmp_path / "trace.db"
    with sqlite3.connect(file) as database:
        database.executescript(SCHEMA)
        for statement in statements:
            database.execute(statement)
    database.close()
    return Ingero().read(file_input(file, str(file), Limits()))


def rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for each in reading.rows if each.table == table for row in each.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "events", "stacks", "node"),
    [
        ("pytorch-dataloader-starvation", 3807, 21, None),
        ("sample-gpu-node-01", 200, 8, "gpu-node-01"),
        ("sample-gpu-node-02", 200, 1, "gpu-node-02"),
        ("sample-gpu-node-03", 200, 1, "gpu-node-03"),
    ],
)
def test_every_event_of_a_recorded_database_is_read(
    data: Path, name: str, events: int, stacks: int, node: str | None
) -> None:
    reading = recorded(data, name)
    assert reading.facts["events"] == events
    assert len([row for row in rows(reading, "process_events") if row["count"] is None]) == events
    assert len(rows(reading, "stacks")) <= stacks
    assert reading.origin.node == node
    assert all(0 <= row["cpu_percent"] <= 100 and row["cpu_count"] == 4 for row in rows(reading, "host_samples"))


@pytest.mark.data
def test_the_tracers_own_verdicts_are_nowhere_in_the_rows(data: Path) -> None:
    told = str([each.batch.to_pylist() for each in recorded(data, "sample-gpu-node-01").rows])
    assert not [word for word in ("HIGH", "MEDIUM", "p99", "root cause", "tail") if word in told]


def test_events_carry_process_kind_and_clock(tmp_path: Path) -> None:
    (row,) = rows(made(tmp_path, f"INSERT INTO events VALUES ({START}, 7, 8, 1, 5, 30, 0)"), "process_events")
    assert (row["process"], row["event"], row["kind"], row["thread"]) == ("python3", "cudaStreamSync", "gpu_wait", 8)
    assert (row["start_ns"], row["duration_ns"], row["count"]) == (START, 30, None)


def test_what_was_only_counted_is_kept_beside_what_was_stored(tmp_path: Path) -> None:
    """Five in the minute, one of them stored: the row for the other four has their time alone."""
    reading = made(
        tmp_path,
        f"INSERT INTO events VALUES ({START + 5}, 7, 7, 1, 5, 30, 0)",
        f"INSERT INTO event_aggregates VALUES ({START}, 1, 5, 7, 5, 1, 130, 40)",
        f"INSERT INTO event_aggregates VALUES ({START + MINUTE}, 1, 5, 7, 2, 2, 80, 40)",
    )
    (left,) = (row for row in rows(reading, "process_events") if row["count"] is not None)
    assert (left["count"], left["duration_ns"], left["max_ns"], left["start_ns"]) == (4, 100, 40, START)


def test_frames_of_a_stack_name_symbol_and_library(tmp_path: Path) -> None:
    reading = made(
        tmp_path,
        f"INSERT INTO events VALUES ({START}, 7, 8, 1, 5, 30, 99)",
        """INSERT INTO stack_traces VALUES (99, '[{"s":"cudaMalloc+0x1","f":"libcudart.so"},{"i":"0x7f"}]')""",
    )
    (stack,) = rows(reading, "stacks")
    assert (stack["frames"], stack["count"], stack["thread_name"]) == (
        ["cudaMalloc+0x1 (libcudart.so)", "0x7f"],
        1,
        "python3",
    )


def test_a_database_of_another_shape_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="has no table process_names"):
        made(tmp_path, "DROP TABLE process_names")
    (tmp_path / "trace.db").unlink()
    with pytest.raises(Refused, match="without column 'duration'"):
        made(tmp_path, "ALTER TABLE events DROP COLUMN duration", f"INSERT INTO events VALUES ({START}, 7, 8, 1, 5, 0)")
