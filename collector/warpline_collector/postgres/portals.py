"""What a session holds: statements under their names, and answers that are not read to their end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from warpline_collector.pool import Described, Rows
from warpline_collector.question import Unread

from .commands import Command
from .parameters import Value
from .rows import split

STATEMENTS_MAX: Final = 1_000
STATEMENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of all statements of one session."""
PORTALS_MAX: Final = 64


@dataclass
class Prepared:
    """A statement: a question or a command, what the client says of its parameters, what was found out about it."""

    sql: str
    oids: Sequence[int]
    command: Command | None
    described: Described | None = None


@dataclass
class Portal:
    """A statement with its values, and as much of its answer as was not read."""

    prepared: Prepared
    values: Sequence[Value] = ()
    forms: Sequence[int] = ()
    rows: Rows | None = None
    rest: memoryview = field(default_factory=lambda: memoryview(b""))

    def answer(self, rows: Rows, unread: Unread) -> None:
        """Take the answer."""
        unread.take(len(rows.payload))
        self.rows, self.rest = rows, memoryview(rows.payload)

    def next(self, rows_max: int) -> memoryview:
        """Messages of the next rows, all that are left where `rows_max` is 0."""
        end = split(self.rest, rows_max) if rows_max else len(self.rest)
        piece, self.rest = self.rest[:end], self.rest[end:]
        return piece

    def release(self, unread: Unread) -> None:
        """Let go of the answer."""
        if self.rows is not None:
            unread.give(len(self.rows.payload))
            self.rows, self.rest = None, memoryview(b"")
