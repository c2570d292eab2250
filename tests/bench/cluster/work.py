"""What each rank has to do by itself in each step, before anybody waits for anybody, and what a fault makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .durations import Durations
from .faults import STALL_SHARE, Fault
from .layout import Layout

Reals = npt.NDArray[np.float64]

BACKWARD: Final = 2.0
"""Backward over forward."""
OPTIMIZER: Final = 0.35
"""Optimizer over one micro-batch's forward."""
WANDER: Final = {"rank": (0.97, 0.003), "job": (0.99, 0.008)}
"""Speed drifts as temperatures and neighbours do: (what is kept from step to step, spread), of each rank and of all alike."""
HICCUP: Final = (0.05, 0.5)
"""Part of a step that one rank comes late, once and for no lasting reason."""
SEQUENCE_LOG_SIGMA: Final = {"fixed": (0.0, 0.0), "shared": (0.12, 0.0), "replica": (0.12, 0.025)}
"""Of the work that lengths of sequences make: common to a step, and of each replica by itself."""
EXPERT_LOG_SIGMA: Final = 0.03
"""Work of a micro-batch that the choice of experts makes, of each replica by itself."""
HEAD_SHARE: Final = 0.04
"""What the last stage computes more in a healthy job."""
LAUNCH_SECONDS: Final = 0.0004
COLLECTION_SECONDS: Final = 0.0002
"""Garbage collection in each step."""


@dataclass(frozen=True)
class Conditions:
    """What a job is like, with no fault: `sequences` fixed, shared (all ranks alike) or replica (each replica its own besides).

    `chip_log_sigma` is how much chips differ for good, `spike_rate` the share of ranks and steps with a short delay,
    `hiccup_rate` the share of steps in which some rank comes late by a part of HICCUP.
    """

    steps: int
    microbatches: int
    forward_seconds: float
    sharded: bool
    sequences: str
    checkpoint_every: int
    evaluation_every: int
    spike_rate: float
    chip_log_sigma: float = 0.01
    hiccup_rate: float = 0.0


@dataclass
class Work:
    """Own durations before anybody waits: forward and backward are (steps, micro-batches, stages, dp, tp), the others without
    micro-batches."""

    forward: Reals
    backward: Reals
    optimizer: Reals
    gap: Reals
    data: Reals
    stall: Reals
    collection: Reals
    save: Reals


def own_work(layout: Layout, conditions: Conditions, real: Durations, random: np.random.Generator) -> Work:
    steps, shape = conditions.steps, layout.shape
    full = (steps, conditions.microbatches, *shape)
    chips = random.lognormal(0.0, conditions.chip_log_sigma, shape)
    speed = chips * np.exp(_wander(steps, shape, "rank", random) + _wander(steps, (1, 1, 1), "job", random))
    stage = np.ones(layout.stages)
    stage[-1] += HEAD_SHARE * (layout.stages > 1)
    load = _load(layout, conditions, real, random)
    base = (conditions.forward_seconds * load * speed * stage[:, None, None])[:, None]
    if layout.experts > 1:
        base = base * random.lognormal(0.0, EXPERT_LOG_SIGMA, (steps, conditions.microbatches, 1, layout.replicas, 1))
    forward = base * real.draw(random, "peer", full)
    backward = BACKWARD * base * real.draw(random, "peer", full)
    nominal = 3 * conditions.forward_seconds * conditions.microbatches
    spikes = random.random((steps, *shape)) < conditions.spike_rate
    backward[:, 0] += spikes * random.exponential(0.02 * nominal, spikes.shape)
    optimizer = OPTIMIZER * conditions.forward_seconds * speed * random.lognormal(0.0, 0.004, (steps, *shape))
    gap = LAUNCH_SECONDS * random.lognormal(0.0, 0.5, (steps, *shape))
    _hiccups(gap, nominal, conditions, random)
    save = np.zeros_like(gap)
    if conditions.checkpoint_every:
        saved = np.arange(steps) % conditions.checkpoint_every == conditions.checkpoint_every - 1
        writers = 1.0 + 0.3 * (np.arange(layout.replicas) == 0)
        save[saved] = (2.0 * nominal * writers)[:, None] * random.lognormal(0.0, 0.1, (int(saved.sum()), *shape))
    data = 0.002 * nominal * random.lognormal(0.0, 0.4, (steps, *shape))
    collection = COLLECTION_SECONDS * random.lognormal(0.0, 0.5, (steps, *shape))
    return Work(forward, backward, optimizer, gap, data, np.zeros((steps, *shape)), collection, save)


