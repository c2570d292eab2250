"""The stable views: what people query by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import table

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Ask = Callable[[Rows, str], list[dict[str, Any]]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Rows by table in, the rows of one question out."""

    def answer(rows: Rows, sql: str) -> list[dict[str, Any]]:
        store = DuckDBStore(tmp_path)
        store.write([Batch(name, "test", table(name).from_rows(listed)) for name, listed in rows.items()])
        found: list[dict[str, Any]] = store.query(sql).to_pylist()
        store.close()
        return found

    return answer


def test_current_findings_are_the_newest_open_ones(ask: Ask) -> None:
    """A resolved finding is gone, an updated one shows its last state."""
    rows = [
        {"id": "a", "state": "open", "updated_ns": 1, "summary": "old"},
        {"id": "a", "state": "open", "updated_ns": 2, "summary": "new"},
        {"id": "b", "state": "open", "updated_ns": 1},
        {"id": "b", "state": "resolved", "updated_ns": 3},
    ]
    assert ask({"findings": rows}, "SELECT id, summary FROM current_findings") == [{"id": "a", "summary": "new"}]


def test_latest_device_samples_are_one_a_gpu(ask: Ask) -> None:
    """A GPU without a UUID is told apart by its bus id or index, on its own node."""
    rows = [
        {"node": "n", "gpu_uuid": "GPU-1", "time_ns": 1, "power_watts": 100.0},
        {"node": "n", "gpu_uuid": "GPU-1", "time_ns": 2, "power_watts": 200.0},
        {"node": "n", "gpu_index": 0, "time_ns": 1, "power_watts": 0.0},
        {"node": "m", "gpu_index": 0, "time_ns": 1},
    ]
    found = ask({"device_samples": rows}, "SELECT power_watts FROM latest_device_samples")
    assert sorted(str(row["power_watts"]) for row in found) == ["0.0", "200.0", "None"]


def test_source_state_is_the_newest_of_each_subject(ask: Ask) -> None:
    """A GPU that recovered is fresh, though its source once was stale."""
    rows = [
        {"node": "n", "source": "nvml", "subject": "GPU-1", "state": "stale", "time_ns": 1},
        {"node": "n", "source": "nvml", "subject": "GPU-1", "state": "fresh", "time_ns": 2},
        {"node": "n", "source": "nvml", "subject": "nvml", "state": "fresh", "time_ns": 1},
    ]
    sql = "SELECT subject, state FROM source_state ORDER BY subject"
    assert ask({"source_health": rows}, sql) == [
        {"subject": "GPU-1", "state": "fresh"},
        {"subject": "nvml", "state": "fresh"},
    ]


def test_capture_costs_are_the_newest_of_the_rank_that_finds_them_dearest(ask: Ask) -> None:
    """A rank that cannot tell yet says nothing against one that can."""
    rows = [
        {"job": "j", "rank": 0, "time_ns": 1, "overhead_percent": 9.0},
        {"job": "j", "rank": 0, "time_ns": 2, "overhead_percent": 0.2},
        {"job": "j", "rank": 1, "time_ns": 1, "overhead_percent": 0.3},
        {"job": "j", "rank": 2, "time_ns": 3},
        {"job": "k", "rank": 0, "time_ns": 1},
    ]
    found = ask({"capture_overhead": rows}, "SELECT job, rank, overhead_percent FROM capture_costs ORDER BY job")
    assert found == [
        {"job": "j", "rank": 1, "overhead_percent": 0.3},
        {"job": "k", "rank": 0, "overhead_percent": None},
    ]


