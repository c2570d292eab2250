"""Steps of processes without a hook: found by what recurs, never by micro-batches or logs, and told like marked ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from step_streams import Job, operations, serving
from steps_without_hook import by_operations, verdict

from warpline_agent.inferred_steps import InferredSteps
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_analysis.detectors import regression, straggler
from warpline_hook import layout, ring, step_ring
from warpline_hook.process import Process, start_ticks
from warpline_proto.finding import FindingKind

SECOND = 1_000_000_000
UNKNOWN = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))


def job(family: str, accumulation: int, **other: Any) -> Job:
    told: dict[str, Any] = {
        "layers": 2,
        "micro": 0.1,
        "optimizer": 0.02,
        "jitter": 0.01,
        "clip": True,
        "log_every": 10,
    } | other
    return Job(
        family, accumulation=accumulation, **{"evaluate_every": 50, "checkpoint_every": 100, "loss": 0.01} | told
    )


@pytest.mark.parametrize("accumulation", [1, 32])
@pytest.mark.parametrize("family", ["ddp", "sharded_last", "megatron", "moe"])
def test_steps_are_found_under_micro_batches_logs_evaluations_checkpoints_and_losses(
    family: str, accumulation: int
) -> None:
    stream = operations(3, job(family, accumulation))
    told = by_operations(stream)
    assert verdict(stream, told) == "right"
    assert float(np.median([each.duration_ns for each in told])) / 1e9 == pytest.approx(
        float(np.median(np.diff(stream.ends))), rel=0.02
    )


def test_numbers_are_the_same_on_ranks_that_lose_different_records_and_are_seen_from_different_times() -> None:
    whole = operations(3, job("megatron", 4, loss=0.0))
    ranks = []
    for rank in range(2):
        kept = np.random.default_rng(rank).random(whole.times.size) >= 0.02
        kept[: 500 * rank] = False
        parts = {name: getattr(whole, name)[kept] for name in ("times", "kind", "sequence")}
        ranks.append({each.number: each.start_ns + each.duration_ns for each in by_operations(replace(whole, **parts))})
    both = ranks[0].keys() & ranks[1].keys()
    assert len(both) > 0.6 * len(whole.ends)
    assert all(ranks[0][number] == ranks[1][number] for number in both)


@pytest.mark.parametrize("seed", range(2))
def test_where_micro_batches_and_steps_look_alike_nothing_is_told(seed: int) -> None:
    """Sharded training in which each micro-batch reduces: the rare all-reduce may be a norm as well as a log."""
    assert by_operations(operations(seed, job("sharded", 8))) == []


@pytest.mark.parametrize("seed", range(2))
def test_serving_has_no_steps(seed: int) -> None:
    assert by_operations(serving(seed)) == []


def test_windows_of_capture_become_long_enough_for_steps_and_no_longer() -> None:
    inferred = InferredSteps()
    word = ring.control(ring.TIME, ring.KERNELS, window=20, period=200)
    assert inferred.control(word) == word
    for at in range(40):
        inferred.window(at * 20 * SECOND)
    assert inferred.control(word) == ring.control(ring.TIME, ring.KERNELS, window=320, period=3200)
    steps = ring.control(ring.STEPS, ring.KERNELS, window=3, period=53)
    assert inferred.control(steps) == steps


class Rank:
    """A process that writes NCCL operations of a step, and kernels, to its ring."""

    def __init__(self, process: Any, number: int, ranks: int) -> None:
        self.process, self.step = process, 0
        self.ask("open")
        self.data = self.ask(f"communicator 9f3c {number} {ranks}")
        told = ("AllReduce", "ReduceScatter", "ncclFloat32", "gemm", "ncclDevKernel_AllReduce_Sum_f32_RING_LL")
        self.names = {name: self.ask(f"text {ring.NAME} {name}") for name in told}

    def ask(self, line: str) -> int:
        return int(self.process.ask(line))

    def run(self, begin_ns: int, seconds: float) -> None:
        """One step that begins here."""
        for at in range(3):
            self._enqueue(begin_ns + int((at + 1) * seconds / 5 * 1e9), "AllReduce", (at + 1) << 20, 4 * self.step + at)
        self._enqueue(begin_ns + int(0.9 * seconds * 1e9), "AllReduce", 1, 4 * self.step + 3)
        self.step += 1

    def compute(self, begin_ns: int, own: float, slowest: float) -> None:
        """The kernels of one step, in which the slowest rank computes for so many seconds."""
        for at in range(8):
            self._launch(begin_ns + int(at * own / 8 * 1e9), int(own / 8 * 1e9) - 1000, "gemm")
        waited = max(slowest - own, 0.0) + 0.02
        kernel = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
        self._launch(begin_ns + int(own * 1e9), int(waited * 1e9), kernel)

    def _launch(self, at_ns: int, duration_ns: int, name: str) -> None:
        assert self.ask(f"run {at_ns} {duration_ns} {self.names[name]}") == 1

    def _enqueue(self, at_ns: int, name: str, elements: int, sequence: int) -> None:
        texts = f"{self.data} {self.names[name]} {self.names['ncclFloat32']}"
        assert self.ask(f"enqueue {at_ns} {texts} {elements} {sequence}") == 1


@pytest.fixture
def start(
    compile_program: Callable[..., Path], drive: Callable[..., Any], tmp_path: Path
) -> Callable[[int, int], Rank]:
    program = compile_program("ring_writer", "ring.c")

    def begin(number: int, ranks: int) -> Rank:
        told = {"RANK": str(number), "WORLD_SIZE": str(ranks), "SLURM_JOB_ID": "4711", "WARPLINE_RING_RECORDS": "4096"}
        return Rank(drive([program], {"WARPLINE_DIRECTORY": str(tmp_path), **told}), number, ranks)

    return begin


def source_of(folder: Path, clock_ns: Callable[[], int] = time.time_ns) -> TrainingKernels:
    source = TrainingKernels(KernelsConfig(directories=(str(folder),), containers=False), clock_ns, node="n1")
    source.open()
    return source


def test_a_job_without_a_hook_has_steps_and_is_told_when_it_becomes_slower(
    start: Callable[[int, int], Rank], tmp_path: Path, reader_of: Callable[..., Any]
) -> None:
    ranks, source = [start(number, 2) for number in range(2)], source_of(tmp_path)
    now_ns, rows = time.time_ns() - 1000 * SECOND, []
    for step in range(240):
        seconds = (1.0 if step < 140 else 1.4) * (1 + 0.01 * np.sin(step * step))
        for rank in ranks:
            rank.run(now_ns, seconds)
        now_ns += int(seconds * 1e9)
        if step % 10 == 9:
            rows += list(source.read())
    source.close()
    steps = [row for each in rows if each.table == "steps" for row in each.batch.to_pylist()]
    assert {(row["job"], row["boundary"], row["scope"]) for row in steps} == {("4711", "nccl", "step")}
    assert {row["rank"] for row in steps} == {0, 1}
    of_rank = [{row["step"]: row["duration_ns"] for row in steps if row["rank"] == rank} for rank in range(2)]
    assert of_rank[0] == of_rank[1]
    assert len(of_rank[0]) >= 150
    assert of_rank[0][100] == pytest.approx(SECOND, rel=0.05)
    assert of_rank[0][200] == pytest.approx(1.4 * SECOND, rel=0.05)
    told = regression.detect(reader_of({"steps": pa.Table.from_pylist(steps)}))
    (finding,) = told.findings
    assert finding.kind == FindingKind.REGRESSION
    assert finding.onset.step in range(139, 143)


def test_a_slow_rank_of_a_job_without_a_hook_is_named(
    start: Callable[[int, int], Rank], tmp_path: Path, reader_of: Callable[..., Any]
) -> None:
    """Both ranks take as long for each step, since the quick one waits: compute within inferred steps tells them apart."""
    now_ns = time.time_ns() - 1000 * SECOND
    ranks, source = [start(number, 2) for number in range(2)], source_of(tmp_path, lambda: now_ns)
    for rank in ranks:
        rank.ask(f"capture {now_ns - SECOND}")
    rows = []
    for step in range(160):
        scatter = 1 + 0.01 * np.sin(step * step)
        for rank, own in zip(ranks, (0.6, 0.8), strict=True):
            rank.compute(now_ns, own * scatter, 0.8 * scatter)
            rank.run(now_ns, scatter)
        now_ns += int(scatter * 1e9)
        rows += list(source.read()) if step % 10 == 9 else []
    source.close()
    tables: dict[str, list[pa.Table]] = {}
    for each in rows:
        tables.setdefault(each.table, []).append(pa.Table.from_batches([each.batch]))
    told = straggler.detect(reader_of({name: pa.concat_tables(parts) for name, parts in tables.items()}))
    (finding,) = told.findings
    assert (finding.kind, finding.subject.rank) == (FindingKind.COMPUTE_STRAGGLER, 1)


def test_steps_of_a_hook_that_appears_later_win(
    start: Callable[[int, int], Rank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank, source = start(0, 2), source_of(tmp_path)
    now_ns = time.time_ns() - 500 * SECOND
    for step in range(120):
        rank.run(now_ns + step * SECOND, 1.0)
    rows = [row for each in source.read() if each.table == "steps" for row in each.batch.to_pylist()]
    assert rows
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    its = Process(rank.process.pid, start_ticks(rank.process.pid), namespace)
    monkeypatch.setattr(step_ring, "this_process", lambda: its)
    steps = step_ring.create(str(tmp_path), None, time.time_ns())
    steps.identify({"job": "train", "evidence": "a test", "rank": 0, "world_size": 2})
    steps.step(7, 0, (now_ns + 130 * SECOND, SECOND, *UNKNOWN))
    list(source.read())
    for step in range(120, 160):
        rank.run(now_ns + step * SECOND, 1.0)
    later = [row for each in source.read() if each.table == "steps" for row in each.batch.to_pylist()]
    source.close()
    assert later == []
