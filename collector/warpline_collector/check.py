"""What is wrong with a store on a disk: its manifest, or the catalog where a collector holds that, against its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from warpline_proto.errors import StoreError
from warpline_proto.tables import TABLES

from . import catalog, engine, parquet
from .grace import orphans
from .schema import fingerprint
from .segments import FOLDER as SEGMENTS

LOST: Final = ("missing", "damaged")
"""Kinds of trouble that cost rows."""


@dataclass(frozen=True)
class Trouble:
    """One file, relative to the store's directory; `kind`: missing, damaged, mismatch (not what the manifest says) or orphan."""

    kind: str
    path: str
    table: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What was looked at and what is wrong. `running`: a collector writes to it, so the catalog was gone by."""

    running: bool
    segments: int
    rows: int | None
    bytes: int
    troubles: tuple[Trouble, ...]

    @property
    def lost(self) -> tuple[Trouble, ...]:
        """Those that cost rows."""
        return tuple(each for each in self.troubles if each.kind in LOST)


@dataclass(frozen=True)
class _Listed:
    """What the manifest says of a segment; of one that only the catalog names nothing is said."""

    table: str
    rows: int | None = None
    bytes: int | None = None
    columns: str | None = None


def check(directory: Path) -> Report:
    """Look at every page of every segment; StoreError if there is no store, or nothing says what is in it.

    Nothing is changed. Orphans are left by interruptions, and by merging for a minute: the next start of a collector removes
    them.
    """
    found = catalog.read(directory)  # a directory that is no store is told first
    manifest = _manifest(directory)
    listed = _of_catalog(found) if manifest is None else manifest
    troubles = [*_of_segments(directory, listed)]
    if manifest is not None:
        troubles += [
            Trouble("orphan", str(path.relative_to(directory)), path.parent.name, "not listed")
            for path in orphans(directory, (SEGMENTS,), listed)
        ]
    sizes = [(directory / path).stat().st_size for path in listed if (directory / path).exists()]
    rows = [each.rows for each in listed.values()]
    return Report(
        running=manifest is None,
        segments=len(listed),
        rows=None if None in rows else sum(row for row in rows if row is not None),
        bytes=sum(sizes),
        troubles=tuple(troubles),
    )


def _of_segments(directory: Path, listed: Mapping[str, _Listed]) -> Iterator[Trouble]:
    for path, said in listed.items():
        reason = parquet.damage(directory / path, said.bytes, deep=True)
        if reason is not None:
            yield Trouble("damaged" if (directory / path).exists() else "missing", path, said.table, reason)
        elif differs := _difference(directory / path, said):
            yield Trouble("mismatch", path, said.table, differs)


def _difference(path: Path, said: _Listed) -> str:
    """What the whole file has that its row does not say, or that this version cannot read; "" where it is as told."""
    try:
        with pq.ParquetFile(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read: {error}"[:300]
    if said.rows is not None and rows != said.rows:
        return f"has {rows} rows, was written with {said.rows}"
    if said.columns is not None and said.columns != fingerprint(schema):
        return "has other columns than it was written with"
    declared = TABLES[said.table].schema if said.table in TABLES else schema
    for field in schema:
        at = declared.get_field_index(field.name)
        if at >= 0 and declared.field(at).type != field.type:
            return f"column {field.name} is {field.type}, {declared.field(at).type} in this version"
    return ""


def _manifest(directory: Path) -> dict[str, _Listed] | None:
    """The manifest's segments by path; None where a collector holds the file."""
    try:
        lock = engine.lock(directory)
    except StoreError:
        return None
    try:
        with engine.opened(directory) as connection:
            rows = connection.sql("SELECT path, table_name, rows, bytes, columns FROM manifest").fetchall()
    except duckdb.Error as error:
        raise StoreError(
            f"{directory / engine.FILE} cannot be read: {engine.first_line(error)}",
            "put a copy of it back; until then the segments stay readable by any Parquet reader",
        ) from error
    finally:
        engine.unlock(lock)
    return {path: _Listed(*said) for path, *said in rows}


def _of_catalog(found: catalog.Catalog) -> dict[str, _Listed]:
    listed = {path: _Listed(name) for name, files in found.tables.items() for path in (*files.older, *files.segments)}
    return listed | {item.path: _Listed(item.table) for item in found.damaged}
