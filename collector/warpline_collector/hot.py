"""The hot tail: rows that are not sealed yet, exported as small Parquet files so that other processes see them at once.

These files are a copy. The DuckDB file is the truth, and at each start they are written anew from it, so nothing here is
forced to disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa

from warpline_proto.tables import table as declared

from . import parquet

FOLDER: Final = "hot"
FULL_CHUNK_ROWS: Final = 50_000
"""Chunks of so many rows stay as they are when small ones are merged: a row is rewritten a bounded number of times."""


@dataclass(frozen=True)
class Chunk:
    """One exported file, relative to the store's directory."""

    path: str
    rows: int


class HotTail:
    """Chunk files of every table. `retire` is told of each file that is no longer listed."""

    def __init__(self, directory: Path, chunks_max: int, retire: Callable[[str], None]) -> None:
        self._directory = directory
        self._chunks_max = chunks_max
        self._retire = retire
        self._chunks: dict[str, list[Chunk]] = {}
        self._token = secrets.token_hex(4)  # a name is never used twice, not even by the next process
        self._count = 0

    def paths(self, table: str) -> tuple[str, ...]:
        """The files of `table`, oldest first."""
        return tuple(chunk.path for chunk in self._chunks.get(table, ()))

    def add(self, table: str, rows: pa.Table) -> None:
        """Export `rows` as one more chunk; merges small chunks when there are many. OSError if the disk refuses."""
        if rows.num_rows == 0:
            return
        chunks = self._chunks.setdefault(table, [])
        chunks.append(self._write(table, [rows]))
        if sum(chunk.rows < FULL_CHUNK_ROWS for chunk in chunks) > self._chunks_max:
            self._merge(table)

    def replace(self, table: str, parts: Iterable[pa.Table]) -> None:
        """Let the rows of these be all that `table` has; they are asked for one by one."""
        before = self._chunks.get(table, [])
        some = (part for part in parts if part.num_rows)
        first = next(some, None)
        self._chunks[table] = [] if first is None else [self._write(table, chain([first], some))]
        self._retire_all(before)

    def _merge(self, table: str) -> None:
        before = self._chunks[table]
        full = [chunk for chunk in before if chunk.rows >= FULL_CHUNK_ROWS]
        small = [chunk for chunk in before if chunk.rows < FULL_CHUNK_ROWS]
        merged = pa.concat_tables(parquet.read(self._directory / chunk.path) for chunk in small)
        self._chunks[table] = [*full, self._write(table, [merged])]
        self._retire_all(small)

    def _write(self, table: str, parts: Iterable[pa.Table]) -> Chunk:
        self._count += 1
        path = f"{FOLDER}/{table}/{self._token}-{self._count:08d}.parquet"
        schema = declared(table).schema
        rows = 0

        def written() -> Iterator[pa.Table]:
            nonlocal rows
            for part in parts:
                rows += part.num_rows
                yield part.cast(schema)

        parquet.write_all(written(), schema, self._directory / path, durable=False)
        return Chunk(path, rows)

    def _retire_all(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._retire(chunk.path)
