"""Ranks whose compute as a whole is slow: what is told of them elsewhere needs no second accusation, nor do their victims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .arrivals import STEPS_MIN
from .detector import Reader
from .robust import median, slow_members
from .self_time import Member, coverage, load

WINDOW_MIN: Final = 16
"""Shortest newest part of the window that is judged by itself."""


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
    covered = next((each for each in coverage(reader) if each.job == job), None)
    if covered is None:
        return Compute()
    times = load(reader, covered)
    found: list[Member] = []
    for group in times.groups:
        if len(group.members) < 2 or len(group.steps) < STEPS_MIN:
            continue
        slow = slow_members(group.seconds, STEPS_MIN, WINDOW_MIN)
        found += [group.members[place] for place in slow.members] if slow else []
    return Compute(tuple(found), float(median(np.concatenate([group.seconds.ravel() for group in times.groups]))))
