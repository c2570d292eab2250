"""A made-up training job, computed whole from its seed: every node that computes it gets the same steps without talking.

Ranks are laid out as rank = dp * stages + stage. In each step a replica's stages wait for each other in the pipeline, the
gradient buckets of each stage are reduced across replicas, and one small all-reduce over all ranks ends the step. An
operation ends for all at the latest arrival plus the transfer; what an early rank spends waiting is inside its own duration,
exactly as a communication kernel shows it. A slow rank therefore delays everybody while its own collectives look short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FAULTS: Final = (
    "none",
    "compute_straggler",
    "link_degradation",
    "stage_imbalance",
    "data_imbalance",
    "execution_idle",
)
FORWARD_SHARE: Final = 0.30
BACKWARD_SHARE: Final = 0.52
OPTIMIZER_SHARE: Final = 0.04
"""Shares of a step's nominal time that a healthy rank computes; the rest is communication, data and waiting."""
COMPUTE_NOISE: Final = 0.008
TRANSFER_NOISE: Final = 0.03
"""Standard deviation of the logarithm of each duration."""
FILL_SHARE: Final = 0.01
"""Pipeline fill from one stage to the next, of a step."""
BUCKET_READY: Final = (0.6, 1.0)
"""Share of the backward pass after which each gradient bucket can be reduced."""
BUCKET_BYTES: Final = 256 * 1024 * 1024
NORM_BYTES: Final = 4096
BUS_BYTES_PER_SECOND: Final = 150e9
NORM_TRANSFER_NS: Final = 40_000
DATA_WAIT_SHARE: Final = 0.004
CLOCK_OFFSET_NS_MAX: Final = 4_000_000
"""Clocks of two nodes differ by up to twice this."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fault:
    """What goes wrong from `start_step` on, `factor` times.

    `victim` is a rank (compute_straggler), or a stage (link_degradation: the group that reduces its gradients;
    stage_imbalance). data_imbalance has another replica each step, execution_idle is a matter of one GPU outside the job.
    """

    kind: str = "none"
    victim: int = 0
    start_step: int = 0
    factor: float = 1.0

    def at(self, kind: str, step: int) -> bool:
        """Whether this fault is of that kind and has begun."""
        return self.kind == kind and step >= self.start_step


@dataclass(frozen=True)
class Layout:
    """`replicas` copies of a pipeline of `stages`, `ranks_per_node` neighbours on each node."""

    replicas: int
    stages: int
    ranks_per_node: int

    @property
    def ranks(self) -> int:
        """All ranks."""
        return self.replicas * self.stages

    def place(self, rank: int) -> tuple[int, int]:
        """(dp, stage) of a rank."""
        return rank // self.stages, rank % self.stages

    def group(self, stage: int) -> tuple[int, ...]:
        """Ranks that reduce the gradients of one stage together."""
        return tuple(replica * self.stages + stage for replica in range(self.replicas))

    def on_node(self, index: int) -> range:
        """Ranks of one node."""
        return range(index * self.ranks_per_node, (index + 1) * self.ranks_per_node)


@dataclass(frozen=True)
class Collective:
    """One operation of one group: `start_ns` and `duration_ns` have one value for each of `ranks`."""

    group: str
    sequence: int
    bucket: int
    message_bytes: int
    ranks: tuple[int, ...]
    start_ns: Times
    duration_ns: Times


@dataclass(frozen=True)
class Step:
    """One step of the whole job; arrays have one value a rank, times on a clock that all share."""

    number: int
    stages: int
    start_ns: int
    end_ns: int
    forward_start_ns: Times
    forward_ns: Times
    backward_start_ns: Times
    backward_ns: Times
    optimizer_start_ns: Times
    optimizer_ns: Times
    collectives: tuple[Collective, ...]

    @property
    def compute_ns(self) -> Times:
        """Time each rank computes."""
        return self.forward_ns + self.backward_ns + self.optimizer_ns


def steps(layout: Layout, fault: Fault, seed: int, step_ns: int, origin_ns: int) -> Iterator[Step]:
    """The steps of the job, without end."""
    number, start_ns = 0, origin_ns
    while True:
        step = _step(layout, fault, np.random.default_rng((seed, number)), step_ns, number, start_ns)
        yield step
        number, start_ns = number + 1, step.end_ns


def clock_offset_ns(seed: int, node_index: int) -> int:
    """How far a node's clock is ahead of the one that all share."""
    generator = np.random.default_rng((seed, node_index, 0xC10C))
    return int(generator.integers(-CLOCK_OFFSET_NS_MAX, CLOCK_OFFSET_NS_MAX + 1))


