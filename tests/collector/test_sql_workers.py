"""SQL of users: what is answered, what is refused, and that no question takes more than its bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from warpline_collector.pool import Config, WorkerPool
from warpline_collector.question import Question
from warpline_collector.statements import parse
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Frame
from warpline_proto.errors import QueryError

MakeFrame = Callable[..., Frame]
ENDLESS = "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with twelve rows that nobody runs."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def pool(directory: Path) -> Iterator[WorkerPool]:
    """Two workers."""
    DuckDBStore(directory).close()
    opened = WorkerPool(directory, Config(seconds_max=100.0, rows_max=1_000))
    yield opened
    opened.close()


def values(pool: WorkerPool, sql: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pool.query(sql).rows().to_pylist()
    return rows


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT 1 -- with a remark",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "FROM steps",
        "SHOW TABLES",
        "DESCRIBE steps",
        "SUMMARIZE steps",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT count(*) FROM steps",
        "SELECT now()",
        "SELECT 'é' AS \"ü\", 1::HUGEINT AS large, [1, 2] AS list",
    ],
)
def test_what_reads_is_answered(pool: WorkerPool, sql: str) -> None:
    """Everything that only reads works, in whatever dress."""
    assert pool.query(sql).payload


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "   -- nothing",
        "SELECT 1; SELECT 2",
        "COPY (SELECT 1) TO '/tmp/x'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x'",
        "ATTACH ':memory:' AS other",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CREATE TEMP TABLE x (a INT)",
        "DROP VIEW steps",
        "INSERT INTO steps (step) VALUES (1)",
        "WITH t AS (INSERT INTO steps (step) VALUES (1) RETURNING *) SELECT * FROM t",
        "BEGIN",
        "FROM checkpoint()",
        "SELECT 1) UNION (SELECT 2",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELEC 1",
        "SELECT * FROM no_such_table",
        pytest.param("SELECT " + "abs(" * 900 + "1" + ")" * 900, id="nested"),
    ],
)
def test_everything_else_is_refused_in_a_sentence(pool: WorkerPool, sql: str) -> None:
    """A refusal says what is wrong, and the worker lives on."""
    with pytest.raises(QueryError) as caught:
        pool.query(sql)
    assert 0 < len(str(caught.value)) < 2_500
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    "form",
    [
        "WITH t AS ({copy}) SELECT 1",
        "WITH t AS MATERIALIZED ({copy}) SELECT * FROM t",
        "(WITH t AS ({copy}) SELECT 1)",
        "EXPLAIN ANALYZE WITH t AS ({copy}) SELECT 1",
        "FROM json_execute_serialized_sql(json_serialize_sql('WITH t AS ({quoted}) SELECT 1'))",
        "FROM query('FROM json_execute_serialized_sql(json_serialize_sql(''WITH t AS ({twice}) SELECT 1''))')",
    ],
)
def test_a_select_that_hides_a_copy_writes_nothing(pool: WorkerPool, directory: Path, form: str) -> None:
    """The engine calls these SELECT and would overwrite a file of the store: they are stopped before they run."""
    victim = directory / "warpline.duckdb"
    before = victim.read_bytes()
    copy = f"COPY (SELECT 1 AS a) TO '{victim}' (FORMAT csv, USE_TMP_FILE false)"
    quoted = copy.replace("'", "''")
    with pytest.raises(QueryError):
        pool.query(form.format(copy=copy, quoted=quoted, twice=quoted.replace("'", "''")))
    assert victim.read_bytes() == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(100000000) a, range(100000000) b",
        ENDLESS,
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ],
)
def test_an_endless_question_is_stopped(pool: WorkerPool, sql: str) -> None:
    """Its worker is killed at the bound, and another one answers the next question."""
    with pytest.raises(QueryError, match=r"stopped|memory|Memory"):
        pool.query(sql, seconds_max=0.5)
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(lpad('x', 2000000000, 'y'))",
        "SELECT repeat('x', 2000000000)",
        "SELECT list(range) FROM range(1000000000)",
    ],
)
def test_a_greedy_question_costs_its_worker_at_most(pool: WorkerPool, sql: str) -> None:
    """What the engine's own memory limit does not see, the process's does."""
    with pytest.raises(QueryError):
        pool.query(sql, seconds_max=1.0)
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]


def test_more_rows_than_the_bound_are_cut_and_said_so(pool: WorkerPool) -> None:
    """The first rows come, in the order asked for, and the answer says there were more."""
    answer = pool.query("SELECT range AS n FROM range(5000) ORDER BY n DESC", rows_max=3)
    assert (answer.rows().column("n").to_pylist(), answer.truncated) == ([4999, 4998, 4997], True)
    assert answer.rows().schema.metadata[b"truncated"] == b"true"
    assert pool.query("SELECT range AS n FROM range(3)", rows_max=3).truncated is False
    assert pool.query("SELECT range AS n FROM range(5000)", rows_max=10**9).rows().num_rows == 1_000


def test_an_answer_too_wide_is_refused(pool: WorkerPool) -> None:
    """Few rows can be large too."""
    with pytest.raises(QueryError, match="the bound is"):
        pool.query("SELECT repeat('x', 1000000) AS wide FROM range(100)")


def test_workers_follow_a_store_that_grows(tmp_path: Path, make_frame: MakeFrame) -> None:
    """A worker that was started before the rows came sees them."""
    store = DuckDBStore(tmp_path)
    pool = WorkerPool(tmp_path, Config(workers=1))
    for sequence in range(1, 4):
        store.append([make_frame(sequence)])
        assert values(pool, "SELECT count(*) AS rows FROM steps") == [{"rows": 3 * sequence}]
    pool.close()
    pool.close()
    store.close()


def test_a_pool_over_no_store_says_so(tmp_path: Path) -> None:
    """The reason a worker could not start reaches whoever asked."""
    pool = WorkerPool(tmp_path / "nowhere", Config(workers=1))
    with pytest.raises(QueryError, match="no store at"):
        pool.query("SELECT 1")
    pool.close()


def test_a_statement_too_long_is_not_parsed() -> None:
    """The parser is not fed megabytes."""
    with pytest.raises(QueryError, match="longer than"):
        parse("SELECT " + "1," * 200_000 + "1")


def test_a_worker_that_was_ended_from_outside_costs_no_question(tmp_path: Path) -> None:
    """The machine ran out of memory and took an idle worker: the next question meets another one."""
    DuckDBStore(tmp_path).close()
    before = psutil.Process().children()
    pool = WorkerPool(tmp_path, Config(workers=1))
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]
    [process] = [child for child in psutil.Process().children() if child not in before]
    process.kill()
    psutil.wait_procs([process])
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]
    pool.close()


def test_a_machine_without_processes_left_is_told_and_got_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker can be started for a while: a sentence, and not one worker fewer for good."""
    DuckDBStore(tmp_path).close()
    pool = WorkerPool(tmp_path, Config(workers=1))

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr("warpline_collector.child.subprocess.Popen", refuse)
        with pytest.raises(QueryError, match="stopped"):
            pool.query(ENDLESS, seconds_max=0.2)
        with pytest.raises(QueryError, match="no SQL worker could be started"):
            pool.query("SELECT 1")
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]
    pool.close()


