"""Runs: the shape of many durations as few steps, so few that the W1 distance to them stays below a stated share of the mean.

A run stands for a piece of the sorted durations by its count and its mean. A piece is split at its own mean, where the distance
of the durations to their mean (2 (n mean - sum) over the lower part, from prefix sums alone) is halved at least; those that
weigh most are split until the distances of a group add up to no more than TOLERANCE of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

TOLERANCE: Final = 0.012
"""W1 distance between durations and runs of one group, over the mean, at most (unless RUNS_LEVELS are not enough)."""
SMALL_TOLERANCE: Final = 0.03
SMALL_BELOW: Final = 30
"""Groups with fewer durations have SMALL_TOLERANCE."""
LEVELS: Final = 14
"""Passes of splitting; each halves the heaviest pieces of every group that is not yet near enough."""
_KEY_BITS: Final = 62

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pieces:
    """Pieces of sorted durations: piece p is ordered[start[p] : end[p]] and belongs to group[p]. In order of start."""

    start: Numbers
    end: Numbers
    group: Numbers


def split(ordered: Numbers, first: Numbers, size: Numbers, cuts: Numbers) -> Pieces:
    """The runs of each group, none across one of `cuts`. Groups as `valleys.valleys` takes them."""
    group = np.repeat(np.arange(len(size)), size)
    edges = np.sort(np.concatenate([first, cuts]))
    pieces = _Split(ordered, group, first, size)
    return pieces.run(edges, np.append(edges[1:], len(ordered)))


class _Split:
    def __init__(self, ordered: Numbers, group: Numbers, first: Numbers, size: Numbers) -> None:
        self._group = group
        self._floor = int(ordered.min(initial=0))
        self._bits = _KEY_BITS - len(size).bit_length()
        self._keys = self._key(group, ordered)
        self._sums = np.concatenate([[0], np.cumsum(ordered)])
        total = (self._sums[first + size] - self._sums[first]).astype(np.float64)
        self._allowed = np.where(size < SMALL_BELOW, SMALL_TOLERANCE, TOLERANCE) * np.maximum(total, 0.0)

    def run(self, start: Numbers, end: Numbers) -> Pieces:
        """Split again and again."""
        middle, distance = self._look(start, end)
        for _ in range(LEVELS):
            owner = self._group[start]
            total = np.bincount(owner, distance, minlength=len(self._allowed))
            heaviest = np.zeros_like(total)
            np.maximum.at(heaviest, owner, distance)
            apart = (middle > start) & (middle < end)
            chosen = apart & (total > self._allowed)[owner] & (distance >= 0.5 * heaviest[owner])
            if not chosen.any():
                break
            new_start = np.concatenate([start[chosen], middle[chosen]])
            new_end = np.concatenate([middle[chosen], end[chosen]])
            new_middle, new_distance = self._look(new_start, new_end)
            start, end = np.concatenate([start[~chosen], new_start]), np.concatenate([end[~chosen], new_end])
            middle = np.concatenate([middle[~chosen], new_middle])
            distance = np.concatenate([distance[~chosen], new_distance])
        order = np.argsort(start)
        return Pieces(start[order], end[order], self._group[start[order]])

    def _look(self, start: Numbers, end: Numbers) -> tuple[Numbers, Reals]:
        """First position above the mean, and the summed distance of the durations to the mean."""
        count, total = end - start, self._sums[end] - self._sums[start]
        target = self._key(self._group[start], total // count)
        middle = np.clip(np.searchsorted(self._keys, target, side="right"), start, end)
        distance = 2.0 * (total / count * (middle - start) - (self._sums[middle] - self._sums[start]))
        return middle, distance

    def _key(self, group: Numbers, duration: Numbers) -> Numbers:
        """One number that sorts by group, then duration; durations too long for it (days) are not told apart."""
        return (group << self._bits) | np.clip(duration - self._floor, 0, (1 << self._bits) - 1)