def _wander(steps: int, shape: tuple[int, ...], whose: str, random: np.random.Generator) -> Reals:
    """Logarithms of (steps, ...) that each keep most of the one before."""
    kept, spread = WANDER[whose]
    found: Reals = spread * random.standard_normal((steps, *shape))
    for step in range(1, steps):
        found[step] = kept * found[step - 1] + np.sqrt(1 - kept**2) * found[step]
    return found


def _hiccups(gap: Reals, nominal: float, conditions: Conditions, random: np.random.Generator) -> None:
    """One rank late in a few steps, whichever it happens to be."""
    struck = random.random(conditions.steps) < conditions.hiccup_rate
    flat = gap.reshape(conditions.steps, -1)
    whom = random.integers(flat.shape[1], size=conditions.steps)
    late = random.uniform(*HICCUP, conditions.steps) * nominal
    flat[np.flatnonzero(struck), whom[struck]] += late[struck]


def _load(layout: Layout, conditions: Conditions, real: Durations, random: np.random.Generator) -> Reals:
    """Work of each step, and of each replica where sequences are its own: (steps, 1, replicas, 1)."""
    shared, own = SEQUENCE_LOG_SIGMA[conditions.sequences]
    step = random.lognormal(0.0, 1.0, conditions.steps) ** shared * real.draw(random, "step", (conditions.steps,))
    replica = random.lognormal(0.0, 1.0, (conditions.steps, layout.replicas)) ** own
    load: Reals = (step[:, None] * replica)[:, None, :, None]
    return load


def harm(work: Work, fault: Fault, layout: Layout, conditions: Conditions, random: np.random.Generator) -> None:
    """Put a fault that is a matter of single ranks into their work."""
    active = fault.on(conditions.steps)
    victims = np.zeros(layout.ranks, dtype=bool)
    victims[list(fault.ranks)] = True
    hit = active[:, None, None, None] & victims.reshape(layout.shape)
    nominal = 3 * conditions.forward_seconds * conditions.microbatches
    if fault.kind in ("compute_straggler", "throttling", "masked_straggler", "intermittent", "half_slow"):
        _slow(work, 1 + fault.size * hit, forward=True)
    elif fault.kind == "pipeline_bubble":
        _slow(work, 1 + fault.size * hit, forward=False)
    elif fault.kind == "regression":
        _slow(work, 1 + fault.size * active[:, None, None, None], forward=True)
    elif fault.kind == "data_imbalance":
        unlucky = random.integers(layout.replicas, size=conditions.steps)
        chosen = unlucky[:, None] == np.arange(layout.replicas)
        _slow(work, 1 + fault.size * (active[:, None] & chosen)[:, None, :, None], forward=True, optimizer=False)
    elif fault.kind == "stage_imbalance":
        heavy = np.arange(layout.stages) == fault.stage
        _slow(work, 1 + fault.size * heavy[None, :, None, None], forward=True)
    elif fault.kind == "host_straggler":
        late = fault.size * nominal * hit * random.lognormal(0.0, 0.2, hit.shape)
        target = {"loader": work.data, "gc": work.collection}.get(fault.cause, work.gap)
        target += late
    elif fault.kind == "sporadic_stall":
        struck = hit & (random.random(conditions.steps) < STALL_SHARE)[:, None, None, None]
        work.stall += fault.size * nominal * struck


def _slow(work: Work, factor: npt.NDArray[np.floating], *, forward: bool, optimizer: bool = True) -> None:
    work.backward *= factor[:, None]
    if forward:
        work.forward *= factor[:, None]
        if optimizer:
            work.optimizer *= factor
