"""Whether all ranks of a job became slower alike: then there is nobody among them to name, and nothing to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .iteration import Iterations
from .robust import SURE_GATE, Array, Flags, median
from .self_time import PeerGroup

ALIKE_SHARE: Final = 0.7
"""Every rank's compute must have grown by so much of what the steps themselves grew by ..."""
EXCEPT_SHARE: Final = 0.05
"""... but for so many ranks, whose records may be incomplete."""
BEFORE_MIN: Final = 5
"""Watched steps before the change ..."""
AFTER_MIN: Final = 3
"""... and after it that a rank must have."""


@dataclass(frozen=True)
class Alike:
    """By which part the compute of so many ranks grew, at least (but for EXCEPT_SHARE of them) and at most."""

    ranks: int
    least: float
    most: float


def grown_alike(groups: Sequence[PeerGroup], iterations: Iterations, step: int) -> Alike | None:
    """The growth of all ranks' compute from `step` on, None where some grew less than the steps did or too few are watched.

    Steps and compute are compared over the same watched steps, so that lengths of sequences, which all ranks share, cancel.
    """
    grown = [each for group in groups for each in _grown(group.seconds, group.steps >= step)]
    if not grown or np.mean(np.isnan(grown)) > EXCEPT_SHARE:
        return None
    watched = np.isin(iterations.steps, np.concatenate([group.steps for group in groups]))
    (whole,) = _grown(iterations.seconds[watched][:, None], iterations.steps[watched] >= step)
    least, most = np.nanquantile(grown, (EXCEPT_SHARE, 1.0))
    if not whole >= SURE_GATE or not least >= ALIKE_SHARE * whole:
        return None
    return Alike(len(grown), float(least), float(most))


def _grown(seconds: Array, after: Flags) -> Array:
    """(steps, ranks) -> for each rank by which part its median grew; NaN where it has too few steps on either side."""
    known = ~np.isnan(seconds)
    enough = (known[~after].sum(axis=0) >= BEFORE_MIN) & (known[after].sum(axis=0) >= AFTER_MIN)
    grown = np.full(seconds.shape[1], np.nan)
    if enough.any():
        before, now = (median(seconds[part][:, enough], axis=0) for part in (~after, after))
        grown[enough] = now / before - 1
    return grown
