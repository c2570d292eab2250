"""The audit: who asked what of the collector and what became of it, written to table `audit` by a thread of its own.

Whoever notes something never waits, neither for the store nor for another thread that writes. What comes faster than it may
be kept is counted, and the count is a row. Questions that were answered are counted by caller and minute: a dashboard that
asks every second is one row a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from warpline_proto.batch import Batch
from warpline_proto.errors import WarplineError
from warpline_proto.tables import AUDIT

from .callers import Caller
from .passes import Passes

SOURCE: Final = "audit"
DONE: Final = "done"
DENIED: Final = "denied"
REFUSED: Final = "refused"
FAILED: Final = "failed"
DROPPED: Final = "dropped"
PERIOD_SECONDS: Final = 1.0
MINUTE_NS: Final = 60 * 10**9
NOTES_PER_MINUTE_MAX: Final = 600
"""Rows written in one minute; more of them, from whoever knocks all the time, are counted."""
WAITING_MAX: Final = 2_000
"""Acts held while the store cannot write."""
COUNTED_MAX: Final = 1_000
"""Callers counted apart in one minute; the rest is one row without a name."""
ROWS_MAX: Final = WAITING_MAX + COUNTED_MAX
"""Rows held in all."""
TEXT_CHARS_MAX: Final = 500
"""Longest name, subject or reason that is kept."""
_LOG = logging.getLogger(__name__)
_Key = tuple[str, str, str, str]


class Audit:
    """`start` and `close`; `note` and `answered` from any thread. `write` makes rows durable, as a store does."""

    def __init__(self, write: Callable[[Sequence[Batch]], None], clock: Callable[[], int] = time.time_ns) -> None:
        self._write = write
        self._clock = clock
        self._mutex = threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._minute_ns = 0
        self._noted = 0
        self._dropped = 0
        self._silent = True
        self._counts: Counter[_Key] = Counter()
        self._passes = Passes(SOURCE, self.flush, lambda: None, lambda _: PERIOD_SECONDS)

    def start(self) -> None:
        """Begin to write."""
        self._passes.start()

    def close(self) -> None:
        """Write what waits and what was counted so far."""
        self._passes.close()
        with self._mutex:
            self._count_out()
        self.flush()

    def note(
        self, caller: Caller | None, door: str, act: str, outcome: str, subject: str = "", reason: str = ""
    ) -> None:
        """One act; None is a caller that nobody knows."""
        with self._mutex:
            self._turn()
            if self._noted >= NOTES_PER_MINUTE_MAX or len(self._waiting) >= WAITING_MAX:
                self._dropped += 1
                return
            self._noted += 1
            name, role = (caller.name, str(caller.role)) if caller else ("", "")
            row = _row(self._clock(), (name, role, door, act), outcome, subject, reason)
            self._waiting.append(row | {"node": caller.node if caller else None})

    def answered(self, caller: Caller, door: str, act: str = "question") -> None:
        """One act that went well and is only counted."""
        with self._mutex:
            self._turn()
            key = (caller.name, str(caller.role), door, act)
            if key not in self._counts and len(self._counts) >= COUNTED_MAX:
                key = ("", str(caller.role), door, act)
            self._counts[key] += 1

    def flush(self) -> None:
        """Write what waits; what cannot be written waits on, as far as it is bounded."""
        with self._mutex:
            self._turn()
            rows, self._waiting = self._waiting, []
        if not rows:
            return
        try:
            self._write([Batch(AUDIT.name, SOURCE, AUDIT.from_rows(rows))])
        except WarplineError as error:
            self._wait_on(rows, error)
        else:
            self._silent = True

    def _wait_on(self, rows: list[dict[str, Any]], error: WarplineError) -> None:
        if self._silent:
            _LOG.warning("the audit could not be written, tried again until it can: %s", error)
            self._silent = False
        with self._mutex:
            self._waiting = rows + self._waiting
            self._dropped += sum(row["count"] for row in self._waiting[ROWS_MAX:])
            del self._waiting[ROWS_MAX:]

    def _turn(self) -> None:
        """Where a minute is over, its counts become rows."""
        minute_ns = self._clock() // MINUTE_NS * MINUTE_NS
        if minute_ns != self._minute_ns:
            self._count_out()
            self._minute_ns, self._noted = minute_ns, 0

    def _count_out(self) -> None:
        """Counts become rows, where there is room for them; else they wait as counts."""
        if len(self._waiting) >= WAITING_MAX:
            return
        for key, count in self._counts.items():
            self._waiting.append(_row(self._minute_ns, key, DONE, "", "") | {"count": count})
        self._counts.clear()
        if self._dropped:
            told = _row(self._minute_ns, ("", "", "collector", "audit"), DROPPED, "", "more than may be kept")
            self._waiting.append(told | {"count": self._dropped})
            self._dropped = 0


def _row(time_ns: int, key: _Key, outcome: str, subject: str, reason: str) -> dict[str, Any]:
    caller, role, door, act = key
    return {
        "source": SOURCE,
        "time_ns": time_ns,
        "caller": _cut(caller),
        "role": role or None,
        "door": door,
        "act": act,
        "subject": _cut(subject),
        "outcome": outcome,
        "reason": _cut(reason),
        "count": 1,
    }


def _cut(text: str) -> str | None:
    """As much as is kept, in letters that can be stored; NULL for nothing."""
    cut = text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"
    return cut.encode(errors="replace").decode() or None
