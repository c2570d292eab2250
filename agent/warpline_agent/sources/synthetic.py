"""One node of a made-up job, for demonstrations and tests: steps, kernels, collectives and GPU readings that fit together."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warpline_proto.capture import KERNELS, STACKS, Capture
from warpline_proto.errors import Denied
from warpline_proto.tables import COLLECTIVES, COMMUNICATORS, DEVICE_SAMPLES, JOBS, PHASES
from warpline_proto.tables import STACKS as STACKS_TABLE

from ..identity import stamp
from ..kernel_budget import KernelBudget
from ..kernels import StepSpan, kernel_id, name_rows, step_rows
from ..raw_block import Process
from ..raw_capture import deliver
from ..raw_ring import RawRing
from ..simulated_gpu import COMMUNICATION_STREAM, kernels, serving_reading, training_reading
from ..simulation import DATA_WAIT_SHARE, FAULTS, Fault, Layout, Step, clock_offset_ns, steps
from ..source import Delivered, Health, Rows

STEPS_PER_READ_MAX: Final = 200
"""Steps of one round; what is left follows in the next."""
SECOND_NS: Final = 1_000_000_000
STACK_EVERY_NS: Final = SECOND_NS // 10
"""A closer look takes stacks this often."""
_NAMESPACE: Final = uuid.UUID("6f3c1c0a-5a0b-5e0e-9a41-1d3f0f6f7c55")


@dataclass(frozen=True)
class SyntheticConfig:
    """The job, this node's place in it, its time and its fault; the nodes of a job agree on all but `node*` and `serving`.

    Made-up time starts at `origin_ns` when the wall clock shows `start_ns` (0: when the source is opened) and runs
    `speed_up` times as fast until it has caught up with the wall clock. `victim` is a rank or a stage, as
    `warpline_agent.simulation.Fault` says. With `serving` this node has one more GPU, which serves requests and belongs to
    no training job.
    """

    job: str = "synthetic"
    node: str = "node0"
    node_index: int = 0
    replicas: int = 4
    stages: int = 1
    ranks_per_node: int = 4
    seed: int = 1
    step_seconds: float = 1.0
    speed_up: float = 1.0
    start_ns: int = 0
    origin_ns: int = 0
    serving: bool = False
    fault: str = "none"
    victim: int = 0
    start_step: int = 0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"fault {self.fault!r} is none of {', '.join(FAULTS)}")
        if min(self.replicas, self.stages, self.ranks_per_node) < 1 or self.step_seconds <= 0 or self.speed_up <= 0:
            raise ValueError("replicas, stages, ranks_per_node, step_seconds and speed_up must be above 0")
        if not 0 <= self.node_index * self.ranks_per_node < self.replicas * self.stages:
            raise ValueError(f"node_index {self.node_index} has no rank of this job")

    def layout(self) -> Layout:
        """Replicas, stages and nodes."""
        return Layout(self.replicas, self.stages, self.ranks_per_node)


class Synthetic:
    """A Source that reads nothing but its seed and the clock."""

    name = "synthetic"
    period_seconds = 0.5
    Config = SyntheticConfig
    captures = frozenset({STACKS, KERNELS})

    def __init__(self, config: SyntheticConfig, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._config = config
        self._clock_ns = clock_ns
        self._layout = config.layout()
        fault = Fault(config.fault, config.victim, config.start_step, config.factor)
        self._fault = fault
        self._offset_ns = clock_offset_ns(config.seed, config.node_index)
        self._clock = f"realtime@{config.node}"
        self._ranks = [rank for rank in self._layout.on_node(config.node_index) if rank < self._layout.ranks]
        self._steps: Iterator[Step] = iter(())
        self._next: Step | None = None
        self._start_ns = self._origin_ns = 0
        self._second = 0
        self._energy: dict[str, float] = {}
        self._named: set[int] = set()
        self._opened = False
        self._ring: RawRing | None = None
        self._budget = KernelBudget()

    def tell_within(self, budget: KernelBudget) -> None:
        """Tell the made-up kernels as finely as it allows."""
        self._budget = budget

    def keep_raw_in(self, ring: RawRing) -> None:
        """Keep the made-up kernels there."""
        self._ring = ring

    def open(self) -> None:
        """Begin at the present moment of the job; steps that ended before are not told again."""
        config = self._config
        if self._ring is not None:
            self._ring.open()
        self._start_ns = config.start_ns or self._clock_ns()
        self._origin_ns = config.origin_ns or self._start_ns
        self._steps = steps(self._layout, self._fault, config.seed, int(config.step_seconds * 1e9), self._origin_ns)
        now_ns = self._now_ns()
        self._next = next(step for step in self._steps if step.end_ns > now_ns)
        self._second = max((now_ns - self._origin_ns) // SECOND_NS, 0)
        self._named.clear()
        self._opened = False

    def read(self) -> Iterable[Rows]:
        """Rows of the steps and seconds that ended since the last call."""
        now_ns = self._now_ns()
        if now_ns < self._origin_ns:
            return
        if not self._opened:
            self._opened = True
            yield from self._announce()
        done = list(self._ended(now_ns))
        for step in done:
            yield from self._step_rows(step)
        yield from self._device_rows(done)
        if self._ring is not None:
            yield from self._ring.end_round()

    def health(self) -> Iterable[Health]:
        """Nothing can be missing of what is made up, except in the raw ring and in the detail of kernels."""
        yield from self._budget.health()
        if self._ring is not None:
            yield from self._ring.health()

    def close(self) -> None:
        """Nothing is held but what the raw ring keeps on disk."""
        self._steps = iter(())
        self._next = None
        if self._ring is not None:
            self._ring.close()

    def _now_ns(self) -> int:
        wall_ns = self._clock_ns()
        return min(self._origin_ns + int((wall_ns - self._start_ns) * self._config.speed_up), wall_ns)

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """Stacks of the main thread of a rank of this node, or its kernels from the ring; Denied for a rank of another."""
        if request.job != self._config.job or request.rank not in self._ranks:
            raise Denied(f"rank {request.rank} of job {request.job} does not run on {self._config.node}")
        if request.what != KERNELS:
            yield self._stack(request)
        elif self._ring is not None:
            yield from deliver(self._ring, request)
        else:
            raise Denied("raw kernel records are not kept", "set grade in [agent.raw_ring]")

    def _stack(self, request: Capture) -> Rows:
        row = {
            "time_ns": self._now_ns() + self._offset_ns,
            "pid": 1000 + request.rank,
            "thread": 1000 + request.rank,
            "thread_name": "MainThread",
            "active": True,
            "frames": ["synchronize (torch/cuda/streams.py:231)", "train_step (train.py:118)", "main (train.py:204)"],
            "count": max(1, request.duration_ns // STACK_EVERY_NS),
        }
        return Rows("stacks", STACKS_TABLE.from_rows([row | self._identity(request.rank)]))

    def _ended(self, now_ns: int) -> Iterator[Step]:
        for _ in range(STEPS_PER_READ_MAX):
            if self._next is None or self._next.end_ns > now_ns:
                return
            yield self._next
            self._next = next(self._steps, None)

    def _announce(self) -> Iterator[Rows]:
        config, layout = self._config, self._layout
        job = {
            "job": config.job,
            "time_ns": self._origin_ns,
            "run_id": f"{config.job}-{config.seed}",
            "framework": "made up",
            "world_size": layout.ranks,
            "dp_size": layout.replicas,
            "tp_size": 1,
            "pp_size": layout.stages,
            "evidence": "the configuration of the source names the job",
        }
        yield Rows("jobs", JOBS.from_rows([job]))
        rows = [row for rank in self._ranks for row in self._memberships(rank)]
        yield Rows("communicators", COMMUNICATORS.from_rows(rows))

    def _memberships(self, rank: int) -> Iterator[Mapping[str, Any]]:
        stage = self._layout.place(rank)[1]
        everyone = tuple(range(self._layout.ranks))
        for name, kind, ranks in (("world", "world", everyone), (f"dp{stage}", "dp", self._layout.group(stage))):
            nodes = {each // self._layout.ranks_per_node for each in ranks}
            yield self._identity(rank) | {
                "communicator": self._communicator(name),
                "group_name": name,
                "group_kind": kind,
                "communicator_rank": ranks.index(rank),
                "nranks": len(ranks),
                "ranks": list(ranks),
                "nnodes": len(nodes),
                "local_ranks": len(set(ranks) & set(self._ranks)),
                "network": "IB" if len(nodes) > 1 else None,
                "library_version": "2.27.3",
                "start_ns": self._origin_ns + self._offset_ns,
                "state": "ready",
            }

    def _step_rows(self, step: Step) -> Iterator[Rows]:
        random = np.random.default_rng((self._config.seed, step.number, self._config.node_index))
        for rank in self._ranks:
            identity = self._identity(rank)
            ran = kernels(step, rank, self._offset_ns, random)
            span = StepSpan(
                step.number,
                step.start_ns + self._offset_ns,
                step.end_ns - step.start_ns,
                int(DATA_WAIT_SHARE * self._config.step_seconds * 1e9),
            )
            if self._ring is not None:
                self._ring.append(Process.of(self._clock, node=self._config.node, **identity), ran)
            told = step_rows(ran, [span], rank=rank, clock=self._clock, whole=None)
            yield Rows("steps", stamp(told, **identity))
            packed = self._budget.compress(ran, rank=rank, clock=self._clock)
            yield Rows("kernel_clusters", stamp(packed.rows, **identity), packed.dropped)
            if not self._named.issuperset(kernel_id(name) for name in ran.names):
                self._named.update(kernel_id(name) for name in ran.names)
                yield Rows("kernel_names", name_rows(ran))
        yield Rows("phases", PHASES.from_rows(row for rank in self._ranks for row in self._phases(step, rank)))
        rows = [row for rank in self._ranks for row in self._collectives(step, rank)]
        yield Rows("collectives", COLLECTIVES.from_rows(rows))

    def _phases(self, step: Step, rank: int) -> Iterator[Mapping[str, Any]]:
        for phase, kind, start, duration in (
            ("forward-compute", "compute", step.forward_start_ns, step.forward_ns),
            ("backward-compute", "compute", step.backward_start_ns, step.backward_ns),
            ("optimizer", "optimizer", step.optimizer_start_ns, step.optimizer_ns),
        ):
            yield self._identity(rank) | {
                "step": step.number,
                "phase": phase,
                "kind": kind,
                "sequence": 0,
                "start_ns": int(start[rank]) + self._offset_ns,
                "clock": self._clock,
                "duration_ns": int(duration[rank]),
            }

    def _collectives(self, step: Step, rank: int) -> Iterator[Mapping[str, Any]]:
        for collective in step.collectives:
            if rank not in collective.ranks:
                continue
            place = collective.ranks.index(rank)
            yield self._identity(rank) | {
                "step": step.number,
                "communicator": self._communicator(collective.group),
                "group_name": collective.group,
                "sequence": collective.sequence,
                "operation": "all_reduce",
                "datatype": "bfloat16",
                "reduction": "sum",
                "elements": collective.message_bytes // 2,
                "message_bytes": collective.message_bytes,
                "nranks": len(collective.ranks),
                "stream": COMMUNICATION_STREAM,
                "start_ns": int(collective.start_ns[place]) + self._offset_ns,
                "clock": self._clock,
                "duration_ns": int(collective.duration_ns[place]),
                "timing": "kernel_gpu",
                "state": "completed",
            }

    def _device_rows(self, done: list[Step]) -> Iterator[Rows]:
        """One reading a second up to the end of the last step told."""
        if not done:
            return
        first, end = self._second, (done[-1].end_ns - self._origin_ns) // SECOND_NS
        ends_ns = np.array([step.end_ns for step in done])
        rows: list[Mapping[str, Any]] = []
        for second in range(first, end):
            at_ns = self._origin_ns + second * SECOND_NS
            step = done[min(int(np.searchsorted(ends_ns, at_ns)), len(done) - 1)]
            rows += self._readings(second, at_ns, step)
        self._second = max(first, end)
        yield Rows("device_samples", DEVICE_SAMPLES.from_rows(rows))

    def _readings(self, second: int, at_ns: int, step: Step) -> Iterator[Mapping[str, Any]]:
        random = np.random.default_rng((self._config.seed, second, self._config.node_index, 0xD))
        for rank in self._ranks:
            computing = min(float(step.compute_ns[rank]) / (step.end_ns - step.start_ns), 1.0)
            reading = training_reading(computing, random)
            yield self._reading(self._device(rank), self._config.job, at_ns, reading)
        if self._config.serving:
            idle = self._config.fault == "execution_idle"
            idle_from = int(self._config.start_step * self._config.step_seconds) if idle else None
            reading = serving_reading(second, idle_from, random)
            yield self._reading(self._layout.ranks_per_node, f"{self._config.job}-serving", at_ns, reading)

    def _reading(self, index: int, job: str, at_ns: int, reading: dict[str, Any]) -> Mapping[str, Any]:
        gpu_uuid = gpu(self._config.node, index)
        self._energy[gpu_uuid] = self._energy.get(gpu_uuid, 0.0) + reading["power_watts"]
        return reading | {
            "gpu_uuid": gpu_uuid,
            "gpu_index": index,
            "bus_id": f"0000:{0x18 + 0x11 * index:02x}:00.0",
            "job": job,
            "time_ns": at_ns + self._offset_ns,
            "energy_joules": self._energy[gpu_uuid],
        }

    def _identity(self, rank: int) -> dict[str, Any]:
        replica, stage = self._layout.place(rank)
        return {
            "job": self._config.job,
            "rank": rank,
            "dp": replica,
            "tp": 0,
            "pp": stage,
            "gpu_uuid": gpu(self._config.node, self._device(rank)),
            "device": self._device(rank),
        }

    def _device(self, rank: int) -> int:
        return rank % self._layout.ranks_per_node

    def _communicator(self, group: str) -> str:
        return communicator(self._config.job, self._config.seed, group)


def communicator(job: str, seed: int, group: str) -> str:
    """Identifier of a made-up communicator."""
    return "0x" + hashlib.blake2b(f"{job} {seed} {group}".encode(), digest_size=8).hexdigest()


def gpu(node: str, index: int) -> str:
    """UUID of a made-up GPU."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{node} {index}')}"
