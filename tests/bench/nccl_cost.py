"""What it costs the agent to join operations of NCCL to kernels and to tell them; prints one JSON object.

`python tests/bench/nccl_cost.py [SECONDS]`: 50,000 kernels a second, 2,000 of them NCCL's, and as many operations, on four
communicators with a stream each; read four times a second, told once a step of half a second. CPU time is that of one GPU.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Final

import numpy as np
from nccl_traffic import BEGIN_NS, KERNELS, LATE_NS, ROUND_NS, Texts

from warpline_agent.kernels import StepSpan
from warpline_agent.nccl_join import NcclJoin
from warpline_agent.operation_rows import operation_rows
from warpline_agent.ring_file import RECORD, Records
from warpline_agent.ring_records import RingKernels
from warpline_hook import ring

KERNELS_A_SECOND: Final = 50_000
EVERY: Final = 25
"""Of so many kernels one is NCCL's."""
STEP_NS: Final = 500_000_000
COMMUNICATORS: Final = 4


def traffic(seconds: int, texts: Texts) -> tuple[Records, Records]:
    """Kernels and operations, in order of time; the host waits for the GPU at the end of each step."""
    count = seconds * KERNELS_A_SECOND
    gap = 1_000_000_000 // KERNELS_A_SECOND
    start = BEGIN_NS + np.arange(count) * gap
    start += 300_000 * ((np.arange(count) * gap) % STEP_NS > 0)
    kernels = np.zeros(count, RECORD)
    kernels["kind"], kernels["start_ns"], kernels["duration_ns"] = ring.KERNEL, start, gap - 5_000
    kernels["stream"], kernels["correlation"] = 7, np.arange(count)
    kernels["name"] = np.array([texts.number(f"kernel {each}") for each in range(150)])[np.arange(count) % 150]
    own = np.arange(EVERY // 2, count, EVERY)
    which = np.arange(len(own)) % COMMUNICATORS
    kernels["stream"][own] = 20 + which
    names = np.array([texts.number(KERNELS[each].format("bf16", "RING")) for each in ("AllGather", "ReduceScatter")])
    kernels["name"][own] = names[which % 2]
    operations = np.zeros(len(own), RECORD)
    operations["kind"], operations["start_ns"] = ring.COLLECTIVE, start[own] - 8_000
    operations["commit"], operations["duration_ns"] = (
        np.arange(1, len(own) + 1),
        np.arange(len(own)) // COMMUNICATORS + 1,
    )
    operations["name"] = np.array([texts.number("AllGather"), texts.number("ReduceScatter")])[which % 2]
    operations["context"], operations["device"] = texts.number("ncclBfloat16"), texts.number("RING")
    operations["extra"], operations["number"] = 1000 + which, np.arange(len(own)) // COMMUNICATORS
    return kernels, operations


def measure(seconds: int) -> dict[str, Any]:
    """CPU microseconds an operation, percent of a core, and how many were joined."""
    texts: Any = Texts()
    texts.texts = {}
    kernels, operations = traffic(seconds, texts)
    decoded, end = RingKernels(), BEGIN_NS + seconds * 1_000_000_000 + 2 * LATE_NS
    rounds = [
        [part[(part["start_ns"] > at - ROUND_NS) & (part["start_ns"] <= at)] for part in (kernels, operations)]
        for at in range(BEGIN_NS, end + 1, ROUND_NS)
    ]
    kernels_of = [decoded.kernels(new, texts) for new, _ in rounds]
    join, rows, before = NcclJoin(), 0, time.process_time_ns()
    for at, (new, told), found in zip(range(BEGIN_NS, end + 1, ROUND_NS), rounds, kernels_of, strict=True):
        join.take_kernels(new, found, texts)
        if len(told):
            join.take_operations(told, missing=False)
        join.advance(at - LATE_NS, [(BEGIN_NS - 1, None)], texts, final=at == end)
        ripe = join.ripe((at - LATE_NS) // STEP_NS * STEP_NS if at < end else 1 << 62)
        if ripe is not None:
            spans = [StepSpan(0, BEGIN_NS, STEP_NS)]
            rows += operation_rows(ripe, texts, spans, {"job": "bench", "rank": 0}).num_rows
    spent = time.process_time_ns() - before
    return {
        "us_per_operation": round(spent / 1e3 / len(operations), 2),
        "core_percent_per_gpu": round(spent / (seconds * 1e9) * 100, 2),
        "operations": len(operations),
        "rows": rows,
        "joined": join.joined,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 60)))
