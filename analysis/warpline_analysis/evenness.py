"""How even a group is, whoever is slow in it: the slowest of each step, and whether scatter alone would make as much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .medians import quantile
from .robust import EXCESS_GATE, SHORT_ROWS, SURE_GATE, Array, longest_run, median, peers_median, windows
from .scatter import MEMBERS_MIN, SIGMAS, over_steps
from .self_time import PeerGroup, SelfTime

Indexes = npt.NDArray[np.int64]

CHANCE_RATIO: Final = 1.25
"""The slowest of n members that differ by chance hardly lies so many times sqrt(2 ln n) standard deviations above them in a
typical row of many."""
QUARTILE_SIGMAS: Final = 0.6745
"""A quartile of normal values lies so many standard deviations from the median."""
RISE_MIN: Final = 1.5
"""The excess of the slowest is another one than before where it is so many times as large ..."""
RISE_SIGMAS: Final = 5.0
"""... and its ranks among all rows lie so many standard errors above those before: no drift of healthy ranks does that."""
APART_SHARE: Final = 0.1
"""Who is slow goes round where at least this share of rows has its slowest outside of the half that mostly is ..."""
APART_EXCESS: Final = 0.75
"""... and these rows are as uneven, or nearly so, in the median."""
HALVES_MAX: Final = 0.1
"""Halves of the members that hold the slowest of all rows by chance, up to which that one does so says something."""
TAIL_MAX: Final = 3
"""So many of the newest rows may be more even than the regime: some ranks' part of them may still be on its way."""


@dataclass(frozen=True)
class Evenness:
    """How even a group is from row `start` on, whoever is slow: typical excess of the slowest, who it mostly is, how often.

    `spread` is the typical excess of the member at the upper quartile, `gate` the excess from which on this group is uneven:
    EXCESS_GATE, or less where its scatter is known to make less or it was more even before; `sure` whether scatter cannot be all
    of the excess; `round` whether it is as uneven in rows in which none of those is slowest that mostly are.
    """

    start: int
    steps: int
    excess: float
    slowest: int
    share: float
    spread: float
    gate: float
    sure: bool
    round: bool

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
    begin, gate = _begin(ratio, excess, window_min)
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
        round=_goes_round(excess[begin:], slowest, winners, gate),
    )


def _begin(ratio: Array, excess: Array, window_min: int) -> tuple[int, float]:
    """First row of the newest uneven regime and the gate that it passes; row 0 where there is none."""
    risen = _risen(excess, window_min)
    if risen is not None:
        gate = min(_even_gate(ratio, risen), max(SURE_GATE, RISE_MIN * float(np.median(excess[:risen]))))
        if np.median(excess[risen:]) >= gate:
            return risen, gate
    gates = {row: _even_gate(ratio, row) for row in windows(len(ratio), window_min)}
    start = next((row for row, gate in gates.items() if np.median(excess[row:]) >= gate), None)
    gate = gates[start or 0]
    if start is not None:
        level = max(float(np.median(excess[start:])) / 2, gate / 2)
        first, end = longest_run(np.where(excess >= level, 1.0, -1.0))
        lasts = len(ratio) - end <= TAIL_MAX and 2 * (end - first) >= window_min
        start = first if lasts else start
    return start or 0, gate


def _risen(excess: Array, window_min: int) -> int | None:
    """Row from which on the excess is larger for good, or None: the split with the largest rank sum statistic (Pettitt 1979)."""
    count = len(excess)
    if count < 2 * window_min:
        return None
    ranks = np.argsort(np.argsort(excess, kind="stable"), kind="stable") + 1.0
    sizes = np.arange(1, count)
    error = np.sqrt(sizes * (count - sizes) * (count + 1) / 12)
    shift = (sizes * (count + 1) / 2 - np.cumsum(ranks)[:-1]) / error
    shift[: window_min - 1] = -np.inf
    shift[count - window_min :] = -np.inf
    split = int(np.argmax(shift)) + 1
    larger = np.median(excess[split:]) >= RISE_MIN * np.median(excess[:split])
    return split if larger and shift[split - 1] >= RISE_SIGMAS else None


def _goes_round(excess: Array, slowest: Indexes, winners: Indexes, gate: float) -> bool:
    """Whether neither one member nor one half of them explains who is slow."""
    often, half = np.argsort(-winners, kind="stable"), len(winners) // 2
    # Halves that hold the slowest of all rows by chance: ways to choose one, each with a half in every row.
    halves = math.lgamma(2 * half + 1) - 2 * math.lgamma(half + 1) - math.log(2) * len(excess)
    for few in (1, half) if half > 1 and halves <= math.log(HALVES_MAX) else (1,):
        apart = excess[~np.isin(slowest, often[:few])]
        if len(apart) < APART_SHARE * len(excess) or np.median(apart) < APART_EXCESS * gate:
            return False
    return True


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
