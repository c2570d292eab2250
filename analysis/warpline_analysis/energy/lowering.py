"""What lower clocks would have saved over low activity that was recorded: when they go down, for how long, and at which power.

Clocks go down after `trigger_seconds` of low activity and up with the first work, and stay up for `cooldown_seconds` after that:
Algorithm 1 of "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026). What it measured on an L40S (105 W idle
with a program, 61 W with the SM clock low, 35 W with the memory clock low too, as an empty GPU) is the model of power.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .signals import Numbers, Reals

IDLE_WATTS: Final = 105.0
SM_LOW_WATTS: Final = 61.0
EMPTY_WATTS: Final = 35.0
"""The paper's GPU; `SM_SHARE` carries them over to other models."""
SM_SHARE: Final = (SM_LOW_WATTS - EMPTY_WATTS) / (IDLE_WATTS - EMPTY_WATTS)
"""Of what an idle GPU draws above an empty one of its model, what is left with the SM clock low: 37 %."""
MEMORY_SHARE: Final = 0.0
"""The same with the memory clock low too."""


@dataclass(frozen=True)
class Rule:
    """When clocks go down, seconds; the defaults are the paper's."""

    trigger_seconds: float = 3.0
    cooldown_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not (0 < self.trigger_seconds <= 3600 and 0 <= self.cooldown_seconds <= 3600):
            raise ValueError("trigger and cooldown lie within an hour, and the trigger is more than 0 s")


@dataclass(frozen=True)
class Lowered:
    """By piece of low activity: `seconds` with low clocks. `wakes` is True where clocks go up again at its end."""

    seconds: Reals
    wakes: np.ndarray[tuple[int], np.dtype[np.bool_]]


def lowered(gpu: Numbers, start_ns: Numbers, end_ns: Numbers, rule: Rule) -> Lowered:
    """Replay over pieces of low activity, ordered by GPU and start; pieces that touch are one time of low activity."""
    count = len(gpu)
    if not count:
        return Lowered(np.zeros(0), np.zeros(0, dtype=bool))
    fresh = np.ones(count, dtype=bool)
    fresh[1:] = (gpu[1:] != gpu[:-1]) | (start_ns[1:] > end_ns[:-1])
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], count) - 1
    down = _down(gpu[first], start_ns[first], end_ns[last], rule)
    began = np.repeat(down, last - first + 1)
    seconds = np.maximum(end_ns - np.maximum(began, start_ns), 0) / 1e9
    wakes = np.zeros(count, dtype=bool)
    wakes[last] = down < end_ns[last]
    return Lowered(seconds, wakes)


def _down(gpu: Numbers, start_ns: Numbers, end_ns: Numbers, rule: Rule) -> Numbers:
    """Of each time of low activity, when clocks go down in it; its end where they do not."""
    trigger_ns, cooldown_ns = round(rule.trigger_seconds * 1e9), round(rule.cooldown_seconds * 1e9)
    found: list[int] = []
    before, cool_ns = -1, 0
    for mine, begin, end in zip(gpu.tolist(), start_ns.tolist(), end_ns.tolist(), strict=True):
        ready = begin + trigger_ns if mine != before else max(begin + trigger_ns, cool_ns)
        cool_ns = end + cooldown_ns if ready < end else cool_ns if mine == before else 0
        before = mine
        found.append(min(ready, end))
    return np.array(found, dtype=np.int64)


def low_watts(watts: Reals, floors: Reals, share: float) -> Reals:
    """Power with low clocks of GPUs that idle at `watts`; NaN where the power of an empty one is not known."""
    return np.asarray(floors + share * np.maximum(watts - floors, 0.0))


def saved(watts: Reals, low: Reals, seconds: Reals) -> Reals:
    """Joules by piece, never less than 0; NaN where either power is not known."""
    return np.asarray(np.maximum(watts - low, 0.0) * seconds)
