"""Traces of jobs on CPUs: operators are the compute, collectives are told, and traces of GPU jobs are left as they were."""

from __future__ import annotations

import json
from typing import Any

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.kineto import Kineto

GLOO = {
    "backend": "gloo",
    "rank": 1,
    "world_size": 2,
    "pg_config": [
        {"pg_name": "0", "pg_desc": "default_pg", "backend_config": "cpu:gloo", "pg_size": 2, "ranks": [0, 1]}
    ],
}


def event(category: str, name: str, start: float, duration: float, thread: int = 1) -> dict[str, Any]:
    """Times in microseconds."""
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration, "pid": 1, "tid": thread, "args": {}}


STEP = [
    event("user_annotation", "ProfilerStep#3", 1000, 1000),
    event("user_annotation", "enumerate(DataLoader)#_Iter.__next__", 1000, 100),
    event("cpu_op", "aten::stack", 1010, 80),
    event("cpu_op", "aten::linear", 1200, 300),
    event("cpu_op", "aten::addmm", 1210, 200),
    event("cpu_op", "autograd::engine::evaluate_function: AccumulateGrad", 1500, 100),
    event("cpu_op", "c10d::allreduce_", 1560, 30),
    event("user_annotation", "gloo:all_reduce", 1590, 310, thread=2),
    event("cpu_op", "aten::add_", 1900, 50),
]


def read(events: list[dict[str, Any]], **members: Any) -> Reading:
    told = {"deviceProperties": [], "distributedInfo": GLOO, "host_name": "node7"} | members
    document = {**told, "traceEvents": events}
    return Kineto().read(memory_input("rank1.json", json.dumps(document).encode()))


def rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for each in reading.rows if each.table == table for row in each.batch.to_pylist()]


def test_operators_are_compute_without_loading_and_communicating() -> None:
    """Nested operators count once; what runs within the loader, and the call that starts a collective, does not count."""
    (step,) = (row for row in rows(read(STEP), "steps") if row["scope"] == "step")
    assert step["compute_ns"] == (300 + 100 - 30 + 50) * 1000
    assert step["communication_ns"] == 310_000
    assert step["exposed_communication_ns"] == 300_000
    assert step["data_wait_ns"] == 100_000
    assert step["busy_ns"] is None


def test_collectives_of_gloo_are_told_with_group_step_and_host_clock() -> None:
    (row,) = rows(read(STEP), "collectives")
    assert (row["operation"], row["step"], row["sequence"], row["timing"]) == ("all_reduce", 3, 0, "host")
    assert (row["communicator"], row["communicator_rank"], row["nranks"]) == ("0[0-1]", 1, 2)
    assert (row["start_ns"], row["duration_ns"], row["clock"]) == (1_590_000, 310_000, "trace@node7")
    assert not [phase for phase in rows(read(STEP), "phases") if phase["phase"].startswith("gloo")]


def test_the_cpu_of_a_gpu_job_is_no_compute() -> None:
    """A GPU in the machine, GPU activity in the trace, a GPU backend, or no word on the backend at all."""
    kernel = event("kernel", "gemm", 1300, 50)
    told = (
        read(STEP, deviceProperties=[{"id": 0, "name": "H100"}]),
        read([*STEP, kernel]),
        read(STEP, distributedInfo=GLOO | {"backend": "nccl"}),
        read(STEP, distributedInfo={"rank": 0}),
    )
    steps = [row for each in told for row in rows(each, "steps") if row["scope"] == "step"]
    assert [row["compute_ns"] for row in steps] == [None, 50_000, None, None]


def test_collectives_of_several_groups_are_not_given_to_any() -> None:
    """Annotations name no group."""
    group = {"pg_name": "1", "pg_desc": "tp", "backend_config": "cpu:gloo", "pg_size": 2, "ranks": [0, 1]}
    (row,) = rows(read(STEP, distributedInfo=GLOO | {"pg_config": [*GLOO["pg_config"], group]}), "collectives")  # type: ignore[misc]
    assert row["communicator"] is None
