"""One thing that could be done about power: what it would have saved and cost, between bounds, and all that is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from .lowering import Rule
from .money import Money
from .plan_rows import Ask, wakes
from .signals import Numbers, Reals

WAKE_SECONDS: Final = (0.001, 0.5)
"""How long a change of clocks takes where none was measured: 1 to 500 ms by the paper's reference."""
Bounds = tuple[float, float]
"""At least, at most."""


@dataclass(frozen=True)
class Settings:
    """What is assumed. `low_watts` replaces the model of power with low clocks, `wake_seconds` the measured delay."""

    rule: Rule = field(default_factory=Rule)
    pool: str = "job"
    low_watts: float | None = None
    wake_seconds: float | None = None


@dataclass(frozen=True)
class Proposal:
    """None is not known. `wakes`: times that work waits for clocks, `wait_seconds` for how long in all.

    `unknown_joules`: drawn by GPUs of which nothing can be said; they are in no other figure.
    """

    name: str
    meaning: str
    saved_joules: Bounds | None
    saved_cost: Bounds | None
    wakes: Bounds | None
    wait_seconds: Bounds | None
    unknown_joules: float
    assumptions: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def share(self, total_joules: float) -> Bounds | None:
        """Of all that was drawn."""
        if self.saved_joules is None or not total_joules:
            return None
        return self.saved_joules[0] / total_joules, self.saved_joules[1] / total_joules


class Prices:
    """Money by the moment at which joules were saved."""

    def __init__(self, money: Money, start_ns: int, end_ns: int) -> None:
        self._money = money
        spans = money.spans(start_ns, end_ns) or money.spans(start_ns, start_ns + 1)
        self._starts = np.array([span.start_ns for span in spans], dtype=np.int64)
        self._prices = np.array([span.price_per_kwh for span in spans])

    def both(self, least: Reals, most: Reals, at_ns: Numbers) -> Bounds | None:
        """Of two bounds of joules; None without a price."""
        if not self._money.price_per_kwh:
            return None
        price = self._prices[np.maximum(np.searchsorted(self._starts, at_ns, side="right") - 1, 0)]
        low, high = (self._money.cost(float(np.nansum(joules * price)), 1.0) for joules in (least, most))
        return low, high


@dataclass(frozen=True)
class Wake:
    """Seconds that work waits for clocks to be up, and where they are from, in words."""

    seconds: Bounds
    words: str

    def waits(self, count: Bounds) -> Bounds:
        """Seconds in all, of so many times."""
        return count[0] * self.seconds[0], count[1] * self.seconds[1]


def wake(ask: Ask, settings: Settings) -> Wake:
    """As was asked for, else as the guard measured it, else as the paper tells."""
    if settings.wake_seconds is not None:
        return Wake(
            (settings.wake_seconds,) * 2, f"a wake-up takes {settings.wake_seconds * 1e3:g} ms, as was asked for"
        )
    [row] = ask(wakes()).to_pylist()
    if row["count"]:
        low, high = row["median_seconds"], row["p95_seconds"]
        words = f"a wake-up takes {low * 1e3:.0f} (median) to {high * 1e3:.0f} ms (p95), measured {row['count']} times"
        return Wake((low, high), words)
    return Wake(WAKE_SECONDS, "a wake-up takes 1 to 500 ms: none was measured here, these are the paper's")
