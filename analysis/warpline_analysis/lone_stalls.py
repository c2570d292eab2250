"""Single steps in which one rank, and always the same, takes far longer than the ranks that do the same work.

Held against its peers of the same step a stall shows long before it would against the rank's own past: what makes a step long
for all (lengths of sequences, checkpoints, evaluation) is no stall.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from .detector import Reader
from .host_gaps import load_gaps
from .iteration import Iterations
from .robust import CHANCE_MAX, by_chance, median, peers_median
from .scatter import over_steps
from .self_time import PeerGroup, coverage_of, load
from .spikes import RARE_SHARE, Series, Spike, episodes, sporadic

EPISODES_MIN: Final = 3
STALL_SHARE: Final = 0.1
"""A stall takes at least this part of a typical step longer than the peers ..."""
DEVIATIONS: Final = 8.0
"""... and so many standard deviations of single steps."""
PAUSE_RATIO: Final = 1.5
"""Steps in which the peers themselves take so many times their usual are pauses of all."""
COVER_SHARE: Final = 0.8
"""The one rank has at least this share of all stalls."""
COST_MIN: Final = 0.01
"""Share of the time since the first one that the stalls must take."""


def lone_stalls(reader: Reader, iterations: Iterations) -> list[Series]:
    """Stalls of one rank in its compute, or in the time in which its GPU has nothing to do; costliest first."""
    found = [_lone(name, kind, groups, iterations) for name, kind, groups in _measures(reader, iterations)]
    return sorted((series for series in found if series), key=lambda series: -series.lost)


def _measures(reader: Reader, iterations: Iterations) -> Iterator[tuple[str, str, Sequence[PeerGroup]]]:
    covered = coverage_of(reader, iterations.job)
    if covered is not None:
        yield "compute", "compute", load(reader, covered).groups
    for gaps in load_gaps(reader, iterations.job, iterations.typical):
        yield "a GPU without work", "gap", gaps.times.groups


def _lone(name: str, kind: str, groups: Sequence[PeerGroup], iterations: Iterations) -> Series | None:
    """The stalls of the one rank that has next to all of them, beyond chance and at some cost; else None."""
    ranks = sum(len(group.members) for group in groups)
    spikes = [spike for group in groups if len(group.members) > 1 for spike in _spikes(group, iterations.typical)]
    series = sporadic(Series(name, kind, False, tuple(spikes)), len(iterations.steps))
    if not series.spikes or ranks < 2:
        return None
    rank = max(series.ranks, key=lambda each: len(series.of(each)))
    hits, every = len(series.of(rank)), len({(spike.rank, spike.step) for spike in spikes})
    if len(episodes(series.of(rank))) < EPISODES_MIN or hits < COVER_SHARE * every:
        return None
    own = Series(name, kind, False, tuple(spike for spike in series.spikes if spike.rank == rank))
    since = float(iterations.seconds[iterations.steps >= own.steps[0]].sum())
    rare = hits < RARE_SHARE * len(iterations.steps)
    certain = ranks * by_chance(hits, every, 1 / ranks) <= CHANCE_MAX
    return own if rare and certain and own.lost >= COST_MIN * since else None


def _spikes(group: PeerGroup, typical: float) -> Iterator[Spike]:
    """Steps of single members that stand out from the group's, in seconds above its peers."""
    peers = peers_median(group.seconds)
    ratio, usual = group.seconds / peers, float(median(group.seconds))
    scatter = over_steps(ratio)
    if np.isnan(scatter):
        return
    calm = peers <= PAUSE_RATIO * usual
    far = calm & (ratio >= 1 + DEVIATIONS * scatter) & (group.seconds - peers >= STALL_SHARE * typical)
    for row, place in zip(*np.nonzero(far), strict=True):
        excess = float(group.seconds[row, place] - peers[row, place])
        yield Spike(group.members[place].rank, int(group.steps[row]), excess, float(ratio[row, place]))
