"""What the guard did, a line of JSON each, in a file that is bounded: the agent's source `guard` follows it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

JOURNAL: Final = "actions.jsonl"
JOURNAL_BYTES_MAX: Final = 1024 * 1024
"""Beyond this the file becomes its predecessor (`.1`) in place of the one before."""


class Journal:
    """Appends rows of `guard_actions`; what cannot be written is counted, and told with the next line that can."""

    def __init__(self, directory: Path, bytes_max: int = JOURNAL_BYTES_MAX) -> None:
        self._path = directory / JOURNAL
        self._bytes_max = bytes_max
        self._lost = 0

    def write(self, row: Mapping[str, Any]) -> bool:
        """Append one row; whether that was possible."""
        line = json.dumps({**row, "lost": self._lost} if self._lost else row).encode() + b"\n"
        try:
            self._append(line)
        except OSError:
            self._lost += 1
            return False
        self._lost = 0
        return True

    def _append(self, line: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(line) > self._bytes_max:
            self._path.replace(self._path.with_name(f"{JOURNAL}.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
