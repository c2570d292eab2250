"""Rates of many outcomes: of all, and by kind, size, clock error and number of ranks, with misses and false alarms by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from scoring import Outcome

GOAL_SIZE_MIN: Final = 0.1
"""Goals are of faults of this size and more."""


def share(part: int, whole: int) -> float | None:
    """Rounded; None of nothing."""
    return round(part / whole, 4) if whole else None


def row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of faulty episodes: shares of all of them, top-1 and class of those detected."""
    found = [each for each in outcomes if each.detected]
    steps = sorted(each.observed_steps for each in found if each.observed_steps is not None)
    wall = sorted(each.wall_steps for each in found if each.wall_steps is not None)
    return {
        "episodes": len(outcomes),
        "detection_rate": share(len(found), len(outcomes)),
        "top1": share(sum(each.top1 for each in found), len(found)),
        "class_accuracy": share(sum(each.classed for each in found), len(found)),
        "innocent_accused": share(sum(bool(each.accused) for each in outcomes), len(outcomes)),
        "verdict_steps_p50": percentile(steps, 0.5),
        "verdict_steps_p95": percentile(steps, 0.95),
        "verdict_wall_steps_p95": percentile(wall, 0.95),
    }


def percentile(ordered: Sequence[int], part: float) -> int | None:
    """Nearest rank."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


def poisson_upper(events: int) -> float:
    """Upper end of the one-sided 95 % interval of a Poisson mean after `events`."""
    low, high = 0.0, 10.0 * (events + 5)
    for _ in range(100):
        middle = (low + high) / 2
        below = sum(math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) for k in range(events + 1))
        low, high = (middle, high) if below > 0.05 else (low, middle)
    return high


def healthy_row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of healthy episodes; each was judged at HEALTHY_LOOKS, and job-days are those that the steps took. Of several
    alarms on one episode each is a false alarm."""
    accused = [each for each in outcomes if each.accused]
    false = sum(len(each.accused) for each in accused)
    days = sum(each.job_seconds for each in outcomes) / 86400
    steps = [each.step_seconds for each in outcomes]
    return {
        "healthy_episodes": len(outcomes),
        "healthy_accused": share(len(accused), len(outcomes)),
        "healthy_accused_count": len(accused),
        "false_alarms": false,
        "false_alarms_per_job_day": round(false / days, 3) if days else None,
        "false_alarms_per_job_day_upper95": round(poisson_upper(false) / days, 3) if days else None,
        "job_days": round(days, 3),
        "step_seconds_assumed": round(float(np.median(steps)), 2) if steps else None,
    }


def tables(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All figures, broken down, and misses and false accusations by name."""
    faulty = [each for each in outcomes if not each.healthy]
    large = [each for each in faulty if not each.small]
    healthy = [each for each in outcomes if each.healthy]
    goal = [each for each in large if each.size >= GOAL_SIZE_MIN]
    return {
        **row(goal),
        **healthy_row(healthy),
        "by_kind": by(large, lambda each: each.kind),
        "by_size": by(large, lambda each: f"{each.size:g}"),
        "by_kind_and_size": by(large, lambda each: f"{each.kind} {each.size:g}"),
        "by_clock_error_ms": by(goal, lambda each: f"{each.clock_error_ms:g}"),
        "by_ranks": by(goal, lambda each: f"{each.ranks:04d}"),
        "healthy_by_clock_error_ms": by(healthy, lambda each: f"{each.clock_error_ms:g}", healthy_row),
        "healthy_by_ranks": by(healthy, lambda each: f"{each.ranks:04d}", healthy_row),
        "added_below_2_percent": row([each for each in faulty if each.small]),
        "misses": [each.name for each in goal if not each.detected],
        "wrong_culprit": [f"{each.name}: {'; '.join(each.accused[:3])}" for each in goal if each.accused],
        "healthy_accused_names": [f"{each.name}: {'; '.join(each.accused[:3])}" for each in healthy if each.accused],
        "seconds_per_episode": {
            "generate": round(float(np.mean([each.generate_seconds for each in outcomes])), 3) if outcomes else None,
            "diagnose": round(float(np.mean([each.diagnose_seconds for each in outcomes])), 3) if outcomes else None,
        },
    }


def by(
    outcomes: Sequence[Outcome],
    key: Callable[[Outcome], str],
    figures: Callable[[Sequence[Outcome]], dict[str, Any]] = row,
) -> dict[str, Any]:
    """A row for each value of `key`."""
    names = sorted({key(each) for each in outcomes})
    return {name: figures([each for each in outcomes if key(each) == name]) for name in names}
