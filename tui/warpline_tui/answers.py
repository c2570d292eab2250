"""Answers to SQL that may be used again for a while, for what changes slowly and costs much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final

import pyarrow as pa

from warpline_proto.errors import WarplineError

KEPT_MAX: Final = 32
"""So many answers are kept at once; the oldest goes first."""
FAILURE_FACTOR: Final = 10
"""What cannot be answered takes a tenth of the time at most."""


@dataclass(frozen=True)
class _Kept:
    """One answer or failure, when it was given, and until when it is good; ns."""

    answer: pa.Table | WarplineError
    given_ns: int
    until_ns: int


class Answers:
    """Asks `query`, and remembers what it is told to. `clock` gives ns since the epoch. Safe to share between threads."""

    def __init__(self, query: Callable[[str], pa.Table], clock: Callable[[], int]) -> None:
        self._query = query
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._mutex = Lock()

    def rows(self, sql: str, for_seconds: float = 0.0) -> pa.Table:
        """The answer, or one to the same words given within `for_seconds`; raises a WarplineError.

        A failure is remembered too where it took long: for ten times as long as it took.
        """
        if not for_seconds:
            return self._query(sql)
        now_ns = self._clock()
        with self._mutex:
            kept = self._kept.get(sql)
        if kept is None or not kept.given_ns <= now_ns < kept.until_ns:
            answer, until_ns = self._asked(sql), now_ns + int(for_seconds * 1e9)
            if isinstance(answer, WarplineError):
                until_ns = min(until_ns, now_ns + FAILURE_FACTOR * (self._clock() - now_ns))
            kept = _Kept(answer, now_ns, until_ns)
            self._keep(sql, kept)
        if isinstance(kept.answer, WarplineError):
            raise kept.answer
        return kept.answer

    def _asked(self, sql: str) -> pa.Table | WarplineError:
        try:
            return self._query(sql)
        except WarplineError as error:
            return error

    def _keep(self, sql: str, kept: _Kept) -> None:
        with self._mutex:
            self._kept = {words: each for words, each in self._kept.items() if each.until_ns > kept.given_ns}
            self._kept.pop(sql, None)
            while len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[sql] = kept
