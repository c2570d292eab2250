"""When the clocks of one GPU are lowered and restored: activity in, decision out.

Algorithm 1 of "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026): lower after more than X seconds of low
activity with a program resident, restore at the first sample that is not, and lower again no sooner than Y seconds after. Where
wake-ups are frequent it backs off on top of that.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

TRIGGER_SECONDS: Final = 3.0
"""X of the paper."""
COOLDOWN_SECONDS: Final = 5.0
"""Y of the paper."""
GAP_SECONDS_MAX: Final = 2.5
"""Of the time between samples further apart nothing is known: counting begins anew."""
WAKES_PER_MINUTE_MAX: Final = 6.0
"""More wake-ups than that, over WAKES_SECONDS, are frequent; trigger and cooldown alone would allow ten."""
WAKES_SECONDS: Final = 300.0
BACK_OFF_SECONDS: Final = 60.0
"""The first time a GPU is left alone for waking too often; twice as long each time, up to BACK_OFF_SECONDS_MAX."""
BACK_OFF_SECONDS_MAX: Final = 3600.0


class Decision(enum.Enum):
    """What to do now."""

    NONE = "none"
    LOWER = "lower"
    RESTORE = "restore"
    BACK_OFF = "back_off"
    """Restore, and leave this GPU alone for `DownClock.back_off_seconds`."""


class Activity(NamedTuple):
    """What one sample shows: `idle` only where signals were measured, all are low and a program is resident; why, in words.

    `work`: a signal is not low. Neither holds where nothing is known, or no program is there.
    """

    idle: bool
    reason: str
    work: bool = False


@dataclass(frozen=True)
class Rule:
    """Settings of the algorithm, in seconds; the defaults are the paper's."""

    trigger_seconds: float = TRIGGER_SECONDS
    cooldown_seconds: float = COOLDOWN_SECONDS
    gap_seconds_max: float = GAP_SECONDS_MAX
    wakes_per_minute_max: float = WAKES_PER_MINUTE_MAX


class DownClock:
    """The state of one GPU. Time is in seconds by any clock; where it runs backwards, counting begins anew."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._low_seconds = 0.0
        self._cool_until = float("-inf")
        self._last: float | None = None
        self._wakes: deque[float] = deque()
        self._left_alone_until = float("-inf")
        self.down = False
        self.back_off_seconds = 0.0

    def step(self, now: float, activity: Activity) -> Decision:
        """Take the sample of `now`."""
        elapsed = self._elapsed(now)
        if not activity.idle or elapsed is None:
            self._low_seconds = 0.0
        if not activity.idle:
            return self._wake(now) if self.down else Decision.NONE
        self._low_seconds += elapsed or 0.0
        if self.down or self._low_seconds <= self._rule.trigger_seconds or now < self._cool_until:
            return Decision.NONE
        self.down = True
        return Decision.LOWER

    def unseen(self, now: float) -> Decision:
        """There has been no sample for too long: what is not seen is not kept low."""
        self._low_seconds = 0.0
        return self._wake(now) if self.down else Decision.NONE

    def not_lowered(self, now: float, pause_seconds: float) -> None:
        """Clocks were not lowered after all; not to be tried again for `pause_seconds`."""
        self.down = False
        self._low_seconds = 0.0
        self._cool_until = max(self._cool_until, now + pause_seconds)

    def _elapsed(self, now: float) -> float | None:
        """Seconds since the sample before; None where that says nothing."""
        last, self._last = self._last, now
        if last is not None and now < last:
            self._start_anew(now)
            return None
        if last is None or now - last > self._rule.gap_seconds_max:
            return None
        return now - last

    def _start_anew(self, now: float) -> None:
        """The clock was set back: times that lie ahead of it are brought near again."""
        self._wakes.clear()
        pause = max(self._rule.cooldown_seconds, self.back_off_seconds)
        self._cool_until = min(self._cool_until, now + pause)
        self._left_alone_until = min(self._left_alone_until, now + pause)

    def _wake(self, now: float) -> Decision:
        self.down = False
        self._cool_until = now + self._rule.cooldown_seconds
        self._wakes.append(now)
        while now - self._wakes[0] >= WAKES_SECONDS:
            self._wakes.popleft()
        if len(self._wakes) <= self._rule.wakes_per_minute_max * WAKES_SECONDS / 60:
            return Decision.RESTORE
        self._wakes.clear()
        again = now - self._left_alone_until <= 2 * WAKES_SECONDS
        doubled = min(BACK_OFF_SECONDS_MAX, 2 * self.back_off_seconds)
        self.back_off_seconds = doubled if again else BACK_OFF_SECONDS
        self._cool_until = self._left_alone_until = now + self.back_off_seconds
        return Decision.BACK_OFF
