"""The time by which rows grow old: the clock, but for a jump forward, which is believed once the clock has stood by it for a day.

A clock that shows next year for a minute would otherwise let everything go that is kept for less.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

JUMP_NS: Final = 3_600 * 10**9
"""A clock that went so much further than time did was set, or stood while the machine slept."""
BELIEVED_NS: Final = 86_400 * 10**9
"""It is believed after so long: in that time somebody can set it right."""
_LOG = logging.getLogger(__name__)


def passed(since_ns: int, now_ns: int, period_ns: float) -> bool:
    """Whether so long a time passed since then; also where less than none did: the clock was set back."""
    return not 0 <= now_ns - since_ns < period_ns


class Steady:
    """`clock` gives nanoseconds since the epoch, `monotonic` seconds; `newest_ns` is the newest time known of before, if any."""

    def __init__(
        self, clock: Callable[[], int], newest_ns: int | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._ran_ns = self._running()
        self._believed_ns = clock() if newest_ns is None else newest_ns
        self._doubted_ns: int | None = None

    def __call__(self) -> int:
        """The time that is believed, in nanoseconds since the epoch; one that was set back is believed at once."""
        now_ns, ran_ns = self._clock(), self._running()
        expected_ns = self._believed_ns + ran_ns - self._ran_ns
        if self._doubted(now_ns - expected_ns, ran_ns):
            now_ns = expected_ns
        self._believed_ns, self._ran_ns = now_ns, ran_ns
        return now_ns

    def _doubted(self, ahead_ns: int, ran_ns: int) -> bool:
        if ahead_ns <= JUMP_NS:
            self._doubted_ns = None
            return False
        if self._doubted_ns is None:
            self._doubted_ns = ran_ns
            told = "the clock is %.1f h further than it was left: nothing grows older by that before it has stood by it for a day"
            _LOG.warning(told, ahead_ns / 3.6e12)
        return ran_ns - self._doubted_ns < BELIEVED_NS

    def _running(self) -> int:
        return int(self._monotonic() * 1e9)
