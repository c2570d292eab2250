"""Whose turn it is: few workers, many who wait, and no caller that keeps the others from being answered.

Next is who has the fewest workers now, then who had least of their time lately. While others are there, the last worker that is
free goes to nobody who has one already.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from .question import Question

AROUND_SECONDS: Final = 30.0
"""Who asked within this time is there, and may ask again any moment."""
HALF_SECONDS: Final = 30.0
"""After so long what a caller had of the workers' time counts half."""
CALLERS_MAX: Final = 1_000
"""Callers that are remembered, those who asked last."""
Thing = TypeVar("Thing")


@dataclass(eq=False)
class _Turn(Generic[Thing]):
    """Somebody who waits: `over` is set once there is something for him, or he wants it no longer."""

    over: threading.Event = field(default_factory=threading.Event)
    given: list[Thing] = field(default_factory=list)


@dataclass
class _Known:
    """When a caller asked last, what it had lately, in seconds as of `counted`, and since when it has what it has now."""

    asked: float
    counted: float
    seconds: float = 0.0
    has: list[float] = field(default_factory=list)


class Turns(Generic[Thing]):
    """Things that are handed to those who wait, each to be given back. Safe to call from several threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._idle: list[Thing] = []
        self._waiting: OrderedDict[Hashable, deque[_Turn[Thing]]] = OrderedDict()
        self._known: OrderedDict[Hashable, _Known] = OrderedDict()

    @property
    def idle(self) -> int:
        """Things that nobody has."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Those who wait for one."""
        return sum(map(len, self._waiting.values()))

    def add(self, thing: Thing) -> None:
        """One more to be handed out."""
        with self._mutex:
            self._idle.append(thing)
            self._hand_out()

    def take(self, question: Question, seconds: float) -> Thing:
        """The next that is this caller's; QueryError where the question is taken back, TimeoutError after `seconds`."""
        turn: _Turn[Thing] = _Turn()
        with question.ended_by(turn.over.set):
            with self._mutex:
                self._ask(question.who)
                self._waiting.setdefault(question.who, deque()).append(turn)
                self._hand_out()
            turn.over.wait(seconds)
        with self._mutex:
            if turn.given:
                return turn.given[0]
            self._leave(question.who, turn)
            self._hand_out()
        question.insist()
        raise TimeoutError

    def give(self, who: Hashable, thing: Thing) -> None:
        """Give one back, the same or another in its place."""
        now = self._monotonic()
        with self._mutex:
            known = self._known[who]
            known.seconds = _lately(known, now) + now - known.has.pop(0)
            known.counted = now
            self._idle.append(thing)
            self._hand_out()

    def _ask(self, who: Hashable) -> None:
        now = self._monotonic()
        known = self._known.setdefault(who, _Known(now, now))
        known.asked = now
        self._known.move_to_end(who)
        if len(self._known) > CALLERS_MAX:
            for each in list(self._known):
                if not self._known[each].has and each not in self._waiting and each != who:
                    del self._known[each]
                    break

    def _leave(self, who: Hashable, turn: _Turn[Thing]) -> None:
        turns = self._waiting[who]
        turns.remove(turn)
        if not turns:
            del self._waiting[who]

    def _hand_out(self) -> None:
        now = self._monotonic()
        while self._idle and (who := self._next(now)) is not None:
            turn = self._waiting[who][0]
            self._leave(who, turn)
            if who in self._waiting:
                self._waiting.move_to_end(who)
            self._known[who].has.append(now)
            turn.given.append(self._idle.pop())
            turn.over.set()

    def _next(self, now: float) -> Hashable | None:
        may = [who for who in self._waiting if self._may(who, now)]
        return min(may, key=lambda who: (len(self._known[who].has), _lately(self._known[who], now)), default=None)

    def _may(self, who: Hashable, now: float) -> bool:
        """Whether it may have one of those that are free: the last one is kept for others that are there and have none."""
        if len(self._idle) > 1 or not self._known[who].has:
            return True
        return not any(
            each != who and not known.has and now - known.asked <= AROUND_SECONDS for each, known in self._known.items()
        )


def _lately(known: _Known, now: float) -> float:
    return float(known.seconds * 0.5 ** ((now - known.counted) / HALF_SECONDS))
