"""Whether who is slow is so in one phase alone: a slow GPU slows all of its phases."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from .robust import Slow, median
from .self_time import PeerGroup

Steps = npt.NDArray[np.int64]

OTHERS_SHARE: Final = 0.3
"""The other phases together may take longer by at most this share of what the one does."""


def alone_in(phase: str, group: PeerGroup, slow: Slow, judged: Sequence[tuple[str, PeerGroup]]) -> bool:
    """Whether the slow members of a group in one phase are even in the others of the `judged` phases while they are slow."""
    ranks = {group.members[place].rank for place in slow.members}
    steps = _slow_steps(group, slow)
    others = [_longer(each, ranks, steps) for name, each in judged if name != phase]
    return sum(others) <= OTHERS_SHARE * slow.lost


def _slow_steps(group: PeerGroup, slow: Slow) -> Steps:
    """Steps since the onset in which they are slow: what comes and goes shows in other phases only when it is there."""
    seconds = group.seconds[slow.start : slow.stop]
    fast = np.delete(np.arange(len(group.members)), list(slow.members))
    ratio = median(seconds[:, list(slow.members)], axis=1) / median(seconds[:, fast], axis=1)
    steps: Steps = group.steps[slow.start : slow.stop][ratio >= 1 + slow.excess / 2]
    return steps


def _longer(group: PeerGroup, ranks: Collection[int], steps: Steps) -> float:
    """Seconds a step that the slowest of these ranks takes longer than its peers in these steps; 0 if it does not."""
    places = [place for place, member in enumerate(group.members) if member.rank in ranks]
    fast = [place for place in range(len(group.members)) if place not in places]
    seconds = group.seconds[np.isin(group.steps, steps)]
    if not places or not fast or not len(seconds):
        return 0.0
    typical = median(seconds[:, places] - median(seconds[:, fast], axis=1)[:, None], axis=0)
    longest = float(np.max(typical))
    return 0.0 if np.isnan(longest) else max(0.0, longest)