def test_kernel_totals_add_up_and_have_names(ask: Ask) -> None:
    """Clusters and steps are summed; a kernel that was named by two nodes counts once, one without a name keeps its id."""
    cluster = {"job": "j", "rank": 0, "kernel_id": 7, "category": "compute", "count": 2, "sum_ns": 60}
    rows = [
        {**cluster, "step": 1, "min_ns": 10, "max_ns": 50},
        {**cluster, "step": 2, "min_ns": 20, "max_ns": 40},
        {**cluster, "kernel_id": 8, "sum_ns": 40, "min_ns": 15, "max_ns": 25},
    ]
    names = [{"kernel_id": 7, "name": "gemm", "node": node} for node in ("n", "m")]
    sql = "SELECT kernel, kernels, total_ns, mean_ns, min_ns, max_ns, share FROM kernel_totals ORDER BY total_ns DESC"
    assert ask({"kernel_clusters": rows, "kernel_names": names}, sql) == [
        {"kernel": "gemm", "kernels": 4, "total_ns": 120, "mean_ns": 30.0, "min_ns": 10, "max_ns": 50, "share": 0.75},
        {"kernel": "8", "kernels": 2, "total_ns": 40, "mean_ns": 20.0, "min_ns": 15, "max_ns": 25, "share": 0.25},
    ]


def test_iteration_times_name_the_slowest_rank(ask: Ask) -> None:
    """One row a step; whole traces are no steps."""
    rows = [
        {"job": "j", "scope": "step", "step": 1, "rank": rank, "duration_ns": duration}
        for rank, duration in enumerate((10, 30, 20))
    ]
    rows.append({"job": "j", "scope": "trace", "step": None, "rank": 0, "duration_ns": 99})
    assert ask({"steps": rows}, "SELECT * FROM iteration_times") == [
        {"job": "j", "step": 1, "ranks": 3, "min_ns": 10, "median_ns": 20.0, "max_ns": 30, "slowest_rank": 1}
    ]


COLLECTIVES = [
    {"job": "j", "communicator": "c", "operation": "all_reduce", "message_bytes": 100},
    {"job": "j", "communicator": "c", "operation": "all_reduce", "message_bytes": 100},
    {"job": "j", "communicator": "c", "operation": "all_reduce", "message_bytes": 400, "count": 2},
    {"job": "j", "communicator": "c", "operation": "all_reduce", "count": 5},
    {"job": "j", "communicator": "d", "operation": "broadcast", "message_bytes": 0},
]


def test_collectives_are_counted_by_communicator_and_operation(ask: Ask) -> None:
    """A row that stands for several operations counts as several, one without a count as one."""
    sql = "SELECT communicator, operation, count FROM collective_counts ORDER BY communicator"
    assert ask({"collectives": COLLECTIVES}, sql) == [
        {"communicator": "c", "operation": "all_reduce", "count": 9},
        {"communicator": "d", "operation": "broadcast", "count": 1},
    ]


def test_sizes_of_collectives_weigh_by_count_and_keep_unknowns_apart(ask: Ask) -> None:
    """The average is over operations, not rows; a size nobody knows is no zero, and a measured zero is one."""
    sql = "SELECT * EXCLUDE (job, source) FROM collective_sizes ORDER BY operation"
    assert ask({"collectives": COLLECTIVES}, sql) == [
        {"operation": "all_reduce", "count": 4, "average_bytes": 250.0, "min_bytes": 100, "max_bytes": 400,
         "total_bytes": 1000, "unknown_size_count": 5},
        {"operation": "broadcast", "count": 1, "average_bytes": 0.0, "min_bytes": 0, "max_bytes": 0,
         "total_bytes": 0, "unknown_size_count": 0},
    ]  # fmt: skip


def test_size_distribution_counts_each_message_size(ask: Ask) -> None:
    """One row a size; unknown sizes are a group of their own."""
    sql = (
        "SELECT message_bytes, count FROM collective_size_distribution WHERE communicator = 'c' ORDER BY message_bytes"
    )
    assert ask({"collectives": COLLECTIVES}, sql) == [
        {"message_bytes": 100, "count": 2},
        {"message_bytes": 400, "count": 2},
        {"message_bytes": None, "count": 5},
    ]
