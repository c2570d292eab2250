"""Rows with holes and impossible times in them: the timeline and the kernels of a rank are shown as far as they are known."""

from __future__ import annotations

from typing import Any

import pytest
from seen import Database, app_over, go, settle, take, words

from warpline_tui.place import Place
from warpline_tui.views.kernels import KernelsView

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
