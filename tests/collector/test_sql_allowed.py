"""The door for users' SQL: hostile statements, each refused in a sentence, and harmless ones that look alike, answered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import duckdb
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
SELECT * FROM ReAd_TeXt('/etc/passwd')
SELECT * FROM "read_text"('/etc/passwd')
SELECT * FROM main.read_text('/etc/passwd')
SELECT * FROM system.main.read_text('/etc/passwd')
SELECT/**/*/**/FROM/**/read_text/**/('/etc/passwd')
SELECT * FROM read_text -- a remark {newline} ('/etc/passwd')
SELECT * FROM read_text(getenv('HOME') || '/x')
SELECT * FROM read_text(chr(47) || 'etc' || chr(47) || 'passwd')
SELECT * FROM read_text(U&'\\002Fetc\\002Fpasswd')
SELECT * FROM read_blob(['/etc/passwd', '/etc/group'])
SELECT * FROM read_csv('/proc/self/environ', delim = '=')
SELECT * FROM read_csv_auto('/proc/self/maps')
SELECT * FROM '/proc/self/environ'
SELECT * FROM "/etc/passwd"
SELECT * FROM "file:///etc/passwd"
SELECT * FROM 'C:\\\\x.csv'
SELECT * FROM '~/x.csv'
SELECT * FROM '*.parquet'
SELECT * FROM 'x.json?'
SELECT * FROM (SELECT * FROM (SELECT * FROM '/etc/passwd'))
SELECT * FROM steps UNION ALL BY NAME FROM '/etc/passwd'
SELECT * FROM steps, LATERAL (SELECT * FROM read_text('/etc/passwd'))
SELECT * FROM steps ASOF JOIN '/etc/passwd' USING (job)
SELECT * FROM steps WHERE EXISTS (FROM read_text('/etc/passwd'))
SELECT list_transform([1], lambda x: (SELECT content FROM read_text('/etc/passwd')))
SELECT (FROM read_text('/etc/passwd') SELECT content)
SELECT CASE WHEN true THEN (SELECT content FROM read_text('/etc/passwd')) END
SELECT * FROM unnest((SELECT list(content) FROM read_text('/etc/passwd')))
SELECT * FROM range((SELECT length(content) FROM read_text('/etc/passwd')))
SELECT row_number() OVER (ORDER BY (SELECT content FROM read_text('/etc/passwd')))
FROM steps SELECT * EXCLUDE (job) ORDER BY (SELECT content FROM read_text('/etc/passwd'))
SELECT 1 LIMIT (SELECT length(content) FROM read_text('/etc/passwd'))
WITH RECURSIVE t AS (SELECT content FROM read_text('/etc/passwd') UNION ALL SELECT * FROM t) SELECT * FROM t
PIVOT (SELECT * FROM read_text('/etc/passwd')) ON filename
PIVOT read_text('/etc/passwd') ON filename USING count(*)
UNPIVOT (SELECT * FROM read_text('/etc/passwd')) ON COLUMNS(*)
DESCRIBE SELECT * FROM read_text('/etc/passwd')
SUMMARIZE '/etc/passwd'
SUMMARIZE read_text('/etc/passwd')
DESCRIBE '/etc/passwd'
SHOW '/etc/passwd'
EXPLAIN SELECT * FROM '/etc/passwd'
EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM read_text('/etc/passwd')
EXPLAIN ANALYZE CREATE TABLE x (a INT)
EXPLAIN EXPLAIN SELECT 1
TABLE '/etc/passwd'
VALUES ((SELECT content FROM read_text('/etc/passwd')))
SELECT * FROM query('SELECT ' || '1')
SELECT * FROM query($$SELECT * FROM read_text('/etc/passwd')$$)
SELECT * FROM query_table(['read_text'])
SELECT * FROM query_table('duckdb_settings()')
SELECT json_execute_serialized_sql('x')
SELECT * FROM json_execute_serialized_sql('x')
SELECT * FROM read_json_objects('/etc/passwd')
SELECT * FROM read_ndjson('/etc/passwd')
SELECT * FROM read_ndjson_auto('/etc/passwd')
SELECT * FROM read_xlsx('/x')
SELECT * FROM read_avro('/x')
SELECT * FROM st_read('/x')
SELECT * FROM delta_scan('/x')
SELECT * FROM sqlite_attach('/x')
SELECT * FROM load_aws_credentials()
SELECT * FROM seq_scan('steps')
SELECT * FROM storage_info('steps')
SELECT * FROM pragma_storage_info('steps')
SELECT * FROM pragma_database_size()
SELECT * FROM pragma_database_list()
SELECT * FROM pragma_platform()
SELECT * FROM pragma_user_agent()
SELECT * FROM pragma_last_profiling_output()
SELECT * FROM pragma_metadata_info()
SELECT * FROM duckdb_approx_database_count()
SELECT * FROM duckdb_dependencies()
SELECT * FROM duckdb_external_file_cache()
SELECT * FROM duckdb_log_contexts()
SELECT * FROM duckdb_memory()
SELECT * FROM duckdb_optimizers()
SELECT * FROM duckdb_prepared_statements()
SELECT * FROM duckdb_secret_types()
SELECT * FROM duckdb_variables()
SELECT * FROM duckdb_which_secret('x', 's3')
SELECT * FROM parse_duckdb_log_message('QueryLog', 'x')
SELECT * FROM test_all_types()
SELECT * FROM test_vector_types(1)
SELECT * FROM sql_auto_complete('SEL')
SELECT * FROM enable_profiling()
SELECT * FROM set_config('threads', '8')
SELECT current_setting('temp_directory')
SELECT CURRENT_SETTING('home_directory')
SELECT "current_setting"('secret_directory')
SELECT main.current_setting('threads')
SELECT system.main.current_setting('threads')
SELECT list_transform(['threads'], lambda s: current_setting(s))
SELECT pg_catalog.current_setting('threads')
SELECT * FROM system.pg_catalog.pg_settings
SELECT * FROM system.main.duckdb_views
SELECT sql FROM duckdb_views
SELECT sql FROM sqlite_master
SELECT sql FROM SQLITE_SCHEMA
SELECT * FROM sqlite_temp_master
SELECT * FROM sqlite_temp_schema
SELECT view_definition FROM information_schema.views
SELECT * FROM memory.information_schema.VIEWS
SELECT * FROM system.information_schema.tables, duckdb_settings()
SELECT nextval('x')
SELECT write_log('x', level := 'error')
SET SESSION memory_limit = '100GB'
SET GLOBAL enable_external_access = true
SET lock_configuration = false
PRAGMA enable_object_cache
PRAGMA memory_limit = '100GB'
PRAGMA import_database('/x')
PRAGMA version
CALL dbgen(sf = 1)
CALL query('SELECT 1')
CHECKPOINT
FORCE CHECKPOINT
EXPORT DATABASE '/tmp/x' (FORMAT parquet)
COPY FROM DATABASE memory TO memory
COPY steps FROM '/etc/passwd'
COPY (SELECT 1) TO 's3://bucket/x'
CREATE TYPE x AS INTEGER
CREATE SEQUENCE x
CREATE SCHEMA x
CREATE INDEX x ON steps (job)
CREATE MACRO x() AS 1
CREATE TEMP MACRO x() AS TABLE FROM '/etc/passwd'
CREATE OR REPLACE TEMP VIEW steps AS SELECT 1
CREATE PERSISTENT SECRET s (TYPE s3)
UPDATE EXTENSIONS
LOAD '/tmp/x.duckdb_extension'
INSTALL '/tmp/x.duckdb_extension'
INSTALL x FROM community
ATTACH 'postgres://x' AS x
ATTACH IF NOT EXISTS ':memory:'
DETACH DATABASE IF EXISTS memory
ABORT
START TRANSACTION READ WRITE
ROLLBACK
DEALLOCATE x
EXECUTE x(1)
SELECT 1;;SELECT 2
SELECT 1; -- remark {newline} DROP VIEW steps
SELECT 1 /* ; */; ATTACH ':memory:' AS x
;DROP VIEW steps
(SELECT 1); (SELECT 2)
SELECT * FROM (VALUES (1)) t; COMMIT
WITH t AS (UPDATE steps SET step = 1 RETURNING *) SELECT * FROM t
WITH t AS (ATTACH ':memory:' AS x) SELECT 1
WITH t AS (SET threads = 8) SELECT 1
WITH t AS (PRAGMA version) SELECT * FROM t
WITH t AS (CALL pragma_version()) SELECT * FROM t
WITH t AS MATERIALIZED (COPY (SELECT 1) TO '{store}/x') SELECT * FROM t
SELECT * FROM (WITH t AS (COPY (SELECT 1) TO '{store}/x') SELECT 1)
SELECT * FROM (INSERT INTO steps (step) VALUES (1) RETURNING *)
SELECT (INSERT INTO steps (step) VALUES (1) RETURNING step)
FROM (DROP VIEW steps)
\N{FULLWIDTH LATIN CAPITAL LETTER S}ELECT 1
SELECT\N{NO-BREAK SPACE}* FROM read_text('/etc/passwd')
SELECT * FROM re\N{ZERO WIDTH SPACE}ad_text('/etc/passwd')
SELECT * FROM \N{FULLWIDTH QUOTATION MARK}/etc/passwd\N{FULLWIDTH QUOTATION MARK}
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
        pool.query(sql.format(store=store, segment=segment, newline="\n"))
    assert "process" not in str(caught.value), "it was refused, it did not end its worker"
    assert contents(store) == before
    assert pool.query("SELECT job, rank, step FROM steps").rows().to_pylist() == [{"job": "j", "rank": 0, "step": 1}]


def test_none_of_the_engines_own_views_tells_where_the_files_lie(pool: WorkerPool, store: Path) -> None:
    """Every one that it has is read whole, or refused; the next version of the engine may have others."""
    listed = duckdb.connect().execute("SELECT schema_name, view_name FROM duckdb_views() WHERE internal").fetchall()
    assert len(listed) > 20
    for schema, name in listed:
        with contextlib.suppress(QueryError):
            assert str(store) not in str(pool.query(f'SELECT * FROM "{schema}"."{name}"').rows().to_pylist()), name


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_harmless_statement_that_looks_alike_is_answered(pool: WorkerPool, sql: str) -> None:
    """Names are looked at where they are names, not as text."""
    assert pool.query(sql).rows().num_rows > 0 or "pg_tables" in sql
