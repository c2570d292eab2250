"""Faults transplanted into real recordings: their durations, ranks permuted, one victim slowed, waits computed anew.

AR (its faulty replica left out) and ST are operation traces of pipelines; the Kineto trace is one rank of eight, whose steps
are dealt out to eight ranks by chance.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from .durations import DATA, OPERATIONS, TRACE, Durations
from .episode import CLOCK_ERRORS_MS, Episode
from .faults import Expectation, Fault
from .layout import Layout
from .rows import Sight
from .timing import Timeline, replay
from .work import OPTIMIZER, Conditions, Reals, Work

FACTORS: Final = (1.05, 1.1, 1.2, 1.5, 2.0)
SOURCES: Final = ("AR", "ST", "Kineto")
KINETO_RANKS: Final = 8
KINETO_STEPS: Final = 100
HEAVY_STAGE: Final = {"ST": 3}
"""Known imbalance of a recording as it was published: finding it is right, too."""


@dataclass(frozen=True)
class Recorded:
    """(steps, micro-batches, stages, replicas) of forward and backward, (steps, stages, replicas) of the optimizer."""

    forward: Reals
    backward: Reals
    optimizer: Reals


def available() -> tuple[str, ...]:
    """Recordings at hand."""
    paths = {name: DATA / f"G-stragglers/bytedance/trace-{name}.parquet" for name in OPERATIONS} | {
        "Kineto": DATA / TRACE
    }
    return tuple(name for name in SOURCES if paths[name].is_file())


@lru_cache(maxsize=3)
def recorded(source: str) -> Recorded:
    """The durations of a recording."""
    if source == "Kineto":
        return _kineto()
    table = pq.read_table(DATA / f"G-stragglers/bytedance/trace-{source}.parquet")
    names = np.asarray(table.column("optype").to_pylist())
    columns = {name: table.column(name).to_numpy() for name in ("dp_rank", "stage", "step", "seq_id", "duration")}
    kept = ~np.isin(columns["dp_rank"], OPERATIONS[source])
    cubes = [_cube(columns, kept & (names == name)) for name in ("forward-compute", "backward-compute", "optimizer")]
    return Recorded(cubes[0], cubes[1], cubes[2][:, 0])


def _cube(columns: dict[str, Any], chosen: Any) -> Reals:
    keys = [np.unique(columns[name][chosen], return_inverse=True) for name in ("step", "seq_id", "stage", "dp_rank")]
    cube = np.full([len(key[0]) for key in keys], np.nan)
    cube[tuple(key[1] for key in keys)] = columns["duration"][chosen]
    gaps = np.isnan(cube)
    cube[gaps] = np.nanmedian(cube)
    return cube


def _kineto() -> Recorded:
    events = json.loads(gzip.decompress((DATA / TRACE).read_bytes()))["traceEvents"]
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("ph") == "X" and str(event.get("name")).startswith("ProfilerStep")
    )
    sums = np.zeros((len(spans), 2))
    for event in events:
        if event.get("cat") in ("kernel", "Kernel") and "nccl" not in event["name"].lower():
            at = next((place for place, (first, end) in enumerate(spans) if first <= event["ts"] < end), None)
            if at is not None:
                sums[at, int("backward" in event["name"])] += event["dur"] / 1e6
    whole = sums[sums.sum(axis=1) > 0.5 * np.median(sums.sum(axis=1))]
    chosen = np.random.default_rng(0).integers(len(whole), size=(KINETO_STEPS, 1, 1, KINETO_RANKS))
    forward, backward = whole[chosen, 0], whole[chosen, 1]
    return Recorded(forward, backward, np.full((KINETO_STEPS, 1, KINETO_RANKS), 0.05 * float(np.median(forward))))


def episodes(first: int, count: int) -> list[tuple[str, Episode]]:
    """Recordings, factors and clock errors in turn, every seventh without a fault."""
    found = []
    sources = available()
    for at in range(count if sources else 0):
        source = sources[at % len(sources)]
        factor = 1.0 if at % 7 == 6 else FACTORS[(at // len(sources)) % len(FACTORS)]
        found.append((source, _episode(source, factor, first + at, CLOCK_ERRORS_MS[at // 2 % len(CLOCK_ERRORS_MS)])))
    return found


def _episode(source: str, factor: float, seed: int, clock_error_ms: float) -> Episode:
    random = np.random.default_rng((seed, 0))
    shape = recorded(source).forward.shape
    layout = Layout(shape[3], 1, shape[2])
    conditions = Conditions(
        steps=shape[0],
        microbatches=shape[1],
        forward_seconds=float(np.median(recorded(source).forward)),
        sharded=True,
        sequences="fixed",
        checkpoint_every=0,
        evaluation_every=0,
        spike_rate=0.0,
    )
    start = int(random.integers(shape[0] // 4, shape[0] // 2))
    victim = Fault("compute_straggler", factor - 1, start, ranks=(int(random.integers(layout.ranks)),))
    kind = "healthy" if factor == 1.0 else "compute_straggler"
    return Episode(
        seed=seed,
        kind=kind,
        size=round(factor - 1, 2),
        layout=layout,
        conditions=conditions,
        sight=Sight("phases", False, False, clock_error_ms / 1e3, 0.0, None),
        faults=() if factor == 1.0 else (victim,),
    )


def run(source: str, episode: Episode, real: Durations) -> Timeline:
    """The recording with its ranks permuted, and the victim slowed."""
    random = np.random.default_rng((episode.seed, 6))
    taken = recorded(source)
    order = np.argsort(random.random(taken.optimizer.shape[1:]), axis=1)
    work = Work(
        forward=_permuted(taken.forward, order),
        backward=_permuted(taken.backward, order),
        optimizer=_permuted(taken.optimizer[:, None], order)[:, 0],
        gap=np.full((*taken.optimizer.shape, 1), 1e-4),
        data=np.full((*taken.optimizer.shape, 1), OPTIMIZER * 1e-3),
        stall=np.zeros((*taken.optimizer.shape, 1)),
        collection=np.full((*taken.optimizer.shape, 1), 1e-4),
        save=np.zeros((*taken.optimizer.shape, 1)),
    )
    return replay(episode.layout, episode.conditions, work, episode.faults, real, episode.seed)


def healthy_twin(episode: Episode) -> Episode:
    """The same without the fault."""
    return replace(episode, faults=(), kind="healthy", size=0.0)


def tolerated(source: str) -> tuple[Expectation, ...]:
    """What the recording itself has that may be said of it."""
    stage = HEAVY_STAGE.get(source)
    return (Expectation(frozenset(("stage_imbalance",)), stage=stage),) if stage is not None else ()


def _permuted(values: Reals, order: Any) -> Reals:
    """(steps, micro-batches, stages, replicas) with the replicas of each stage in a new order, and a last axis for tp."""
    moved: Reals = np.take_along_axis(values, order[None, None], axis=3)[..., None]
    return moved.copy()