def test_a_question_that_is_taken_back_gives_its_worker_back_at_once(pool: WorkerPool) -> None:
    """Nobody waits for the answer any more: the query does not run on to its bound."""
    question = Question()
    ended = threading.Event()

    def ask() -> None:
        with pytest.raises(QueryError):
            pool.query(ENDLESS, question=question)
        ended.set()

    asking = threading.Thread(target=ask)
    asking.start()
    question.cancel()
    assert ended.wait(60.0), "it would have run for 100 s"
    asking.join()
    with pytest.raises(QueryError, match="taken back"):
        pool.query("SELECT 1", question=question)
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("-inf")])
def test_a_bound_that_is_none_is_refused(pool: WorkerPool, seconds: float) -> None:
    """Whatever a foreign client sends as a number of seconds."""
    with pytest.raises(QueryError, match="cannot be had"):
        pool.query("SELECT 1", seconds_max=seconds)


def test_a_store_that_is_gone_is_told_by_its_workers(tmp_path: Path) -> None:
    """Moved away: a sentence; put back: answers."""
    place = tmp_path / "store"
    DuckDBStore(place).close()
    pool = WorkerPool(place, Config(workers=1))
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(QueryError, match="no store at"):
        pool.query("SELECT 1")
    (tmp_path / "elsewhere").rename(place)
    assert values(pool, "SELECT 1 AS one") == [{"one": 1}]
    pool.close()
