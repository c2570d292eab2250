"""An agent with its real exporter and a collector that is away or takes too little: nothing falls off, all is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from agent_alone import Inline

from warpline_agent.agent import Agent, Clock
from warpline_agent.config import AgentConfig
from warpline_agent.detail import Detail, Level
from warpline_agent.exporters import collector
from warpline_agent.exporters.collector import CollectorExporter
from warpline_agent.kernel_budget import KernelBudget
from warpline_agent.kernels import Kernels
from warpline_agent.source import Health, Rows
from warpline_agent.spool import Spool
from warpline_agent.waiting import Limits
from warpline_proto import service_pb2, service_pb2_grpc
from warpline_proto.batch import Batch
from warpline_proto.stream import PACKING, Unpacker
from warpline_proto.tables import DEVICE_SAMPLES, STEPS

PATIENCE_SECONDS = 60.0
TICK_SECONDS = 1.0
SECOND_NS = 10**9


class Stingy(service_pb2_grpc.WarplineServicer):
    """A real server that takes a frame when it is allowed one, and gives credit for no second."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.allowed = threading.Semaphore(0)
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_WarplineServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Push(self, request_iterator: Iterator[service_pb2.Frame], context: Any) -> Iterator[service_pb2.Ack]:
        """One frame, one permission, one acknowledgement."""
        unpacker = Unpacker()
        for message in request_iterator:
            self.batches += unpacker.unpack(message).batches
            self.allowed.acquire()
            yield service_pb2.Ack(boot=message.boot, sequence=message.sequence, credit_bytes=1, packing=PACKING)

    def stop(self) -> None:
        self.allowed.release(100_000)
        self._server.stop(None).wait()

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [row for batch in self.batches if batch.table == table for row in batch.rows.to_pylist()]


class Job:
    """A source: each second a step of one rank with a thousand kernels of 200 names, and a reading of its GPU."""

    name = "job"
    period_seconds = 1.0

    def __init__(self, budget: KernelBudget, clock_ns: Callable[[], int]) -> None:
        self._budget = budget
        self._clock_ns = clock_ns
        self._next = clock_ns() // SECOND_NS

    def open(self) -> None:
        """Nothing to take."""

    def read(self) -> Iterable[Rows]:
        while self._next < self._clock_ns() // SECOND_NS:
            yield from self._second(self._next)
            self._next += 1

    def health(self) -> Iterable[Health]:
        return ()

    def close(self) -> None:
        """Nothing to give back."""

    def _second(self, step: int) -> Iterable[Rows]:
        random = np.random.default_rng(step)
        count = 1_000
        told = Kernels(
            start_ns=step * SECOND_NS + np.arange(count, dtype=np.int64) * 1_000,
            duration_ns=random.integers(100, 100_000, count),
            name_id=np.tile(np.arange(200, dtype=np.int32), count // 200),
            category=np.zeros(count, np.uint8),
            device=np.zeros(count, np.int32),
            stream=np.full(count, 7, np.int64),
            step=np.full(count, step, np.int64),
            names=tuple(f"kernel_{at}" for at in range(200)),
        )
        place = {"job": "j", "rank": 0}
        yield Rows("steps", STEPS.from_rows([place | {"step": step, "kernels": count, "start_ns": step * SECOND_NS}]))
        yield Rows("device_samples", DEVICE_SAMPLES.from_rows([{"gpu_uuid": "GPU-1", "time_ns": step * SECOND_NS}]))
        packed = self._budget.compress(told, rank=0)
        yield Rows("kernel_clusters", packed.rows, packed.dropped)


class Node:
    """An agent with such a job, on a clock that is moved by hand."""

    def __init__(self, folder: Path, address: str, limits: Limits) -> None:
        self.seconds = 1_000.0
        self.detail = Detail()
        clock = Clock(lambda: int(self.seconds * 1e9), lambda: self.seconds)
        source = Job(KernelBudget(cpu_ns=lambda: 0, detail=self.detail), clock.wall_ns)
        self.spool = Spool(folder, "node-a", "boot", clock.wall_ns, limits, clock.wall_ns)
        self.exporter = CollectorExporter(self.spool, address, seed=1, monotonic=clock.monotonic)
        config = AgentConfig(node="node-a", drain_seconds=PATIENCE_SECONDS)
        self.agent = Agent(config, {"job": source}, self.spool, self.exporter, clock, Inline, detail=self.detail)
        self.levels: list[Level] = []

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_SECONDS)):
            self.agent.tick()
            self.levels.append(self.detail.level)
            self.seconds += TICK_SECONDS

    def drained(self, frames: int = 1_000_000) -> None:
        """Wait until so many frames are acknowledged, or none waits."""
        end = time.monotonic() + PATIENCE_SECONDS
        with self.spool.changed:
            while self.spool.waiting_frames and self.exporter.sent().acknowledged < frames:
                self.spool.changed.wait(0.05)
                assert time.monotonic() < end


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "BACKOFF_SECONDS_MIN", 0.01)
    monkeypatch.setattr(collector, "BACKOFF_SECONDS_MAX", 0.05)
    monkeypatch.setattr(collector, "WAKE_SECONDS", 0.01)
    monkeypatch.setattr(collector, "ACKNOWLEDGEMENT_SECONDS_MAX", 1e9)


