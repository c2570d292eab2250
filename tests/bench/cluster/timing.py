"""When everything happens: a job's steps computed whole, all steps at once, in seconds on a clock that all share.

Ranks really wait for each other. A step begins when the all-reduce of the gradient norm ends for all; then optimizer and
gather of the parameters, host and data, the pipeline (one forward, one backward), reduction of the gradients, norm. Who comes
early to a collective waits in it: its own duration is wait plus transfer, and ends for all when the last one's transfer does.
Random numbers do not depend on faults, so that the same job can be computed without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from .durations import Durations
from .faults import Fault, degraded
from .layout import Group, Layout
from .work import Conditions, Reals, Work, harm, own_work

BUCKETS: Final = (0.5, 0.8, 1.0)
"""Share of the last backward pass after which each gradient bucket can be reduced."""
SEND_SECONDS: Final = 0.0006
NORM_SECONDS: Final = 0.00006
NORM_BYTES: Final = 4096
CONGESTION: Final = (0.005, 3.0)
"""Share of operations over the network that meet other traffic, and how much longer they take at most."""
DP_SHARE: Final = 0.05
TENSOR_SHARE: Final = 0.03
EXPERT_SHARE: Final = 0.04
EXPERT_GRADIENT_SHARE: Final = 0.02
"""Transfer over compute: gradients of a step (those of experts apart), and exchanges of a micro-batch pass."""
EXPERT_REDUCED: Final = 0.5
"""Part of the last backward pass after which gradients of experts are reduced, beside what is left of it."""
BUS_BYTES_PER_SECOND: Final = {"dp": 90e9, "tp": 300e9, "ep": 60e9, "edp": 60e9}


@dataclass(frozen=True)
class Operation:
    """One collective a step, of every communicator of a kind: `start` and `end` are (steps, ranks)."""

    kind: str
    operation: str
    message_bytes: int
    start: Reals
    end: Reals


@dataclass
class Timeline:
    """Everything that happened. Arrays are (steps, ranks) in seconds; `begin` and `length` are (steps,)."""

    begin: Reals
    length: Reals
    forward: Reals
    backward: Reals
    optimizer: Reals
    gap: Reals
    """Host time in which the GPU has nothing to do."""
    data: Reals
    stall: Reals
    """The same in the midst of the last backward pass."""
    collection: Reals
    """Garbage collection."""
    save: Reals
    """Writing a checkpoint."""
    forward_wait: Reals
    backward_wait: Reals
    pipeline_start: Reals
    exchange: Reals
    """Tensor and expert-parallel exchanges of all micro-batches but the last, whose own are among the operations."""
    operations: list[Operation] = field(default_factory=list)

    @property
    def compute(self) -> Reals:
        """Self-time."""
        total: Reals = self.forward + self.backward + self.optimizer
        return total


def simulate(layout: Layout, conditions: Conditions, faults: tuple[Fault, ...], real: Durations, seed: int) -> Timeline:
    """One run of a job."""
    work = own_work(layout, conditions, real, np.random.default_rng(seed))
    return replay(layout, conditions, work, faults, real, seed)


def replay(
    layout: Layout, conditions: Conditions, work: Work, faults: tuple[Fault, ...], real: Durations, seed: int
) -> Timeline:
    """A run of a job whose own durations are given (and changed in place by the faults)."""
    random = np.random.default_rng((seed, 5))
    for fault in faults:
        harm(work, fault, layout, conditions, np.random.default_rng((seed, 1)))
    return _run(layout, conditions, faults, work, _Network(layout, conditions, faults, real, seed), random)


class _Network:
    """Transfer times of the communicators of a kind, faults included: (steps, stages, dp, tp)."""

    def __init__(
        self, layout: Layout, conditions: Conditions, faults: tuple[Fault, ...], real: Durations, seed: int
    ) -> None:
        self._layout, self._steps, self._real, self._faults = layout, conditions.steps, real, faults
        self._random = np.random.default_rng((seed, 2))
        self._groups: dict[str, list[Group]] = {}
        for group in layout.groups():
            self._groups.setdefault(group.kind, []).append(group)

    def transfer(self, kind: str, seconds: float) -> Reals:
        groups = self._groups[kind]
        noise = self._real.draw(self._random, "transfer", (self._steps, len(groups)))
        busy = self._random.random(noise.shape) < CONGESTION[0]
        crowd = 1 + busy * self._random.uniform(0.2, CONGESTION[1] - 1, noise.shape)
        result = np.empty((self._steps, self._layout.ranks))
        for at, group in enumerate(groups):
            factor = crowd[:, at] if self._layout.spans_nodes(group) else np.ones(self._steps)
            for fault in self._faults:
                if kind != "world" and degraded(fault, group, self._layout):
                    factor = factor * (1 + fault.size * fault.on(self._steps))
            result[:, list(group.ranks)] = (seconds * noise[:, at] * factor)[:, None]
        return result.reshape(self._steps, *self._layout.shape)


def _run(
    layout: Layout,
    conditions: Conditions,
    faults: tuple[Fault, ...],
    work: Work,
    network: _Network,
    random: np.random.Generator,
) -> Timeline:
    compute = 3 * conditions.forward_seconds * conditions.microbatches
    operations: list[Operation] = []
    gathered = work.optimizer.copy()
    dp_seconds, dp_bytes = _message("dp", DP_SHARE * compute, layout.replicas)
    if conditions.sharded and layout.replicas > 1:
        gathered = work.optimizer.max(axis=2, keepdims=True) + network.transfer("dp", dp_seconds)
        operations.append(_operation("dp", "all_gather", dp_bytes, work.optimizer, gathered))
    start = gathered + work.gap + work.collection + work.save + work.data
    work.backward[:, -1] += work.stall
    done, waits, exchanges = _pipeline(layout, conditions, work, start, network)
    operations += exchanges.operations()
    experts = _reduce_experts(layout, conditions, work, done, network, operations)
    if layout.replicas > 1:
        done = _reduce(layout, conditions, work, done, network, (dp_seconds, dp_bytes), operations)
    done = np.maximum(done, experts)
    arrival = done + 2e-5 * random.random(done.shape)
    length = arrival.reshape(conditions.steps, -1).max(axis=1) + NORM_SECONDS
    norm = np.broadcast_to(length[:, None, None, None], arrival.shape)
    if layout.ranks > 1:
        operations.append(_operation("world", "all_reduce", NORM_BYTES, arrival, norm))
    pause = np.zeros(conditions.steps)
    if conditions.evaluation_every:
        pause[np.arange(conditions.steps) % conditions.evaluation_every == 0] = 10 * compute
    begin = np.concatenate([[0.0], np.cumsum(length + pause)[:-1]]) + pause
    flat = (conditions.steps, -1)
    return Timeline(
        begin=begin,
        length=length,
        forward=work.forward.sum(axis=1).reshape(flat),
        backward=(work.backward.sum(axis=1) - work.stall).reshape(flat),
        optimizer=work.optimizer.reshape(flat),
        gap=work.gap.reshape(flat),
        data=work.data.reshape(flat),
        stall=work.stall.reshape(flat),
        collection=work.collection.reshape(flat),
        save=work.save.reshape(flat),
        forward_wait=waits[0].reshape(flat),
        backward_wait=waits[1].reshape(flat),
        pipeline_start=start.reshape(flat),
        exchange=exchanges.untold.reshape(flat),
        operations=operations,
    )


def _operation(kind: str, operation: str, message_bytes: int, start: Reals, end: Reals) -> Operation:
    steps = len(start)
    return Operation(kind, operation, message_bytes, start.reshape(steps, -1), end.reshape(steps, -1))


def _message(kind: str, seconds: float, members: int) -> tuple[float, int]:
    """Seconds of a transfer and the bytes that take so long, in whole MiB."""
    factor = max(members - 1, 1) / members
    message_bytes = max(1, round(seconds * BUS_BYTES_PER_SECOND[kind] / factor / 2**20)) * 2**20
    return message_bytes * factor / BUS_BYTES_PER_SECOND[kind], message_bytes


def schedule(stages: int, microbatches: int) -> list[tuple[int, bool, int]]:
    """(stage, forward, micro-batch) of one-forward-one-backward, in an order in which all that is needed comes before."""
    queues = []
    for stage in range(stages):
        warm = min(stages - 1 - stage, microbatches)
        queue = [(True, at) for at in range(warm)]
        for at in range(microbatches):
            queue += [(True, warm + at)] * (warm + at < microbatches) + [(False, at)]
        queues.append(queue)
    done: set[tuple[int, bool, int]] = set()
    order = []
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue:
                forward, at = queue[0]
                needed = (stage - 1, True, at) if forward else (stage + 1, False, at)
                if 0 <= needed[0] < stages and needed not in done:
                    break
                order.append((stage, *queue.pop(0)))
                done.add(order[-1])
    return order


def _pipeline(
    layout: Layout, conditions: Conditions, work: Work, start: Reals, network: _Network
) -> tuple[Reals, tuple[Reals, Reals], _Exchanges]:
    """End of the last backward pass of each rank, what it waited for its neighbours, and its exchanges."""
    free = start.copy()
    waits = (np.zeros_like(start), np.zeros_like(start))
    passed: dict[tuple[int, bool, int], Reals] = {}
    exchange = _Exchanges(layout, conditions, network, np.zeros_like(start))
    for stage, forward, at in schedule(layout.stages, conditions.microbatches):
        neighbour = passed.pop((stage - 1, True, at) if forward else (stage + 1, False, at), None)
        begin = free[:, stage] if neighbour is None else np.maximum(free[:, stage], neighbour + SEND_SECONDS)
        waits[0 if forward else 1][:, stage] += begin - free[:, stage]
        own = begin + (work.forward if forward else work.backward)[:, at, stage]
        free[:, stage] = exchange.synchronise(own, stage, forward, last=at == conditions.microbatches - 1)
        passed[stage, forward, at] = free[:, stage].copy()
    return free, waits, exchange


class _Exchanges:
    """Tensor and expert-parallel exchanges: one after each micro-batch pass; those of the last micro-batch are told one by one,
    of the others the seconds that each rank spends in them."""

    def __init__(self, layout: Layout, conditions: Conditions, network: _Network, untold: Reals) -> None:
        self._layout, self.untold = layout, untold
        self._told: dict[tuple[str, bool], tuple[Reals, Reals, int]] = {}
        self._transfer: dict[str, tuple[Reals, int]] = {}
        for kind, share, members in (("tp", TENSOR_SHARE, layout.tensor), ("ep", EXPERT_SHARE, layout.experts)):
            if members > 1:
                seconds, message_bytes = _message(kind, share * conditions.forward_seconds, members)
                self._transfer[kind] = (network.transfer(kind, seconds), message_bytes)

    def synchronise(self, own: Reals, stage: int, forward: bool, *, last: bool) -> Reals:
        for kind, (transfer, message_bytes) in self._transfer.items():
            end = self._latest(kind, own) + transfer[:, stage]
            if last:
                shape = (len(own), *self._layout.shape)
                starts, ends, _ = self._told.setdefault(
                    (kind, forward), (np.zeros(shape), np.zeros(shape), message_bytes)
                )
                starts[:, stage], ends[:, stage] = own, end
            else:
                self.untold[:, stage] += end - own
            own = end
        return own

    def _latest(self, kind: str, own: Reals) -> Reals:
        if kind == "tp":
            latest: Reals = own.max(axis=2, keepdims=True)
            return latest
        steps, replicas, tensor = own.shape
        blocks = own.reshape(steps, replicas // self._layout.experts, self._layout.experts, tensor)
        return np.broadcast_to(blocks.max(axis=2, keepdims=True), blocks.shape).reshape(own.shape)

    def operations(self) -> list[Operation]:
        names = {"tp": "all_reduce", "ep": "all_to_all"}
        ordered = sorted(self._told.items(), key=lambda item: not item[0][1])
        return [_operation(kind, names[kind], size, start, end) for (kind, _), (start, end, size) in ordered]


def _reduce_experts(
    layout: Layout, conditions: Conditions, work: Work, done: Reals, network: _Network, operations: list[Operation]
) -> Reals:
    """End of the reduction of the experts' gradients among those who hold the same ones, on a stream of its own."""
    members = layout.replicas // layout.experts
    if layout.experts == 1 or members == 1:
        return done
    compute = 3 * conditions.forward_seconds * conditions.microbatches
    seconds, message_bytes = _message("edp", EXPERT_GRADIENT_SHARE * compute, members)
    arrival = done - (1 - EXPERT_REDUCED) * work.backward[:, -1]
    steps, stages, _, tensor = arrival.shape
    blocks = arrival.reshape(steps, stages, members, layout.experts, tensor)
    latest = np.broadcast_to(blocks.max(axis=2, keepdims=True), blocks.shape).reshape(arrival.shape)
    end: Reals = latest + network.transfer("edp", seconds)
    named = "reduce_scatter" if conditions.sharded else "all_reduce"
    operations.append(_operation("edp", named, message_bytes, arrival, end))
    return end


def _reduce(
    layout: Layout,
    conditions: Conditions,
    work: Work,
    done: Reals,
    network: _Network,
    message: tuple[float, int],
    operations: list[Operation],
) -> Reals:
    """Reduce the gradients: at the end where they are sharded, else in buckets while the last backward pass still runs."""
    seconds, message_bytes = message
    if conditions.sharded:
        end: Reals = done.max(axis=2, keepdims=True) + network.transfer("dp", seconds)
        operations.append(_operation("dp", "reduce_scatter", message_bytes, done, end))
        return end
    free = np.zeros_like(done)
    for share in BUCKETS:
        arrival = np.maximum(done - (1 - share) * work.backward[:, -1], free)
        free = arrival.max(axis=2, keepdims=True) + network.transfer("dp", 2 * seconds / len(BUCKETS))
        operations.append(_operation("dp", "all_reduce", message_bytes // len(BUCKETS), arrival, free))
    return np.maximum(done, free)
