"""The PostgreSQL door with the real psycopg: parameters, types in text and binary, cursors, transactions, errors."""

from __future__ import annotations

import datetime
import decimal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from postgres_door import Door, opened

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

ENDLESS = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"
VALUES: list[Any] = [
    1, -(2**15), 2**31 - 1, 2**62, 1.5, float("inf"), "it's \N{SNOWMAN}", "", True, None, b"\x00\xff",
    datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC), datetime.date(1999, 12, 31),
    decimal.Decimal("-1234567890.0125"), decimal.Decimal("0.00001"), decimal.Decimal(10**30), [1, 2, None],
]  # fmt: skip


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One door for all."""
    with opened(tmp_path_factory.mktemp("store")) as each:
        yield each


@pytest.fixture
def connection(door: Door) -> Iterator[Any]:
    """A connection over TCP."""
    with psycopg.connect(f"host=127.0.0.1 port={door.port} user=me dbname=warpline") as each:
        yield each


@pytest.mark.parametrize("form", ["%s", "%t", "%b"])
@pytest.mark.parametrize("binary", [False, True])
def test_a_value_comes_back_as_it_went(connection: Any, form: str, binary: bool) -> None:
    """As a parameter in text and binary, and as a result in both."""
    sql = "SELECT " + ", ".join([form] * len(VALUES))
    assert list(connection.cursor(binary=binary).execute(sql, VALUES).fetchone()) == VALUES


@pytest.mark.parametrize("binary", [False, True])
def test_types_of_the_engine_have_their_like(connection: Any, binary: bool) -> None:
    """What a question can answer with, as Python has it; what PostgreSQL has no type for comes as JSON."""
    sql = """
    SELECT sum(rank), 12345678901234567890::UBIGINT, 1::TINYINT, 1.5::REAL, [[1], [2]], {'a': 1}, ['x y', NULL, '"'],
        'e'::ENUM ('e'), INTERVAL '1 day 2 hours', TIMESTAMP '2026-01-02 03:04:05', [1.5::DOUBLE], 'nan'::DOUBLE <> 0,
        [true], ''::BLOB
    FROM steps
    """
    row = connection.cursor(binary=binary).execute(sql).fetchone()
    assert list(row) == [
        12, 12345678901234567890, 1, 1.5, [[1], [2]], {"a": 1}, ["x y", None, '"'], "e", datetime.timedelta(1, 7200),
        datetime.datetime(2026, 1, 2, 3, 4, 5), [1.5], True, [True], b"",
    ]  # fmt: skip


def test_parameters_choose_rows(connection: Any) -> None:
    """Numbers beside numbers, texts beside texts, lists for ANY; the twentieth time as the first."""
    sql = "SELECT count(*) FROM steps WHERE rank >= %s AND job = %s AND step = ANY(%s)"
    for _ in range(20):
        assert connection.execute(sql, (1, "j", [0, 1])).fetchone() == (4,)
    assert connection.execute(
        "SELECT count(*) FROM steps WHERE rank = %(r)s OR rank = %(r)s", {"r": "2"}
    ).fetchone() == (4,)
    assert connection.execute("SELECT '%%', $$ $1 $$, %s", (None,)).fetchone() == ("%", " $1 ", None)


def test_a_hundred_thousand_rows_come_whole(connection: Any) -> None:
    """As many as a question may answer with, and word of it where there are more."""
    said: list[str] = []
    connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
    rows = connection.execute("SELECT range, range / 2.0, 'name ' || range, NULL FROM range(100000)").fetchall()
    assert (len(rows), rows[-1]) == (100_000, (99_999, 49_999.5, "name 99999", None))
    assert said == []
    assert len(connection.execute("SELECT range FROM range(100001)").fetchall()) == 100_000
    assert said == ["only the first 100000 rows: there are more"]


def test_a_transaction_goes_as_clients_know_it(connection: Any) -> None:
    """What failed fails on until ROLLBACK, savepoints and all, and nothing was changed by any of it."""
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.execute("SELECT no_such_column FROM steps")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("SELECT 1")
    connection.rollback()
    with connection.transaction():
        with pytest.raises(psycopg.errors.UndefinedTable), connection.transaction():
            connection.execute("SELECT 1 FROM no_such_table")
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELEC 1", "SyntaxError"), ("SELECT no_such_column FROM steps", "UndefinedColumn"), ("FROM nothing", "UndefinedTable"),
        ("DROP VIEW steps", "ReadOnlySqlTransaction"), ("SELECT 'x'::INT", "InvalidTextRepresentation"),
        ("SELECT repeat('x', 100000000)", "OutOfMemory"), ("SELECT repeat('x', 1000000) FROM range(100)", "Error"),
    ],
)  # fmt: skip
def test_a_failure_is_of_its_kind(connection: Any, sql: str, kind: str) -> None:
    """By the letters that PostgreSQL has for it, with words and what to do."""
    with pytest.raises(psycopg.Error) as caught:
        connection.execute(sql)
    assert kind in {each.__name__ for each in type(caught.value).__mro__}
    assert caught.value.diag.message_primary


def test_a_named_cursor_brings_rows_bit_by_bit(connection: Any) -> None:
    """Within its transaction, forward only."""
    with connection.cursor("mine") as cursor:
        cursor.itersize = 3
        cursor.execute("SELECT range FROM range(10) WHERE range <> %s", (5,))
        assert [row[0] for row in cursor] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    with pytest.raises(psycopg.Error, match="forward only"):
        connection.execute("FETCH BACKWARD 1 FROM mine")


def test_pipelines_copies_and_streams(connection: Any) -> None:
    """Messages on top of each other, rows by COPY, rows one at a time."""
    with connection.pipeline():
        asked = [connection.execute("SELECT %s::INT + 1", (number,)) for number in range(50)]
    assert [each.fetchone()[0] for each in asked] == list(range(1, 51))
    with connection.cursor().copy("COPY (SELECT range, E'a\\tb' FROM range(3)) TO STDOUT") as copied:
        assert list(copied.rows()) == [("0", "a\tb"), ("1", "a\tb"), ("2", "a\tb")]
    assert [row[0] for row in connection.cursor().stream("SELECT range FROM range(100)")] == list(range(100))
    with connection.cursor() as cursor:
        cursor.executemany("SELECT %s", [(1,), (2,)], returning=True)
        assert cursor.fetchone() is not None


def test_a_question_is_cancelled_by_whoever_asked_it(door: Door, connection: Any) -> None:
    """From another thread, over a connection of its own; the session goes on."""
    over = threading.Event()

    def cancel() -> None:
        while not over.wait(0.05):
            if door.endpoint.asking:  # what comes before the question ends nothing
                connection.cancel_safe()  # the other way would hold up the door, which is in this process
                over.wait(1.0)

    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    with pytest.raises(psycopg.errors.QueryCanceled, match="taken back"):
        connection.execute(ENDLESS)
    over.set()
    cancelling.join()
    connection.rollback()
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_client_that_goes_away_takes_its_question_back(door: Door) -> None:
    """The only worker is free long before the question's bound."""
    gone = psycopg.connect(f"host=127.0.0.1 port={door.port} user=me", autocommit=True)
    gone.pgconn.send_query(ENDLESS.encode())
    gone.pgconn.flush()
    gone.pgconn.finish()
    with psycopg.connect(f"host=127.0.0.1 port={door.port} user=me") as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_many_ask_at_once(door: Door) -> None:
    """Each hears its own answer, or is told to come back."""

    def ask(number: int) -> int:
        with psycopg.connect(f"host={door.folder} port=5433 user=me") as connection:
            found: int = connection.execute("SELECT %s::INT", (number,)).fetchone()[0]
            return found

    with ThreadPoolExecutor(16) as askers:
        assert list(askers.map(ask, range(48))) == list(range(48))


