"""How much times scatter by themselves: what an excess has to exceed before it is more than chance.

Scatter over steps comes from differences of consecutive steps, so that a lasting change of level is no scatter; scatter between
members comes from the unaccused ones. Both are robust, and neither is ever taken for less than what is usual of healthy parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .medians import median

Array = npt.NDArray[np.float64]

SIGMAS: Final = 4.5
"""An excess is certain from so many standard errors on: by chance once in 300,000 normal values."""
PARTS_SCATTER: Final = 0.01
"""Standard deviation by which healthy chips of one model differ for good, at least ..."""
UNKNOWN_SCATTER: Final = 0.02
"""... and what is assumed of groups too small to tell theirs."""
MEMBERS_MIN: Final = 4
"""Members from which a group tells its own scatter."""
TO_SIGMA: Final = 1.4826
"""Median of absolute deviations of normal values -> standard deviation."""
MEDIAN_VARIANCE: Final = math.pi / 2
"""Variance of a median over that of a mean, normal values."""
ROWS_MIN: Final = 8
"""Differences from which scatter over steps is told; with fewer it is not known."""


def over_steps(ratio: Array) -> float:
    """Standard deviation of single values around their level, of (steps, members) ratios; NaN where too few are known.

    The typical member's, in the unit of the ratio.
    """
    changes = np.diff(ratio, axis=0)
    known = np.sum(~np.isnan(changes), axis=0) >= ROWS_MIN
    if not known.any():
        return float("nan")
    each = median(np.abs(changes[:, known]), axis=0)
    return float(np.median(each)) * TO_SIGMA / math.sqrt(2)


def between_members(typical: Array) -> float:
    """Standard deviation between members' typical ratios, at least PARTS_SCATTER; 0 where they are too few to tell."""
    if len(typical) < MEMBERS_MIN:
        return 0.0
    return max(PARTS_SCATTER, _cautious(typical - np.median(typical)))


def _cautious(deviations: Array) -> float:
    """Standard deviation by the median of absolute deviations, and about one error of its own more: few may tell too little."""
    return float(np.median(np.abs(deviations))) * TO_SIGMA * (1 + 1 / math.sqrt(len(deviations)))


def pooled(groups: Sequence[Array]) -> float:
    """Standard deviation between the members of several (steps, members) groups together, at least PARTS_SCATTER.

    UNKNOWN_SCATTER where all are too few to tell. One group tells nothing that it does not tell by itself; a slow member or two
    count for little among many.
    """
    parts = []
    for values in groups if len(groups) > 1 else ():
        members = values.shape[1]
        if members > 1 and len(values):
            typical = median(values / median(values, axis=1)[:, None], axis=0)
            parts.append((typical - median(typical)) * math.sqrt(members / (members - 1)))
    known = np.concatenate(parts) if parts else np.empty(0)
    known = known[~np.isnan(known)]
    if len(known) < 2 * MEMBERS_MIN:
        return (
            PARTS_SCATTER if max((values.shape[1] for values in groups), default=0) > MEMBERS_MIN else UNKNOWN_SCATTER
        )
    return max(PARTS_SCATTER, _cautious(known))


def standard_error(steps_scatter: float, members_scatter: float, rows: int, peers: int) -> float:
    """Of a member's median ratio to the median of `peers` others over `rows` steps; NaN where scatter is not known."""
    own = members_scatter**2 + MEDIAN_VARIANCE * steps_scatter**2 / max(rows, 1)
    return math.sqrt(own * (1 + min(1.0, MEDIAN_VARIANCE / max(peers, 1))))
