"""Parquet files of the store: written whole or not at all, checked before they are trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write(rows: pa.Table, path: Path, *, durable: bool) -> int:
    """Write `rows` to `path`, which appears only when it is complete; returns its size in bytes.

    zstd, DELTA_BINARY_PACKED on whole numbers and dictionaries on the rest: the smallest and fastest form measured for
    telemetry rows. `durable` forces file and directory entry to disk.
    """
    whole = [field.name for field in rows.schema if pa.types.is_integer(field.type)]
    rest = [field.name for field in rows.schema if not pa.types.is_integer(field.type)]
    fresh = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("wb") as stream:
            pq.write_table(
                rows,
                stream,
                compression="zstd",
                use_dictionary=rest,
                column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
                write_page_checksum=True,
            )
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
            size = stream.tell()
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)
        for above in list(path.parents)[1:3] if fresh else ():  # the folders themselves are entries too
            sync_directory(above)
    return size


def sync_directory(path: Path) -> None:
    """Force the entries of a directory to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(path: Path, size_bytes: int | None = None, *, deep: bool = False) -> str | None:
    """Why `path` cannot be read, None if it can. `deep` reads every page and checks its checksum, else size and footer."""
    try:
        found = path.stat().st_size
        if size_bytes is not None and found != size_bytes:
            return f"is {found} bytes long, was written with {size_bytes}"
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if deep:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
    except FileNotFoundError:
        return "is missing"
    except (OSError, pa.ArrowException) as error:
        return f"cannot be read: {error}"[:300]
    return None


def columns(path: Path) -> set[str]:
    """Names of the columns of `path`, none if it cannot be read."""
    try:
        return set(pq.read_schema(path).names)
    except (OSError, pa.ArrowException):
        return set()


def read(path: Path) -> pa.Table:
    """All rows of `path`; OSError or pyarrow.ArrowException if it is damaged."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()
