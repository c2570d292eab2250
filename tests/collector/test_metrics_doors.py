"""What a monitoring system is told of the doors by which questions come: who is there, what was asked, and what had no answer."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_door import Door, begun, heard, opened, startup, told
from prometheus_client.parser import text_string_to_metric_families

from warpline_collector.metrics import families, text
from warpline_collector.metrics.snapshot import Snapshot
from warpline_collector.pool import KINDS
from warpline_collector.pool import Config as SqlConfig
from warpline_proto.errors import QueryError

SECONDS = "warpline_collector_sql_door_seconds_total"
FAILURES = "warpline_collector_sql_door_failures_total"
QUESTIONS = "warpline_collector_sql_door_questions_total"
REFUSED = "warpline_collector_postgres_sessions_refused_total"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """PostgreSQL's, before one worker that gives up after a second."""
    with opened(tmp_path, sql=SqlConfig(workers=1, seconds_max=1.0)) as each:
        yield each


def page(door: Door) -> bytes:
    """What /metrics says of a collector that has nothing but its doors."""
    pool = door.pool
    return text.text(
        families.families(
            Snapshot(
                now_ns=2 * 10**9,
                started_ns=10**9,
                frames=0,
                rows=0,
                refused=0,
                streams=0,
                queue_bytes=0,
                writer_seconds=0.0,
                standings=[],
                left_out=0,
                size=None,
                unreadable="there is none",
                newest=None,
                pass_failures=0,
                workers=pool.workers,
                workers_busy=pool.busy,
                questions=pool.asked,
                questions_failed=pool.failed,
                questions_waiting=pool.waiting,
                tallies=pool.tallies,
                sessions=door.endpoint.sessions(),
            )
        )
    )


def values(door: Door) -> dict[tuple[str, ...], float]:
    """Name and label values -> value."""
    return {
        (sample.name, *(sample.labels[each] for each in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(page(door).decode())
        for sample in family.samples
    }


def test_clients_questions_and_failures_of_postgres_are_told(door: Door) -> None:
    """One client that is let in, one of four questions with an answer, the others by what was wrong with them."""
    before = values(door)
    assert {key for key in before if key[0] == FAILURES} == {
        (FAILURES, name, kind) for name in ("grpc", "postgres") for kind in KINDS
    }
    assert before[SECONDS, "postgres"] == 0
    with begun(door) as connection:
        for sql in (
            b"SELECT 42",
            b"SELECT nothing FROM nowhere",
            b"SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
            b"DROP TABLE steps",
        ):
            connection.sendall(told(b"Q", sql + b"\0"))
            heard(connection, b"Z")
        after = values(door)
        assert after["warpline_collector_postgres_sessions",] == 1
    assert after["warpline_collector_postgres_sessions_total",] == 1
    assert (after[QUESTIONS, "postgres"], after[QUESTIONS, "grpc"]) == (4, 0)
    assert {key[2]: value for key, value in after.items() if key[0] == FAILURES and key[1] == "postgres" and value} == {
        "statement": 1,
        "time": 1,
        "refused": 1,
    }
    assert after[SECONDS, "postgres"] >= 1
    assert after["warpline_collector_sql_questions_total",] == 4
    assert after["warpline_collector_sql_questions_failed_total",] == 3


def test_those_who_are_turned_away_are_told_by_the_reason(door: Door) -> None:
    """Too many of one caller; the names that callers give themselves are in no label."""
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(begun(door, b"grafana"))
        connection = stack.enter_context(door.connect())
        connection.sendall(startup(b"grafana"))
        assert b"too many connections" in heard(connection, b"E")[-1][1]
        after = values(door)
    assert after["warpline_collector_postgres_sessions",] == 32
    assert {key[1]: value for key, value in after.items() if key[0] == REFUSED} == {"full": 0, "share": 1, "caller": 0}
    assert b"grafana" not in page(door)


def test_questions_in_process_are_counted_with_their_door(door: Door) -> None:
    """gRPC's door is told apart from PostgreSQL's."""
    with pytest.raises(QueryError):
        door.pool.query("SELECT nothing FROM nowhere")
    after = values(door)
    assert (after[QUESTIONS, "grpc"], after[FAILURES, "grpc", "statement"], after[QUESTIONS, "postgres"]) == (1, 1, 0)


def test_promtool_has_nothing_to_say_against_their_names(door: Door) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page(door), capture_output=True, check=False, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
