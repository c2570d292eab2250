"""Made-up NCCL traffic of one process of which it is known which kernel did which operation; and how well that is found.

`python tests/bench/nccl_traffic.py [SEEDS] [FIRST]` prints, by kind of loss and rate, how many joins are right (precision)
and how many operations with a recorded kernel were joined (recall), over seeds FIRST, FIRST+1, ...
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from warpline_agent.kernels import Kernels
from warpline_agent.nccl_join import JOINED, SHARED, NcclJoin
from warpline_agent.ring_file import RECORD, Records
from warpline_agent.ring_records import RingKernels
from warpline_hook import ring

BEGIN_NS: Final = 1_700_000_000_000_000_000
ROUND_NS: Final = 250_000_000
LATE_NS: Final = 2_000_000_000
COMPUTE_STREAM: Final = 7
QUEUE: Final = 1_000
"""Launches that the host can be ahead."""
KERNELS: Final = {
    "AllReduce": "ncclDevKernel_AllReduce_Sum_{}_{}_LL(ncclDevKernelArgsStorage<4096ul>)",
    "ReduceScatter": "ncclDevKernel_ReduceScatter_Sum_{}_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "AllGather": "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "Broadcast": "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "Send": "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
    "Recv": "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
}
SHORT: Final = {"ncclBfloat16": "bf16", "ncclFloat32": "f32"}
LONG_TYPE: Final = "ncclFloat32"


class Texts:
    """Names by number, as a ring file has them."""

    text_numbers = 4096

    def __init__(self) -> None:
        self._names: list[str] = [""]

    def number(self, name: str) -> int:
        """The number of a name."""
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def text(self, number: int) -> str | None:
        """The name of a number."""
        return self._names[number] if 0 < number < len(self._names) else None


@dataclass(frozen=True)
class Loss:
    """`rate` of all records are lost; `told` says whether the library notices, as it does."""

    rate: float = 0.0
    told: bool = True


@dataclass
class Traffic:
    """Records of one process in the order in which they come, and the kernel of each operation by the operation's number."""

    texts: Texts
    rounds: list[tuple[int, Records, Records, bool]] = field(default_factory=list)
    windows: list[tuple[int, int | None]] = field(default_factory=list)
    truth: dict[int, int] = field(default_factory=dict)
    recorded: set[int] = field(default_factory=set)
    operations: int = 0


@dataclass
class _Process:
    """A host thread that launches, and streams that run."""

    random: random.Random
    now: int = BEGIN_NS
    correlation: int = 1
    free: dict[int, int] = field(default_factory=dict)
    began: list[int] = field(default_factory=list)
    kernels: list[tuple[int, int, int, int, str]] = field(default_factory=list)

    def launch(self, name: str, stream: int, seconds: float, after: int) -> int:
        """Launch a kernel; when it begins."""
        self.now += int(self.random.lognormvariate(0, 0.3) * 5_000)
        if len(self.began) > QUEUE:
            self.now = max(self.now, self.began[-QUEUE])
        self.correlation += self.random.randint(1, 3)
        start = max(self.now + self.random.randint(1_500, 9_000), self.free.get(stream, 0) + 1_000, after)
        duration = max(int(seconds * 1e9 * self.random.lognormvariate(0, 0.1)), 500)
        self.free[stream] = start + duration
        self.began.append(start)
        self.kernels.append((start, duration, stream, self.correlation, name))
        return start


