"""Pictures of every screen at two sizes: nothing moves, goes or changes colour without somebody having looked at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from seen import SIZES, Database, app_over, go, settle
from snapshots import FOLDER, RENEW, difference, lines, picture, why_not
from textual.pilot import Pilot

from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_tui.place import Place
from warpline_tui.widgets.sql_editor import SqlEditor

NS = 10**9
NOW = 1_800_000_000 * NS
NODES, GPUS = 6, 8
DRAWN_MAX = 10
SLOW = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER,
    severity=Severity.CRITICAL,
    confidence=0.97,
    subject=Subject(job="pretrain", rank=11, stage=0, dp=11, node="node-1", gpu="GPU-1-3"),
    summary="rank 11 computes 40 % longer than its peers",
    next_step="drain node-1 and run a GEMM test on GPU-1-3",
    onset=Onset(step=12, time_ns=NOW - 200 * NS),
    cost=Cost(seconds_per_step=0.25, gpu_hours=1.5),
    evidence=(Evidence("SELECT rank, duration_ns FROM steps", ({"rank": 11, "duration_ns": 700},)),),
    ruled_out=("network: transfer is even",),
)
PLACES = {
    "fleet": Place("fleet"),
    "incidents": Place("incidents"),
    "incident": Place("incident", incident=SLOW.id),
    "node": Place("node", node="node-1"),
    "job": Place("job", job="pretrain"),
    "timeline": Place("timeline", job="pretrain", rank=11),
    "kernels": Place("kernels", job="pretrain", rank=11),
    "power": Place("power"),
    "sources": Place("sources"),
    "sql": Place("sql"),
}


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Six nodes of eight GPUs that train, one of them slow, one idle; nothing in it is drawn by chance."""
    made = Database()
    for name, rows in {**_devices(), **_work()}.items():
        made.add(name, rows)
    states = pa.Table.from_batches([to_rows([FindingState(SLOW, "open", NOW - 180 * NS, NOW - 5 * NS, alarms=1431)])])
    made.add("findings", states.to_pylist())
    yield made
    made.connection.close()


def _devices() -> dict[str, list[dict[str, Any]]]:
    gpus = [(node, gpu) for node in range(NODES) for gpu in range(GPUS)]
    window_ns = NOW // (600 * NS) * 600 * NS - 1200 * NS
    return {
        "device_samples": [
            {"node": f"node-{node}", "source": "nvml", "gpu_uuid": f"GPU-{node}-{gpu}", "gpu_index": gpu, "job": "pretrain",
             "gpu_name": "NVIDIA H100 80GB HBM3", "time_ns": NOW - ago * NS, "power_limit_watts": 700.0, "resident_processes": 1,
             "power_watts": 90.0 if node == 5 else 400.0 + 30 * gpu + 10 * node, "sm_clock_mhz": 1980.0 - 15 * gpu,
             "gpu_utilization_percent": 0.0 if node == 5 else 97.0, "temperature_celsius": 50.0 + gpu,
             "memory_used_bytes": 70 * 2**30, "memory_total_bytes": 80 * 2**30}
            for node, gpu in gpus for ago in (60, 30, 1)
        ],
        "source_health": [
            {"node": f"node-{node}", "source": source, "subject": source, "time_ns": NOW - NS,
             "state": "denied" if source == "kernel_log" and node == 1 else "fresh",
             "reason": "dmesg_restrict=1" if source == "kernel_log" and node == 1 else None}
            for node in range(NODES) for source in ("nvml", "host", "kernel_log")
        ],
        "energy_intervals": [
            {"node": f"node-{node}", "gpu_uuid": f"GPU-{node}-{gpu}", "gpu_index": gpu, "job": "pretrain", "user": "ada",
             "state": state, "window_ns": window_ns, "start_ns": window_ns, "end_ns": window_ns + 600 * NS, "seconds": seconds,
             "continued": False, "joules": seconds * 450.0, "unmeasured_seconds": 0.0, "missing": [], "cause": cause,
             "updated_ns": NOW}
            for node, gpu in gpus for state, seconds, cause in (("active", 400.0, None), ("execution_idle", 200.0, "disk"))
        ],
    }  # fmt: skip


