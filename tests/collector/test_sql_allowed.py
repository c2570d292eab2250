"""The door for users' SQL: hostile statements, each refused in a sentence, and harmless ones that look alike, answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from warpline_collector.pool import Config, WorkerPool
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError
from warpline_proto.tables import STEPS

HOSTILE = """
SELECT * FROM read_text('{store}/warpline.duckdb')
SELECT size FROM read_blob('{store}/catalog.json')
SELECT * FROM read_text('/etc/passwd')
SELECT (SELECT content FROM read_text('{store}/catalog.json'))
SELECT * FROM steps WHERE job IN (SELECT content FROM read_text('{store}/catalog.json'))
WITH a AS (SELECT * FROM read_text('{store}/catalog.json')) SELECT * FROM a
EXPLAIN ANALYZE SELECT * FROM read_text('{store}/catalog.json')
SELECT * FROM glob('{store}/*')
SELECT * FROM glob('/etc/*')
SELECT * FROM read_csv('{store}/catalog.json')
SELECT * FROM read_csv(ARRAY['{store}/catalog.json'])
SELECT * FROM read_json('{store}/catalog.json')
SELECT * FROM read_json_auto('{store}/catalog.json')
SELECT * FROM read_ndjson_objects('{store}/catalog.json')
SELECT * FROM '{store}/catalog.json'
SELECT * FROM 'catalog.json'
SELECT * FROM '{segment}'
SELECT * FROM read_parquet('{segment}')
SELECT * FROM parquet_scan('{segment}')
SELECT * FROM parquet_metadata('{segment}')
SELECT * FROM parquet_schema('{segment}')
SELECT * FROM parquet_file_metadata('{segment}')
SELECT * FROM parquet_kv_metadata('{segment}')
SELECT * FROM parquet_bloom_probe('{segment}', 'rank', 1)
SELECT * FROM sniff_csv('{store}/catalog.json')
SELECT * FROM read_duckdb('{store}/warpline.duckdb')
SELECT * FROM '{store}/warpline.duckdb'
SELECT * FROM read_csv('http://127.0.0.1:1/x')
SELECT * FROM 's3://bucket/file.parquet'
SELECT * FROM sqlite_scan('x', 'y')
SELECT * FROM postgres_scan('x', 'y', 'z')
SELECT * FROM iceberg_scan('x')
SELECT getenv('HOME')
SELECT * FROM duckdb_secrets()
SELECT * FROM which_secret('s3://x', 's3')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_views()
SELECT * FROM duckdb_extensions()
SELECT * FROM duckdb_temporary_files()
SELECT * FROM pg_catalog.pg_settings
SELECT * FROM pg_views
SELECT current_setting('allowed_directories')
SELECT getvariable('x')
SELECT * FROM query('SELECT 1')
SELECT * FROM query('SELECT * FROM read_text(''{store}/catalog.json'')')
SELECT * FROM query_table('steps')
SELECT * FROM query_table('{store}/catalog.json')
SELECT * FROM query_table(['steps', '{segment}'])
FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
PRAGMA json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM pandas_scan(1)
SELECT * FROM python_map_function(1, 2)
SELECT write_log('x')
SELECT * FROM enable_logging()
SELECT * FROM truncate_duckdb_logs()
SELECT * FROM duckdb_logs()
SELECT * FROM checkpoint()
SELECT * FROM force_checkpoint()
SELECT * FROM start_ui()
WITH t AS (COPY steps TO '{store}/x.csv') SELECT 1
WITH t AS (INSERT INTO steps (step) VALUES (1) RETURNING *) SELECT * FROM t
WITH t AS (DELETE FROM steps RETURNING *) SELECT * FROM t
SELECT * FROM (COPY steps TO '{store}/x.csv')
COPY steps TO '{store}/x.csv'
COPY (SELECT 1) TO '/dev/stdout'
EXPORT DATABASE '{store}/x'
IMPORT DATABASE '{store}/x'
ATTACH '{store}/warpline.duckdb' AS other
ATTACH ':memory:' AS other
DETACH memory
USE other
INSTALL httpfs
LOAD httpfs
FORCE INSTALL httpfs
SET threads = 8
SET VARIABLE x = 1
RESET threads
PRAGMA database_list
PRAGMA enable_profiling
CALL pragma_version()
CALL enable_logging()
CREATE TABLE x (a INT)
CREATE TEMP TABLE x AS SELECT 1
CREATE OR REPLACE VIEW steps AS SELECT 1
CREATE MACRO f() AS TABLE SELECT * FROM read_text('/etc/passwd')
CREATE SECRET s (TYPE s3)
DROP VIEW steps
ALTER VIEW steps RENAME TO x
INSERT INTO steps (step) VALUES (1)
UPDATE steps SET step = 1
DELETE FROM steps
TRUNCATE steps
MERGE INTO steps USING steps AS s ON true WHEN MATCHED THEN DELETE
VACUUM
ANALYZE
BEGIN
COMMIT
PREPARE x AS SELECT 1
EXECUTE x
COMMENT ON VIEW steps IS 'x'
SELECT 1; DROP VIEW steps
SELECT 1) UNION ALL (SELECT content FROM read_text('/etc/passwd')
SELECT 1) t; DROP VIEW steps; SELECT * FROM (SELECT 1
""".strip().splitlines()

HARMLESS = """
SELECT 'read_text(''/etc/passwd'')' AS words
SELECT read_text FROM (SELECT 1 AS read_text)
SELECT "a.b" FROM (SELECT 1 AS "a.b") AS "c/d"
WITH summary AS (SELECT 1 AS a) SELECT * FROM summary
SELECT * FROM unnest([1, 2])
SELECT * FROM range(3), LATERAL (SELECT 1)
SELECT * FROM generate_series(1, 3)
SELECT * FROM json_each('[1, 2]')
SELECT * FROM information_schema.columns
SELECT * FROM pg_catalog.pg_tables
SELECT table_name FROM duckdb_columns()
SELECT * FROM pragma_table_info('steps')
SELECT * FROM (DESCRIBE steps)
SELECT * FROM (FROM steps PIVOT (count(*) FOR rank IN (0, 1)))
SELECT list_transform([1, 2], lambda x: x + 1)
WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT * FROM t
TABLE steps
VALUES (1)
SELECT version()
""".strip().splitlines()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one row, that nobody writes to while it is asked: the files lie open to whoever may name them."""
    directory = tmp_path_factory.mktemp("store")
    made = DuckDBStore(directory)
    made.write([Batch(STEPS.name, "test", STEPS.from_rows([{"job": "j", "rank": 0, "step": 1}]))])
    made.close()
    return directory


@pytest.fixture(scope="module")
def pool(store: Path) -> Iterator[WorkerPool]:
    """One worker, so that whatever a statement leaves behind meets the next one."""
    opened = WorkerPool(store, Config(workers=1, seconds_max=20.0))
    yield opened
    opened.close()


def contents(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("sql", HOSTILE)
def test_a_hostile_statement_is_refused_and_leaves_nothing_behind(pool: WorkerPool, store: Path, sql: str) -> None:
    """No file is read, written or named; the next question gets its row."""
    before = contents(store)
    segment = next((store / "hot" / "steps").glob("*.parquet"))
    with pytest.raises(QueryError) as caught:
        pool.query(sql.format(store=store, segment=segment))
    assert "process" not in str(caught.value), "it was refused, it did not end its worker"
    assert contents(store) == before
    assert pool.query("SELECT job, rank, step FROM steps").rows().to_pylist() == [{"job": "j", "rank": 0, "step": 1}]


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_harmless_statement_that_looks_alike_is_answered(pool: WorkerPool, sql: str) -> None:
    """Names are looked at where they are names, not as text."""
    assert pool.query(sql).rows().num_rows > 0 or "pg_tables" in sql
