"""Who arrives last in collectives: corroborates or contradicts a blame, and names a late rank where nothing else is known."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .robust import CHANCE_MAX, Flags, by_chance, share_gate
from .waits import Waits

OPERATIONS_MIN: Final = 20
"""Operations of one kind on one communicator from which persistence is judged."""
STEPS_MIN: Final = 5
DOMINANT_SHARE: Final = 0.2
"""A communicator matters when a rank spends at least this part of the time in it that ranks spend in the heaviest one."""
WAIT_SHARE_MIN: Final = 0.1
"""Below this share of waiting nobody is being waited for."""
LATE_RATIO: Final = 0.5
"""The last to arrive spends at most this part of the others' median time in the operation ..."""
MARGIN: Final = 1.5
"""... and everybody else at least this many times as long as it ..."""
WAITING_SECONDS_MIN: Final = 1e-3
"""... and the others wait this long for it; less is a matter of launch order."""
DELAY_SHARE: Final = 0.5
"""Part of a delay that must show in the others' waiting."""


@dataclass(frozen=True)
class Corroboration:
    """`agrees` is None where waiting says nothing; `text` gives the figures."""

    agrees: bool | None
    text: str


SILENT: Final = Corroboration(None, "")


def corroborate(accused: Collection[int], waits: Sequence[Waits], within: Collection[int] = ()) -> Corroboration:
    """Do the others wait for the accused? Asks the heaviest waiting that the accused and at least one other take part in.

    `within` are the ranks of the accused's stage in a pipeline: in collectives of other stages its whole replica comes late,
    and the accused waits there for those that wait for it.
    """
    for candidate in _among(waits, within):
        own = np.isin(candidate.ranks, list(accused))
        if candidate.wait_share >= WAIT_SHARE_MIN and own.any() and not own.all() and candidate.operations >= STEPS_MIN:
            return _judge(candidate, own)
    return SILENT


def _judge(waits: Waits, own: Flags) -> Corroboration:
    mine, others = float(waits.waiting[own].mean()), float(np.median(waits.waiting[~own]))
    share = float(waits.waiting[~own].sum() / waits.seconds[~own].sum())
    figures = f"in {waits.name} it waits {_seconds(mine)} an operation, the others {_seconds(others)}"
    if mine <= others / 2:
        return Corroboration(True, f"{share:.0%} of the others' time in {waits.name} is waiting for it; {figures}")
    if mine > others:
        return Corroboration(False, f"it is not the one that is waited for: {figures}")
    return SILENT


def _among(waits: Sequence[Waits], within: Collection[int]) -> list[Waits]:
    """Those of one stage, where it has any."""
    return [each for each in waits if within and np.isin(each.ranks, list(within)).all()] or list(waits)


def delay(
    accused: Collection[int], waits: Sequence[Waits], seconds: float, within: Collection[int] = ()
) -> Corroboration:
    """Do the others wait about `seconds` a step for the accused, whatever else they wait for? Silent without waits.

    `within` as in `corroborate`. Where many ranks meet, somebody is late by chance most of the time: what counts is by how much
    the accused wait less.
    """
    shared = [
        (each, own)
        for each in _among(waits, within)
        if (own := np.isin(each.ranks, list(accused))).any() and not own.all()
    ]
    if not shared:
        return SILENT
    waited = sum(_less(each, own) for each, own in shared)
    text = f"it waits {_seconds(max(waited, 0.0))} a step less than the others in collectives"
    return Corroboration(waited >= DELAY_SHARE * seconds, text)


def _less(waits: Waits, own: Flags) -> float:
    """Seconds a step by which the accused wait less than the others."""
    less = float(np.median(waits.waiting[~own]) - waits.waiting[own].mean())
    return less * waits.operations / (waits.steps or waits.operations)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


@dataclass(frozen=True)
class Late:
    """Outcome of looking for a late rank in collectives alone: `rank`, or why none can be named."""

    rank: int | None
    reason: str
    waits: tuple[Waits, ...] = ()
    enough: bool = True

    @property
    def seconds_per_step(self) -> float:
        """What the others wait for it in a step; 0 where steps are not known."""
        steps = [waits.steps for waits in self.waits if waits.steps]
        lost = sum(float(waits.waiting[waits.ranks != self.rank].mean()) * waits.operations for waits in self.waits)
        return lost / max(steps) if steps else 0.0


def late_rank(waits: Sequence[Waits]) -> Late:
    """The one rank that arrives last, persistently and by a clear margin, in everything that dominates; or nobody."""
    heaviest = max((candidate.weight for candidate in waits), default=0.0)
    dominant = [candidate for candidate in waits if candidate.weight >= DOMINANT_SHARE * heaviest]
    if not dominant:
        return Late(None, "no collective with all its ranks recorded", enough=False)
    for candidate in dominant:
        if candidate.steps is not None and candidate.steps < STEPS_MIN:
            return Late(None, f"{candidate.steps} step{'s' * (candidate.steps > 1)}; {STEPS_MIN} needed", enough=False)
        if candidate.operations < OPERATIONS_MIN:
            return Late(
                None, f"{candidate.operations} operations of {candidate.name}; {OPERATIONS_MIN} needed", enough=False
            )
    named = {_last(candidate) for candidate in dominant}
    if len(named) == 1 and None not in named:
        return Late(named.pop(), "", tuple(dominant))
    return Late(None, "no rank arrives last persistently and by a clear margin in all dominant collectives")


def _last(waits: Waits) -> int | None:
    order = np.argsort(waits.seconds)
    first = int(order[0])
    others = np.delete(waits.seconds, first)
    clear = waits.seconds[first] <= LATE_RATIO * np.median(others) and others.min() >= MARGIN * waits.seconds[first]
    clear = clear and float(np.median(np.delete(waits.waiting, first))) >= WAITING_SECONDS_MIN
    share = float(waits.least_share[first])
    members = len(waits.ranks)
    hits = round(share * waits.operations) if not np.isnan(share) else waits.operations
    rotating = members * by_chance(hits, waits.operations, 1 / members) > CHANCE_MAX
    persistent = np.isnan(share) or (share >= share_gate(1, members) and not rotating)
    return int(waits.ranks[first]) if clear and persistent else None
