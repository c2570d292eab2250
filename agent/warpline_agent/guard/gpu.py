"""The guard's dealings with one GPU: samples and answers in, orders and rows out; touches nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..nvml.device import NO_PERMISSION, NOT_OFFERED
from .activity import EMPTY, Signals
from .down_clock import Activity, Decision, DownClock, Rule
from .orders import ABSENT, UNKNOWN, Answer
from .rows import BACK_OFF, LOWER, REFUSE, RESTORE, Row

BEFORE_SAMPLES_MAX: Final = 60
"""Samples of power before the clocks are lowered, whose mean is what low clocks are compared with."""
HELD_SHARE: Final = 0.9
"""An SM clock below this part of the usual one, before anything was lowered, is held by somebody else, or low already."""
HELD_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 0.5
"""Before a restore that failed is tried again; twice as long each time, up to AGAIN_SECONDS_MAX."""
AGAIN_SECONDS_MAX: Final = 10.0
AVOID_SECONDS: Final = 300.0
"""A GPU on which lowering failed is left alone this long; twice as long each time, up to AVOID_SECONDS_MAX."""
AVOID_SECONDS_MAX: Final = 3600.0
TOLD_MAX: Final = 32
"""Reasons for refusing that are remembered, so that each is told once."""

NEW, ASKED, UP, LOW, DOUBTFUL = "new", "asked", "up", "low", "doubtful"
"""Not looked at; an order is out; clocks as they were; clocks low; to be restored, whatever became of the last order."""


class Gpu:
    """One GPU. `now` is in seconds by the samples' clock for `sample`, by the guard's for everything else."""

    def __init__(self, uuid: str, index: int, rule: Rule, memory: bool, listed: bool) -> None:
        self.uuid = uuid
        self.index = index
        self.memory = memory
        self.state = NEW
        self.lowest: tuple[int, int | None] | None = None
        self.denied = ""
        self.rows: list[Row] = []
        """What is to be told; the guard takes it."""
        self._rule = rule
        self._listed = listed
        self._clock = DownClock(rule)
        self._signals = Signals()
        self._usual_mhz: float | None = None
        self._seen = 0.0
        self._reason = ""
        self._again_at = 0.0
        self._again = AGAIN_SECONDS
        self._avoid = AVOID_SECONDS
        self._told: deque[str] = deque(maxlen=TOLD_MAX)
        self._not_idle_since: float | None = None
        self._before: deque[float | None] = deque(maxlen=BEFORE_SAMPLES_MAX)
        self._last_ns = 0
        self._lowered_ns = 0
        self._saved: float | None = 0.0
        self._work_ns: int | None = None
        self._ended = False

    def sample(self, rows: Sequence[Mapping[str, Any]], now: float) -> None:
        """Take its newest rows of `device_samples`, oldest first."""
        activity = self._signals.activity(rows)
        newest = rows[-1]
        time_ns = int(newest["time_ns"])
        self._seen = now
        if activity.work and self._clock.down:
            self._work_ns = next(int(row["time_ns"]) for row in rows)
        self._measure(newest.get("power_watts"), activity, time_ns)
        self._explain(activity, time_ns)
        decision = self._clock.step(time_ns / 1e9, activity)
        if decision is Decision.LOWER:
            self._reason = f"low activity with a program resident for over {self._rule.trigger_seconds:g} s"
            self._allow(newest.get("sm_clock_mhz"), time_ns)
        elif decision is not Decision.NONE:
            self._reason = activity.reason
            self._note(decision, time_ns)

    def unseen(self, now: float, now_ns: int) -> None:
        """No sample has come; where that has lasted too long, clocks go up."""
        if now - self._seen > self._rule.gap_seconds_max and self._clock.down:
            self._note(self._clock.unseen(self._last_ns / 1e9), now_ns)
            self._reason = f"no sample for {now - self._seen:.1f} s"

    def end(self, reason: str) -> None:
        """The guard ends: whatever is low goes up."""
        self._ended = True
        self._reason = reason

    def order(self, now: float) -> str | None:
        """What is to be done to it next; the guard gives the order and calls `ask`."""
        wants_low = self._clock.down and not self._ended
        if self.state == NEW and not self._ended and not self._listed and now >= self._again_at:
            return "look"
        if self.state == UP and wants_low:
            return LOWER
        if now >= self._again_at and (self.state == DOUBTFUL or (self.state == LOW and not wants_low)):
            return RESTORE
        return None

    def ask(self) -> None:
        """An order is out."""
        self.state = ASKED

    def not_written(self, reason: str, now_ns: int) -> None:
        """The record cannot be written, so that nothing is lowered."""
        self._give_up_lowering(now_ns, f"not lowered: {reason}")

    def take(self, answer: Answer, now: float, now_ns: int) -> None:
        """What became of the order that was out."""
        if answer.order == "look":
            self._looked(answer, now, now_ns)
        elif answer.order == LOWER:
            self._lowered(answer, now_ns)
        else:
            self._was_restored(answer, now, now_ns)

    def _looked(self, answer: Answer, now: float, now_ns: int) -> None:
        self.state = NEW
        if answer.code or answer.found is None:
            self._refuse(now_ns, f"its clocks cannot be asked for: {answer.reason}")
            self._again_at, self._avoid = now + self._avoid, min(AVOID_SECONDS_MAX, 2 * self._avoid)
            return
        self.state = UP
        self.lowest = (answer.found["sm_clock_mhz"], answer.found["memory_clock_mhz"])
        self._usual_mhz = answer.found["usual_mhz"]

    def _lowered(self, answer: Answer, now_ns: int) -> None:
        assert self.lowest is not None
        self.state = UP
        if answer.touched and answer.code in NOT_OFFERED:
            self.lowest = (self.lowest[0], None)
            self._refuse(now_ns, "its memory clocks cannot be locked; the SM clock alone is lowered")
        elif (answer.touched and answer.code) or answer.code in UNKNOWN:
            self.state = DOUBTFUL
            self._give_up_lowering(now_ns, f"lowering failed, clocks are restored: {answer.reason}")
            return
        elif answer.code:
            if answer.code == NO_PERMISSION:
                self.denied = f"{answer.reason}: setting clocks needs root or CAP_SYS_ADMIN"
            self._give_up_lowering(now_ns, self.denied or f"not lowered: {answer.reason}")
            return
        self.state = LOW
        self._lowered_ns, self._saved = now_ns, 0.0
        if self._clock.down:
            self._work_ns = None
        self._add(LOWER, now_ns, self._reason, call_ns=answer.call_ns, **self._clocks())

    def _was_restored(self, answer: Answer, now: float, now_ns: int) -> None:
        if answer.code and answer.code not in ABSENT:
            self.state = DOUBTFUL
            self._refuse(now_ns, f"clocks could not be restored and are tried again: {answer.reason}")
            self._again_at, self._again = now + self._again, min(AGAIN_SECONDS_MAX, 2 * self._again)
            return
        self.state = UP
        self._again = AGAIN_SECONDS
        if not self._lowered_ns:
            return  # what hung was undone; it never counted as lowered
        lowered = max(0.0, (now_ns - self._lowered_ns) / 1e9)
        saved = self._saved if self._before and None not in self._before else None
        paid = None if self._work_ns is None else max(0, now_ns - self._work_ns)
        told = {"lowered_seconds": lowered, "saved_joules": saved, "latency_ns": paid}
        self._add(RESTORE, now_ns, self._reason, call_ns=answer.call_ns, **told)
        self._lowered_ns, self._work_ns = 0, None
        self._before.clear()

    def _allow(self, sm_clock_mhz: float | None, time_ns: int) -> None:
        """Of a decision to lower: take it back where clocks are not known, not up, or somebody else's."""
        now = time_ns / 1e9
        if self._listed:
            self._refuse(time_ns, "it is listed in [agent.guard] locked_gpus")
            self._clock.not_lowered(now, AVOID_SECONDS_MAX)
        elif self.state != UP:
            self._clock.not_lowered(now, self._rule.cooldown_seconds)
        elif sm_clock_mhz is not None and self._usual_mhz and sm_clock_mhz < HELD_SHARE * self._usual_mhz:
            usual = f"usually {self._usual_mhz:.0f}"
            self._refuse(
                time_ns, f"its SM clock is at {sm_clock_mhz:.0f} MHz, {usual}: low already, or held by somebody else"
            )
            self._clock.not_lowered(now, HELD_SECONDS)

    def _note(self, decision: Decision, time_ns: int) -> None:
        """A decision to restore; `order` brings it about."""
        if decision is Decision.BACK_OFF:
            reason = f"woken over {self._rule.wakes_per_minute_max:g} times a minute: left alone for "
            self._add(BACK_OFF, time_ns, f"{reason}{self._clock.back_off_seconds:.0f} s")

    def _give_up_lowering(self, now_ns: int, reason: str) -> None:
        self._refuse(now_ns, reason, again=True)
        self._clock.not_lowered(self._last_ns / 1e9, self._avoid)
        self._avoid = min(AVOID_SECONDS_MAX, 2 * self._avoid)

    def _explain(self, activity: Activity, time_ns: int) -> None:
        """Say once why a GPU is never lowered, where that is not for work."""
        now = time_ns / 1e9
        if activity.idle or activity.work or activity.reason == EMPTY:
            self._not_idle_since = None
        elif self._not_idle_since is None:
            self._not_idle_since = now
        elif now - self._not_idle_since > self._rule.trigger_seconds:
            self._refuse(time_ns, activity.reason)

    def _measure(self, watts: float | None, activity: Activity, time_ns: int) -> None:
        """Power before, and what low clocks save of it, as far as the samples of the low time tell."""
        seconds = max(0, time_ns - max(self._last_ns, self._lowered_ns)) / 1e9
        self._last_ns = time_ns
        if self.state in (UP, NEW):
            if not activity.idle:
                self._before.clear()
            else:
                self._before.append(watts)
        elif self.state == LOW and activity.idle and self._before and self._saved is not None:
            known = [each for each in self._before if each is not None]
            usable = watts is not None and len(known) == len(self._before)
            self._saved = (
                self._saved + (sum(known) / len(known) - watts) * seconds if usable and watts is not None else None
            )

    def _clocks(self) -> dict[str, float | None]:
        assert self.lowest is not None
        return {"sm_clock_mhz": self.lowest[0], "memory_clock_mhz": self.lowest[1]}

    def _refuse(self, time_ns: int, reason: str, again: bool = False) -> None:
        if again or reason not in self._told:
            self._told.append(reason)
            self._add(REFUSE, time_ns, reason)

    def _add(self, action: str, time_ns: int, reason: str, **more: Any) -> None:
        place = {"gpu_uuid": self.uuid, "gpu_index": self.index, "time_ns": time_ns, "action": action, "reason": reason}
        self.rows.append({**place, **more})
