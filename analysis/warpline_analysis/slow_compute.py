"""Ranks whose compute as a whole is slow: what is told of them elsewhere needs no second accusation, nor do their victims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .arrivals import STEPS_MIN
from .blame import KEPT_UP_MIN, USUAL_EXCESS
from .detector import Reader
from .remembered import once
from .robust import Slow, median, slow_members
from .scatter import pooled
from .self_time import SELF_KINDS, Member, PeerGroup, coverage_of, load

WINDOW_MIN: Final = 5
"""Shortest newest part of the window that is judged by itself."""
ARRIVING_MAX: Final = 3
"""Newest steps in which a slow rank's times may still be on their way."""
TURNS_MAX: Final = 4
"""Sets of slow members that are looked for in a group one after the other."""
PHASES_MAX: Final = 6
"""Compute phases of a job that are looked at, those that take most time."""


@dataclass(frozen=True)
class Compute:
    """Who computes longer than its peers, by the gates of `slow_members`, and what a typical rank computes in a step.

    `typical` is in seconds, NaN where no compute times are known.
    """

    slow: tuple[Member, ...] = ()
    typical: float = float("nan")


def slow_in_compute(reader: Reader, job: str) -> tuple[Member, ...]:
    """Members of any peer group of a job that compute longer than their peers."""
    return judge_compute(reader, job).slow


def judge_compute(reader: Reader, job: str) -> Compute:
    """Over all peer groups of a job."""
    covered = coverage_of(reader, job)
    if covered is None:
        return Compute()
    found = tuple(group.members[place] for group, slow in _slow_groups(reader, job) for place in slow.members)
    groups = load(reader, covered).groups
    return Compute(found, float(median(np.concatenate([group.seconds.ravel() for group in groups]))))


def slow_by_now(reader: Reader, job: str) -> dict[int, float]:
    """Ranks of a job that compute longer than their peers up to now -> the excess of the least slow of their group.

    Without those that were a few percent behind all along, as chips of one model are.
    """
    return {
        group.members[place].rank: slow.excess
        for group, slow in _slow_groups(reader, job)
        if slow.stop >= len(group.steps) - ARRIVING_MAX and (slow.start >= KEPT_UP_MIN or slow.worst >= USUAL_EXCESS)
        for place in slow.members
    }


@once
def _slow_groups(reader: Reader, job: str) -> list[tuple[PeerGroup, Slow]]:
    """Peer groups of a job with somebody slow in them, and who."""
    covered = coverage_of(reader, job)
    if covered is None:
        return []
    groups = load(reader, covered).groups
    apart = pooled([group.seconds for group in groups])
    return [found for group in groups for found in slow_in_turn(group, apart)]


@dataclass(frozen=True)
class Judged:
    """What the levels above kernels could say of a job: whether compute times are `known`, and the ranks `slow` in them."""

    known: bool
    slow: frozenset[int]


def judged_ranks(reader: Reader, job: str) -> Judged:
    """Ranks of a job that are slow in compute as a whole, or in one of its heaviest compute phases."""
    covered = coverage_of(reader, job)
    if covered is None:
        return Judged(False, frozenset())
    ranks = {member.rank for member in judge_compute(reader, job).slow}
    phases = reader.query(
        f"SELECT phase FROM phases WHERE job = ? AND kind IN {SELF_KINDS} AND rank IS NOT NULL AND step IS NOT NULL AND "
        f"duration_ns IS NOT NULL GROUP BY phase ORDER BY sum(duration_ns) DESC, phase LIMIT {PHASES_MAX}",
        (job,),
    ).to_pylist()
    for phase in (row["phase"] for row in phases):
        times = load(reader, covered._replace(table="phases"), phase)
        apart = pooled([group.seconds for group in times.groups])
        found = [each for group in times.groups for each in slow_in_turn(group, apart)]
        ranks |= {group.members[place].rank for group, slow in found for place in slow.members}
    return Judged(True, frozenset(ranks))


def slow_in_turn(group: PeerGroup, apart: float) -> list[tuple[PeerGroup, Slow]]:
    """Who is slow in a group, then who else is once those are left out: another one may have become so at another time.

    Each with the group without those found before; together at most half of the members.
    """
    if len(group.members) < 2 or len(group.steps) < STEPS_MIN:
        return []
    found: list[tuple[PeerGroup, Slow]] = []
    rest, left = group, len(group.members) // 2
    while len(found) < TURNS_MAX:
        slow = slow_members(rest.seconds, STEPS_MIN, WINDOW_MIN, apart=apart)
        if slow is None or len(slow.members) > left:
            break
        found.append((rest, slow))
        left -= len(slow.members)
        if not left:
            break
        kept = [place for place in range(len(rest.members)) if place not in slow.members]
        rest = replace(rest, members=tuple(rest.members[place] for place in kept), seconds=rest.seconds[:, kept])
    return found


def ranks_of(group: PeerGroup, slow: Slow, chosen: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ranks of the `chosen` slow members, and of the members that are not slow."""
    fast = [member.rank for place, member in enumerate(group.members) if place not in slow.members]
    return [group.members[place].rank for place in chosen], fast
