"""CatalogReader: SQL over the files of a store, from any process, while a collector writes or while none runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

import duckdb
import pyarrow as pa

from warpline_proto.errors import QueryError
from warpline_proto.table import Table
from warpline_proto.tables import TABLES

from . import catalog, parquet
from .parts import Kept, compact
from .schema import Parameters, column_list, fingerprint, quoted, select_nothing, text
from .sight import EVERYTHING, Sight

ATTEMPTS_MAX: Final = 4
"""A query whose files went away, or turned out damaged, is asked again on a newer catalog at most so often."""
MESSAGE_CHARS_MAX: Final = 2_000
GONE_FILES_MAX: Final = 200
"""Files that are gone, at about 40 kB each, of which the engine of a reader that renews it may still hold something."""
_OF_THE_QUESTION: Final = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.OutOfMemoryException,
    duckdb.InterruptException,
    duckdb.PermissionException,
    duckdb.NotImplementedException,
)
"""What no other file would answer differently."""
Query = Callable[[str], pa.Table]
"""Rows of one trusted SELECT."""
Result = TypeVar("Result")
Settings = dict[str, str | bool | int | float | list[str]]
_SETTINGS: Final[Settings] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


class CatalogReader:
    """An in-memory DuckDB whose views are the declared tables and those of views.sql. Safe to share between threads.

    Every declared table exists, empty where no row was ever stored. `damaged` lists files that were left out. StoreError if
    the directory holds no store. With `renews` the engine is opened anew once most files it knows are gone: it keeps what
    it read of the end of each for good.
    """

    def __init__(
        self,
        directory: Path,
        memory_limit: str = "1GB",
        threads: int | None = None,
        sight: Sight = EVERYTHING,
        *,
        renews: bool = True,
    ) -> None:
        self.sight = sight
        self.directory = directory.resolve()
        self.damaged: tuple[catalog.Damage, ...] = ()
        self._skipped: dict[str, catalog.Damage] = {}
        self._sound: set[str] = set()
        self._seen: bytes | None = None
        self._files: dict[str, catalog.Files] = {}
        self._known: set[str] = set()
        self._renews = renews
        self._kept = Kept()
        self._mutex = threading.Lock()
        self._newest = catalog.read(self.directory)
        self._settings = _SETTINGS | {"memory_limit": memory_limit} | ({"threads": str(threads)} if threads else {})
        self._views = resources.files(__package__).joinpath("views.sql").read_text(encoding="utf-8")
        self.connection = self._connected()
        self._insist(lambda: self.connection.execute(self._views))

    def __enter__(self) -> CatalogReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def query(self, sql: str, parameters: Parameters = (), *, rows_max: int | None = None) -> pa.Table:
        """Rows of one SELECT over everything stored up to now, the first `rows_max` of them.

        QueryError with the engine's words if it fails.
        """
        with self._mutex:
            return self._insist(lambda: self._ask(sql, parameters, rows_max))

    def by_part(self, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]:
        """What `sql` answers for each part of a table by itself, oldest part first, without those `skipped`.

        All parts together are the table; one never changes under its name, so what it answered before is lent again. `sql`
        reads that table alone. Texts come as dictionaries, columns without a value without a type.
        """
        with self._mutex:
            return self._insist(lambda: self._parts(table, sql, skipped))

    def interrupt(self) -> None:
        """Stop the query that runs in another thread; it ends with a QueryError."""
        with contextlib.suppress(duckdb.ConnectionException):  # one that is opened anew just now asks nothing
            self.connection.interrupt()

    def close(self) -> None:
        """Give everything back; safe to call twice."""
        self.connection.close()

    def _connected(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:", config=self._settings)
        connection.execute("SET enable_progress_bar = false")
        connection.execute("SET TimeZone = 'UTC'")
        # A file never changes under its name, and one pass of the analysis asks each of them a thousand times.
        connection.execute("SET parquet_metadata_cache = true")
        return connection

    def _insist(self, ask: Callable[[], Result]) -> Result:
        """`ask` on the newest catalog, again where its files went away or turned out damaged."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self._refresh()
                return ask()
            except duckdb.Error as error:
                if attempt == ATTEMPTS_MAX or not self._renew(error):
                    raise QueryError(words(error)) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _refresh(self) -> None:
        """Bring the views up to the newest catalog; costs one small read when it did not change.

        Its bytes are compared, not its inode and times: within one tick of the clock those of two catalogs can be equal.
        """
        seen = catalog.content(self.directory)
        if seen == self._seen:
            return
        self._newest = catalog.parse(seen, self.directory)
        listed = self._newest.paths
        self._kept.keep_only(listed)
        anew = self._renews and len(self._known - listed) > max(GONE_FILES_MAX, len(listed))
        if anew:
            self.connection.close()
            self.connection, self._files, self._known = self._connected(), {}, set()
        self._known |= listed
        for name, table in TABLES.items():
            files = self._without_skipped(_as_here(table, self._newest.tables.get(name, catalog.Files())))
            if self._files.get(name) != files:
                select = self.sight.over(table, self._select(table, files))
                self.connection.execute(f"CREATE OR REPLACE VIEW {quoted(name)} AS {select}")
                self._files[name] = files
        if anew:
            self.connection.execute(self._views)
        self.damaged = (*self._newest.damaged, *self._skipped.values())
        self._seen = seen

    def _ask(self, sql: str, parameters: Parameters, rows_max: int | None) -> pa.Table:
        self.connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
            relation = self.connection.sql(sql, params=given) if given else self.connection.sql(sql)
            if relation is None:
                raise QueryError("that statement gives no rows", "ask with SELECT")
            return (relation if rows_max is None else relation.limit(rows_max)).to_arrow_table()
        finally:
            self.connection.execute("ROLLBACK")

    def _parts(self, table: str, sql: str, skipped: Container[str]) -> Mapping[str, pa.Table]:
        files = self._files[table]
        wanted = [path for path in (*files.older, *files.segments, *files.chunks) if path not in skipped]
        told: dict[str, pa.Table] = {}
        for path in self._kept.unknown((table, sql), wanted):
            part = catalog.Files(older=(path,)) if path in files.older else catalog.Files(segments=(path,))
            told[path] = compact(
                self._ask(f"WITH {quoted(table)} AS ({self._select(TABLES[table], part)}) {sql}", (), None)
            )
        return self._kept.lend((table, sql), wanted, told)

    def _renew(self, error: duckdb.Error) -> bool:
        """After a failure: whether another attempt can end differently, on a newer catalog or without a damaged file."""
        if isinstance(error, _OF_THE_QUESTION):
            return False
        self._seen = None
        return catalog.read(self.directory).tables != self._newest.tables or self._skip_damaged()

    def _skip_damaged(self) -> bool:
        """Look into every file that was not looked into before: a question that fails on purpose must not cost that twice."""
        found: dict[str, catalog.Damage] = {}
        for name, files in self._newest.tables.items():
            for path in {*files.segments, *files.older, *files.chunks} - self._sound - self._skipped.keys():
                reason = parquet.damage(self.directory / path, deep=True)
                if reason is None:
                    self._sound.add(path)
                else:
                    found[path] = catalog.Damage(name, path, reason)
        self._skipped.update(found)
        return bool(found)

    def _without_skipped(self, files: catalog.Files) -> catalog.Files:
        if not self._skipped:
            return files
        segments, older, chunks = (
            tuple(path for path in paths if path not in self._skipped)
            for paths in (files.segments, files.older, files.chunks)
        )
        return replace(files, segments=segments, older=older, chunks=chunks)

    def _select(self, table: Table, files: catalog.Files) -> str:
        current = (*files.segments, *files.chunks)
        if not current and not files.older:
            return select_nothing(table)
        parts = [f"SELECT {column_list(table)} FROM {self._scan(current)}"] if current else [select_nothing(table)]
        if files.older:
            parts.append(f"SELECT * FROM {self._scan(files.older, alike=False)}")
        return f"SELECT {column_list(table)} FROM ({' UNION ALL BY NAME '.join(parts)})" if files.older else parts[0]

    def _scan(self, paths: Sequence[str], *, alike: bool = True) -> str:
        """Files that are alike need not all be opened to learn their columns."""
        listed = ", ".join(text(str(self.directory / path)) for path in paths)
        return f"read_parquet([{listed}], hive_partitioning = false, union_by_name = {str(not alike).lower()})"


def _as_here(table: Table, files: catalog.Files) -> catalog.Files:
    """The files as this version sees them: what is current to a writer of another version may lack columns here."""
    if files.columns == fingerprint(table.schema):
        return files
    return catalog.Files(older=(*files.older, *files.segments, *files.chunks), columns=files.columns)


def words(error: BaseException) -> str:
    """What the engine said, bounded, without the statement that it quotes behind a blank line."""
    return str(error).strip().split("\n\n")[0][:MESSAGE_CHARS_MAX] or type(error).__name__
