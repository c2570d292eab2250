"""Ranks whose compute as a whole is slow: what is told of them elsewhere needs no second accusation, nor do their victims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .arrivals import STEPS_MIN
from .detector import Reader
from .robust import Slow, median, slow_members
from .scatter import pooled
from .self_time import SELF_KINDS, Member, PeerGroup, coverage_of, load

WINDOW_MIN: Final = 5
"""Shortest newest part of the window that is judged by itself."""
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
    times = load(reader, covered)
    apart = pooled([group.seconds for group in times.groups])
    found = [member for group in times.groups for member in _slow(group, apart)]
    return Compute(tuple(found), float(median(np.concatenate([group.seconds.ravel() for group in times.groups]))))


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
        ranks |= {member.rank for group in times.groups for member in _slow(group, apart)}
    return Judged(True, frozenset(ranks))


def _slow(group: PeerGroup, apart: float) -> list[Member]:
    if len(group.members) < 2 or len(group.steps) < STEPS_MIN:
        return []
    slow = slow_members(group.seconds, STEPS_MIN, WINDOW_MIN, apart=apart)
    return [group.members[place] for place in slow.members] if slow else []


def ranks_of(group: PeerGroup, slow: Slow, chosen: Sequence[int]) -> tuple[list[int], list[int]]:
    """Ranks of the `chosen` slow members, and of the members that are not slow."""
    fast = [member.rank for place, member in enumerate(group.members) if place not in slow.members]
    return [group.members[place].rank for place in chosen], fast
