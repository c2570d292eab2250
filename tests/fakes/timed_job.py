"""For tests of the timeline: a job of two ranks on two nodes, six steps of 100 ms, single kernels of one step of rank 0."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from seen import Database

from warpline_proto.finding import Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows

BEGIN = 1_800_000_000_000_000_000
MS = 10**6
STEP = 100 * MS
STEPS = 6
NOW = BEGIN + STEPS * STEP
JOB = "train"
GEMM, REDUCE = 7, 8
AHEAD = 3 * MS
"""The clock of rank 1's node is so far ahead."""
FINDING = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER, severity=Severity.CRITICAL, confidence=0.9,
    subject=Subject(job=JOB, rank=1, node="node-1"), summary="rank 1 computes longer", next_step="drain node-1",
    onset=Onset(step=3, time_ns=BEGIN + 3 * STEP + AHEAD),
)  # fmt: skip


def place(rank: int) -> dict[str, Any]:
    return {
        "job": JOB,
        "rank": rank,
        "node": f"node-{rank}",
        "clock": f"realtime@node-{rank}",
        "gpu_uuid": f"GPU-{rank}",
    }


def began(rank: int, step: int) -> int:
    """When a step began, by the clock of the rank's node."""
    return BEGIN + step * STEP + (AHEAD if rank else 0)


def run(database: Database) -> None:
    """All of it but single kernels."""
    every = [(rank, step) for rank in (0, 1) for step in range(STEPS)]
    database.add("steps", [_step(rank, step) for rank, step in every])
    database.add("phases", [row for rank, step in every for row in _phases(rank, step)])
    database.add("collectives", [_collective(rank, step) for rank, step in every])
    database.add("kernel_clusters", [row for rank, step in every for row in _clusters(rank, step)])
    database.add(
        "kernel_names", [{"kernel_id": GEMM, "name": "ampere_gemm"}, {"kernel_id": REDUCE, "name": "ncclAllReduce"}]
    )
    database.add("device_samples", [row for rank in (0, 1) for row in _samples(rank)])


def capture(database: Database, step: int = 5, capture_id: str = "look") -> None:
    """Single kernels of a step of rank 0: ten of 8 ms, 1 ms of nothing after each, and communication beside."""
    kernels = [
        _kernel(step, GEMM, began(0, step) + number * 9 * MS, 8 * MS, 7, "compute", capture_id) for number in range(10)
    ]
    kernels.append(_kernel(step, REDUCE, began(0, step) + 60 * MS, 30 * MS, 20, "communication", capture_id))
    database.add("raw_kernels", kernels)


def fault(database: Database) -> None:
    """A finding of rank 1 and an Xid on its node."""
    states = pa.Table.from_batches([to_rows([FindingState(FINDING, "open", NOW, NOW)])])
    database.add("findings", states.to_pylist())
    xid = {
        "node": "node-1",
        "time_ns": began(1, 4),
        "kind": "xid",
        "code": 79,
        "severity": "critical",
        "message": "fell off the bus",
    }
    database.add("log_events", [xid])


def clocks(database: Database) -> None:
    """How far both nodes' clocks are from the collector's."""
    database.add(
        "node_clocks",
        [
            {
                "node": f"node-{rank}",
                "time_ns": BEGIN - 1,
                "steady_ns": 1,
                "boot": "b",
                "offset_ns": AHEAD * rank,
                "error_ns": 20_000,
            }
            for rank in (0, 1)
        ],
    )


def _step(rank: int, step: int) -> dict[str, Any]:
    took = STEP + (5 * MS if step == 5 else 0)
    return place(rank) | {
        "scope": "step", "step": step, "start_ns": began(rank, step), "duration_ns": took, "idle_ns": 10 * MS,
        "data_wait_ns": 2 * MS, "idle_gaps": 10,
    }  # fmt: skip


def _phases(rank: int, step: int) -> list[dict[str, Any]]:
    told = (
        ("forward", "compute", 0, 40),
        ("attention", "compute", 5, 10),
        ("backward", "compute", 40, 50),
        ("gc", "host", 92, 6),
    )
    return [
        place(rank)
        | {"step": step, "phase": name, "kind": kind, "start_ns": began(rank, step) + at * MS, "duration_ns": took * MS}
        for name, kind, at, took in told
    ]


def _collective(rank: int, step: int) -> dict[str, Any]:
    """Rank 1 comes 25 ms after rank 0; moving the data takes 5 ms."""
    return place(rank) | {
        "step": step, "communicator": "0xc", "group_name": "dp", "sequence": step, "operation": "all_reduce", "nranks": 2,
        "message_bytes": 2**20, "stream": 20, "start_ns": began(rank, step) + (85 if rank else 60) * MS,
        "duration_ns": (5 if rank else 30) * MS, "timing": "kernel_gpu",
    }  # fmt: skip


def _clusters(rank: int, step: int) -> list[dict[str, Any]]:
    told = ((GEMM, "compute", 7, 10, 80 + 40 * rank * (step >= 3)), (REDUCE, "communication", 20, 1, 30))
    return [
        place(rank)
        | {
            "step": step, "start_ns": began(rank, step), "end_ns": began(rank, step) + STEP, "stream": stream,
            "kernel_id": kernel, "category": category, "count": count, "sum_ns": took * MS, "p50_ns": took * MS // count,
            "grade": "clusters", "cluster_index": 0,
        }
        for kernel, category, stream, count, took in told
    ]  # fmt: skip


def _samples(rank: int) -> list[dict[str, Any]]:
    return [
        {
            "node": f"node-{rank}", "gpu_uuid": f"GPU-{rank}", "gpu_index": 0, "time_ns": began(rank, 0) + at * STEP,
            "power_watts": 350.0, "power_limit_watts": 700.0, "sm_clock_mhz": 1410.0, "sm_clock_max_mhz": 1980.0,
        }
        for at in range(STEPS)
    ]  # fmt: skip


def _kernel(
    step: int, kernel: int, start_ns: int, took_ns: int, stream: int, category: str, capture_id: str
) -> dict[str, Any]:
    return place(0) | {
        "capture_id": capture_id, "step": step, "start_ns": start_ns, "duration_ns": took_ns, "stream": stream,
        "kernel_id": kernel, "category": category,
    }  # fmt: skip
