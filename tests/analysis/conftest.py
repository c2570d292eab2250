"""A made-up synchronous training job as rows, for the detectors that need whole steps: phases, GPU times, collectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from warpline_proto.tables import COLLECTIVES, PHASES, STEPS

Times = npt.NDArray[np.float64]
TRANSFER = 0.004
"""Seconds of the one healthy collective that ends each step."""
BEGIN_NS = 1_700_000_000_000_000_000
PHASE_SHARES = {
    "forward-compute": ("compute", 0.35),
    "backward-compute": ("compute", 0.6),
    "optimizer": ("optimizer", 0.05),
}


def noisy(seed: int, steps: int = 100, ranks: int = 8, jitter: float = 0.02) -> Times:
    """(steps, ranks) of compute seconds around 0.1 s."""
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, jitter, (steps, ranks)))


def training(
    phases: Mapping[str, tuple[str, Times]],
    *,
    gap: Times | float = 0.0,
    data_wait: Times | float | None = None,
    pause: Times | float = 0.0,
    stages: int = 1,
    order: Any = None,
    skew_ns: int = 0,
    in_pipeline: bool = False,
) -> dict[str, pa.Table]:
    """Rows of a job whose ranks run `phases` (name -> kind, seconds by step and rank) and meet in one all-reduce a step.

    `gap` is time in which a rank's GPU has nothing to do before it comes to the collective, `pause` what all ranks stop for
    after it. Ranks are counted stage by stage, four to a node, `order` renames them; with `in_pipeline` the stages of a
    replica wait for each other with nothing on their GPUs before the collective.
    """
    own = np.sum([seconds for _, seconds in phases.values()], axis=0) + gap
    steps, ranks = own.shape
    replicas = ranks // stages
    ready = np.tile(own.reshape(steps, stages, replicas).max(axis=1), (1, stages)) if in_pipeline else own
    reached = ready.max(axis=1, keepdims=True) + TRANSFER
    duration = np.broadcast_to(reached + (np.reshape(pause, (-1, 1)) if np.ndim(pause) else pause), own.shape)
    computed = np.sum([seconds for kind, seconds in phases.values() if kind in ("compute", "optimizer")], axis=0)
    rank, step = np.tile(np.arange(ranks), steps), np.repeat(np.arange(steps), ranks)
    started = BEGIN_NS + np.round((np.cumsum(duration[:, 0]) - duration[:, 0]) * 1e9).astype(np.int64)
    place = {
        "job": "train",
        "rank": (np.arange(ranks) if order is None else np.asarray(order))[rank],
        "dp": rank % replicas,
        "pp": rank // replicas if stages > 1 else None,
        "node": [f"node{each // 4}" for each in rank],
        "step": step,
        "start_ns": started[step] + rank * skew_ns,
        "clock": [f"realtime@node{each // 4}" for each in rank],
    }
    told = {
        "scope": "step",
        "duration_ns": _ns(duration),
        "busy_ns": _ns(computed + reached - ready),
        "compute_ns": _ns(computed),
        "communication_ns": _ns(reached - ready),
        "exposed_communication_ns": _ns(reached - ready),
        "idle_ns": _ns(duration - computed - reached + ready),
        "data_wait_ns": None if data_wait is None else _ns(np.broadcast_to(data_wait, own.shape)),
    }
    joined = {
        "sequence": step,
        "communicator": "world",
        "operation": "all_reduce",
        "message_bytes": 1 << 28,
        "nranks": ranks,
        "duration_ns": _ns(reached - ready),
        "timing": "kernel_gpu",
    }
    named = [
        PHASES.from_columns(place | {"phase": name, "kind": kind, "duration_ns": _ns(seconds)})
        for name, (kind, seconds) in phases.items()
    ]
    return {
        "steps": pa.Table.from_batches([STEPS.from_columns(place | told)]),
        "phases": pa.Table.from_batches(named),
        "collectives": pa.Table.from_batches([COLLECTIVES.from_columns(place | joined)]),
    }


def _ns(seconds: Times) -> npt.NDArray[np.int64]:
    return np.round(np.ravel(seconds) * 1e9).astype(np.int64)


def split(compute: Times) -> dict[str, tuple[str, Times]]:
    """Compute as forward, backward and optimizer."""
    return {name: (kind, compute * share) for name, (kind, share) in PHASE_SHARES.items()}


@pytest.fixture
def train() -> Callable[..., dict[str, pa.Table]]:
    """`training` over compute seconds (split into the usual phases), or over phases as they are given."""

    def make(work: Times | Mapping[str, tuple[str, Times]], **how: Any) -> dict[str, pa.Table]:
        return training(work if isinstance(work, Mapping) else split(work), **how)

    return make
