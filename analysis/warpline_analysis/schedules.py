"""What comes at a period: checkpoints, evaluations and logs take single steps longer, but at steps that can be foretold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import numpy as np

POINTS_MIN: Final = 3
"""Steps that make a period."""
KEPT_SHARE: Final = 0.9
"""A schedule strikes at so many of its steps, all through what is known; what chance strews keeps none."""
NEW_SHARE: Final = 0.5
"""Most of its steps belong to no schedule found before."""
CHANCE_MAX: Final = 0.05
"""So many schedules as whole as this one are expected by chance where as many steps are strewn, at most: of a length S there are
about S ** 2 / n ** 3 periods and places with n points."""
SCHEDULES_MAX: Final = 4
"""Periods looked for in one job."""


def unscheduled(steps: Collection[int], first: int, last: int) -> list[int]:
    """`steps` in their order, without those of schedules that were kept all through the steps `first` to `last`."""
    every = left = sorted(steps)
    for _ in range(SCHEDULES_MAX):
        found = _schedule(every, left, first, last)
        if not found:
            break
        left = [step for step in left if step not in found]
    return left


def _schedule(every: list[int], left: list[int], first: int, last: int) -> set[int]:
    """The steps of the schedule that explains most of those left, empty where none is kept; schedules may meet in a step."""
    values = np.array(every, dtype=np.int64)
    new = np.isin(values, left)
    span = float(last - first + 1)
    best: set[int] = set()
    most = 0
    for period in np.unique(values[:, None] - values[None, :]).tolist():
        if not 2 <= period <= (last - first) // (POINTS_MIN - 1):
            continue
        places, at, counts = np.unique(values % period, return_inverse=True, return_counts=True)
        due = (last - places) // period - (first - 1 - places) // period
        explained = np.bincount(at, weights=new, minlength=len(places))
        kept = (counts >= POINTS_MIN) & (counts >= KEPT_SHARE * due) & (explained > NEW_SHARE * counts)
        chance = span**2 / due**3 * (len(left) / span) ** counts
        gain = np.where(kept & (chance <= CHANCE_MAX), explained, 0)
        if gain.max() > most:
            most, best = int(gain.max()), set(values[at == int(np.argmax(gain))].tolist())
    return best
