"""Finds the regular files below a folder: in name order, under bounds, without following links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .archive import Limits


def files_below(folder: Path, limits: Limits) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Regular files below `folder` in name order, and what was passed over with the reason. No link is followed."""
    found: list[Path] = []
    passed: list[tuple[Path, str]] = []
    total = 0
    for path, size in _entries(folder, limits.depth, passed):
        total += size
        if len(found) >= limits.files or total > limits.total_bytes:
            bound = f"{limits.files:,} files or {limits.total_bytes:,} bytes"
            passed.append((folder, f"holds more than {bound}: {path.name} and what follows it was not reached"))
            break
        found.append(path)
    return found, passed


def _entries(folder: Path, depth: int, passed: list[tuple[Path, str]]) -> Iterator[tuple[Path, int]]:
    if depth <= 0:
        passed.append((folder, "folders are nested too deep: what is below was not reached"))
        return
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        passed.append((folder, f"cannot be read: {error.strerror or error}"))
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_symlink():
            passed.append((path, "a symbolic link: not followed, name its target itself"))
        elif entry.is_dir(follow_symlinks=False):
            yield from _entries(path, depth - 1, passed)
        elif entry.is_file(follow_symlinks=False):
            yield path, entry.stat(follow_symlinks=False).st_size
        else:
            passed.append((path, "not a regular file"))
