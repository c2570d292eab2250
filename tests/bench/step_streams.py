"""Made-up training jobs as one rank of them sees its NCCL operations and kernels, with the true end of every step.

Families: data parallel with buckets, sharded (all-gather and reduce-scatter in each micro-batch, or the reduction in the last
alone), Megatron's tensor, data and pipeline parallelism, mixture of experts; and serving, which has no steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

FAMILIES: Final = ("ddp", "sharded", "sharded_last", "megatron", "moe")
EVENTS_MAX: Final = 160_000
STEPS_MAX: Final = 400
MEBI: Final = 1 << 20


class Operation(NamedTuple):
    """A kind: communicator, its ranks, function, bytes; or a kernel with its time in microseconds as bytes."""

    group: int
    nranks: int
    function: str
    size: int
    name: str = ""


@dataclass(frozen=True)
class Job:
    """What is drawn of a job; times in seconds."""

    family: str
    layers: int
    accumulation: int
    micro: float
    optimizer: float
    jitter: float
    clip: bool
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    loss: float
    named_optimizer: bool = True


@dataclass
class Stream:
    """Operations in order: time (s), kind as a place in `kinds`, NCCL's number; and when steps truly ended (s)."""

    job: Job | None
    kinds: list[Operation] = field(default_factory=list)
    times: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    kind: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    sequence: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    ends: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def draw(seed: int) -> Job:
    """A job by chance."""
    some = np.random.default_rng(seed)
    family = FAMILIES[int(some.integers(len(FAMILIES)))]
    accumulation = int(some.choice((1, 1, 1, 2, 4, 8, 16, 32)))
    micro = float(np.exp(some.uniform(np.log(0.02), np.log(2.0))))
    return Job(
        family=family,
        layers=int(some.choice((4, 12, 24, 32, 48, 80))),
        accumulation=accumulation,
        micro=micro,
        optimizer=float(micro * some.uniform(0.02, 0.4)),
        jitter=float(some.choice((0.002, 0.01, 0.03, 0.08))),
        clip=family in ("megatron", "moe") or bool(some.random() < 0.7),
        log_every=int(some.choice((0, 1, 10, 20, 50))),
        evaluate_every=int(some.choice((0, 0, 50, 100))),
        checkpoint_every=int(some.choice((0, 0, 100, 250))),
        loss=float(some.choice((0.0, 0.0, 0.001, 0.01, 0.05))),
        named_optimizer=bool(some.random() < 0.7),
    )


class Recorder:
    """Writes a stream down while it runs."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job = job
        self.some = np.random.default_rng([seed, 1])
        self.now = 1000.0
        self.found: list[tuple[float, int, int]] = []
        self.ends: list[float] = []
        self.kinds: dict[Operation, int] = {}
        self.numbers: dict[tuple[int, str], int] = {}

    def op(self, operation: Operation) -> None:
        """An operation now."""
        kind = self.kinds.setdefault(operation, len(self.kinds))
        counter = operation.group, operation.function
        number = self.numbers.get(counter, 0)
        self.numbers[counter] = number + 1
        self.found.append((self.now, kind, number))
        self.now += 2e-6

    def work(self, seconds: float) -> None:
        """Compute for about so long."""
        self.now += seconds * float(np.exp(self.some.normal(0.0, self.job.jitter)))

    def stream(self) -> Stream:
        """All of it, some records lost."""
        rows = np.array(self.found)
        kept = self.some.random(len(rows)) >= self.job.loss
        rows = rows[kept]
        return Stream(
            self.job,
            list(self.kinds),
            rows[:, 0],
            rows[:, 1].astype(np.int64),
            rows[:, 2].astype(np.int64),
            np.array(self.ends),
        )


WORLD, DATA, TENSOR, PIPE, EXPERT = range(5)
RANKS: Final = {WORLD: 64, DATA: 8, TENSOR: 8, PIPE: 2, EXPERT: 8}


def operation(group: int, function: str, size: int) -> Operation:
    """By its communicator's usual size."""
    return Operation(group, RANKS[group], function, size)


def operations(seed: int, job: Job | None = None) -> Stream:
    """NCCL operations of one rank."""
    job = job or draw(seed)
    to = Recorder(job, seed)
    model = _Model(job, to)
    for _ in range(int(to.some.integers(3, 40))):
        to.op(operation(WORLD, "Broadcast", 4 << int(to.some.integers(0, 24))))
        to.work(0.01)
    for _ in range(int(to.some.integers(0, 4))):
        to.op(operation(WORLD, "AllReduce", 4))
    to.work(5)
    for step in range(1, STEPS_MAX + 1):
        if len(to.found) > EVENTS_MAX:
            break
        model.step()
        model.between(step)
    return to.stream()


