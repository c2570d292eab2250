"""The store on one machine: a DuckDB file for ledger, manifest, hot rows and small tables; Parquet segments for the rest."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import SchemaError, StoreError
from warpline_proto.tables import SOURCE_HEALTH, TABLES

from .. import catalog, hot, ledger, segments
from ..grace import Grace, orphans
from ..reader import CatalogReader, Settings
from ..schema import column_list, create_table, quoted, sql_type

FILE: Final = "warpline.duckdb"
LOCK: Final = "lock"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Settings of the store.

    A large table is sealed when it has `seal_rows` hot rows or its oldest hot row came `seal_seconds` ago; `compact_files`
    segments with fewer than `seal_rows` rows are written together as one. At most about `chunks_max` small hot files a table
    are kept. Files no longer listed stay `grace_seconds` for readers that still use them.
    """

    seal_rows: int = 50_000
    seal_seconds: float = 300.0
    compact_files: int = 16
    chunks_max: int = 32
    grace_seconds: float = 60.0
    memory_limit: str = "1GB"

    def __post_init__(self) -> None:
        if min(self.seal_rows, self.chunks_max) < 1 or self.compact_files < 2:
            raise ValueError("seal_rows and chunks_max are at least 1, compact_files at least 2")
        if self.seal_seconds <= 0 or self.grace_seconds < 0:
            raise ValueError("seal_seconds is more than 0, grace_seconds not less")


