"""Opens a recorded sqlite database: as a file of its own, read only, with bounds on what a stranger's may cost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from warpline_proto.errors import Refused

from .source import Input

SQLITE_MAGIC: Final = b"SQLite format 3\0"
FILE_BYTES_MAX: Final = 8 * 1024**3
"""Largest database that is unpacked for sqlite, which can read only a file."""
_VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Longest text or blob that is taken out of a database."""
_PROGRESS_STEPS: Final = 1_000_000
_WORK_MAX: Final = 50_000
"""Rounds of _PROGRESS_STEPS virtual-machine steps after which a crafted database is given up."""


@contextmanager
def database(candidate: Input) -> Iterator[sqlite3.Connection]:
    """The database of a recorded file; Refused where sqlite cannot read it, then or later."""
    try:
        with _as_file(candidate) as path, closing(_connect(path)) as opened:
            yield opened
    except sqlite3.Error as error:
        raise Refused(f"sqlite cannot read it: {error}", "export it again, or copy the file again") from error


@contextmanager
def _as_file(candidate: Input) -> Iterator[str]:
    """The unpacked database as a file of its own; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="warpline-sqlite-") as folder:
        path = os.path.join(folder, "database.sqlite")
        with candidate.open() as packed, open(path, "wb") as unpacked:
            shutil.copyfileobj(_Bounded(packed), unpacked, 1024 * 1024)
        yield path


class _Bounded:
    """A stream that refuses to give more than FILE_BYTES_MAX."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._seen = 0

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._stream.read(size)
        self._seen += len(piece)
        if self._seen > FILE_BYTES_MAX:
            raise Refused(f"holds more than {FILE_BYTES_MAX:,} bytes", "record or export a shorter part")
        return piece


def _connect(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _VALUE_BYTES_MAX)
    database.execute("PRAGMA trusted_schema = OFF")  # a schema may call functions; those of a stranger's do nothing
    database.text_factory = lambda raw: raw.decode("utf-8", "replace")
    rounds = iter(range(_WORK_MAX))
    database.set_progress_handler(lambda: next(rounds, None) is None, _PROGRESS_STEPS)
    return database
