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
PATIENCE: Final = 8
"""Small chunks are merged beside the commits; where they are so many times as many as should be, in one."""


@dataclass(frozen=True)
class Chunk:
    """One exported file, relative to the store's directory."""

    path: str
    rows: int


@dataclass(frozen=True)
class Crowd:
    """Small chunks of one table, and the path of the one that is to hold their rows."""

    table: str
    chunks: tuple[Chunk, ...]
    path: str


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
        """Export `rows` as one more chunk. OSError if the disk refuses."""
        if rows.num_rows == 0:
            return
        self._chunks.setdefault(table, []).append(self._write(table, [rows]))
        if (crowd := self._crowd(table, PATIENCE * self._chunks_max)) is not None:
            self.adopt(crowd, self.merged(crowd))

    def crowds(self) -> list[Crowd]:
        """What is to be merged now."""
        crowds = (self._crowd(table, self._chunks_max) for table in self._chunks)
        return [crowd for crowd in crowds if crowd is not None]

    def merged(self, crowd: Crowd) -> Chunk:
        """One chunk of several, which is not listed yet; chunks may be added meanwhile. OSError if the disk refuses."""
        rows = pa.concat_tables(parquet.read(self._directory / chunk.path) for chunk in crowd.chunks)
        parquet.write(rows, self._directory / crowd.path, durable=False)
        return Chunk(crowd.path, rows.num_rows)

    def adopt(self, crowd: Crowd, merged: Chunk) -> bool:
        """List it instead of those it was made of; False, and it is let go, where one of them is not listed any more."""
        listed = self._chunks[crowd.table]
        if not set(crowd.chunks) <= set(listed):
            self._retire(merged.path)
            return False
        at = listed.index(crowd.chunks[0])
        kept = [chunk for chunk in listed if chunk not in crowd.chunks]
        self._chunks[crowd.table] = [*kept[:at], merged, *kept[at:]]
        self._retire_all(crowd.chunks)
        return True

    def replace(self, table: str, parts: Iterable[pa.Table]) -> None:
        """Let the rows of these be all that `table` has; they are asked for one by one."""
        before = self._chunks.get(table, [])
        some = (part for part in parts if part.num_rows)
        first = next(some, None)
        self._chunks[table] = [] if first is None else [self._write(table, chain([first], some))]
        self._retire_all(before)

    def _crowd(self, table: str, chunks_max: int) -> Crowd | None:
        small = tuple(chunk for chunk in self._chunks[table] if chunk.rows < FULL_CHUNK_ROWS)
        return Crowd(table, small, self._path(table)) if len(small) > chunks_max else None

    def _path(self, table: str) -> str:
        self._count += 1
        return f"{FOLDER}/{table}/{self._token}-{self._count:08d}.parquet"

    def _write(self, table: str, parts: Iterable[pa.Table]) -> Chunk:
        path, schema = self._path(table), declared(table).schema
        rows = 0

        def written() -> Iterator[pa.Table]:
            nonlocal rows
            for part in parts:
                rows += part.num_rows
                yield part.cast(schema)

        parquet.write_all(written(), schema, self._directory / path, durable=False)
        return Chunk(path, rows)

    def _retire_all(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._retire(chunk.path)