class DuckDBStore:
    """See `warpline_collector.store.Store`. Safe to call from several threads; `clock` gives nanoseconds since the epoch."""

    def __init__(self, directory: Path, config: Config = Config(), clock: Callable[[], int] = time.time_ns) -> None:
        self.directory = directory
        self._config = config
        self._clock = clock
        self._mutex = threading.Lock()
        self._reader: CatalogReader | None = None
        self._closed = False
        self._generation = 0
        self._lock = _lock(directory)
        try:
            self._connection = _connect(directory, config)
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, frames: Sequence[Frame]) -> Sequence[bool]:
        """Make frames durable; True for each that was new.

        SchemaError if rows do not fit (send fewer frames to learn which), StoreError if the disk or the engine refuses; then
        nothing of the call is stored.
        """
        with self._mutex:
            admission = ledger.admit(frames, self._ledger)
            batches = [
                batch for frame, new in zip(frames, admission.new, strict=True) if new for batch in frame.batches
            ]
            if admission.losses:
                batches.append(Batch(SOURCE_HEALTH.name, ledger.SOURCE, SOURCE_HEALTH.from_rows(admission.losses)))
            if admission.changed:
                self._commit(_coalesce(batches), admission.changed)
            return admission.new

    def write(self, batches: Sequence[Batch]) -> None:
        """Make rows of the collector's own durable."""
        with self._mutex:
            self._commit(_coalesce(batches), {})

    def acknowledged(self, agent: str, boot: str) -> int:
        """Newest sequence stored of this boot, 0 if none."""
        with self._mutex:
            entry = self._ledger.get((agent, boot))
            return entry.sequence if entry else 0

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Rows of one trusted SELECT; QueryError if it fails."""
        if self._reader is None:
            self._reader = CatalogReader(self.directory)
        return self._reader.query(sql, parameters)

    def maintain(self) -> None:
        """Seal what is ready, compact small segments, export what could not be, unlink what nobody can still read."""
        with self._mutex, _refusals():
            before = self._generation
            for name, table in TABLES.items():
                if table.large and self._ripe(name):
                    self._seal(name)
                if table.large and len(small := self._small(name)) >= self._config.compact_files:
                    self._compact(name, small)
            if self._stale or self._generation != before:
                self._publish()
            self._grace.sweep()

    def close(self) -> None:
        """Give everything back; safe to call twice."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._reader is not None:
                self._reader.close()
            self._connection.close()
            os.close(self._lock)

    def _open(self) -> None:
        for table in TABLES.values():
            self._connection.execute(create_table(table))
            _add_columns(self._connection, table.name)
        self._connection.execute(ledger.CREATE)
        self._ledger = ledger.from_rows(self._connection.sql("SELECT * FROM ledger").to_arrow_table().to_pylist())
        self._manifest = segments.Manifest(self.directory, self._connection)
        self._grace = Grace(self.directory, int(self._config.grace_seconds * 1e9), self._clock)
        self._hot = hot.HotTail(self.directory, self._config.chunks_max, self._grace.retire)
        self._hot_rows = {name: self._count(name) for name in TABLES}
        self._hot_since_ns = dict.fromkeys((name for name, rows in self._hot_rows.items() if rows), self._clock())
        self._stale = set(self._hot_since_ns)
        self._publish()
        listed = {segment.path for segment in self._manifest.segments}
        listed.update(path for name in TABLES for path in self._hot.paths(name))
        for path in orphans(self.directory, (hot.FOLDER, segments.FOLDER), listed):
            path.unlink()
        self._report_damage(self._manifest.damaged())

    def _commit(self, rows: Mapping[str, pa.Table], entries: Mapping[ledger.Key, ledger.Entry]) -> None:
        with _refusals(), self._transaction():
            for name, table in rows.items():
                self._insert(f"INSERT INTO {quoted(name)} BY NAME SELECT * FROM incoming", "incoming", table)
            if entries:
                self._insert(ledger.UPSERT, "ledger_rows", ledger.to_table(entries.values()))
        self._ledger.update(entries)
        for name, table in rows.items():
            self._hot_rows[name] += table.num_rows
            self._hot_since_ns.setdefault(name, self._clock())
            self._export(name, table)
        self._publish()

    def _insert(self, sql: str, name: str, rows: pa.Table) -> None:
        self._connection.register(name, rows)
        try:
            self._connection.execute(sql)
        finally:
            self._connection.unregister(name)

    def _export(self, name: str, rows: pa.Table) -> None:
        if name in self._stale:
            return  # the whole table is written anew by _publish
        try:
            self._hot.add(name, rows)
        except (OSError, pa.ArrowException) as error:
            _LOG.warning("hot rows of %s could not be exported, tried again later: %s", name, error)
            self._stale.add(name)

    def _publish(self) -> None:
        """Write anew what could not be exported, then the catalog. The rows are durable whether this works or not."""
        try:
            for name in sorted(self._stale):
                self._hot.replace(name, self._hot_table(name))
                self._stale.discard(name)
            self._generation += 1
            tables = {name: self._files(name) for name in TABLES}
            catalog.write(self.directory, catalog.Catalog(self._generation, tables, self._manifest.damaged()))
        except OSError as error:
            _LOG.warning("the catalog could not be written, tried again later: %s", error)
            self._stale.update(self._hot_since_ns)

    def _files(self, name: str) -> catalog.Files:
        readable = self._manifest.readable(name)
        return catalog.Files(
            segments=tuple(segment.path for segment in readable if segment.current),
            older=tuple(segment.path for segment in readable if not segment.current),
            chunks=self._hot.paths(name),
        )

    def _ripe(self, name: str) -> bool:
        since_ns = self._hot_since_ns.get(name)
        if since_ns is None:
            return False
        aged = self._clock() - since_ns >= self._config.seal_seconds * 1e9
        return aged or self._hot_rows[name] >= self._config.seal_rows

    def _seal(self, name: str) -> None:
        segment = self._manifest.store(name, self._hot_table(name), self._clock())
        with self._transaction():
            self._manifest.enlist(segment)
            self._connection.execute(f"DELETE FROM {quoted(name)}")
        self._manifest.adopt(segment)
        self._hot_rows[name] = 0
        del self._hot_since_ns[name]
        self._stale.discard(name)
        self._hot.replace(name, TABLES[name].schema.empty_table())
        self._generation += 1

    def _small(self, name: str) -> list[segments.Segment]:
        """The oldest small segments that together come to one of full size."""
        chosen: list[segments.Segment] = []
        for segment in self._manifest.readable(name):
            if segment.rows < self._config.seal_rows and sum(item.rows for item in chosen) < self._config.seal_rows:
                chosen.append(segment)
        return chosen

    def _compact(self, name: str, small: Sequence[segments.Segment]) -> None:
        merged, taken = self._read_all(small)
        if len(taken) < 2:
            return
        segment = self._manifest.store(name, merged, self._clock())
        with self._transaction():
            self._manifest.enlist(segment, taken)
        self._manifest.adopt(segment, taken)
        for old in taken:
            self._grace.retire(old.path)
        self._generation += 1

    def _read_all(self, small: Sequence[segments.Segment]) -> tuple[pa.Table, list[segments.Segment]]:
        tables: list[pa.Table] = []
        taken: list[segments.Segment] = []
        for segment in small:
            try:
                tables.append(self._manifest.read(segment))
                taken.append(segment)
            except (OSError, pa.ArrowException) as error:
                self._manifest.mark(segment, f"cannot be read: {error}")
                self._generation += 1
        return pa.concat_tables(tables) if tables else pa.table({}), taken

    def _report_damage(self, damaged: Iterable[catalog.Damage]) -> None:
        rows = [
            {
                "source": "store",
                "time_ns": self._clock(),
                "subject": item.path,
                "state": "refused",
                "reason": f"segment of table {item.table} {item.reason}; its rows are left out",
            }
            for item in damaged
        ]
        for row in rows:
            _LOG.warning("%s: %s", row["subject"], row["reason"])
        if rows:
            self._commit({SOURCE_HEALTH.name: pa.Table.from_batches([SOURCE_HEALTH.from_rows(rows)])}, {})

    def _hot_table(self, name: str) -> pa.Table:
        rows = self._connection.sql(f"SELECT {column_list(TABLES[name])} FROM {quoted(name)}").to_arrow_table()
        return rows.cast(TABLES[name].schema)

    def _count(self, name: str) -> int:
        return int(self._connection.sql(f"SELECT count(*) FROM {quoted(name)}").fetchall()[0][0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with _quiet():
                self._connection.execute("ROLLBACK")
            raise


def _lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(
            f"cannot use {directory} as a store: {error.strerror}", "name a directory you may write to"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"another collector writes to {directory}", "stop it, or ask it: `warpline sql` without --store"
        ) from error
    return descriptor


def _connect(directory: Path, config: Config) -> duckdb.DuckDBPyConnection:
    path = directory / FILE
    if not path.exists() and any((directory / segments.FOLDER).glob("*/*.parquet")):
        raise StoreError(
            f"{directory} holds segments but no {FILE}, which says what they are",
            f"put {FILE} back, or name an empty directory",
        )
    settings: Settings = {
        "storage_compatibility_version": "v1.4.0",
        "memory_limit": config.memory_limit,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    try:
        return duckdb.connect(str(path), config=settings)
    except duckdb.Error as error:
        raise StoreError(
            f"{path} cannot be opened: {_first_line(error)}", "its segments stay readable by any Parquet reader"
        ) from error


def _add_columns(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Columns that a newer version declares are added; what an older one had stays in the file."""
    described = connection.sql(f"DESCRIBE {quoted(name)}").to_arrow_table().to_pylist()
    present = {row["column_name"]: row["column_type"] for row in described}
    for column in TABLES[name].columns:
        wanted = sql_type(column.type)
        if column.name not in present:
            connection.execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {quoted(column.name)} {wanted}")
        elif present[column.name] != wanted:
            raise StoreError(
                f"column {name}.{column.name} is {present[column.name]} in this store, {wanted} in this version",
                "name an empty directory",
            )


def _coalesce(batches: Sequence[Batch]) -> dict[str, pa.Table]:
    """All rows of each table as one, without seams: an INSERT costs the same for 100 rows and for 10,000."""
    grouped: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for batch in batches:
        if batch.rows.num_rows:
            grouped[batch.table].append(batch.rows)
    return {
        name: pa.Table.from_batches(rows, schema=TABLES[name].schema).combine_chunks() for name, rows in grouped.items()
    }


@contextmanager
def _refusals() -> Iterator[None]:
    """What engine and disk say, as errors of the store."""
    try:
        yield
    except (duckdb.DataError, pa.ArrowInvalid) as error:
        raise SchemaError(f"rows cannot be stored: {_first_line(error)}") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise StoreError(f"the store cannot write: {_first_line(error)}", "is the disk full?") from error


@contextmanager
def _quiet() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        _LOG.warning("a transaction could not be rolled back: %s", error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
