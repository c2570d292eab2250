"""How far files were read, written down so that a restart goes on there; what makes no sense there is as if it were absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .parsers.values import mapping


def load(path: Path, bytes_max: int) -> Mapping[str, Any]:
    """Positions by file, as they were written; none where the file is absent, larger than that, or not what it should be."""
    try:
        if path.stat().st_size > bytes_max:
            return {}
        return mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def save(path: Path, positions: Mapping[str, Any]) -> str | None:
    """Write them in place of those before, whole or not at all; what went wrong, in words."""
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        passing.write_text(json.dumps(positions), encoding="utf-8")
        passing.replace(path)
    except OSError as error:
        return f"cannot write {path}: {error.strerror}"
    return None