class _Job:
    """What one seed is: communicators, their streams, and the groups of operations of one step."""

    def __init__(self, seed: int) -> None:
        self.random = draw = random.Random(seed)
        self.texts = Texts()
        self.process = _Process(draw)
        self.communicators = draw.randint(1, 4)
        style = draw.choice(["own", "own", "own", "shared", "several"])
        self.streams = {
            each: [COMPUTE_STREAM] if style == "shared" else [20 + each] if style == "own" else [20 + each, 40 + each]
            for each in range(self.communicators)
        }
        self.sync_every = draw.choice([1, 1, 1, 4, 50])
        self.gpu_seconds = draw.choice([2e-5, 1e-4, 4e-4])
        self.peers_late = draw.choice([0.0, 0.0, 0.05])
        plain = draw.random() < 0.3
        self.step = [self._group(plain) for _ in range(draw.randint(3, 60))]
        self.numbers: dict[tuple[int, str], int] = {}
        self.operations: list[tuple[int, int, str, str, str, int, int]] = []
        self.counts_launches = draw.random() < 0.7
        self.launches = 0
        self.truth: dict[int, int] = {}

    def _group(self, plain: bool) -> tuple[int, list[tuple[str, str, str]], int]:
        """Communicator, operations, and kernels of compute before it."""
        draw = self.random
        which = draw.randrange(self.communicators)
        compute = draw.randint(0, 12)
        if plain:
            return which, [("AllReduce", LONG_TYPE, "RING")], compute
        kind = draw.choice(["one", "one", "one", "coalesced", "points"])
        if kind == "points":
            return (
                which,
                [(draw.choice(["Send", "Recv"]), "ncclBfloat16", "") for _ in range(draw.randint(1, 6))],
                compute,
            )
        name = draw.choice(["AllReduce", "AllGather", "ReduceScatter", "Broadcast"])
        algorithm = draw.choice(["RING", "TREE", "NVLS"]) if name == "AllReduce" else "RING"
        one = (name, draw.choice(list(SHORT)), algorithm)
        return which, [one] * (1 if kind == "one" else draw.randint(2, 8)), compute

    def run(self, seconds: float) -> None:
        """Train for so long."""
        step = 0
        while self.process.now < BEGIN_NS + seconds * 1e9:
            for which, operations, compute in self.step:
                for _ in range(compute):
                    self.process.launch("gemm", COMPUTE_STREAM, self.gpu_seconds, 0)
                self._communicate(which, operations)
            step += 1
            if step % self.sync_every == 0:
                self.process.now = max(self.process.now, *self.process.free.values()) + 30_000
            self.process.now += self.random.randint(0, 2_000_000)

    def _communicate(self, which: int, operations: list[tuple[str, str, str]]) -> None:
        process, draw = self.process, self.random
        name, datatype, algorithm = operations[0]
        kernel = KERNELS[name].format(SHORT[datatype], "TREE" if algorithm == "TREE" else "RING")
        if draw.random() < 0.01:
            kernel = "ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)"
        stream = draw.choice(self.streams[which])
        after = max([process.free.get(COMPUTE_STREAM, 0), *(process.free.get(each, 0) for each in self.streams[which])])
        late = draw.expovariate(1 / 0.02) if draw.random() < self.peers_late else 0.0
        start = process.launch(kernel, stream, draw.choice([1e-5, 1e-4, 1e-3]) + late, after)
        if draw.random() < 0.5:  # what is computed next needs it
            process.free[COMPUTE_STREAM] = max(process.free.get(COMPUTE_STREAM, 0), process.free[stream])
        process.now += draw.randint(300, 2_500) + (draw.randint(20_000, 300_000) if draw.random() < 1e-4 else 0)
        self.launches += self.counts_launches
        for name, datatype, algorithm in operations:
            process.now += draw.randint(150, 500) + (draw.randint(5_000, 50_000) if draw.random() < 1e-4 else 0)
            key = (which, "" if name in ("Send", "Recv") else name)
            number = self.numbers.get(key, 0)
            self.numbers[key] = number + 1
            self.truth[len(self.operations)] = start
            self.operations.append((process.now, which, name, datatype, algorithm, number, self.launches))


def made_up(seed: int, loss: Loss = Loss(), *, seconds: float = 40.0, windows: bool = False) -> Traffic:
    """The traffic of one process; with `windows` kernels are captured for two seconds of each ten."""
    job = _Job(seed)
    job.run(seconds)
    traffic = Traffic(job.texts, truth=job.truth, operations=len(job.operations))
    end = job.process.now + 1_000_000_000
    traffic.windows = (
        [(at, at + 2_000_000_000) for at in range(BEGIN_NS + 3_000_000_000, end, 10_000_000_000)]
        if windows
        else [(BEGIN_NS - 1_000_000_000, None)]
    )
    kernels = _kernels(job, traffic, loss)
    operations, missing = _operations(job, loss)
    for at in range(BEGIN_NS, end + 3 * LATE_NS, ROUND_NS):
        own = [records for flushed, records in kernels if at - ROUND_NS < flushed <= at]
        told = (operations["start_ns"] > at - ROUND_NS) & (operations["start_ns"] <= at)
        lost = any(at - ROUND_NS < each <= at for each in missing)
        traffic.rounds.append((at, np.concatenate([np.zeros(0, RECORD), *own]), operations[told], lost and loss.told))
    return traffic