GRAFANA = """
SELECT quote_ident(table_name) AS "table" FROM information_schema.tables
WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache', 'timescaledb_information')
  AND quote_ident(table_schema) IN (
    SELECT CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
    FROM generate_series(
        array_lower(string_to_array(current_setting('search_path'), ','), 1),
        array_upper(string_to_array(current_setting('search_path'), ','), 1)
    ) AS i, string_to_array(current_setting('search_path'), ',') s
  )
"""
"""How Grafana's query builder lists tables."""


def test_grafanas_pickers_find_tables_and_columns(connection: Any) -> None:
    """The tables that it offers, their columns, the server's version."""
    offered = {name for (name,) in connection.execute(GRAFANA).fetchall()}
    assert {"steps", "kernel_totals", "device_samples"} <= offered
    columns = connection.execute(
        'SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns '
        "WHERE CASE WHEN array_length(parse_ident('steps'), 1) = 2 THEN false ELSE quote_ident(table_name) = 'steps' END"
    ).fetchall()
    assert ("duration_ns", "bigint") in columns
    assert connection.execute("SELECT current_setting('server_version_num')::int / 100").fetchone()[0] == 1400
    assert connection.execute("SELECT extname FROM pg_extension WHERE extname = 'timescaledb'").fetchall() == []
