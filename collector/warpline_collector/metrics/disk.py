"""What a store takes on disk, from its catalog and the files it lists, without asking whoever writes to it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from warpline_proto.errors import StoreError

from .. import catalog
from ..engine import FILE


@dataclass(frozen=True)
class Size:
    """Files and bytes of one store, and what its disk has left of how much."""

    segments: int
    segment_bytes: int
    hot_files: int
    hot_rows: int
    damaged: int
    database_bytes: int
    free_bytes: int
    disk_bytes: int


class Disk:
    """`size` again and again: each file is looked into once, for it never changes under its name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._segments: dict[str, int] = {}
        self._chunks: dict[str, int] = {}

    def size(self) -> Size:
        """StoreError if there is no store or its catalog cannot be read."""
        listed = catalog.read(self._directory)
        segments = [path for files in listed.tables.values() for path in (*files.segments, *files.older)]
        chunks = [path for files in listed.tables.values() for path in files.chunks]
        self._segments = {path: self._segments.get(path) or self._bytes(path) for path in segments}
        self._chunks = {path: self._chunks.get(path) or self._rows(path) for path in chunks}
        try:
            disk = shutil.disk_usage(self._directory)
        except OSError as error:
            raise StoreError(f"cannot look at {self._directory}: {error.strerror}") from error
        return Size(
            segments=len(segments),
            segment_bytes=sum(self._segments.values()),
            hot_files=len(chunks),
            hot_rows=sum(self._chunks.values()),
            damaged=len(listed.damaged),
            database_bytes=self._bytes(FILE) + self._bytes(f"{FILE}.wal"),
            free_bytes=disk.free,
            disk_bytes=disk.total,
        )

    def _bytes(self, path: str) -> int:
        """0 for a file that went away since the catalog was read."""
        try:
            return os.stat(self._directory / path).st_size
        except OSError:
            return 0

    def _rows(self, path: str) -> int:
        try:
            return int(pq.read_metadata(self._directory / path).num_rows)
        except (OSError, pa.ArrowException):
            return 0