def _kernels(job: _Job, traffic: Traffic, loss: Loss) -> list[tuple[int, Records]]:
    """Records of kernels by the moment at which they come."""
    draw = job.random
    launched = job.process.kernels
    records = np.zeros(len(launched), RECORD)
    start, duration, stream, correlation, _ = (list(each) for each in zip(*launched, strict=True))
    records["kind"], records["start_ns"], records["duration_ns"] = ring.KERNEL, start, duration
    records["stream"], records["correlation"] = stream, correlation
    records["name"] = [job.texts.number(name) for *_, name in launched]
    within = np.zeros(len(records), dtype=bool)
    for begun, over in traffic.windows:
        within |= (records["start_ns"] >= begun) & (records["start_ns"] < (over or 1 << 62))
    lost = np.array([draw.random() for _ in launched]) < loss.rate
    kept = records[within & ~lost]
    traffic.recorded = set(kept["start_ns"].tolist())
    if loss.told and lost.any():
        gaps = np.zeros(int(lost.sum()), RECORD)
        gaps["kind"], gaps["start_ns"], gaps["duration_ns"] = (
            ring.GAP,
            records["start_ns"][lost],
            records["duration_ns"][lost],
        )
        kept = np.concatenate([kept, gaps])
    comes = (kept["start_ns"] + kept["duration_ns"]).astype(np.int64)
    comes = (comes // 500_000_000 + 1) * 500_000_000
    return [(int(at), _shuffled(kept[comes == at], draw)) for at in np.unique(comes)]


def _shuffled(records: Records, draw: random.Random) -> Records:
    """Buffers of several threads come in any order."""
    parts = np.array_split(records, draw.randint(1, 4))
    draw.shuffle(parts)
    return np.concatenate(parts)


def _operations(job: _Job, loss: Loss) -> tuple[Records, list[int]]:
    """Records of operations, numbered in `commit`; and when some were lost."""
    records = np.zeros(len(job.operations), RECORD)
    records["commit"] = np.arange(len(records))
    number = job.texts.number
    for record, (time, which, name, datatype, algorithm, sequence, launch) in zip(records, job.operations, strict=True):
        record["kind"] = ring.POINT_TO_POINT if name in ("Send", "Recv") else ring.COLLECTIVE
        record["start_ns"], record["extra"], record["number"] = time, 1000 + which, sequence
        record["duration_ns"] = launch
        record["name"], record["context"] = number(name), number(datatype)
        record["device"] = number(algorithm) if algorithm else 0
    lost = np.array([job.random.random() for _ in records]) < loss.rate
    return records[~lost], records["start_ns"][lost].tolist()


def follow(traffic: Traffic) -> Iterator[tuple[int, int, int]]:
    """Operations as the agent tells them: number, outcome, start of the kernel."""
    join, kernels = NcclJoin(), RingKernels()
    file: Any = traffic.texts
    for now, records, operations, missing in traffic.rounds:
        windows = [(start, None if end is None or end > now else end) for start, end in traffic.windows if start <= now]
        found: Kernels = kernels.kernels(records, file)
        join.take_kernels(records, found, file)
        join.take_operations(operations, missing=missing)
        join.advance(now - LATE_NS, windows, file)
        yield from _given(join)
    join.advance(1 << 62, traffic.windows, file, final=True)
    yield from _given(join)


def _given(join: NcclJoin) -> Iterator[tuple[int, int, int]]:
    given = join.ripe(1 << 62)
    if given is not None:
        about = given.about
        yield from zip(
            given.records["commit"].tolist(), about["outcome"].tolist(), about["start"].tolist(), strict=True
        )


@dataclass
class Score:
    """Counts over operations."""

    told: int = 0
    joined: int = 0
    wrong: int = 0
    could: int = 0

    def add(self, traffic: Traffic) -> None:
        """Count one process."""
        for number, outcome, start in follow(traffic):
            self.told += 1
            self.could += traffic.truth[number] in traffic.recorded
            if outcome in (JOINED, SHARED):
                self.joined += 1
                self.wrong += start != traffic.truth[number]

    def summary(self) -> dict[str, float]:
        """Precision and recall."""
        precision = 1 - self.wrong / self.joined if self.joined else 1.0
        return {
            "operations": self.told,
            "joined": self.joined,
            "wrong": self.wrong,
            "precision": round(precision, 6),
            "recall": round((self.joined - self.wrong) / max(self.could, 1), 4),
        }


def main() -> None:
    """All kinds of loss."""
    seeds, first = (int(text) for text in (*sys.argv[1:3], *("20", "0")[len(sys.argv) - 1 :]))
    for windows in (False, True):
        for loss in [Loss(), *(Loss(rate, told) for told in (True, False) for rate in (0.001, 0.01, 0.05))]:
            score = Score()
            for seed in range(first, first + seeds):
                score.add(made_up(seed, loss, windows=windows))
            print(json.dumps({"windows": windows, "rate": loss.rate, "told": loss.told, **score.summary()}), flush=True)


if __name__ == "__main__":
    main()
