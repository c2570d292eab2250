"""What the power guard of this node did: follows its journal, a bounded file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from warpline_proto.defaults import STATE_DIRECTORY
from warpline_proto.errors import Unsupported
from warpline_proto.tables import GUARD_ACTIONS

from ..guard.journal import JOURNAL
from ..guard.settings import STATE_DIRECTORY as GUARD_DIRECTORY
from ..parsers.values import INT_MAX, SMALL_MAX
from ..positions import Positions, WasPut
from ..source import Health, Rows, Settlement
from ..tail import Position, Tail

READ_BYTES_MAX: Final = 256 * 1024
"""Taken in one round; the next goes on."""
POSITIONS_BYTES_MAX: Final = 64 * 1024
_NUMBERS: Final = {column.name: column.type for column in GUARD_ACTIONS.columns}


@dataclass(frozen=True)
class GuardJournalConfig:
    """Settings: `directory` is the guard's `state_directory`; `positions` remembers over restarts how far was read."""

    period_seconds: float = 5.0
    directory: str = GUARD_DIRECTORY
    positions: str = f"{STATE_DIRECTORY}/guard.json"

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = GuardJournalConfig()


class GuardJournal:
    """Each line is a row of `guard_actions`; what is none is counted as dropped."""

    name = "guard"
    Config = GuardJournalConfig

    def __init__(self, config: GuardJournalConfig = DEFAULTS) -> None:
        self.period_seconds = config.period_seconds
        self._path = Path(config.directory) / JOURNAL
        self._book = Positions(config.positions, POSITIONS_BYTES_MAX)
        self._tail: Tail | None = None
        self._given: Position | None = None

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Let no position hold before the rows of its lines are on disk."""
        self._book.keep_until_settled(was_put)

    def so_far(self) -> Settlement:
        """How far the journal is read."""
        return self._book.so_far(self._read_to())

    def open(self) -> None:
        """Go on where reading stopped; Unsupported where no guard has ever told anything, Denied where it may not be read."""
        self.close()
        if not self._path.exists():
            raise Unsupported(
                f"no power guard writes to {self._path}", "warpline power guard, or [sources.guard] directory"
            )
        self._tail = Tail(self._path, self._given or _position(self._book.found()))

    def read(self) -> Iterable[Rows]:
        """New rows; those of the round before are the agent's by now, so that they are not read again after a restart."""
        if self._tail is None:
            return []
        self._book.begins(self._read_to())
        told = [_row(line) for line in self._tail.read(READ_BYTES_MAX)]
        self._given = self._tail.position
        rows = [row for row, _ in told if row is not None]
        dropped = sum(lost for _, lost in told)
        return [Rows(GUARD_ACTIONS.name, GUARD_ACTIONS.from_rows(rows), dropped)] if rows or dropped else []

    def health(self) -> Iterable[Health]:
        """Where the place cannot be remembered."""
        return [Health("positions", "stale", self._book.trouble)] if self._book.trouble else []

    def close(self) -> None:
        """Remember how far was read, give the file back."""
        self._book.begins(self._read_to())
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _read_to(self) -> Mapping[str, Any]:
        return self._book.found() if self._given is None else {str(self._path): list(self._given)}


def _position(saved: Mapping[str, Any]) -> Position | None:
    for kept in saved.values():
        if isinstance(kept, list) and [type(each) for each in kept] == [int, int, str]:
            return Position(*kept)
    return None


def _row(line: str) -> tuple[dict[str, Any] | None, int]:
    """A row and how many were lost before it; no row and one lost where the line is none."""
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return None, 1
    if (
        not isinstance(plain, dict)
        or not isinstance(plain.get("time_ns"), int)
        or not isinstance(plain.get("action"), str)
    ):
        return None, 1
    lost = plain.get("lost")
    row = {name: plain[name] for name, kind in _NUMBERS.items() if name in plain and _fits(plain[name], kind)}
    return row, lost if isinstance(lost, int) and 0 <= lost <= SMALL_MAX else 0


def _fits(value: Any, kind: pa.DataType) -> bool:
    if value is None:
        return True
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if pa.types.is_integer(kind):
        return isinstance(value, int) and abs(value) <= (SMALL_MAX if kind == pa.int32() else INT_MAX)
    return isinstance(value, int | float if pa.types.is_floating(kind) else str)
