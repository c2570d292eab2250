"""Whether a series of samples is flat: its slope over the last two thirds with the error of that, and its thirds' means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

BLOCKS: Final = 12
"""Neighbouring samples are alike: the line is laid through the means of so many blocks, and its error is theirs."""
SAMPLES_MIN: Final = 3 * BLOCKS
GROWTH_MAX: Final = 0.02
"""An hour's growth, of the mean, up to which nothing grows."""
ERROR_MAX: Final = 0.05
"""A slope whose error over an hour is more than this part of the mean says nothing."""
ERRORS: Final = 2.0


@dataclass(frozen=True)
class Flatness:
    """`slope` and `error` are of the series' unit an hour, `ratio` is the mean of the last third over that of the first."""

    mean: float
    least: float
    most: float
    slope: float
    error: float
    ratio: float

    @property
    def verdict(self) -> str:
        """flat, growing or undecided."""
        scale = max(abs(self.mean), 1e-9)
        if not math.isfinite(self.error):
            return "undecided"
        if (self.slope - ERRORS * self.error) / scale > GROWTH_MAX:
            return "growing"
        return "flat" if self.error / scale <= ERROR_MAX else "undecided"


def flatness(seconds: Sequence[float], values: Sequence[float]) -> Flatness:
    """Of samples in order of time."""
    at, told = np.asarray(seconds, dtype=float) / 3_600.0, np.asarray(values, dtype=float)
    third = max(len(told) // 3, 1)
    first, last = float(told[:third].mean()), float(told[-third:].mean())
    slope, error = _line(at[third:], told[third:]) if len(told) >= SAMPLES_MIN else (math.nan, math.inf)
    return Flatness(
        mean=float(told[third:].mean()) if len(told) > third else float(told.mean()),
        least=float(told.min()),
        most=float(told.max()),
        slope=slope,
        error=error,
        ratio=last / first if first else math.nan,
    )


def _line(at: np.ndarray, told: np.ndarray) -> tuple[float, float]:
    """Slope and its standard error, through the means of blocks."""
    x = np.array([block.mean() for block in np.array_split(at, BLOCKS)])
    y = np.array([block.mean() for block in np.array_split(told, BLOCKS)])
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    rest = y - y.mean() - slope * (x - x.mean())
    return slope, math.sqrt(float((rest**2).sum()) / (BLOCKS - 2) / spread)
