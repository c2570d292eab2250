"""Segments: sealed Parquet files, listed by the manifest in the DuckDB file.

The manifest row, not the file, makes a segment part of the store: write, fsync, rename, fsync the directory, and only then
one transaction lists the segment and lets go of the rows it took over.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.table import Table
from warpline_proto.tables import table as declared

from . import parquet
from .catalog import Damage
from .schema import fingerprint

FOLDER: Final = "segments"
CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS manifest (ordinal BIGINT, table_name VARCHAR, path VARCHAR, rows BIGINT, bytes BIGINT, "
    "columns VARCHAR, time_min_ns BIGINT, time_max_ns BIGINT, sealed_ns BIGINT)"
)


@dataclass(frozen=True)
class Segment:
    """One sealed file: `path` relative to the store's directory, `columns` the fingerprint of its schema.

    `damaged` says why it cannot be read; None if it can.
    """

    ordinal: int
    table_name: str
    path: str
    rows: int
    bytes: int
    columns: str
    time_min_ns: int | None
    time_max_ns: int | None
    sealed_ns: int
    damaged: str | None = None

    @property
    def current(self) -> bool:
        """Whether it has the columns of this version."""
        return self.columns == columns_of(self.table_name)


class Manifest:
    """The listed segments of one store. Changes are made inside the caller's transaction, then told to `adopt`."""

    def __init__(self, directory: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self._directory = directory
        self._connection = connection
        self._token = secrets.token_hex(4)  # a name is never used twice, even if the file before was deleted
        connection.execute(CREATE)
        self._tables: dict[str, tuple[Segment, ...]] = {}
        self._richer: dict[int, bool] = {}
        for segment in self._load():
            self._tables[segment.table_name] = (*self._tables.get(segment.table_name, ()), self._check(segment))
        self._ordinal = max((segment.ordinal for segment in self.segments), default=0)

    @property
    def segments(self) -> list[Segment]:
        """All listed segments."""
        return [segment for listed in self._tables.values() for segment in listed]

    def readable(self, table: str) -> list[Segment]:
        """Segments of `table` that can be read, oldest first."""
        return [segment for segment in self._tables.get(table, ()) if segment.damaged is None]

    def damaged(self) -> tuple[Damage, ...]:
        """Segments that cannot be read."""
        return tuple(Damage(item.table_name, item.path, item.damaged) for item in self.segments if item.damaged)

    def store(self, table: str, rows: pa.Table, now_ns: int) -> Segment:
        """Write a segment file that is not listed yet. OSError if the disk refuses."""
        ordinal, path = self.place(table)
        size = parquet.write(rows, self._directory / path, durable=True)
        low, high = _time_range(rows, declared(table).time)
        return Segment(ordinal, table, path, rows.num_rows, size, fingerprint(rows.schema), low, high, now_ns)

    def place(self, table: str) -> tuple[int, str]:
        """Number and path of a segment to be."""
        self._ordinal += 1
        return self._ordinal, f"{FOLDER}/{table}/{self._ordinal:010d}-{self._token}.parquet"

    def lists(self, segments: Sequence[Segment]) -> bool:
        """Whether all of them are listed as they are here."""
        return all(each in self._tables.get(each.table_name, ()) for each in segments)

    def enlist(self, segment: Segment, instead_of: Sequence[Segment] = ()) -> None:
        """List `segment` and strike others, in the caller's transaction."""
        values = [getattr(segment, name) for name in _COLUMNS]
        marks = ", ".join("?" for _ in values)
        self._connection.execute(f"INSERT INTO manifest ({', '.join(_COLUMNS)}) VALUES ({marks})", values)
        for old in instead_of:
            self._connection.execute("DELETE FROM manifest WHERE ordinal = ?", [old.ordinal])

    def adopt(self, segment: Segment, instead_of: Sequence[Segment] = ()) -> None:
        """What `enlist` wrote is committed."""
        gone = {old.ordinal for old in instead_of}
        kept = (item for item in self._tables.get(segment.table_name, ()) if item.ordinal not in gone)
        self._tables[segment.table_name] = (*kept, segment)

    def strike(self, segments: Sequence[Segment]) -> None:
        """List `segments` no more, in the caller's transaction; one that fails must open the manifest anew."""
        for segment in segments:
            self._connection.execute("DELETE FROM manifest WHERE ordinal = ?", [segment.ordinal])
            kept = (item for item in self._tables[segment.table_name] if item.ordinal != segment.ordinal)
            self._tables[segment.table_name] = tuple(kept)

    def mark(self, segment: Segment, reason: str) -> None:
        """Leave `segment` out from now on; its file stays where it is."""
        self._tables[segment.table_name] = tuple(
            replace(item, damaged=reason) if item.ordinal == segment.ordinal else item
            for item in self._tables[segment.table_name]
        )

    def richer(self, segment: Segment) -> bool:
        """Whether a newer version wrote columns into it that this one does not know, and would lose by merging."""
        if segment.ordinal not in self._richer:
            names = set() if segment.current else parquet.columns(self._directory / segment.path)
            self._richer[segment.ordinal] = not names <= set(declared(segment.table_name).schema.names)
        return self._richer[segment.ordinal]

    def read(self, segment: Segment) -> pa.Table:
        """All rows of `segment` in the columns of this version; OSError or pyarrow.ArrowException if it is damaged."""
        rows = parquet.read(self._directory / segment.path)
        wanted = declared(segment.table_name).schema
        columns = [
            rows.column(field.name).cast(field.type)
            if field.name in rows.schema.names
            else pa.nulls(len(rows), field.type)
            for field in wanted
        ]
        return pa.table(columns, schema=wanted)

    def _load(self) -> list[Segment]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM manifest ORDER BY ordinal"
        rows: list[dict[str, Any]] = self._connection.sql(query).to_arrow_table().to_pylist()
        return [Segment(**row) for row in rows]

    def _check(self, segment: Segment) -> Segment:
        return replace(segment, damaged=parquet.damage(self._directory / segment.path, segment.bytes))


def columns_of(name: str) -> str:
    """The fingerprint of a declared table, reckoned once: each commit holds it against thousands of segments."""
    table = declared(name)
    known = _FINGERPRINTS.get(name)
    if known is None or known[0] is not table:
        known = _FINGERPRINTS[name] = (table, fingerprint(table.schema))
    return known[1]


_FINGERPRINTS: Final[dict[str, tuple[Table, str]]] = {}
_COLUMNS: Final = (
    "ordinal", "table_name", "path", "rows", "bytes", "columns", "time_min_ns", "time_max_ns", "sealed_ns",
)  # fmt: skip


def _time_range(rows: pa.Table, column: str) -> tuple[int | None, int | None]:
    found = pc.min_max(rows.column(column)).as_py()
    return found["min"], found["max"]
