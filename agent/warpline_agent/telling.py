"""Tells whoever runs the agent what troubles it: once when it has lasted a while, seldom while it stays, once when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from .source import Health

PATIENCE_SECONDS: Final = 5.0
"""Trouble that is over sooner is not told: a collector that restarts, a first connection."""
REPEAT_SECONDS: Final = 600.0
"""Trouble that stays is told again this often."""

Say = Callable[[str], None]


@dataclass
class _Trouble:
    since: float
    told: float | None = None


class Telling:
    """One for an agent; `look` is given the state of the agent's own parts again and again, in seconds of one clock."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._troubles: dict[str, _Trouble] = {}

    def look(self, parts: Iterable[Health], now: float) -> None:
        """Tell what is due to be told."""
        for part in parts:
            if part.state == "fresh":
                trouble = self._troubles.pop(part.subject, None)
                if trouble is not None and trouble.told is not None:
                    self._say(f"{part.subject}: well again after {now - trouble.since:.0f} s")
                continue
            trouble = self._troubles.setdefault(part.subject, _Trouble(now))
            due = trouble.since + PATIENCE_SECONDS if trouble.told is None else trouble.told + REPEAT_SECONDS
            if now >= due:
                trouble.told = now
                self._say(f"{part.subject}: {part.reason}")
