"""What a GPU did from one sample to the next, told from its signals.

Execution-idle after "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026), section 2.1 of its definition:
every signal of computing, device memory and links that the GPU offers is low, a program is resident, for 5 s on end. Waiting in
a collective is none of it: a kernel spins there. That, and spinning at idle power, are told apart where pipes or memory are
measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from warpline_proto.execution_idle import BYTES_PER_SECOND_MAX, PERCENT_MAX

from .signals import Numbers, Reals, Samples

THRESHOLDS: Final = (1.0, 5.0, 10.0)
"""Seconds from which low activity counts, side by side; the definition is the one in the middle."""
DEFINED_SECONDS: Final = THRESHOLDS[1]
GAP_SECONDS_MAX: Final = 2.0
"""Samples further apart break a run, and nothing is claimed of the time between them."""
SPIN_SECONDS: Final = 10.0
"""A spin at idle power is a livelock once it lasts so long; shorter ones are waits."""
SPIN_UTILIZATION: Final = 90.0
NEAR_IDLE_SHARE: Final = 0.25
"""Near-idle power reaches so far from the idle power towards the limit."""
CLOCK_SHARE: Final = 0.8
"""Part of the highest clock that counts as high."""


class State(IntEnum):
    """What a GPU does; names as in table `energy_intervals`."""

    DEEP_IDLE = 0
    EXECUTION_IDLE = 1
    LOW_UNKNOWN = 2
    BUSY_WAIT = 3
    SPINNING = 4
    ACTIVE = 5
    BLIND = 6
    UNOBSERVED = 7


STATES: Final = tuple(state.name.lower() for state in State)
Flags = npt.NDArray[np.bool_]


def told(samples: Samples, floors: Mapping[str | None, float]) -> npt.NDArray[np.int8]:
    """State of each sample by itself, low ones however short; `floors` are watts of an empty GPU by model.

    What a sample shows holds until the next one; of one before a gap nothing does, it is UNOBSERVED.
    """
    compute = np.where(np.isnan(samples.compute), samples.utilization, samples.compute)
    high = _at_least(compute, PERCENT_MAX)
    low = ~np.isnan(compute) & ~high & ~_memory_or_links(samples)
    state = np.full(len(samples), State.ACTIVE, dtype=np.int8)
    state[low & (samples.resident == 1)] = State.EXECUTION_IDLE
    state[low & (samples.resident == -1)] = State.LOW_UNKNOWN
    state[low & (samples.resident == 0)] = State.DEEP_IDLE
    state[np.isnan(compute)] = State.BLIND
    state[np.isnan(compute) & (samples.resident == 0)] = State.DEEP_IDLE
    spins = high & _no_work(samples)
    state[spins] = State.BUSY_WAIT
    state[_livelocked(samples, floors)] = State.SPINNING
    state[held_ns(samples) < 0] = State.UNOBSERVED
    return state


def held_ns(samples: Samples) -> Numbers:
    """How long each sample holds; of one before a gap, that gap as a negative number; 0 for the last of a GPU."""
    ahead = np.zeros(len(samples), dtype=np.int64)
    if len(samples):
        ahead[:-1] = np.where(samples.gpu[1:] == samples.gpu[:-1], np.diff(samples.time_ns), 0)
    return np.where(ahead > GAP_SECONDS_MAX * 1e9, -ahead, ahead)


def _at_least(values: Reals, least: float) -> Flags:
    with np.errstate(invalid="ignore"):
        reached: Flags = values >= least
    return reached


def _memory_or_links(samples: Samples) -> Flags:
    """Where device memory or a link is at work; what is not offered is dropped from the rule."""
    links = _at_least(samples.pcie, BYTES_PER_SECOND_MAX) | _at_least(samples.nvlink, BYTES_PER_SECOND_MAX)
    return _at_least(samples.dram, PERCENT_MAX) | links


def _no_work(samples: Samples) -> Flags:
    """Where pipes and device memory are measured and low, and so are the links: a kernel that is resident only waits."""
    measured = ~np.isnan(samples.pipes) & ~np.isnan(samples.dram)
    return measured & ~_at_least(samples.pipes, PERCENT_MAX) & ~_memory_or_links(samples)


def _livelocked(samples: Samples, floors: Mapping[str | None, float]) -> Flags:
    """Where utilisation and clocks are high at nearly the power of an empty GPU, a program resident, and no work is seen."""
    floor = (
        np.array([floors.get(gpu.name, np.nan) for gpu in samples.gpus])[samples.gpu] if len(samples) else samples.watts
    )
    ceiling = floor + NEAR_IDLE_SHARE * (samples.limit_watts - floor)
    with np.errstate(invalid="ignore"):
        near_idle = samples.watts <= ceiling
        fast = samples.sm_clock_mhz >= CLOCK_SHARE * samples.sm_clock_max_mhz
    work = _memory_or_links(samples) | _at_least(samples.pipes, PERCENT_MAX)
    work |= _at_least(samples.memory_utilization, PERCENT_MAX)
    busy = _at_least(samples.utilization, SPIN_UTILIZATION)
    resident: Flags = samples.resident == 1
    return busy & near_idle & fast & resident & ~work
