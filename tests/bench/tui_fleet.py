"""A fleet for the benchmark of the screen: a real collector, and every second new rows of all its GPUs.

    python tests/bench/tui_fleet.py ADDRESS NODES HISTORY_SECONDS

pushes: first the history, then, once a second by the clock until standard input ends, a reading of each GPU and the steps of a
quarter of the ranks. It prints a line once the history is stored, and one when it ends: how many seconds were pushed, and how
many were late.
"""

from __future__ import annotations

import select
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from collector_rows import RANKS, STEP_SECONDS, gpu_uuid, job_name, node_name

from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError
from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_proto.tables import DEVICE_SAMPLES, SOURCE_HEALTH, STEPS

NS: Final = 10**9
JOB_NODES: Final = 64
FINDINGS: Final = 12
TRIES_MAX: Final = 12
"""Each is given five seconds."""
LATE_SECONDS: Final = 0.5
"""A second whose rows are stored so long after its end is late."""


@dataclass
class Fleet:
    """Rows of `nodes` nodes of eight GPUs, second by second."""

    nodes: int

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(1)
        node = np.repeat(np.arange(self.nodes), RANKS)
        gpu = np.tile(np.arange(RANKS), self.nodes)
        self._rank = node % JOB_NODES * RANKS + gpu
        self._node = [node_name(each) for each in node.tolist()]
        self._job = [job_name(each) for each in node.tolist()]
        self._uuid = [gpu_uuid(each, at) for each, at in zip(node.tolist(), gpu.tolist(), strict=True)]
        self._gpu = gpu
        self._limit = np.full(node.size, 700.0)

    def samples(self, now_ns: int) -> Batch:
        """One reading of each GPU."""
        size = self._gpu.size
        busy = np.clip(self._random.normal(92, 6, size), 0, 100)
        columns: dict[str, Any] = {
            "cluster": "load", "node": self._node, "source": "nvml", "gpu_uuid": self._uuid, "gpu_index": self._gpu,
            "gpu_name": "NVIDIA H100 80GB HBM3", "job": self._job, "power_limit_watts": self._limit,
            "time_ns": now_ns + self._random.integers(0, 10**6, size), "power_watts": self._random.normal(560, 60, size),
            "power_method": "instant", "gpu_utilization_percent": busy, "sm_active_percent": busy * 0.9,
            "sm_clock_mhz": self._random.normal(1700, 80, size), "temperature_celsius": self._random.normal(62, 5, size),
            "memory_used_bytes": 70 * 2**30, "memory_total_bytes": 80 * 2**30, "resident_processes": 1,
        }  # fmt: skip
        return Batch("device_samples", "nvml", DEVICE_SAMPLES.from_columns(columns))

    def steps(self, now_ns: int) -> Batch:
        """The ranks whose step ends in this second."""
        second = now_ns // NS
        some = np.flatnonzero(self._rank % STEP_SECONDS == second % STEP_SECONDS)
        took = self._random.normal(STEP_SECONDS * NS, NS / 50, some.size).astype(np.int64)
        columns: dict[str, Any] = {
            "cluster": "load", "node": [self._node[at] for at in some], "source": "hook", "rank": self._rank[some],
            "job": [self._job[at] for at in some], "gpu_uuid": [self._uuid[at] for at in some], "scope": "step", "pp": 0,
            "dp": self._rank[some] // RANKS, "tp": self._rank[some] % RANKS, "step": second // STEP_SECONDS,
            "start_ns": now_ns - took, "duration_ns": took, "compute_ns": took * 7 // 10,
            "communication_ns": took // 5, "idle_ns": took // 10,
        }  # fmt: skip
        return Batch("steps", "hook", STEPS.from_columns({name: _whole(each) for name, each in columns.items()}))

    def health(self, now_ns: int) -> Batch:
        """Two sources of each node, of which a few are denied."""
        rows = [
            {"node": node_name(at), "source": source, "subject": source, "time_ns": now_ns,
             "state": "denied" if source == "kernel_log" and at % 100 == 0 else "fresh"}
            for at in range(self.nodes) for source in ("nvml", "kernel_log")
        ]  # fmt: skip
        return Batch("source_health", "agent", SOURCE_HEALTH.from_rows(rows))

    def findings(self, now_ns: int) -> Batch:
        """Some ranks that compute longer than their peers."""
        states = []
        for at in range(min(FINDINGS, self.nodes)):
            node = at * self.nodes // FINDINGS if self.nodes >= FINDINGS else at
            rank = node % JOB_NODES * RANKS
            subject = Subject(job=job_name(node), rank=rank, node=node_name(node), gpu=gpu_uuid(node, 0))
            found = Finding(
                kind=FindingKind.COMPUTE_STRAGGLER, severity=Severity.CRITICAL, confidence=0.97, subject=subject,
                summary=f"rank {rank} computes 40 % longer than its peers", onset=Onset(step=12),
                next_step=f"drain {node_name(node)} and run a GEMM test", cost=Cost(seconds_per_step=0.25),
                evidence=(Evidence("SELECT rank, duration_ns FROM steps LIMIT 5", ({"rank": rank, "duration_ns": 7},)),),
            )  # fmt: skip
            states.append(FindingState(found, "open", now_ns, now_ns))
        return Batch("findings", "analysis", to_rows(states))


def _whole(values: Any) -> Any:
    return values.astype(np.int64) if isinstance(values, np.ndarray) else values


def push(address: str, nodes: int, history: int) -> None:
    """History, then a frame each second until standard input ends."""
    fleet, boot, sequence = Fleet(nodes), f"{time.time_ns():020d}", 0
    late = pushed = 0

    def send(client: QueryClient, *batches: Batch) -> None:
        nonlocal sequence
        sequence += 1
        frame = Frame("load", boot, sequence, time.time_ns(), batches)
        for left in range(TRIES_MAX, 0, -1):
            try:
                client.push(frame)  # once stored, it is not stored again
                return
            except QueryError as error:
                if left == 1:
                    raise
                print(f"not stored yet: {error}", file=sys.stderr)

    with QueryClient(address) as client:
        now_ns = time.time_ns() // NS * NS
        for ago in range(history, 0, -1):
            at_ns = now_ns - ago * NS
            send(client, fleet.samples(at_ns), fleet.steps(at_ns))
        send(client, fleet.health(now_ns))
        print("stored", flush=True)
        due = time.time()
        while not select.select([sys.stdin], [], [], max(due - time.time(), 0.0))[0]:
            at_ns = int(due) * NS
            send(client, fleet.samples(at_ns), fleet.steps(at_ns))
            pushed += 1
            late += time.time() - due > 1 + LATE_SECONDS
            due = max(due + 1, time.time() - 1)
    print(f"{pushed} {late}", flush=True)


if __name__ == "__main__":
    push(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