@pytest.fixture
def stingy() -> Iterator[Stingy]:
    server = Stingy()
    yield server
    server.stop()


def account(node: Node, server: Stingy) -> None:
    """Every step and every reading of a GPU arrived, once; every kernel was told or counted; nothing fell off."""
    seconds = list(range(1_000, 1_000 + len(server.rows("steps"))))
    assert [row["step"] for row in server.rows("steps")] == seconds and seconds[-1] >= node.seconds - 3
    assert [row["time_ns"] // SECOND_NS for row in server.rows("device_samples")] == seconds
    told, left_out = sum(row["count"] for row in server.rows("kernel_clusters")), node.detail.left_out()["kernels"]
    assert told + left_out == sum(row["kernels"] for row in server.rows("steps")) and told > 0 and left_out > 0
    assert sum(batch.dropped for batch in server.batches) == 0
    assert node.spool.lost("boot") == 0 and node.exporter.sent().refused == 0
    newest = {row["metric"]: row["value"] for row in server.rows("metrics")}
    assert (newest["agent_left_out_kernels"], newest["agent_detail_level"]) == (left_out, node.detail.level)
    said = {row["reason"] for row in server.rows("source_health") if row["subject"] == "detail"}
    assert {each.split(" of ")[0] for each in said if each} == {"level 1", "level 2", "level 3"}


def test_a_collector_that_takes_too_little_is_told_less_until_it_takes_all_again(
    tmp_path: Path, stingy: Stingy
) -> None:
    """It takes a frame in four seconds, the agent makes one a second."""
    node = Node(tmp_path, f"127.0.0.1:{stingy.port}", Limits())
    node.exporter.start()
    for frame in range(1, 25):
        node.run(4.0)
        stingy.allowed.release()
        node.drained(frame)
    assert node.levels == sorted(node.levels) and max(node.levels) is Level.ESSENTIAL
    stingy.allowed.release(100_000)
    node.drained()
    for _ in range(260):
        node.run(1.0)
        node.drained()
    assert int(node.levels[-1]) == Level.FULL
    node.agent.close()
    account(node, stingy)


def test_an_outage_fills_the_spool_with_less_and_less_and_nothing_falls_off(tmp_path: Path, stingy: Stingy) -> None:
    """A spool that holds 100 s of everything outlasts twice as much."""
    full = Node(tmp_path / "full", "127.0.0.1:1", Limits())
    full.run(50.0)
    each_bytes = full.spool.waiting_bytes / full.spool.waiting_frames
    node = Node(tmp_path / "node", f"127.0.0.1:{stingy.port}", Limits(bytes_max=int(100 * each_bytes)))
    node.run(200.0)
    assert node.levels == sorted(node.levels) and set(node.levels) == set(Level)
    assert node.spool.lost("boot") == 0
    node.exporter.start()
    stingy.allowed.release(100_000)
    node.drained()
    for _ in range(200):
        node.run(1.0)
        node.drained()
    assert int(node.levels[-1]) == Level.FULL
    node.agent.close()
    account(node, stingy)
