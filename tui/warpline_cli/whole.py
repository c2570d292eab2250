"""Writes a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place once everything is written; OSError where that fails.

    What is there and is no file, as a pipe or /dev/stdout, is itself written to. A link goes on leading where it did.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    final = path.resolve()
    beside = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        beside.touch(exist_ok=False)  # nothing that somebody else put there is written to
    except FileNotFoundError:
        raise FileNotFoundError(2, "there is no such folder", str(path.parent)) from None
    try:
        yield beside
        beside.replace(final)
    finally:
        beside.unlink(missing_ok=True)
