"""What somebody at the terminal sees and does, over rows in a real database."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from seen import Database, app_over, settle, take, words

from warpline_proto.finding import Cost, Evidence, Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_tui.app import WarplineApp
from warpline_tui.text import fleet
from warpline_tui.views.roster import RosterView

NOW = 1_800_000_000_000_000_000

STRAGGLER = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER,
    severity=Severity.CRITICAL,
    confidence=0.97,
    subject=Subject(job="train", rank=1, node="node-b", gpu="GPU-1"),
    summary="rank 1 computes 40 % longer than its peers",
    next_step="drain node-b and run a GEMM test on GPU-1",
    onset=Onset(step=12),
    cost=Cost(seconds_per_step=0.25),
    evidence=(Evidence("SELECT rank, duration_ns FROM steps", ({"rank": 1, "duration_ns": 700},)),),
    ruled_out=("network: transfer is even",),
)


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def fill(database: Database) -> None:
    for rank, node in enumerate(("node-a", "node-b")):
        database.add(
            "device_samples",
            [
                {"node": node, "gpu_uuid": f"GPU-{rank}", "gpu_index": 0, "time_ns": NOW - 10**9 * (9 - at), "job": "train",
                 "power_watts": 300.0 + at, "power_limit_watts": 700.0, "gpu_utilization_percent": 97.0}
                for at in range(10)
            ],
        )  # fmt: skip
        database.add(
            "steps",
            [
                {"job": "train", "rank": rank, "node": node, "scope": "step", "step": step, "duration_ns": 10**9,
                 "compute_ns": (5 + rank) * 10**8}
                for step in range(20)
            ],
        )  # fmt: skip
        database.add(
            "kernel_clusters",
            [{"job": "train", "rank": rank, "kernel_id": 7, "category": "compute", "count": 10, "sum_ns": 5000 * (rank + 1),
              "min_ns": 400, "p50_ns": 500, "p99_ns": 600, "max_ns": 700}],
        )  # fmt: skip
    database.add("kernel_names", [{"kernel_id": 7, "name": "ampere_gemm", "category": "compute"}])
    states = pa.Table.from_batches([to_rows([FindingState(STRAGGLER, "open", NOW, NOW)])])
    database.add("findings", states.to_pylist())
    database.add(
        "source_health",
        [{"node": "node-b", "source": "kernel_log", "subject": "kernel_log", "state": "denied", "reason": "dmesg_restrict=1",
          "time_ns": NOW}],
    )  # fmt: skip


async def test_an_empty_store_says_that_nothing_was_heard_of_yet(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        assert "no data yet" in words(pilot, "Status")
        assert pilot.app.screen.query_one("#empty").display


async def test_a_source_that_is_denied_is_shown_with_the_reason(database: Database) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("4")
        await settle(pilot)
        assert "denied" in words(pilot, "#sources")
        assert "dmesg_restrict=1" in words(pilot, "#sources")


async def test_what_capture_costs_a_job_is_shown_with_how_sure_it_is(database: Database) -> None:
    fill(database)
    told = {"time_ns": NOW, "mode": "short_windows", "budget_percent": 1.0}
    sure = {"overhead_percent": 0.31, "low_percent": 0.1, "high_percent": 0.62, "verdict": "within"}
    older = {"overhead_percent": 7.0, "low_percent": 6.0, "high_percent": 8.0, "verdict": "over", "time_ns": NOW - 1}
    database.add(
        "capture_overhead", [told | sure | {"job": "train", "rank": 0}, told | older | {"job": "train", "rank": 0}]
    )
    database.add("capture_overhead", [told | {"job": "tune", "rank": 0, "mode": "full", "verdict": "cannot tell yet"}])
    async with app_over(database, NOW).run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("4")
        await settle(pilot)
        shown = words(pilot, "#costs")
        assert "capture of train (short windows) makes it slower by 0.3 % (0.1 to 0.6); budget 1 %" in shown
        assert "capture of tune (full) makes it slower by what cannot be told yet" in shown


async def test_when_the_collector_goes_away_the_last_picture_stays_and_says_so(database: Database) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(160, 30)) as pilot:
        await settle(pilot)
        database.down = True
        assert isinstance(pilot.app, WarplineApp)
        pilot.app.ask(again=True)
        await settle(pilot)
        assert "no collector answers" in words(pilot, "Status")
        assert "node-b GPU 0" in words(pilot, "#chosen"), "the last picture stays"


def test_the_fleet_as_text_names_the_finding_and_every_gpu(database: Database) -> None:
    fill(database)
    text = fleet(take(database, RosterView(), NOW))
    assert "CRITICAL compute_straggler: rank 1" in text
    assert "node-a" in text
    assert STRAGGLER.next_step in text


def test_a_store_without_rows_is_not_called_healthy(database: Database) -> None:
    assert fleet(take(database, RosterView(), NOW)) == "No data yet."
