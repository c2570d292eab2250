"""Stalls of a job that is watched in windows: iteration times tell of every step, ranks only of those few inside a window.

Of n stalls among S steps, windows that show the share w of the steps hold n w: with 3 of 50 steps seen and a stall in 6 % of
steps, 36 stalls leave two to look at. That the job stalls is therefore told by all steps, and who by the few that were seen.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from .detector import Reader
from .iteration import Iterations
from .lone_stalls import Measure, measures
from .rises import deviation
from .robust import Array, longest_run
from .schedules import unscheduled
from .self_time import coverage_of, load
from .spikes import ATTRIBUTED, EPISODE_STEPS_MAX, RARE_SHARE, Series, episodes, evenly_spaced

WINDOWED_SHARE: Final = 0.5
"""A job is watched in windows when ranks are known in no more than this share of its steps."""
STALLS_MIN: Final = 6
STALL_SHARE: Final = 0.2
"""A stall makes the step at least this part longer than the steps around it ..."""
DEVIATIONS: Final = (3.5, 4.5, 6.0)
"""... and so many standard deviations of the logarithm: the fewest below which there is a valley."""
VALLEY: Final = 3 / 4
"""From this part of that bound up to it lie ..."""
VALLEY_SHARE: Final = 1 / 3
"""... at most this share as many steps as beyond it: a long tail of uneven work thins out slowly and has no valley."""
LEVEL_STEPS: Final = 31
"""Steps around each one that tell its usual time."""
COST_MIN: Final = 0.01
"""Share of the time since the first one that the stalls must take."""
QUIET_RATIO: Final = 5.0
"""They are over when the newest lies so many times as far back as they usually lie apart."""
NAMED_SHARE: Final = 0.8
NAMED_CHANCE_MAX: Final = 1 / 8
"""A rank is named when it had this share of those seen, and ranks that stall in turn would hit one so often by less than this
chance: that the job stalls is known without it."""


@dataclass(frozen=True)
class Stalls:
    """`longer` is step -> seconds above the steps around it; `seen` are those inside windows, `series` what ranks did in them.

    `rank` is the one that had nearly all of those seen, None where they are too few to tell.
    """

    longer: dict[int, float]
    steps: int
    seen: tuple[int, ...]
    series: Series
    rank: int | None

    @property
    def lost(self) -> float:
        """Seconds, over all stalls."""
        return sum(self.longer.values())

    @property
    def typical(self) -> float:
        """Seconds, of a single one."""
        return float(np.median(list(self.longer.values())))

    def steps_for(self, stalls: int) -> int:
        """Steps in which so many are due."""
        return math.ceil(stalls * self.steps / len(self.longer))


@dataclass(frozen=True)
class _Did:
    """What single ranks did by one measure."""

    measure: Measure
    series: Series


def windows(reader: Reader, iterations: Iterations) -> list[int]:
    """Steps in which ranks are known, oldest first, of a job that is watched in windows; empty of any other."""
    covered = coverage_of(reader, iterations.job)
    groups = load(reader, covered).groups if covered is not None else ()
    watched = sorted({step for group in groups for step in group.steps.tolist()})
    return watched if watched and len(watched) <= WINDOWED_SHARE * np.sum(iterations.steps >= watched[0]) else []


def stalls_between(reader: Reader, iterations: Iterations) -> Stalls | None:
    """Stalls of a job that is watched in windows; None where it is not, has none, or where nobody stands out in those seen."""
    watched = windows(reader, iterations)
    longer = irregular(iterations) if watched else {}
    if not longer:
        return None
    known = list(measures(reader, iterations))
    seen = {step: longer[step] for step in watched if step in longer}
    best = max((_did(measure, seen, iterations.typical) for measure in known), key=lambda each: len(each.series.steps))
    if 2 * len(best.series.steps) < len(seen):
        return None
    return Stalls(
        longer,
        int(np.sum(iterations.steps >= min(longer))),
        tuple(seen),
        best.series,
        _who(best, seen),
    )


def irregular(iterations: Iterations) -> dict[int, float]:
    """Steps that stand out from all others at no period, and what they took longer, seconds; empty unless it goes on."""
    steps = iterations.steps
    if len(steps) < 2 * LEVEL_STEPS:
        return {}
    level = _level(np.log(iterations.seconds))
    long = _standing_out(steps, np.log(iterations.seconds) - level)
    kept = _lasting([step for run in episodes(long) if len(run) <= EPISODE_STEPS_MAX for step in run], iterations)
    seconds = dict(zip(steps.tolist(), (iterations.seconds - np.exp(level)).tolist(), strict=True))
    return {step: seconds[step] for step in kept} if _matters(kept, iterations, seconds) else {}


def _standing_out(steps: npt.NDArray[np.int64], excess: Array) -> list[int]:
    """Steps that stand out at no period and with a valley below them; `excess` is that of logarithms."""
    for deviations in DEVIATIONS:
        bound = max(math.log1p(STALL_SHARE), deviations * deviation(excess))
        long = unscheduled(steps[excess >= bound].tolist(), int(steps[0]), int(steps[-1]))
        if np.sum((excess >= VALLEY * bound) & (excess < bound)) <= VALLEY_SHARE * len(long):
            return long
    return []


def _level(logs: Array) -> Array:
    """What is usual of the steps around each one."""
    half = LEVEL_STEPS // 2
    level: Array = np.median(sliding_window_view(np.pad(logs, half, mode="reflect"), LEVEL_STEPS), axis=1)
    return level


def _lasting(stalls: Sequence[int], iterations: Iterations) -> list[int]:
    """The stalls since they come often: single ones long before are none of them."""
    struck = np.isin(iterations.steps, stalls)
    start, _ = longest_run(np.where(struck, 1.0, -len(stalls) / 2 / len(struck)))
    return [int(step) for step in iterations.steps[start:][struck[start:]]]


def _matters(stalls: Sequence[int], iterations: Iterations, seconds: dict[int, float]) -> bool:
    if len(episodes(stalls)) < STALLS_MIN or evenly_spaced(stalls) or _evenly_in_time(stalls, iterations):
        return False
    since = iterations.seconds[iterations.steps >= stalls[0]]
    apart = (stalls[-1] - stalls[0]) / (len(stalls) - 1)
    goes_on = iterations.steps[-1] - stalls[-1] <= QUIET_RATIO * apart
    lost = sum(seconds[step] for step in stalls)
    return bool(goes_on) and len(stalls) < RARE_SHARE * 2 * len(since) and lost >= COST_MIN * float(since.sum())


def _evenly_in_time(stalls: Sequence[int], iterations: Iterations) -> bool:
    """Whether they come at one period of the clock, as checkpoints every half an hour do."""
    ends = np.cumsum(iterations.seconds)[np.isin(iterations.steps, stalls)]
    return evenly_spaced({round(float(end) / iterations.typical) for end in ends})


def _did(measure: Measure, seen: dict[int, float], typical: float) -> _Did:
    """What single ranks did longer than their peers in these steps, as far as it explains them."""
    spikes = (spike for spike in measure.spikes(typical) if spike.step in seen)
    told = tuple(spike for spike in spikes if spike.excess >= ATTRIBUTED * seen[spike.step])
    return _Did(measure, Series(measure.name, measure.kind, False, told))


def _who(did: _Did, seen: Collection[int]) -> int | None:
    """The rank that has nearly all of the stalls seen, as far as its times are known in them."""
    if not did.series.spikes:
        return None
    rank = max(did.series.ranks, key=lambda each: len(did.series.of(each)))
    own, known = len(did.series.of(rank)), len(did.measure.beside_peers(rank).keys() & set(seen))
    sure = own >= 2 and (1 / did.measure.ranks) ** (own - 1) <= NAMED_CHANCE_MAX
    return rank if sure and own >= NAMED_SHARE * known else None
