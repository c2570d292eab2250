"""Rows with holes and impossible times in them: the timeline and the kernels of a rank are shown as far as they are known."""

from __future__ import annotations

from typing import Any

import pytest
from seen import Database, app_over, go, settle, take, words

from warpline_tui.place import Place
from warpline_tui.views.fleet import FleetView
from warpline_tui.views.job import JobView
from warpline_tui.views.kernels import KernelsView
from warpline_tui.views.node import NodeView

NS = 10**9
NOW = 1_800_000_000 * NS
RANK = {"job": "train", "rank": 0, "node": "node-1", "start_ns": NOW - 5 * NS}
STEP = {**RANK, "scope": "step", "step": 1, "duration_ns": NS, "clock": "realtime@node-1"}
KERNEL = {**RANK, "kernel_id": 1, "stream": 7}
ODD: dict[str, dict[str, list[dict[str, Any]]]] = {
    "kernels that did not end": {"steps": [STEP], "raw_kernels": [KERNEL, {**KERNEL, "capture_id": "another"}]},
    "one kernel that did not end": {"raw_kernels": [KERNEL]},
    "sums that did not end": {"kernel_clusters": [{**KERNEL, "step": 1, "count": 1, "sum_ns": 4}]},
    "sums of nothing": {"steps": [STEP], "kernel_clusters": [{**KERNEL, "end_ns": NOW}]},
    "a clock that was set back": {"steps": [{**STEP, "duration_ns": -NS, "idle_ns": -NS}]},
}


@pytest.mark.parametrize("tables", ODD.values(), ids=ODD)
async def test_the_timeline_shows_what_is_known(tables: dict[str, list[dict[str, Any]]]) -> None:
    database = Database()
    for name, rows in tables.items():
        database.add(name, rows)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("timeline", job="train", rank=0))
        for key in ("z", "f", "j", "parenleft", "enter"):
            await pilot.press(key)
            await settle(pilot)
        assert "rank 0 of train" in words(pilot, "#heading")
        assert "error" not in words(pilot, "Status").lower()


def test_a_kernel_without_an_identity_is_in_no_table() -> None:
    database = Database()
    database.add("steps", [STEP])
    nameless = {**KERNEL, "kernel_id": None, "step": 1, "count": 1, "sum_ns": 9}
    database.add("kernel_clusters", [nameless, {**nameless, "kernel_id": 2}])
    assert [item.key for item in take(database, KernelsView(("train", 0)), NOW).durations.items] == ["2"]


async def test_a_name_may_be_a_digit_that_is_no_number() -> None:
    database = Database()
    rows = [{"node": name, "gpu_uuid": name, "time_ns": NOW, "power_watts": 1.0} for name in ("²", "node-1", "٣")]
    database.add("device_samples", rows)
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert "node-1" in words(pilot, "#grid")


def test_ranks_that_all_call_their_gpu_zero_are_on_no_gpu_in_particular() -> None:
    database = Database()
    database.add(
        "device_samples",
        [{"node": "node-1", "gpu_uuid": f"GPU-{at}", "gpu_index": at, "time_ns": NOW} for at in (0, 1)],
    )
    database.add("steps", [{**STEP, "rank": rank, "device": 0} for rank in (0, 1)])
    shown = take(database, NodeView("node-1"), NOW)
    assert [shown.worker(gpu) for gpu in shown.gpus] == [None, None]
    assert len(shown.workers) == 2


def test_a_counter_that_did_not_tell_its_value_is_passed_over() -> None:
    database = Database()
    port = {"node": "node-1", "link_kind": "infiniband", "device": "mlx5_0", "port": 1, "time_ns": NOW}
    database.add("device_samples", [{"node": "node-1", "gpu_uuid": "GPU-0", "time_ns": NOW}])
    database.add("link_counters", [{**port, "counter": "state"}, {**port, "counter": "rate", "value": 400 * 10**9}])
    [shown] = take(database, NodeView("node-1"), NOW).ports
    assert (shown.state, shown.bits_per_second) == (None, 400e9)


def test_one_reading_that_cannot_be_hides_no_gpu() -> None:
    database = Database()
    gpu = {"node": "node-1", "time_ns": NOW}
    readings = [{**gpu, "gpu_uuid": "GPU-0", "power_watts": 1e99}, {**gpu, "gpu_uuid": "GPU-1", "power_watts": 300.0}]
    database.add("device_samples", readings)
    shown = take(database, FleetView(), NOW).gpus
    assert [row["power_watts"] for row in shown.table.to_pylist()] == [None, 300.0]


def test_counts_and_durations_that_were_not_told_are_in_no_sum() -> None:
    database = Database()
    database.add("steps", [STEP])
    database.add("kernel_clusters", [{**KERNEL, "step": 1, "sum_ns": 9, "p50_ns": 9}])
    database.add("phases", [{**RANK, "step": 1, "phase": "forward", "kind": "compute"}])
    assert take(database, KernelsView(("train", 0)), NOW).durations.bins == ()
    assert take(database, JobView("train"), NOW).groups == ()
