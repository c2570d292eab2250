"""What all callers share, bounded: of which one of them may have a part, and the last of which is for those that have little."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """`most` for all callers together, `of_one` for each; the last `kept` are for callers that have `few` at most, then."""

    most: int
    of_one: int
    kept: int
    few: int


class Full(Exception):
    """There is no more to be had; `own`: because the caller has its part."""

    def __init__(self, own: bool) -> None:
        super().__init__("the caller's own share is taken" if own else "all is taken")
        self.own = own


class Shares:
    """Counts who has how much. Safe to call from several threads."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._mutex = threading.Lock()
        self._taken: Counter[Hashable] = Counter()
        self._total = 0

    @property
    def total(self) -> int:
        """What is taken, by all callers together."""
        return self._total

    def take(self, who: Hashable, amount: int = 1) -> None:
        """Full where there is no more for this caller; somebody who has nothing can have `kept` at once."""
        bounds = self._bounds
        with self._mutex:
            own = self._taken[who]
            if own and own + amount > bounds.of_one:
                raise Full(own=True)
            few = not own or own + amount <= bounds.few
            if self._total and self._total + amount > bounds.most - (0 if few else bounds.kept):
                raise Full(own=False)
            self._taken[who] = own + amount
            self._total += amount

    def give(self, who: Hashable, amount: int = 1) -> None:
        """Give so much back."""
        with self._mutex:
            self._total -= amount
            self._taken[who] -= amount
            if not self._taken[who]:
                del self._taken[who]
