"""The job page: how long its steps take and since when, which rank and group differ, what NCCL did, what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from seen import Database, app_over, go, settle, take, words
from textual.pilot import Pilot

from warpline_analysis.energy.money import Money
from warpline_proto.finding import Finding, FindingKind, FindingState, Onset, Severity, Subject, to_rows
from warpline_tui.place import Place
from warpline_tui.screens.page import Page
from warpline_tui.spans import DAY, MONTH
from warpline_tui.spark import plot, spark
from warpline_tui.views.job import JobView
from warpline_tui.widgets.parts import Parts

NS = 10**9
MS = 10**6
NOW = 1_800_000_000 * NS
WINDOW_NS = 600 * NS
SIZES = [(80, 24), (200, 60)]
SLOW = Finding(
    kind=FindingKind.COMPUTE_STRAGGLER,
    severity=Severity.CRITICAL,
    confidence=0.97,
    subject=Subject(job="train", rank=5, node="node-1"),
    summary="rank 5 computes 50 % longer than its peers",
    next_step="drain node-1",
    onset=Onset(step=40),
)
SIZE = 64 * 2**20


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def steps(first: int = 0, last: int = 80) -> list[dict[str, Any]]:
    """Two stages of four replicas; from step 40 on rank 5 computes half as long again, and everybody waits for it."""
    rows = []
    for step in range(first, last):
        for rank in range(8):
            slow = rank == 5 and step >= 40
            rows.append(
                {"job": "train", "rank": rank, "pp": rank // 4, "dp": rank % 4, "node": f"node-{rank // 4}", "scope": "step",
                 "step": step, "start_ns": NOW - (80 - step) * NS, "duration_ns": (700 if step >= 40 else 500) * MS,
                 "compute_ns": (600 if slow else 400 + rank // 4 * 40) * MS, "communication_ns": 50 * MS, "idle_ns": 20 * MS,
                 "exposed_communication_ns": 40 * MS, "data_wait_ns": MS}
            )  # fmt: skip
    return rows


def collectives() -> list[dict[str, Any]]:
    """Four ranks of a communicator; the last to come, rank 5, takes 4 ms, the others wait 200 ms for it."""
    return [
        {"job": "train", "rank": rank, "node": "node-1", "communicator": "0xabc", "group_name": "dp1", "sequence": at,
         "operation": "all_reduce", "message_bytes": SIZE, "nranks": 4, "timing": "kernel_gpu", "start_ns": NOW - (at + 1) * NS,
         "duration_ns": (4 if rank == 5 else 204) * MS}
        for rank in range(4, 8) for at in range(10)
    ]  # fmt: skip


def fill(database: Database) -> None:
    database.add("steps", steps())
    database.add("collectives", collectives())
    database.add(
        "communicators",
        [{"job": "train", "rank": rank, "node": "node-1", "communicator": "0xabc", "communicator_rank": rank - 4, "nranks": 4,
          "state": "ready", "library_version": "2.27.3", "transports": "NET/IB:8", "start_ns": NOW - 90 * NS}
         for rank in range(4, 8)],
    )  # fmt: skip
    account = {"node": "node-1", "gpu_uuid": "GPU-5", "job": "train", "window_ns": NOW - 2 * WINDOW_NS, "continued": False,
               "unmeasured_seconds": 0.0, "missing": [], "updated_ns": NOW}  # fmt: skip
    database.add(
        "energy_intervals",
        [
            account | {"state": "active", "seconds": 450.0, "joules": 270_000.0, "start_ns": NOW - 2 * WINDOW_NS,
                       "end_ns": NOW - 2 * WINDOW_NS + 450 * NS},
            account | {"state": "execution_idle", "seconds": 150.0, "joules": 18_000.0, "cause": "disk",
                       "start_ns": NOW - 2 * WINDOW_NS + 450 * NS, "end_ns": NOW - WINDOW_NS},
        ],
    )  # fmt: skip
    states = pa.Table.from_batches([to_rows([FindingState(SLOW, "open", NOW - 5 * NS, NOW)])])
    database.add("findings", states.to_pylist())


def place(pilot: Pilot[None]) -> Place:
    page = pilot.app.screen
    assert isinstance(page, Page)
    return page.place


@pytest.mark.parametrize(("columns", "lines"), SIZES)
async def test_a_job_shows_since_when_it_is_slow_and_which_rank_it_is(
    database: Database, columns: int, lines: int
) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(columns, lines)) as pilot:
        await settle(pilot)
        await go(pilot, Place("job", job="train"))
        assert "train  8 ranks on 2 nodes  step 79" in words(pilot, "#job")
        drawn = words(pilot, "#course")
        assert "700 ms" in drawn and "500 ms" in drawn and "step 0 to 79" in drawn and "newest 80 steps" in drawn
        assert "a from step 40: rank 5 computes 50 % longer than its peers" in drawn
        mark = next(row for row in drawn.splitlines() if row.strip() == "a")
        assert abs(mark.index("a") - columns // 2) <= 6, "half of the steps are before it"
        said = words(pilot, "#part-overview")
        assert "Rank 5 on node-1 is 160 ms a step (23%) above the median of its stage in compute." in said
        assert "ranks wait 150 ms for the last to come; the transfer takes 4 ms" in " ".join(said.split())
        assert "Its GPUs were idle 25% of the time: 5.0 Wh." in said
        assert pilot.app.screen.query_one(Parts).size.height >= 6, "there is room for it"


async def test_each_part_is_a_key_away_and_leads_on(database: Database) -> None:
    fill(database)
    app = app_over(database, NOW, prices=Money(price_per_kwh=0.5, currency="EUR"))
    async with app.run_test(size=(160, 45)) as pilot:
        await settle(pilot)
        await go(pilot, Place("job", job="train"))
        await pilot.press("tab")
        await settle(pilot)
        ranks = words(pilot, "#job-ranks").splitlines()
        assert ranks[0].startswith("5 | 1 | 1 | - | ▲ 160 ms 23% | compute | 700 ms | 600 ms")
        await pilot.press("tab")
        await settle(pilot)
        assert "stage" in words(pilot, "#part-groups") and "▲ 465 ms" in words(pilot, "#part-groups")
        await pilot.press("b")
        await settle(pilot)
        groups = words(pilot, "#part-groups").splitlines()
        assert "data-parallel index" in groups[1] and "▲ 470 ms" in next(
            row for row in groups if row.strip().startswith("1 ")
        )
        await pilot.press("tab")
        await settle(pilot)
        bus = SIZE / 4e-3 * 2 * 3 / 4 / 1e9
        assert words(pilot, "#job-operations").startswith(
            f"dp1 | all_reduce | 64.0 MiB | 4 | 10 | {bus:.2f} GB/s | 4 ms | 150 ms | 204 ms | 0xabc"
        )
        await pilot.press("enter")
        await settle(pilot)
        assert "0xabc: 4 ranks, ready, NCCL 2.27.3" in words(pilot, "#members")
        assert "node-1: 4, 5, 6, 7" in words(pilot, "#members")
        await pilot.press("tab")
        await settle(pilot)
        assert "all_reduce     10  64.0 MiB  64.0 MiB  64.0 MiB  640.0 MiB" in words(pilot, "#part-operations")
        await pilot.press("tab")
        await settle(pilot)
        assert "execution-idle   25%   5.0 Wh" in words(pilot, "#part-energy") and "disk" in words(
            pilot, "#part-energy"
        )
        assert "0.04 EUR in the hour to" in words(pilot, "#part-energy")


async def test_enter_on_a_rank_goes_to_its_timeline_and_e_to_its_kernels(database: Database) -> None:
    fill(database)
    async with app_over(database, NOW).run_test(size=(120, 40)) as pilot:
        await settle(pilot)
        await go(pilot, Place("job", job="train"))
        await pilot.press("tab", "enter")
        await settle(pilot)
        assert place(pilot) == Place("timeline", node="node-1", job="train", rank=5)
        await pilot.press("escape")
        await settle(pilot)
        await pilot.press("e")
        await settle(pilot)
        assert place(pilot) == Place("kernels", node="node-1", job="train", rank=5)


async def test_a_store_without_jobs_says_what_to_do(database: Database) -> None:
    async with app_over(database, NOW).run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        await pilot.press("8")
        await settle(pilot)
        assert "No job has told a step yet" in words(pilot, "#job")


def test_months_ago_the_history_is_drawn_and_says_its_grain(database: Database) -> None:
    fill(database)
    then = NOW - 90 * 86_400 * NS
    mean = {"job": "train", "rank": 0, "duration_ns": 5e8, "updated_ns": NOW, "first_step": 1}
    database.add(
        "steps_history",
        [mean | {"time_ns": then - each * WINDOW_NS, "last_step": 9_000 - each} for each in range(1, 60)],
    )
    job = take(database, JobView("train"), NOW, then)
    assert job.course.grain == DAY.grain and len(job.course.marks) == 59 and job.course.marks[-1].median_ns == 5e8
    assert job.ranks == () and job.incidents == () and job.operations == ()
    assert take(database, JobView("train", MONTH), NOW, then).course.grain == MONTH.grain


def test_a_past_moment_knows_nothing_of_what_came_after(database: Database) -> None:
    fill(database)
    job = take(database, JobView("train"), NOW, NOW - 45 * NS)
    assert job.size is not None and job.size.last_step == 35
    assert max(each.over_share or 0.0 for each in job.ranks) == 0.0


def test_wait_is_not_told_where_a_rank_is_missing(database: Database) -> None:
    database.add("collectives", [row for row in collectives() if row["rank"] != 5])
    [operation] = take(database, JobView("train"), NOW).operations
    assert operation.transfer_ns is None and operation.wait_ns is None and operation.bus_bytes_per_second is None
    assert operation.median_ns == 204 * MS and operation.count == 10


def test_of_very_many_ranks_those_that_are_off_are_shown(database: Database) -> None:
    database.connection.execute(
        "INSERT INTO steps (job, rank, pp, step, start_ns, duration_ns, compute_ns, idle_ns, data_wait_ns) "
        f"SELECT 'train', r, r % 8, s, {NOW - 100 * NS} + s * {NS}, {NS}, {NS // 2} + (r = 777)::INT * {MS * 100}, 0, 0 "
        "FROM range(2000) ranks(r), range(4) steps(s)"
    )
    ranks = take(database, JobView("train"), NOW).ranks
    assert len(ranks) == 200 and (ranks[0].rank, ranks[0].phase, ranks[0].over_ns) == (777, "compute", 100 * MS)


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ((), "    "),
        ((1.0, 2.0), "  ▁█"),
        ((1.0, None, 2.0), " ▁ █"),
        ((5.0, 5.0), "  ▁▁"),
        ((0, 9, 0, 0, 0, 0, 0, 9), "█▁▁█"),
    ],
)
def test_a_spark_line_keeps_peaks_and_leaves_gaps_blank(values: tuple[float | None, ...], drawn: str) -> None:
    assert spark(values, 4) == drawn


def test_a_plot_has_four_dots_a_row() -> None:
    assert plot([(0.0, 0.0), (8.0, 8.0), None, (0.0, 8.0)], 2, 0.0, 8.0) == ["⠈⢸", "⡀⢸"]


def test_where_steps_tell_no_parts_the_phases_of_the_framework_do(database: Database) -> None:
    """A recording of each twentieth step, with named phases alone."""
    bare = ("job", "rank", "pp", "dp", "node", "scope", "duration_ns")
    database.add("steps", [{name: row[name] for name in bare} | {"step": 20 * row["step"]} for row in steps()])
    database.add(
        "phases",
        [{"job": "train", "rank": rank, "pp": rank // 4, "dp": rank % 4, "step": 20 * step, "phase": phase, "kind": "compute",
          "duration_ns": (200 if rank == 6 and phase == "backward" else 100) * MS}
         for rank in range(8) for step in range(80) for phase in ("forward", "backward")],
    )  # fmt: skip
    job = take(database, JobView("train"), NOW)
    assert len(job.course.marks) == 80
    assert (job.ranks[0].rank, job.ranks[0].phase, job.ranks[0].over_ns) == (6, "backward", 100 * MS)
    assert job.groups[1].phases == {"backward": 125 * MS, "forward": 100 * MS}
