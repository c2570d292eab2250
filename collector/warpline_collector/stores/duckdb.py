"""The store on one machine: a DuckDB file for ledger, manifest, hot rows and small tables; Parquet segments for the rest."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import StoreError
from warpline_proto.tables import SOURCE_HEALTH, TABLES

from .. import catalog, engine, hot, joining, ledger, segments
from ..engine import refusals
from ..grace import Grace, orphans
from ..reader import CatalogReader
from ..schema import column_list, quoted
from ..steady import passed

DAY_NS: Final = 86_400 * 10**9
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """Settings of the store.

    A large table is sealed when it has `seal_rows` hot rows or its oldest hot row came `seal_seconds` ago; `compact_files`
    segments with fewer rows become one. `direct_rows` of one table in one commit are a segment at once, at a seventh of the cost.
    Segments that come to `merge_rows` together, or are many, become one. At most about `chunks_max` small hot files a table are
    kept. Files no longer listed stay `grace_seconds` for readers that still use them.
    """

    seal_rows: int = 50_000
    direct_rows: int = 4_000
    merge_rows: int = 1_000_000
    seal_seconds: float = 300.0
    compact_files: int = 16
    chunks_max: int = 32
    grace_seconds: float = 60.0
    memory_limit: str = "1GB"

    def __post_init__(self) -> None:
        if min(self.seal_rows, self.direct_rows, self.merge_rows, self.chunks_max) < 1 or self.compact_files < 2:
            raise ValueError(
                "seal_rows, direct_rows, merge_rows and chunks_max are at least 1, compact_files at least 2"
            )
        if self.seal_seconds <= 0 or self.grace_seconds < 0:
            raise ValueError("seal_seconds is more than 0, grace_seconds not less")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)? ?[KMGT]i?B", self.memory_limit):
            raise ValueError(f"memory_limit {self.memory_limit!r} is no size such as 1GB or 512MiB")


class DuckDBStore:
    """See `warpline_collector.store.Store`. Safe to call from several threads; `clock` gives nanoseconds since the epoch.

    After a failure that leaves the engine unusable or a commit in doubt (the disk was full) the file is opened anew by the next
    call, and what it holds then is the truth.
    """

    def __init__(self, directory: Path, config: Config = Config(), clock: Callable[[], int] = time.time_ns) -> None:
        self.directory = directory
        self._config = config
        self._clock = clock
        self._mutex = threading.Lock()
        self._reader: CatalogReader | None = None
        self._closed = False
        self._generation = 0
        self._doubtful = False
        self._behind = False
        self._lock = engine.lock(directory)
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, frames: Sequence[Frame]) -> Sequence[bool]:
        """Make frames durable; True for each that was new.

        SchemaError if rows do not fit (fewer frames tell which), StoreError if disk or engine refuse; then nothing is stored.
        """
        with self._mutex:
            self._make_ready()
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
            self._make_ready()
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
        with self._mutex, refusals():
            self._make_ready()
            before = self._generation
            for name, table in TABLES.items():
                if table.large and self._ripe(name):
                    self._seal(name)
                if table.large and (small := self._small(name)):
                    self._compact(name, small)
            self._tend()
            if self._behind or self._stale or self._generation != before:
                self._publish()
            if not self._behind:  # else readers still go by a catalog that lists what would be unlinked
                self._grace.sweep()

    def connections(self) -> list[duckdb.DuckDBPyConnection]:
        """Those to its databases, one of each."""
        return [self._connection, *([self._reader.connection] if self._reader is not None else [])]

    def close(self) -> None:
        """Give everything back; safe to call twice."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            if self._reader is not None:
                self._reader.close()
            with contextlib.suppress(duckdb.Error):
                self._connection.close()
            os.close(self._lock)

    def _tend(self) -> None:
        """What a store that looks after itself does besides; nothing is removed here."""

    def _sealing_ns(self) -> int:
        """The time that a segment which is sealed now bears."""
        return self._clock()

    def _span_ns(self, name: str) -> int:
        """Segments of `name` are merged where they were sealed within one such span: what is kept by age goes whole."""
        return DAY_NS

    def _make_ready(self) -> None:
        """StoreError if the file is not there any more, or had to be opened anew and could not be."""
        if self._closed:
            raise StoreError("the store is closed")
        if engine.identity(self.directory) != self._identity:
            raise StoreError(f"the store at {self.directory} is another one now", "start the collector anew")
        if self._doubtful:
            with contextlib.suppress(duckdb.Error):
                self._connection.close()
            with refusals():
                self._open()
            self._doubtful = False

    def _open(self) -> None:
        self._connection = engine.connect(self.directory, self._config.memory_limit)
        self._names: engine.Names = frozenset()
        self._identity = engine.identity(self.directory)
        self._connection.execute(ledger.CREATE)
        self._ledger = ledger.from_rows(self._connection.sql("SELECT * FROM ledger").to_arrow_table().to_pylist())
        self._manifest = segments.Manifest(self.directory, self._connection)
        self._grace = Grace(self.directory, int(self._config.grace_seconds * 1e9), self._clock)
        self._hot = hot.HotTail(self.directory, self._config.chunks_max, self._grace.retire)
        self._hot_rows = {name: self._count(name) for name in TABLES}
        self._hot_since_ns = dict.fromkeys((name for name, rows in self._hot_rows.items() if rows), self._clock())
        self._stale = set(self._hot_since_ns)
        self._unswept = True
        self._publish()
        self._report_damage(self._manifest.damaged())

    def _sweep_orphans(self) -> None:
        listed = {segment.path for segment in self._manifest.segments}
        listed.update(path for name in TABLES for path in self._hot.paths(name))
        for path in orphans(self.directory, (hot.FOLDER, segments.FOLDER), listed):
            path.unlink(missing_ok=True)
        self._unswept = False

    def _commit(
        self,
        rows: Mapping[str, pa.Table],
        entries: Mapping[ledger.Key, ledger.Entry],
        within: Callable[[], None] = lambda: None,
    ) -> None:
        """Store rows and entries, and do `within`, in one transaction; then tell readers."""
        large = [name for name in rows if self._direct(name, rows[name])]
        with refusals(), self._enlisting() if large else nullcontext():
            direct = [self._manifest.store(name, rows[name], self._sealing_ns()) for name in large]
            rows = {name: table for name, table in rows.items() if name not in large}
            with self._transaction():
                within()
                for segment in direct:
                    self._manifest.enlist(segment)
                for name, table in rows.items():
                    self._insert(f"INSERT INTO {quoted(name)} BY NAME SELECT * FROM incoming", "incoming", table)
                if entries:
                    self._insert(ledger.UPSERT, "ledger_rows", ledger.to_table(entries.values()))
        self._ledger.update(entries)
        for segment in direct:
            self._manifest.adopt(segment)
        for name, table in rows.items():
            self._hot_rows[name] += table.num_rows
            self._hot_since_ns.setdefault(name, self._clock())
            self._export(name, table)
        self._publish()

    def _direct(self, name: str, rows: pa.Table) -> bool:
        """Rows enough for a segment of their own: through the engine they would be written three times."""
        return TABLES[name].large and rows.num_rows >= self._config.direct_rows

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
        """Write anew what could not be exported, then the catalog. The rows are durable whether this works or not.

        Until it worked the catalog is `_behind`: readers see a state that was.
        """
        try:
            for name in sorted(self._stale):
                self._hot.replace(name, engine.rows_of(self._connection, TABLES[name]))
                self._stale.discard(name)
            self._generation += 1
            tables = {name: self._files(name) for name in TABLES}
            catalog.write(self.directory, catalog.Catalog(self._generation, tables, self._manifest.damaged()))
            self._behind = False
            if self._unswept:
                self._sweep_orphans()
        except (OSError, pa.ArrowException, duckdb.Error) as error:
            _LOG.warning("the catalog could not be written, tried again later: %s", engine.first_line(error))
            self._behind = True

    def _files(self, name: str) -> catalog.Files:
        readable = self._manifest.readable(name)
        return catalog.Files(
            segments=tuple(segment.path for segment in readable if segment.current),
            older=tuple(segment.path for segment in readable if not segment.current),
            chunks=self._hot.paths(name),
            columns=segments.columns_of(name),
        )

    def _ripe(self, name: str) -> bool:
        since_ns = self._hot_since_ns.get(name)
        if since_ns is None:
            return False
        aged = passed(since_ns, self._clock(), self._config.seal_seconds * 1e9)
        return aged or self._hot_rows[name] >= self._config.seal_rows

    def _seal(self, name: str) -> None:
        segment = self._manifest.store(name, self._hot_table(name), self._sealing_ns())
        with self._enlisting(), self._transaction():
            self._manifest.enlist(segment)
            self._connection.execute(f"DELETE FROM {quoted(name)}")
        self._manifest.adopt(segment)
        self._hot_rows[name] = 0
        del self._hot_since_ns[name]
        self._stale.discard(name)
        self._hot.replace(name, ())
        self._generation += 1

    def _small(self, name: str, *, all_days: bool = False) -> Sequence[segments.Segment]:
        """Segments to be written together as one; none where it is too early. With `all_days` it never is."""
        span_ns = self._span_ns(name)
        listed = [each for each in self._manifest.readable(name) if not self._manifest.richer(each)]
        bounds = joining.Bounds(span_ns, self._full_rows, self._config.seal_rows, self._config.compact_files)
        return joining.small(listed, bounds, None if all_days else self._sealing_ns() // span_ns)

    @property
    def _full_rows(self) -> int:
        """A segment with fewer rows is small."""
        return min(self._config.seal_rows, self._config.direct_rows)

    def _replace(self, segment: segments.Segment, taken: Sequence[segments.Segment]) -> None:
        """List one segment instead of others."""
        with self._enlisting(), self._transaction():
            self._manifest.enlist(segment, taken)
        self._manifest.adopt(segment, taken)
        for old in taken:
            self._grace.retire(old.path)
        self._generation += 1

    def _compact(self, name: str, small: Sequence[segments.Segment]) -> None:
        merged, taken = self._read_all(small)
        if len(taken) < 2:
            return
        self._replace(self._manifest.store(name, merged, max(each.sealed_ns for each in taken)), taken)

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
        """All or nothing. A commit that failed may still be in the log, and a transaction that stays open blocks the next."""
        committing = False
        try:
            self._connection.execute("BEGIN")
            yield
            committing = True
            self._connection.execute("COMMIT")
            self._names = engine.keep_names(self.directory, self._names)
        except BaseException:
            self._doubtful = committing or not self._rolled_back()
            raise

    def _rolled_back(self) -> bool:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error as error:
            _LOG.warning("a transaction could not be rolled back: %s", engine.first_line(error))
            return False
        return True

    @contextmanager
    def _enlisting(self) -> Iterator[None]:
        """A segment file that did not get into the manifest is swept by opening anew, before the next one is written."""
        try:
            yield
        except BaseException:
            self._doubtful = True
            raise


def _coalesce(batches: Sequence[Batch]) -> dict[str, pa.Table]:
    """All rows of each table as one, without seams: an INSERT costs the same for 100 rows and for 10,000."""
    grouped: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for batch in batches:
        if batch.rows.num_rows:
            grouped[batch.table].append(batch.rows)
    return {
        name: pa.Table.from_batches(rows, schema=TABLES[name].schema).combine_chunks() for name, rows in grouped.items()
    }