class _Model:
    def __init__(self, job: Job, to: Recorder) -> None:
        self.job, self.to = job, to
        some = to.some
        self.shard = int(some.integers(1, 200)) * MEBI
        self.root = int(some.integers(1, 400)) * MEBI + 4096
        self.hidden = int(some.integers(1, 64)) * MEBI
        self.buckets = [25 * MEBI] * int(some.integers(1, 12)) + [int(some.integers(1, 20)) * MEBI + 512, MEBI]
        self.parameters = [int(each) * MEBI for each in some.integers(20, 100, int(some.integers(1, 6)))]
        self.stage_parallel = bool(some.random() < 0.5)
        self.loss_reduced = bool(some.random() < 0.3)

    def step(self) -> None:
        job, to = self.job, self.to
        for micro in range(job.accumulation):
            getattr(self, f"_{job.family}")(micro == job.accumulation - 1)
        if job.clip:
            group = WORLD if job.family in ("megatron", "moe") else DATA
            to.op(operation(group, "AllReduce", 4))
        to.work(job.optimizer)
        to.ends.append(to.now)
        if job.family in ("megatron", "moe"):
            for size in self.parameters:
                to.op(operation(DATA, "AllGather", size))

    def between(self, step: int) -> None:
        job, to = self.job, self.to
        if job.log_every and step % job.log_every == 0:
            to.op(operation(WORLD, "AllReduce", 8))
            to.work(0.002)
        if job.evaluate_every and step % job.evaluate_every == 0:
            for _ in range(int(to.some.integers(5, 20))):
                self._forward()
            to.op(operation(WORLD, "AllReduce", 16))
        if job.checkpoint_every and step % job.checkpoint_every == 0:
            to.op(operation(WORLD, "AllReduce", 1))
            to.work(float(to.some.uniform(2, 60)))
            to.op(operation(WORLD, "AllReduce", 1))

    def _forward(self) -> None:
        job, to = self.job, self.to
        for _ in range(job.layers):
            if job.family.startswith("sharded"):
                to.op(operation(DATA, "AllGather", self.shard))
            if job.family == "megatron":
                to.op(operation(TENSOR, "AllReduce", self.hidden))
            to.work(job.micro / job.layers / 6)
            if job.family == "megatron":
                to.op(operation(TENSOR, "AllReduce", self.hidden))
            if job.family == "moe":
                to.op(operation(EXPERT, "AllToAll", int(to.some.integers(1, 4096)) * 4096))
                to.op(operation(EXPERT, "AllToAll", int(to.some.integers(1, 4096)) * 4096))
            to.work(job.micro / job.layers / 6)

    def _backward(self, reduce: bool) -> None:
        job, to = self.job, self.to
        for _ in range(job.layers):
            if job.family.startswith("sharded"):
                to.op(operation(DATA, "AllGather", self.shard))
            if job.family == "megatron":
                to.op(operation(TENSOR, "AllReduce", self.hidden))
            to.work(job.micro / job.layers / 3)
            if job.family == "megatron":
                to.op(operation(TENSOR, "AllReduce", self.hidden))
            if job.family == "moe":
                to.op(operation(EXPERT, "AllToAll", int(to.some.integers(1, 4096)) * 4096))
                to.op(operation(EXPERT, "AllToAll", int(to.some.integers(1, 4096)) * 4096))
            if reduce:
                to.op(operation(DATA, "ReduceScatter", self.shard))
            to.work(job.micro / job.layers / 3)

    def _ddp(self, last: bool) -> None:
        self._forward()
        if not last:
            self.to.work(self.job.micro * 2 / 3)
            return
        for size in self.buckets:
            self.to.work(self.job.micro * 2 / 3 / len(self.buckets))
            self.to.op(operation(DATA, "AllReduce", size))

    def _sharded(self, last: bool) -> None:
        self.to.op(operation(DATA, "AllGather", self.root))
        self._forward()
        self._backward(True)
        self.to.op(operation(DATA, "ReduceScatter", self.root))

    def _sharded_last(self, last: bool) -> None:
        self.to.op(operation(DATA, "AllGather", self.root))
        self._forward()
        self._backward(last)
        if last:
            self.to.op(operation(DATA, "ReduceScatter", self.root))

    def _megatron(self, last: bool) -> None:
        to = self.to
        if self.stage_parallel:
            to.op(operation(PIPE, "Recv", self.hidden))
        self._forward()
        for size in (8192 * 4, 8192 * 4 + 1, 8192 * 4 + 2):
            to.op(operation(TENSOR, "AllReduce", size))
        if self.loss_reduced:
            to.op(operation(DATA, "AllReduce", 12))
        self._backward(False)
        if self.stage_parallel:
            to.op(operation(PIPE, "Send", self.hidden))
        if last:
            for size in self.parameters:
                to.op(operation(DATA, "ReduceScatter", size))
                to.work(self.job.micro * 0.01)

    def _moe(self, last: bool) -> None:
        self._forward()
        self._backward(False)
        if last:
            for size in self.parameters:
                self.to.op(operation(DATA, "ReduceScatter", size))
                self.to.work(self.job.micro * 0.01)


