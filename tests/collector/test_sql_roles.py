"""SQL by role: an operator sees everything, a viewer nothing that may speak of people, in whatever words it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from warpline_collector.audit import Audit
from warpline_collector.callers import LOCAL, Caller, Role
from warpline_collector.pool import Config, WorkerPool
from warpline_collector.question import Question, Unanswered
from warpline_collector.reader import CatalogReader
from warpline_collector.sight import OPERATORS_ONLY, PRIVATE
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import TABLES, table

SECRET = "secret-of-anna"
ANNA = Caller("anna", Role.VIEWER)
ROWS = {
    "gpu_processes": {"node": "n", "user": SECRET, "process": SECRET, "account": SECRET, "pid": 1, "time_ns": 1},
    "energy_intervals": {"node": "n", "user": SECRET, "account": SECRET, "pod": SECRET, "joules": 1.0, "start_ns": 1},
    "jobs": {"job": "j", "user": SECRET, "evidence": SECRET, "time_ns": 1},
    "log_events": {"node": "n", "kind": "xid", "message": SECRET, "time_ns": 1},
    "process_events": {"node": "n", "process": SECRET, "event": "read", "start_ns": 1},
    "stacks": {"node": "n", "thread_name": SECRET, "frames": [SECRET], "time_ns": 1},
    "audit": {"caller": SECRET, "subject": SECRET, "time_ns": 1},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One private row in every table that has any."""
    directory = tmp_path_factory.mktemp("store")
    made = DuckDBStore(directory)
    made.write([Batch(name, "test", table(name).from_rows([row])) for name, row in ROWS.items()])
    made.close()
    return directory


@pytest.fixture(scope="module")
def pool(store: Path) -> Iterator[WorkerPool]:
    """One worker for everybody: what one role asked is not there for the next."""
    opened = WorkerPool(store, Config(workers=1, seconds_max=20.0))
    yield opened
    opened.close()


def test_the_list_of_what_is_private_names_tables_and_columns_that_exist() -> None:
    """A column that is renamed must not become public."""
    assert set(TABLES) >= OPERATORS_ONLY
    for name, columns in PRIVATE.items():
        assert {column.name for column in TABLES[name].columns} >= columns
    assert set(ROWS) == OPERATORS_ONLY | set(PRIVATE)
    named = {"user", "account", "pod", "container", "message", "evidence"}
    for name in set(TABLES) - OPERATORS_ONLY:
        assert {column.name for column in TABLES[name].columns} & named <= PRIVATE.get(name, frozenset()), name


def test_an_operator_sees_every_column(pool: WorkerPool) -> None:
    for name in ROWS:
        assert SECRET in str(pool.query(f"SELECT * FROM {name}").rows().to_pylist())


def test_a_viewer_sees_no_private_value_in_any_table_or_view(pool: WorkerPool, store: Path) -> None:
    """Every relation there is, read whole; what is private is refused or NULL, the rest of the row is there."""
    with CatalogReader(store) as reader:
        shown = reader.query("SELECT view_name FROM duckdb_views() WHERE NOT internal").column(0).to_pylist()
    assert len(shown) > len(TABLES)
    for name in shown:
        if name in OPERATORS_ONLY:
            with pytest.raises(Unanswered, match="for operators only") as caught:
                pool.query(f'SELECT * FROM "{name}"', question=Question(ANNA))
            assert caught.value.sqlstate == "42501"
        else:
            assert SECRET not in str(pool.query(f'SELECT * FROM "{name}"', question=Question(ANNA)).rows().to_pylist())
    [row] = pool.query("SELECT node, pid FROM gpu_processes", question=Question(ANNA)).rows().to_pylist()
    assert row["pid"] == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM STACKS",
        'SELECT * FROM "Audit"',
        "SELECT * FROM main.audit",
        "SELECT * FROM memory.main.audit",
        "WITH a AS (SELECT * FROM audit) SELECT * FROM a",
        "SELECT (SELECT max(caller) FROM audit)",
        "SELECT 1 WHERE EXISTS (FROM audit)",
        "DESCRIBE audit",
        "SUMMARIZE stacks",
        "EXPLAIN SELECT * FROM audit",
        "SELECT * FROM steps POSITIONAL JOIN audit",
        "SELECT * FROM query_table('audit')",
        "SELECT * FROM query('FROM audit')",
    ],
)
def test_no_words_reach_what_is_for_operators(pool: WorkerPool, sql: str) -> None:
    with pytest.raises(Unanswered):
        pool.query(sql, question=Question(ANNA))


def test_an_agent_asks_nothing(pool: WorkerPool) -> None:
    """Its certificate is for pushing."""
    with pytest.raises(Unanswered, match="agents ask nothing"):
        pool.query("SELECT 1", question=Question(Caller("node-1", Role.AGENT, "node-1")))


def test_the_audit_tells_who_was_denied_what_and_counts_the_rest(tmp_path: Path) -> None:
    """A refused statement is there with its text and the reason, a question that was answered is a count."""
    made = DuckDBStore(tmp_path)
    audit = Audit(made.write, lambda: 10**18)
    asked = WorkerPool(tmp_path, Config(workers=1), audit)
    for _ in range(3):
        asked.query("SELECT 1", question=Question(ANNA, "postgres"))
    for sql in ("FROM audit", "DROP VIEW steps", "SELECT no_such_column FROM steps"):
        with pytest.raises(Unanswered):
            asked.query(sql, question=Question(ANNA))
    asked.query("SELECT 2", question=Question(LOCAL))
    audit.close()
    asked.close()
    found = made.query("SELECT caller, door, subject, outcome, count FROM audit ORDER BY ALL").to_pylist()
    made.close()
    assert [tuple(row.values()) for row in found] == [
        ("anna", "grpc", "DROP VIEW steps", "refused", 1),
        ("anna", "grpc", "FROM audit", "denied", 1),
        ("anna", "grpc", "SELECT no_such_column FROM steps", "failed", 1),
        ("anna", "postgres", None, "done", 3),
        (None, "grpc", None, "done", 1),
    ]