def _work() -> dict[str, list[dict[str, Any]]]:
    ranks = range(16)
    place = {
        rank: {"job": "pretrain", "rank": rank, "node": f"node-{rank // GPUS}", "dp": rank, "pp": 0} for rank in ranks
    }
    return {
        "steps": [
            {**place[rank], "scope": "step", "step": step, "start_ns": NOW - (60 - step) * 4 * NS, "duration_ns": 3 * NS,
             "compute_ns": (28 if rank == 11 else 20) * NS // 10, "communication_ns": (1 if rank == 11 else 8) * NS // 10,
             "idle_ns": NS // 10}
            for rank in ranks for step in range(60)
        ],
        "kernel_clusters": [
            {**place[rank], "kernel_id": kernel, "category": "compute", "stream": 7, "step": step, "count": 10,
             "start_ns": NOW - (60 - step) * 4 * NS, "end_ns": NOW - (60 - step) * 4 * NS + 2 * NS, "clock": "realtime",
             "sum_ns": kernel * (7 if rank == 11 else 5) * 10**6, "min_ns": 400_000, "p50_ns": 500_000 * kernel,
             "p99_ns": 600_000 * kernel, "max_ns": 700_000 * kernel}
            for rank in ranks for step in range(50, 60) for kernel in (1, 2, 3)
        ],
        "kernel_names": [
            {"kernel_id": 1, "name": "sm90_xmma_gemm_bf16", "category": "compute"},
            {"kernel_id": 2, "name": "flash_fwd_kernel", "category": "compute"},
            {"kernel_id": 3, "name": "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "category": "communication"},
        ],
    }  # fmt: skip


async def still(pilot: Pilot[None]) -> str:
    """The picture, once drawing it again gives the same: tables measure their columns after they are filled."""
    before = ""
    for _ in range(DRAWN_MAX):
        await settle(pilot)
        drawn = picture(pilot.app)
        if drawn == before:
            break
        before = drawn
    return before


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "they are compared")
@pytest.mark.parametrize("size", SIZES, ids=["80x24", "200x60"])
@pytest.mark.parametrize("name", PLACES)
async def test_a_screen_is_as_in_its_picture(name: str, size: tuple[int, int], database: Database) -> None:
    """WARPLINE_SNAPSHOTS=renew draws the pictures anew; look at what `git diff` says before you keep them."""
    app = app_over(database, NOW)
    app.animation_level = "none"
    async with app.run_test(size=size) as pilot:
        await settle(pilot)
        await go(pilot, PLACES[name])
        if name == "sql":
            app.screen.query_one(SqlEditor).cursor_blink = False
            await pilot.press(*"SELECT node, pow")
            await settle(pilot)
        drawn = await still(pilot)
    assert not (told := difference(f"{name}-{size[0]}x{size[1]}", drawn)), told


def test_a_difference_is_told_in_the_lines_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svg = '<text class="a" x="0" y="20" clip-path="x">{}</text><text class="b" x="12.2" y="20" clip-path="x">b</text>'
    monkeypatch.setattr("snapshots.FOLDER", tmp_path)
    monkeypatch.setattr("snapshots.RENEW", False)
    (tmp_path / "one.svg").write_text(svg.format("&#160;&lt;"))
    assert lines(svg.format("&#160;&lt;")) == [" <b"]
    assert difference("one", svg.format("&#160;&lt;")) == ""
    assert "- <b" in difference("one", svg.format("x")) and "+xb" in difference("one", svg.format("x"))
    assert "in other colours" in difference("one", svg.format("&#160;&lt;").replace('"a"', '"c"'))
    assert "there is no picture" in difference("two", svg)


@pytest.mark.skipif(RENEW, reason="they are being drawn")
def test_there_is_a_picture_of_each_screen_and_none_of_what_is_gone() -> None:
    wanted = {f"{name}-{columns}x{lines}.svg" for name in PLACES for columns, lines in SIZES}
    assert {file.name for file in FOLDER.glob("*.svg")} == wanted
