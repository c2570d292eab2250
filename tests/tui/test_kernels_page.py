"""What somebody sees of a rank's kernels: beside its peers, another rank or other steps, and the distribution of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from seen import SIZES, Database, app_over, settle, take, words
from slow_rank import INCIDENT, JOB, NOW, SLOW, open_incident, run

from warpline_tui.views.kernels import PEERS, Against, KernelsView, against


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    run(made)
    open_incident(made, INCIDENT)
    yield made
    made.connection.close()


@pytest.mark.parametrize("size", SIZES)
async def test_the_accused_rank_comes_first_with_its_peers_beside_it(database: Database, size: tuple[int, int]) -> None:
    async with app_over(database, NOW).run_test(size=size) as pilot:
        await settle(pilot)
        await pilot.press("3")
        await settle(pilot)
        assert "rank 2 of pretrain against 3 peers doing the same work" in words(pilot, "#heading")
        first = words(pilot, "#kernels").splitlines()[0].split(" | ")
        assert first[:4] == ["ampere_gemm", "2.62 ms", "2 ms", "▲ 1.31×"], "10 of its 16 steps are late"
        await pilot.press("right_square_bracket")
        await settle(pilot)
        assert "rank 3 of pretrain" in words(pilot, "#heading")


async def test_enter_shows_the_distribution_beside_its_peers(database: Database) -> None:
    async with app_over(database, NOW, first="kernels").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        assert not pilot.app.screen.query_one("#mirror").display
        await pilot.press("enter")
        await settle(pilot)
        shown = words(pilot, "#mirror")
        assert "rank 2" in shown and "3 peers" in shown
        assert "62%" in shown and "38%" in shown and "100%" in shown
        assert "ampere_gemm" in words(pilot, "#name")


async def test_it_is_held_against_another_rank_or_other_steps(database: Database) -> None:
    async with app_over(database, NOW, first="kernels").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        for typed, said in (("rank 0", "against rank 0"), ("steps 0-5", "against itself in steps 0-5")):
            await pilot.press("c", *("space" if letter == " " else letter for letter in typed), "enter")
            await settle(pilot)
            assert said in words(pilot, "#heading")
        assert words(pilot, "#kernels").splitlines()[0].startswith("ampere_gemm | 2.62 ms | 2 ms | ▲ 1.31×")


async def test_the_query_behind_the_table_is_copied_and_runs_anywhere(database: Database) -> None:
    async with app_over(database, NOW, first="kernels").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        await pilot.press("y")
        await settle(pilot)
        rows = database.query(pilot.app.clipboard).to_pylist()
        assert {row["name"]: row["mine_p50"] for row in rows} == {"ampere_gemm": 2_625_000.0, "flash_fwd": 2_000_000.0}


async def test_it_is_filtered_and_sorted(database: Database) -> None:
    async with app_over(database, NOW, first="kernels").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        await pilot.press("slash", *"flash", "enter")
        await settle(pilot)
        assert [row.split(" | ")[0] for row in words(pilot, "#kernels").splitlines()] == ["flash_fwd"]
        await pilot.press("slash", "escape", *"sssss")
        await settle(pilot)
        assert [row.split(" | ")[0] for row in words(pilot, "#kernels").splitlines()] == ["ampere_gemm", "flash_fwd"]
        assert "by name" in words(pilot, "#heading")


def test_where_no_kernel_is_kept_the_operations_stand_for_them(database: Database) -> None:
    database.connection.execute("DELETE FROM kernel_clusters")
    shown = take(database, KernelsView((JOB, SLOW)), NOW).durations
    [forward] = shown.items
    assert shown.what == "operations" and forward.name == "forward"
    assert (forward.mine.p50_ns, forward.peers.p50_ns) == (450_000_000, 300_000_000)


def test_kernels_that_know_no_step_are_shown_where_no_others_are(database: Database) -> None:
    database.connection.execute("UPDATE kernel_clusters SET step = NULL")
    shown = take(database, KernelsView((JOB, SLOW)), NOW).durations
    assert (shown.what, shown.steps, shown.items[0].name, shown.items[0].mine.count) == (
        "kernels",
        None,
        "ampere_gemm",
        160,
    )
    assert take(database, KernelsView((JOB, SLOW), Against(0)), NOW).durations.items[0].peers.count == 160


async def test_where_nothing_is_kept_it_says_what_would_give_it(database: Database) -> None:
    database.connection.execute("DELETE FROM kernel_clusters")
    database.connection.execute("DELETE FROM phases")
    async with app_over(database, NOW, first="kernels").run_test(size=(100, 30)) as pilot:
        await settle(pilot)
        assert "warpline run" in words(pilot, "#heading")


def test_rows_told_by_sums_alone_do_not_draw_the_median_down(database: Database) -> None:
    """What has no median does not count for it; a kernel that never has one is told by its mean, and ratio too."""
    bare = {
        "job": JOB,
        "rank": SLOW,
        "category": "compute",
        "step": 15,
        "start_ns": NOW - 10**9,
        "count": 90,
        "grade": "sums",
    }
    sums = {"sum_ns": 90_000, "min_ns": 1_000, "max_ns": 1_000}
    database.add("kernel_clusters", [bare | sums | {"kernel_id": number} for number in (7, 9)])
    items = {item.name: item for item in take(database, KernelsView((JOB, SLOW)), NOW).durations.items}
    assert items["ampere_gemm"].mine.p50_ns == 2_625_000.0 and items["ampere_gemm"].mine.count == 250
    assert (items["kernel 9"].mine.p50_ns, items["kernel 9"].mine.mean_ns) == (None, 1_000.0)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("peers", PEERS),
        ("rank 5", Against(5)),
        ("steps 10-20", Against(steps=(10, 20))),
        ("RANK 5 step 7", Against(5, (7, 7))),
        ("", None),
        ("rank five", None),
        ("steps 1-2-3", None),
        ("rank", None),
        ("peers rank 3", None),
        ("rank ²", None),
    ],
)
def test_what_may_be_typed_to_compare_with(typed: str, meant: Against | None) -> None:
    assert against(typed) == meant
