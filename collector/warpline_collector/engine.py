"""The DuckDB file of a store: who may write it, how it is opened, what engine and disk say as errors of the store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from warpline_proto.errors import SchemaError, StoreError
from warpline_proto.table import Table
from warpline_proto.tables import TABLES

from .hot import FOLDER as HOT
from .parquet import sync_directory
from .reader import Settings
from .schema import column_list, create_table, quoted, sql_type, text
from .segments import FOLDER as SEGMENTS

FILE: Final = "warpline.duckdb"
LOCK: Final = "lock"
PART_ROWS: Final = 200_000
"""Rows of a table that are in memory at once while all of it is read."""
Names = frozenset[tuple[str, int, int]]
"""Files of the engine as they were when their names were forced to disk."""


def lock(directory: Path) -> int:
    """Make the directory and be its one writer -> a descriptor to close; StoreError if another process is."""
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


def unlock(descriptor: int) -> None:
    """Let another process be the writer."""
    os.close(descriptor)


@contextmanager
def opened(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file as it lies there, to be read by whoever holds the lock; duckdb.Error if it cannot be."""
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET enable_progress_bar = false")
        connection.execute(f"ATTACH {text(str(directory / FILE))} AS store (READ_ONLY)")
        connection.execute("USE store")
        yield connection
    finally:
        connection.close()


def connect(directory: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """Open the file, made if it is not there, with every declared table and column; StoreError if it cannot be."""
    path = directory / FILE
    if not path.exists() and _rows_without_file(directory):
        raise StoreError(
            f"{directory} holds rows but no {FILE}, which says what they are",
            f"put {FILE} back, or name an empty directory",
        )
    settings: Settings = {
        "storage_compatibility_version": "v1.4.0",
        "memory_limit": memory_limit,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    try:
        connection = duckdb.connect(str(path), config=settings)
    except duckdb.Error as error:
        raise StoreError(
            f"{path} cannot be opened: {first_line(error)}", "its segments stay readable by any Parquet reader"
        ) from error
    try:
        connection.execute("SET enable_progress_bar = false")
        for table in TABLES.values():
            connection.execute(create_table(table))
            _add_columns(connection, table.name)
    except BaseException:
        connection.close()
        raise
    return connection


def _rows_without_file(directory: Path) -> bool:
    """Rows that a store begun anew would take for leftovers and remove."""
    return any(True for folder in (SEGMENTS, HOT) for _ in (directory / folder).glob("*/*.parquet"))


def identity(directory: Path) -> tuple[int, int]:
    """What tells the file from another of its name; StoreError if it is not there."""
    try:
        found = (directory / FILE).stat()
    except OSError as error:
        raise StoreError(f"the store at {directory} is gone: {error.strerror}", "put it back where it was") from error
    return found.st_dev, found.st_ino


def keep_names(directory: Path, kept: Names) -> Names:
    """Force the names of the file and its log to disk where one of them may be new since `kept`; OSError if the disk refuses.

    The engine forces what it writes, but not the name of a log that it begins, which it does after each checkpoint: that changes
    the file. Without its name a log is gone after a loss of power, and with it what was committed.
    """
    with os.scandir(directory) as entries:
        files = [(each.name, each.stat()) for each in entries if each.name.startswith(FILE)]
    found = frozenset((name, state.st_ino, state.st_mtime_ns if name == FILE else 0) for name, state in files)
    if found != kept:
        for folder in (directory, *([] if kept else directory.resolve().parents[:1])):
            sync_directory(folder)
    return found


def rows_of(connection: duckdb.DuckDBPyConnection, table: Table) -> Iterator[pa.Table]:
    """All rows of a table, a part at a time: a small table may have come to millions of them in a year."""
    [(end,)] = connection.sql(f"SELECT coalesce(max(rowid) + 1, 0) FROM {quoted(table.name)}").fetchall()
    for start in range(0, end, PART_ROWS):
        part = f"rowid >= {start} AND rowid < {start + PART_ROWS}"
        yield connection.sql(f"SELECT {column_list(table)} FROM {quoted(table.name)} WHERE {part}").to_arrow_table()


@contextmanager
def refusals() -> Iterator[None]:
    """What engine and disk say, as errors of the store."""
    try:
        yield
    except (duckdb.DataError, pa.ArrowInvalid) as error:
        raise SchemaError(f"rows cannot be stored: {first_line(error)}") from error
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise StoreError(f"the store cannot write: {first_line(error)}", "is the disk full?") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, its name if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
