"""The statements that were run, in a file of the user's own, newest last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STATEMENTS_MAX: Final = 500
"""So many are kept."""
STATEMENT_CHARS_MAX: Final = 16 * 1024
"""A longer one is not kept."""
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""A larger file is not one of ours, and is not read."""


def file_in(environment: Mapping[str, str]) -> Path:
    """Where it lies: below XDG_STATE_HOME."""
    state = environment.get("XDG_STATE_HOME") or os.path.join(
        environment.get("HOME") or os.path.expanduser("~"), ".local/state"
    )
    return Path(state) / "warpline" / "sql_history.jsonl"


def read(file: Path) -> list[str]:
    """Statements, oldest first; lines that are none are passed over, and a file that cannot be read is an empty one."""
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            return []
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [statement for line in lines if (statement := _statement(line))][-STATEMENTS_MAX:]


def add(known: Sequence[str], sql: str) -> list[str]:
    """With a statement that was run: once, as the newest."""
    if not sql.strip() or len(sql) > STATEMENT_CHARS_MAX:
        return list(known)
    return [*(each for each in known if each != sql), sql][-STATEMENTS_MAX:]


def write(file: Path, statements: Sequence[str]) -> None:
    """Put them in the place of what is there, for nobody else to read; OSError if that cannot be done."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"sql": each}) + "\n" for each in statements)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _statement(line: str) -> str | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    sql = told.get("sql") if isinstance(told, dict) else None
    return sql if isinstance(sql, str) else None
