"""Which call of an optimizer ends a step, where a process has several of them."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 32
"""Calls after which it is looked again which optimizer is called least often."""
TWICE: Final = 2
"""An optimizer called less often within a window is no part of every step."""


class Boundary:
    """A step goes from one call of the rarest regular optimizer to the next: others are parts of it.

    With one optimizer, or with several called in turn, that is the first one seen. Ranks that run the same program decide alike.
    """

    def __init__(self) -> None:
        self._anchor: int | None = None
        self._counts: dict[int, int] = {}
        self._calls = 0

    def ends_step(self, optimizer: int) -> bool:
        """Whether this call, of an optimizer known by a number, ends a step."""
        if self._anchor is None:
            self._anchor = optimizer
        counts = self._counts
        counts[optimizer] = counts.get(optimizer, 0) + 1
        self._calls += 1
        ends = optimizer == self._anchor
        if self._calls == WINDOW:
            self._choose()
        return ends

    def _choose(self) -> None:
        regular = {each: count for each, count in self._counts.items() if count >= TWICE}
        least = min(regular.values(), default=0)
        if self._anchor is None or regular.get(self._anchor) != least:
            self._anchor = next((each for each, count in regular.items() if count == least), self._anchor)
        self._counts = {}
        self._calls = 0
