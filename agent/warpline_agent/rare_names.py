"""Which kernels are looked at for the end of steps: those of rare names, within a budget, chosen by counts alone.

What ends a step is rare by definition, and most kernels are of names that are not. Those are told apart by counting; nothing else
is done with them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

LOOKED_AT_MAX: Final = 1_000.0
"""Kernels a second that are looked at: a thousandth of a core."""
OF_A_NAME_MAX: Final = 200.0
"""A name that comes so often in a second ends no step, but an optimizer's may."""
SETTLED_SECONDS: Final = 10.0
"""How often a name comes is judged as if it had been seen for so long at least: a step begins and ends with bursts,"""
FORGOTTEN_SECONDS: Final = 60.0
"""and what was so long ago counts for a third."""
APART_SECONDS_MAX: Final = 1.0
"""Time between kernels that is longer is no time of capture."""

Counts = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class RareNames:
    """The names of one process, by their numbers. `passed_over` counts kernels that were not looked at."""

    def __init__(self) -> None:
        self.passed_over = 0
        self._seen: Counts = np.zeros(0)
        self._seconds = 0.0
        self._now_ns = 0
        self._frequent: Flags = np.zeros(0, dtype=np.bool_)

    def among(self, name_id: npt.NDArray[Any], from_ns: int, to_ns: int, first: Flags) -> npt.NDArray[np.int64]:
        """Places of kernels that are worth a look, of those that ended between two times; names of `first` come first."""
        self._count(np.bincount(name_id, minlength=first.size), from_ns, to_ns)
        self._pass_over(first)
        places = np.flatnonzero(~self._frequent[name_id])
        self.passed_over += name_id.size - places.size
        return places

    def frequent(self, names: Flags) -> bool:
        """Whether one of these names is not looked at."""
        return bool((self._frequent & names[: self._frequent.size]).any())

    def _count(self, counts: npt.NDArray[np.int64], from_ns: int, to_ns: int) -> None:
        fresh = counts.size - self._seen.size
        self._seen = np.append(self._seen, np.zeros(fresh))
        self._frequent = np.append(self._frequent, np.zeros(fresh, dtype=np.bool_))
        since_ns = self._now_ns if from_ns - self._now_ns < APART_SECONDS_MAX * 1e9 else from_ns
        seconds = min(max(to_ns - since_ns, 0) / 1e9, FORGOTTEN_SECONDS)  # times may be made up
        self._now_ns = max(self._now_ns, to_ns)
        kept = np.exp(-seconds / FORGOTTEN_SECONDS)
        self._seen, self._seconds = kept * self._seen + counts, kept * self._seconds + seconds

    def _pass_over(self, first: Flags) -> None:
        """From now on the most frequent names are not looked at, as far as the budget asks for it."""
        often = self._seen / max(self._seconds, SETTLED_SECONDS)
        self._frequent |= (often > OF_A_NAME_MAX) & ~first
        often[self._frequent] = 0.0
        if often.sum() > LOOKED_AT_MAX:
            order = np.lexsort((often, ~first))
            self._frequent[order[np.cumsum(often[order]) > LOOKED_AT_MAX]] = True