class _Kernels(_Model):
    """The same model as its GPU sees it; sizes of operations are times in nanoseconds."""

    def step(self) -> None:
        job, to = self.job, self.to
        for _ in range(job.accumulation):
            self.run("embedding_forward", 1, job.micro * 0.002)
            self._forward()
            self.run("cross_entropy", 1, job.micro * 0.003)
            self.run("cross_entropy_backward", 1, job.micro * 0.003)
            for _ in range(job.layers):
                for name in ("attention_backward", "gemm_tn", "gemm_nt", "norm_backward", "gemm_tn", "elementwise"):
                    self.run(name, 1, job.micro * 0.64 / job.layers / 6)
            self.run("embedding_backward", 1, job.micro * 0.004)
        chunks = max(job.layers // 4, 1)
        if job.clip:
            self.run("lp_norm", chunks, job.optimizer * 0.2)
        self.run(
            "multi_tensor_apply_kernel<FusedAdam>" if job.named_optimizer else "loop_fusion_93",
            chunks,
            job.optimizer * 0.8,
        )
        to.ends.append(to.now)

    def between(self, step: int) -> None:
        job, to = self.job, self.to
        if job.log_every and step % job.log_every == 0:
            self.run("mean", 1, 4e-6)
        if job.evaluate_every and step % job.evaluate_every == 0:
            for _ in range(int(to.some.integers(5, 20))):
                self.run("embedding_forward", 1, job.micro * 0.002)
                self._forward()
            self.run("accuracy", 1, 6e-6)
        if job.checkpoint_every and step % job.checkpoint_every == 0:
            to.work(float(to.some.uniform(2, 60)))

    def _forward(self) -> None:
        for _ in range(self.job.layers):
            for name in ("norm", "gemm_tn", "attention", "gemm_tn", "elementwise"):
                self.run(name, 1, self.job.micro * 0.32 / self.job.layers / 5)

    def run(self, name: str, count: int, seconds: float) -> None:
        """So many kernels that take so long together."""
        for _ in range(count):
            each = seconds / count
            self.to.op(Operation(0, 1, "", int(each * 1e9), name))
            self.to.work(each)


def kernels(seed: int, *, layers_max: int = 24, steps_max: int = STEPS_MAX) -> Stream:
    """Kernels of one rank, none lost: losses of kernels are told with their time, as NCCL's are not."""
    job = draw(seed)
    job = replace(job, layers=min(job.layers, layers_max), loss=0.0)
    to = Recorder(job, seed)
    model = _Kernels(job, to)
    for step in range(1, steps_max + 1):
        if len(to.found) > EVENTS_MAX:
            break
        model.step()
        model.between(step)
    return to.stream()


def serving(seed: int) -> Stream:
    """Tensor-parallel serving: prompts of any length come at any time, and are answered token by token."""
    some = np.random.default_rng([seed, 2])
    job = Job(
        "serving", int(some.choice((16, 32, 80))), 1, 0.02, 0, 0.05, False, 0, 0, 0, float(some.choice((0.0, 0.01)))
    )
    to = Recorder(job, seed)
    for _ in range(5000):
        if len(to.found) > EVENTS_MAX // 2:
            break
        to.work(float(some.exponential(0.5)))
        tokens = int(some.integers(16, 4096))
        for size in [tokens, *[int(some.integers(1, 33))] * int(some.integers(5, 60))]:
            for _ in range(job.layers):
                to.op(operation(TENSOR, "AllReduce", size * 8192))
                to.work(2e-4 + size * 1e-6)
            to.op(operation(TENSOR, "AllGather", size * 4096))
    return to.stream()
