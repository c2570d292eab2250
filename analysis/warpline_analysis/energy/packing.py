"""What fewer active GPUs would have saved: the same work on some of a pool's GPUs, the others parked with low clocks.

After the load-imbalance prototype of "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026), where eight GPUs at
nearly the same mean utilisation drew 56 % of the energy once the load was on few, and p95 latency rose by 80 to 93 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .signals import Reals

BUSY_SHARE_MAX: Final = 0.8
"""An active GPU is at work for so much of ten minutes at most; beyond that requests wait for one another."""


@dataclass(frozen=True)
class Pools:
    """By pool and ten minutes: `gpus` with a program, `seconds` of them in all, `busy_seconds` at work, `together` the most that
    were at work at once, and what one draws that idles (`idle_watts`) and one that is parked (`parked_watts`).
    """

    gpus: Reals
    seconds: Reals
    busy_seconds: Reals
    together: Reals
    idle_watts: Reals
    parked_watts: Reals


@dataclass(frozen=True)
class Parked:
    """By pool and ten minutes: how many GPUs are parked, for how many seconds in all, and the joules that saves."""

    gpus: Reals
    seconds: Reals
    joules: Reals


def parked_at_least(pools: Pools) -> Parked:
    """Parked are only GPUs beyond the most that ever worked at once: no work waits that did not wait."""
    return _parked(pools, pools.together)


def parked_at_most(pools: Pools) -> Parked:
    """As few GPUs as the work of ten minutes fits on, BUSY_SHARE_MAX of each; what came at once then waits or is batched."""
    seconds = np.where(pools.gpus > 0, pools.seconds / np.maximum(pools.gpus, 1), 0.0)
    fits = np.divide(pools.busy_seconds, BUSY_SHARE_MAX * seconds, out=np.zeros_like(seconds), where=seconds > 0)
    return _parked(pools, np.minimum(np.ceil(fits - 1e-9), pools.together))


def _parked(pools: Pools, active: Reals) -> Parked:
    """One GPU of each pool is never parked, so that work that comes finds one."""
    left = np.maximum(pools.gpus - np.maximum(active, 1.0), 0.0)
    each = np.where(pools.gpus > 0, pools.seconds / np.maximum(pools.gpus, 1), 0.0)
    idle = np.maximum(pools.seconds - pools.busy_seconds, 0.0)
    seconds = np.minimum(left * each, idle)
    return Parked(left, seconds, np.maximum(pools.idle_watts - pools.parked_watts, 0.0) * seconds)
