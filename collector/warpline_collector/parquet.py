"""Parquet files of the store: written whole or not at all, checked before they are trusted."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS: Final = 100_000
"""Rows of one group, whose least and greatest values tell whether a question needs it; `together` gives as many or more."""


def write(rows: pa.Table, path: Path, *, durable: bool) -> int:
    """Write `rows` to `path`, which appears only when it is complete; returns its size in bytes. `durable` forces it to disk."""
    return write_all([rows], rows.schema, path, durable=durable)


def write_all(parts: Iterable[pa.Table], schema: pa.Schema, path: Path, *, durable: bool) -> int:
    """As `write`, from several tables of one schema, which are asked for one by one.

    zstd, DELTA_BINARY_PACKED on whole numbers and dictionaries on the rest: the smallest and fastest form measured for
    telemetry rows. `durable` forces file and directory entry to disk.
    """
    fresh = not path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    try:
        with partial.open("wb") as stream:
            with _writer(stream, schema) as writer:
                for rows in parts:
                    writer.write_table(rows, row_group_size=GROUP_ROWS)
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


def _writer(stream: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    whole = [field.name for field in schema if pa.types.is_integer(field.type)]
    rest = [field.name for field in schema if not pa.types.is_integer(field.type)]
    return pq.ParquetWriter(
        stream,
        schema,
        compression="zstd",
        use_dictionary=rest,
        column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        write_page_checksum=True,
        store_schema=not any(pa.types.is_dictionary(kind) for kind in schema.types),  # what is read are plain columns
    )


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


def packed(schema: pa.Schema) -> pa.Schema:
    """The schema with texts as dictionaries."""
    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([field.with_type(text) if pa.types.is_string(field.type) else field for field in schema])


def together(paths: Iterable[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Rows of files that all have `schema`, GROUP_ROWS or more at once, in `packed` columns.

    OSError or pyarrow.ArrowException if one is damaged.
    """
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    waiting: list[pa.Table] = []
    for path in paths:
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
            waiting.append(file.read().cast(packed(schema)))
        if sum(rows.num_rows for rows in waiting) >= GROUP_ROWS:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()
