"""Single steps in which one rank, and always the same, takes far longer than the ranks that do the same work.

Held against its peers of the same step a stall shows long before it would against the rank's own past: what makes a step long
for all (lengths of sequences, checkpoints, evaluation) is no stall.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
LIKE_SHARE: Final = 0.5
"""What takes less than this part of the rank's typical stall is none of its kind: somebody always hiccups a little."""
CALM_SHARE: Final = 0.25
"""Between its stalls the rank typically lags by less than this part of one."""
COVER_SHARE: Final = 0.8
"""The one rank has at least this share of all stalls of its kind."""
COST_MIN: Final = 0.01
"""Share of the time since the first one that the stalls must take."""


@dataclass(frozen=True)
class Measure:
    """One time that no other rank can make longer, of every rank beside its peers."""

    name: str
    kind: str
    groups: tuple[PeerGroup, ...]

    @property
    def steps(self) -> list[int]:
        """Steps in which it is known of some peers."""
        return sorted({step for group in self.groups if len(group.members) > 1 for step in group.steps.tolist()})

    @property
    def ranks(self) -> int:
        """Ranks of which it is known."""
        return sum(len(group.members) for group in self.groups)

    def beside_peers(self, rank: int) -> dict[int, float]:
        """Seconds above its peers in each step in which that is known of this rank."""
        return {
            int(step): float(seconds)
            for group in self.groups
            for place, member in enumerate(group.members)
            if member.rank == rank
            for step, seconds in zip(group.steps, (group.seconds - peers_median(group.seconds))[:, place], strict=True)
            if not np.isnan(seconds)
        }

    def spikes(self, typical: float) -> list[Spike]:
        """Single steps in which some rank stands out from its peers, steps being `typical` seconds long."""
        return [spike for group in self.groups if len(group.members) > 1 for spike in _spikes(group, typical)]


def measures(reader: Reader, iterations: Iterations) -> Iterator[Measure]:
    """Compute, and each way to tell the time in which a GPU has nothing to do."""
    covered = coverage_of(reader, iterations.job)
    if covered is not None:
        yield Measure("compute", "compute", load(reader, covered).groups)
    for gaps in load_gaps(reader, iterations.job, iterations.typical):
        yield Measure("a GPU without work", "gap", gaps.times.groups)


def lone_stalls(reader: Reader, iterations: Iterations) -> list[Series]:
    """Stalls of one rank in its compute, or in the time in which its GPU has nothing to do; costliest first."""
    found = [_lone(measure, iterations) for measure in measures(reader, iterations)]
    return sorted((series for series in found if series), key=lambda series: -series.lost)


def _lone(measure: Measure, iterations: Iterations) -> Series | None:
    """The stalls of the one rank that has next to all of their kind, beyond chance and at some cost; else None."""
    spikes = measure.spikes(iterations.typical)
    count, ranks = len(iterations.steps), measure.ranks
    series = sporadic(Series(measure.name, measure.kind, False, tuple(spikes)), count)
    if not series.spikes or ranks < 2:
        return None
    rank = max(series.ranks, key=lambda each: len(series.of(each)))
    theirs = [spike for spike in series.spikes if spike.rank == rank]
    least = LIKE_SHARE * float(np.median([spike.excess for spike in theirs]))
    own = Series(measure.name, measure.kind, False, tuple(spike for spike in theirs if spike.excess >= least))
    hits, every = len(own.steps), len({(spike.rank, spike.step) for spike in spikes if spike.excess >= least})
    if len(episodes(own.steps)) < EPISODES_MIN or hits < COVER_SHARE * every or hits >= RARE_SHARE * count:
        return None
    if _at_a_period(own.steps, measure.steps) or _slow_between(own, measure.beside_peers(rank)):
        return None
    since = sum(step >= own.steps[0] for step in measure.steps) * iterations.typical
    certain = ranks * by_chance(hits, every, 1 / ranks) * _alike_by_chance(own) <= CHANCE_MAX
    return own if certain and own.lost >= COST_MIN * since else None


def _at_a_period(stalls: Sequence[int], known: Sequence[int]) -> bool:
    """Whether one rank does it every so many steps, as saving and logging are: windows cannot tell, they come so themselves."""
    between = known[bisect_left(known, stalls[0]) : bisect_right(known, stalls[-1])]
    gaps = np.diff([run[0] for run in episodes(stalls)])
    return 2 * len(between) > stalls[-1] - stalls[0] and int(gaps.max() - gaps.min()) <= 1


def _slow_between(own: Series, beside: Mapping[int, float]) -> bool:
    """Whether the rank lags in most steps since the first: slow for good, though seen in short windows only."""
    since = [seconds for step, seconds in beside.items() if step >= own.steps[0]]
    return float(np.median(since)) >= CALM_SHARE * float(np.median([spike.excess for spike in own.spikes]))


def _alike_by_chance(series: Series) -> float:
    """P(as many sizes lie as close together), were they strewn over a decade: what has one cause takes alike long."""
    sizes = [spike.excess for spike in series.spikes]
    spread = math.log10(max(sizes) / min(sizes))
    count = len(sizes)
    return 1.0 if spread >= 1 else count * spread ** (count - 1) - (count - 1) * spread**count


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