def _step(layout: Layout, fault: Fault, random: np.random.Generator, step_ns: int, number: int, start_ns: int) -> Step:
    load = _load(layout, fault, random, number)
    optimizer_load = load if fault.kind == "compute_straggler" else np.ones(layout.ranks)
    forward, backward, optimizer = (
        _noisy(random, share * step_ns * each)
        for share, each in ((FORWARD_SHARE, load), (BACKWARD_SHARE, load), (OPTIMIZER_SHARE, optimizer_load))
    )
    stage = np.arange(layout.ranks) % layout.stages
    fill_ns = int(FILL_SHARE * step_ns)
    forward_start = start_ns + int(DATA_WAIT_SHARE * step_ns) + stage * fill_ns
    backward_start = _replica_latest(layout, forward_start + forward) + (layout.stages - 1 - stage) * fill_ns
    backward_end = _replica_latest(layout, backward_start + backward)
    buckets, reduced = _reduce(layout, fault, random, number, backward_start, backward, backward_end)
    norm_start = reduced + optimizer
    norm_end = int(norm_start.max()) + NORM_TRANSFER_NS
    everyone = tuple(range(layout.ranks))
    norm = Collective("world", number, 0, NORM_BYTES, everyone, norm_start, norm_end - norm_start)
    return Step(
        number=number,
        stages=layout.stages,
        start_ns=start_ns,
        end_ns=norm_end,
        forward_start_ns=forward_start,
        forward_ns=forward,
        backward_start_ns=backward_start,
        backward_ns=backward,
        optimizer_start_ns=reduced,
        optimizer_ns=optimizer,
        collectives=(*buckets, norm),
    )


def _load(layout: Layout, fault: Fault, random: np.random.Generator, number: int) -> npt.NDArray[np.float64]:
    """Work of each rank in this step, 1.0 where nothing is wrong."""
    load = np.ones(layout.ranks)
    unlucky = int(random.integers(layout.replicas))
    rank = np.arange(layout.ranks)
    if fault.at("compute_straggler", number):
        load[fault.victim] *= fault.factor
    elif fault.at("stage_imbalance", number):
        load[rank % layout.stages == fault.victim] *= fault.factor
    elif fault.at("data_imbalance", number):
        load[rank // layout.stages == unlucky] *= fault.factor
    return load


def _noisy(random: np.random.Generator, nominal_ns: npt.NDArray[np.float64]) -> Times:
    return (nominal_ns * random.lognormal(0.0, COMPUTE_NOISE, nominal_ns.size)).astype(np.int64)


def _replica_latest(layout: Layout, times: Times) -> Times:
    """For each rank the latest time among the stages of its replica."""
    latest = times.reshape(layout.replicas, layout.stages).max(axis=1)
    return np.repeat(latest, layout.stages)


def _reduce(
    layout: Layout,
    fault: Fault,
    random: np.random.Generator,
    number: int,
    backward_start: Times,
    backward: Times,
    backward_end: Times,
) -> tuple[list[Collective], Times]:
    """The reductions of all gradient buckets, and when each rank's last one ended."""
    done = np.zeros(layout.ranks, dtype=np.int64)
    found: list[Collective] = []
    ring = 2 * (layout.replicas - 1) / layout.replicas
    for bucket, share in enumerate(BUCKET_READY):
        ready = backward_end if share == 1.0 else backward_start + (share * backward).astype(np.int64)
        for stage in range(layout.stages):
            ranks = layout.group(stage)
            slow = fault.factor if fault.at("link_degradation", number) and stage == fault.victim else 1.0
            noise = float(random.lognormal(0.0, TRANSFER_NOISE))
            transfer_ns = int(BUCKET_BYTES * ring / BUS_BYTES_PER_SECOND * 1e9 * slow * noise)
            start = np.maximum(ready[list(ranks)], done[list(ranks)])
            end_ns = int(start.max()) + transfer_ns
            sequence = number * len(BUCKET_READY) + bucket
            found.append(Collective(f"dp{stage}", sequence, bucket, BUCKET_BYTES, ranks, start, end_ns - start))
            done[list(ranks)] = end_ns
    return found, done
