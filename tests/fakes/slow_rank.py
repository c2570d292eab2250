"""For tests of the screen: a made-up job of four ranks of which one computes longer from a step on, and the incident of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from seen import Database

from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows

NOW = 1_800_000_000_000_000_000
SECOND = 10**9
JOB = "pretrain"
SLOW = 2
ONSET = 6
STEPS = 16
GEMM, ATTENTION = 7, 8

INCIDENT = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER,
    severity=Severity.CRITICAL,
    confidence=0.97,
    subject=Subject(job=JOB, rank=SLOW, stage=0, node="node-b", gpu="GPU-2"),
    summary="rank 2 computes 50 % longer than its peers; explains 1 regression",
    next_step="drain node-b and run a GEMM test on GPU-2",
    onset=Onset(step=ONSET, time_ns=NOW - 10 * SECOND),
    cost=Cost(seconds_per_step=0.25, gpu_hours=2.0, joules=7.2e6),
    evidence=(
        Evidence("SELECT rank, duration_ns FROM steps", ({"rank": 2, "seconds": 0.9},)),
        Evidence("SELECT 'two' AS second", ()),
    ),
    ruled_out=("network: transfer is even", "regression by itself: Iteration time rose 40 % since step 6"),
    missing=("clocks of GPU-2",),
)


def run(database: Database) -> None:
    """Steps, phases and kernels of all ranks."""
    database.add("steps", [step(rank, number) for rank in range(4) for number in range(STEPS)])
    database.add("phases", [phase(rank, number) for rank in range(4) for number in range(STEPS)])
    database.add(
        "kernel_clusters",
        [kernel(rank, number, name) for rank in range(4) for number in range(STEPS) for name in (GEMM, ATTENTION)],
    )
    database.add(
        "kernel_names", [{"kernel_id": GEMM, "name": "ampere_gemm"}, {"kernel_id": ATTENTION, "name": "flash_fwd"}]
    )


def open_incident(database: Database, finding: Finding = INCIDENT, state: str = "open", updated_ns: int = NOW) -> None:
    """Write a state of a finding."""
    database.add(
        "findings",
        pa.Table.from_batches([to_rows([FindingState(finding, state, NOW - 9 * SECOND, updated_ns)])]).to_pylist(),
    )


def late(rank: int, number: int) -> bool:
    return rank == SLOW and number >= ONSET


def step(rank: int, number: int) -> dict[str, Any]:
    """Everybody waits for the late one, so that steps are alike and what they are made of is not."""
    computed = 900_000_000 if late(rank, number) else 600_000_000 + rank * 1_000_000
    whole = 1_000_000_000 if number >= ONSET else 700_000_000
    return _ranked(rank, number) | {
        "scope": "step", "duration_ns": whole, "compute_ns": computed, "communication_ns": whole - computed, "idle_ns": 1_000_000,
    }  # fmt: skip


def phase(rank: int, number: int) -> dict[str, Any]:
    return _ranked(rank, number) | {
        "phase": "forward", "kind": "compute", "duration_ns": 450_000_000 if late(rank, number) else 300_000_000,
    }  # fmt: skip


def kernel(rank: int, number: int, name: int) -> dict[str, Any]:
    """Ten GEMMs, late ones half as long again; one attention that is alike everywhere."""
    count = 10 if name == GEMM else 1
    took = 3_000_000 if late(rank, number) and name == GEMM else 2_000_000
    return _ranked(rank, number) | {
        "kernel_id": name, "category": "compute", "cluster_index": 0, "grade": "clusters", "count": count, "sum_ns": count * took,
        "min_ns": took, "p10_ns": took, "p50_ns": took, "p90_ns": took, "p99_ns": took, "max_ns": took,
        "run_counts": [count], "run_means_ns": [took],
    }  # fmt: skip


def _ranked(rank: int, number: int) -> dict[str, Any]:
    start_ns = NOW - (STEPS - number) * SECOND
    return {
        "job": JOB,
        "rank": rank,
        "dp": rank,
        "pp": 0,
        "node": f"node-{'ab'[rank // 2]}",
        "step": number,
        "start_ns": start_ns,
    }
