"""How even a group is, whoever is slow in it: the slowest of each step, and whether scatter alone would make as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .medians import quantile
from .robust import EXCESS_GATE, SHORT_ROWS, SURE_GATE, Array, longest_run, median, peers_median, windows
from .scatter import MEMBERS_MIN, SIGMAS, over_steps
from .self_time import PeerGroup, SelfTime

CHANCE_RATIO: Final = 1.25
"""The slowest of n members that differ by chance hardly lies so many times sqrt(2 ln n) standard deviations above them in a
typical row of many."""
QUARTILE_SIGMAS: Final = 0.6745
"""A quartile of normal values lies so many standard deviations from the median."""
TAIL_MAX: Final = 3
"""So many of the newest rows may be more even than the regime: some ranks' part of them may still be on its way."""


@dataclass(frozen=True)
class Evenness:
    """How even a group is from row `start` on, whoever is slow: typical excess of the slowest, who it mostly is, how often.

    `spread` is the typical excess of the member at the upper quartile, `gate` the excess from which on this group is uneven:
    EXCESS_GATE, or less where its scatter is known to make less; `sure` whether scatter cannot be all of the excess.
    """

    start: int
    steps: int
    excess: float
    slowest: int
    share: float
    spread: float
    gate: float
    sure: bool

    @property
    def uneven(self) -> bool:
        """Whether somebody stands out in a typical row."""
        return self.excess >= self.gate


def _chance_excess(ratio: Array, start: int) -> float:
    """Excess of the slowest that scatter alone hardly reaches; NaN where scatter is not known.

    From the lower half of the members, where who has more work does not count; in small groups from the rows before `start`.
    """
    members = ratio.shape[1]
    if members >= MEMBERS_MIN:
        low, middle = np.nanquantile(ratio, (0.25, 0.5))
        ratios = CHANCE_RATIO + 1 / math.sqrt(len(ratio) - start)
        return ratios * math.sqrt(2 * math.log(members)) * float(middle - low) / QUARTILE_SIGMAS
    return 2 * SIGMAS * over_steps(ratio[:start]) if start >= SHORT_ROWS else float("nan")


def _even_gate(ratio: Array, start: int) -> float:
    chance = _chance_excess(ratio, start)
    return EXCESS_GATE if np.isnan(chance) else min(EXCESS_GATE, max(SURE_GATE, chance))


def evenness(values: Array, window_min: int) -> Evenness:
    """Of a (steps, members) matrix with at least one row of two members.

    Over all rows, or over the newest regime in which the excess passes the gate if there is one.
    """
    ratio = values / peers_median(values)
    filled = np.where(np.isnan(ratio), -np.inf, ratio)
    excess = filled.max(axis=1) - 1
    gates = {row: _even_gate(ratio, row) for row in windows(len(values), window_min)}
    start = next((row for row, gate in gates.items() if np.median(excess[row:]) >= gate), None)
    gate = gates[start or 0]
    if start is not None:
        level = max(float(np.median(excess[start:])) / 2, gate / 2)
        first, end = longest_run(np.where(excess >= level, 1.0, -1.0))
        lasts = len(values) - end <= TAIL_MAX and 2 * (end - first) >= window_min
        start = first if lasts else start
    begin = start or 0
    slowest = np.argmax(filled[begin:], axis=1)
    winners = np.bincount(slowest, minlength=values.shape[1])
    quartile = quantile(values[begin:], 0.75, axis=1) / median(values[begin:], axis=1)
    return Evenness(
        start=begin,
        steps=len(slowest),
        excess=float(np.median(excess[begin:])),
        slowest=int(np.argmax(winners)),
        share=float(winners.max() / len(slowest)),
        spread=float(median(quartile)) - 1,
        gate=gate,
        sure=bool(np.median(excess[begin:]) >= _chance_excess(ratio, begin)),
    )


def merged(times: SelfTime) -> list[PeerGroup]:
    """Groups that differ in their experts alone put together, each member against its own median: experts differ for good.

    Steps are those that all of them have.
    """
    alike: dict[tuple[int | None, int | None], list[PeerGroup]] = {}
    for group in times.groups:
        if group.ep is not None and len(group.steps):
            alike.setdefault((group.stage, group.tp), []).append(group)
    return [_merge(groups) for groups in alike.values() if len(groups) > 1]


def _merge(groups: Sequence[PeerGroup]) -> PeerGroup:
    common = sorted(set(groups[0].steps.tolist()).intersection(*(group.steps.tolist() for group in groups[1:])))
    parts = [group.seconds[np.isin(group.steps, common)] for group in groups]
    level = float(median(np.concatenate([part.ravel() for part in parts]))) if common else 1.0
    seconds = np.concatenate([part / median(part, axis=0) * level for part in parts], axis=1)
    members = tuple(member for group in groups for member in group.members)
    return PeerGroup(groups[0].stage, groups[0].tp, None, members, np.array(common, dtype=np.int64), seconds)
