"""One question on its way to an answer: who asks, by which door, and how it is taken back; and why one has no answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from warpline_proto.errors import QueryError

from .callers import LOCAL, Caller
from .shares import Full, Shares

GRPC: Final = "grpc"
POSTGRES: Final = "postgres"
DOORS: Final = (GRPC, POSTGRES)
"""By which questions come."""

CANCELLED: Final = "57014"
BUSY: Final = "53000"
ENDED: Final = "53200"
"""How PostgreSQL's clients know a question that was stopped, one that nobody was free for, one that ended its worker."""


class Unanswered(QueryError):
    """A question without an answer; `sqlstate` is how PostgreSQL's clients know the reason."""

    def __init__(self, message: str, hint: str = "", sqlstate: str = "42000") -> None:
        super().__init__(message, hint)
        self.sqlstate = sqlstate


class Question:
    """One question on its way through the pool, so that whoever no longer wants the answer can say so from any thread.

    It carries who asks and by which door, for what may be seen and for the audit. `whence` tells callers apart that nobody asked
    for a name: where they come from, as far as that is known.
    """

    def __init__(self, caller: Caller = LOCAL, door: str = GRPC, whence: str = "") -> None:
        self.caller = caller
        self.door = door
        self.who = who(caller, door, whence)
        self._mutex = threading.Lock()
        self._end: Callable[[], None] | None = None
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self._cancelled

    def cancel(self) -> None:
        """End it, with the worker that answers it; one that waits leaves. Nothing happens where it is answered already."""
        with self._mutex:
            self._cancelled = True
            if self._end is not None:
                self._end()

    def insist(self) -> None:
        """QueryError if nobody wants the answer any more."""
        if self._cancelled:
            raise Unanswered("the question was taken back", sqlstate=CANCELLED)

    @contextlib.contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """What `cancel` calls meanwhile, from its thread; QueryError if nobody wants the answer any more."""
        with self._mutex:
            self.insist()
            self._end = end
        try:
            yield
        finally:
            with self._mutex:
                self._end = None


def who(caller: Caller, door: str, whence: str) -> tuple[str, ...]:
    """Who shares and takes turns as one: a certificate's or a user's name with its role, by whichever door; else one place."""
    return (caller.role, caller.name) if caller.name else (door, whence)


class Unread:
    """One caller's answers, in bytes, as long as they are not read to their end."""

    def __init__(self, shares: Shares, who: Hashable) -> None:
        self._shares = shares
        self._who = who
        self._bytes = 0

    def __enter__(self) -> Unread:
        return self

    def __exit__(self, *_: object) -> None:
        self.give(self._bytes)

    def take(self, size: int) -> None:
        """Unanswered where there is no room."""
        try:
            self._shares.take(self._who, size)
        except Full as full:
            whose = "of yours " if full.own else ""
            raise Unanswered(f"too many answers {whose}are not read yet", "read them to their end", BUSY) from None
        self._bytes += size

    def give(self, size: int) -> None:
        """They were read, or let go."""
        self._bytes -= size
        self._shares.give(self._who, size)
