"""What somebody sees and does on the timeline of a rank, over rows in a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from seen import SIZES, Database, app_over, go, settle, take, words
from textual.pilot import Pilot
from timed_job import BEGIN, FINDING, JOB, MS, NOW, STEP, began, capture, clocks, fault, run

from warpline_agent.offline import read_paths
from warpline_tui.app import WarplineApp
from warpline_tui.lanes import Form, Kind
from warpline_tui.place import Place
from warpline_tui.screens.page import Page
from warpline_tui.screens.timeline import TimelinePage
from warpline_tui.views.timeline import Jump, TimelineView
from warpline_tui.views.timeline_beside import Beside
from warpline_tui.widgets.lanes import Lanes

SPAN = (BEGIN, BEGIN + 6 * STEP)
HERE = Place("timeline", job=JOB, rank=0, start_ns=SPAN[0], end_ns=SPAN[1])


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.connection.close()


def opened(database: Database) -> WarplineApp:
    return app_over(database, NOW, first="sources")


def lanes(pilot: Pilot[None]) -> dict[str, str]:
    """Each lane's first line by its label; what lies below it, by "label/"."""
    widget = pilot.app.screen.query_one(Lanes)
    found: dict[str, str] = {}
    label = ""
    for number in range(1, widget.size.height):
        line = widget.render_line(number).text
        label = line[:14].strip() or f"{label}/"
        found[label] = line[15:].rstrip()
    return found


def page(pilot: Pilot[None]) -> TimelinePage:
    shown = pilot.app.screen
    assert isinstance(shown, TimelinePage)
    return shown


def there(pilot: Pilot[None]) -> Place:
    shown = pilot.app.screen
    assert isinstance(shown, Page)
    return shown.place


def span(pilot: Pilot[None]) -> tuple[int, int]:
    view = page(pilot).wanted()
    assert view.start_ns is not None
    assert view.end_ns is not None
    return view.start_ns, view.end_ns


async def press(pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await settle(pilot)


async def test_an_empty_store_says_where_steps_come_from(database: Database) -> None:
    async with opened(database).run_test(size=(80, 24)) as pilot:
        await go(pilot, Place("timeline"))
        assert "warpline run -- torchrun" in words(pilot, "#notes")
        await press(pilot, "w", "d", "f", "n", "j", "l", "c", "x", "e", "enter", "left_parenthesis", "y", "full_stop")


@pytest.mark.parametrize("size", SIZES)
async def test_steps_phases_streams_collectives_gaps_power_and_clock_have_lanes(
    database: Database, size: tuple[int, int]
) -> None:
    run(database)
    capture(database)
    async with opened(database).run_test(size=size) as pilot:
        await go(pilot, HERE)
        shown = lanes(pilot)
        assert list(shown)[:3] == ["steps", "phases", "phases/"]
        assert {"garbage coll.", "data loader", "stream 7", "stream 20", "coll. dp", "idle"} <= set(shown)
        assert {"power 350 W", "SM clock 1410"} <= set(shown)
        assert shown["steps"].count("▏") == 6
        assert "rank 0 of train" in words(pilot, "#heading")


async def test_without_a_span_the_newest_steps_are_shown_and_followed(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, Place("timeline", job=JOB, rank=0))
        assert [each for each in range(6) if f"step {each}" in lanes(pilot)["steps"]] == [2, 3, 4, 5]
        assert "newest steps" in words(pilot, "#heading")
        await press(pilot, "w")
        assert "newest steps" not in words(pilot, "#heading")
        await press(pilot, "0")
        assert "newest steps" in words(pilot, "#heading")


async def test_without_a_rank_the_accused_one_is_shown_with_its_finding_and_the_xid(database: Database) -> None:
    run(database)
    fault(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, Place("timeline"))
        assert "rank 1 of train" in words(pilot, "#heading")
        assert "▼compute_straggler ═" in lanes(pilot)["findings"]
        assert "!xid 79" in lanes(pilot)["log"]


async def test_sums_are_drawn_as_sums_and_the_way_to_single_kernels_is_said(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(200, 30)) as pilot:
        await go(pilot, HERE)
        assert lanes(pilot)["stream 7"].count("[Σ 80 ms, 10 kernels, 80%") == 6
        assert "warpline capture --job train --rank 0" in words(pilot, "#notes")
        await press(pilot, *"jjjj")
        shown = words(pilot, "#under")
        assert "10 kernels of step" in shown
        assert "where in it is not known" in shown
        assert "80 ms    10 calls, p50     8 ms  1.00x usual" in shown
        assert "ampere_gemm" in shown


async def test_single_kernels_stand_where_they_ran_and_sums_around_them(database: Database) -> None:
    run(database)
    capture(database, step=5)
    async with opened(database).run_test(size=(200, 30)) as pilot:
        await go(pilot, HERE)
        assert lanes(pilot)["stream 7"].count("[Σ 80 ms") == 5
        await press(pilot, "right_parenthesis", "right_parenthesis", "f")
        assert lanes(pilot)["stream 7"].count("▏ampere_ge") == 10
        assert lanes(pilot)["idle"].count("▏") == 6, "of 1 ms each, where nothing communicated"


async def test_a_kernel_that_two_captures_sent_is_one(database: Database) -> None:
    run(database)
    for name in ("look", "again"):
        capture(database, capture_id=name)
    shown = take(database, TimelineView((JOB, 0), start_ns=began(0, 5), end_ns=began(0, 6), columns=100), NOW)
    assert (
        sum(
            each.count
            for lane in shown.lanes
            if lane.kind is Kind.KERNEL
            for each in lane.slices
            if each.form is not Form.SUMS
        )
        == 11
    )


def test_between_two_captures_nothing_is_said_to_be_idle(database: Database) -> None:
    """Kernels ran there; they were not asked for."""
    run(database)
    capture(database, step=1, capture_id="one")
    capture(database, step=4, capture_id="two")
    shown = take(database, TimelineView((JOB, 0), start_ns=SPAN[0], end_ns=SPAN[1], columns=6000), NOW)
    idle = next(lane for lane in shown.lanes if lane.kind is Kind.GAP)
    assert {each.end_ns - each.start_ns for each in idle.slices} == {MS}
    assert sum(each.count for each in idle.slices) == 12, "where communication ran it was not idle"


async def test_waiting_of_a_collective_is_told_apart_from_its_transfer_and_blames_nobody_for_waiting(
    database: Database,
) -> None:
    run(database)
    async with opened(database).run_test(size=(200, 30)) as pilot:
        await go(pilot, HERE)
        line = lanes(pilot)["coll. dp"]
        assert 2 * line.count("▓") < line.count("┄")
        await press(pilot, "z", *"jjjjjj", "comma")
        shown = words(pilot, "#under")
        assert "30 ms  all_reduce" in shown
        assert "waited 25 ms for other ranks, transfer 5 ms; rank 1 came last" in shown
        assert "1.0 MiB" in shown
        assert "median of 5 other steps 30 ms: this is 1.00 times that" in shown


def test_where_a_rank_is_missing_waiting_is_not_told(database: Database) -> None:
    run(database)
    database.connection.execute("DELETE FROM collectives WHERE rank = 1")
    shown = take(database, TimelineView((JOB, 0), start_ns=SPAN[0], end_ns=SPAN[1], columns=100), NOW)
    (lane,) = (lane for lane in shown.lanes if lane.kind is Kind.COLLECTIVE)
    assert {each.wait_ns for each in lane.slices} == {None}


async def test_a_step_is_held_against_the_median_of_the_others(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "right_parenthesis", "right_parenthesis")
        shown = words(pilot, "#under")
        assert "105 ms  step 5" in shown
        assert "median of 5 other steps 100 ms: this is 1.05 times that" in shown
        assert "GPU idle 10 ms, other steps 10 ms" in shown
        assert "waited for data 2 ms" in shown


async def test_zoom_pan_fit_and_all(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "w")
        start_ns, end_ns = span(pilot)
        assert end_ns - start_ns == 3 * STEP
        await press(pilot, "d")
        assert span(pilot)[0] == start_ns + (end_ns - start_ns) // 4
        await press(pilot, "a", "s")
        assert span(pilot)[1] - span(pilot)[0] == 6 * STEP
        await press(pilot, "f")
        assert span(pilot) == (began(0, 3) - STEP // 10, began(0, 4) + STEP // 10)
        await press(pilot, "z")
        start_ns, end_ns = span(pilot)
        assert start_ns < began(0, 0)
        assert end_ns > began(0, 6)


async def test_search_goes_from_one_found_kernel_to_the_next(database: Database) -> None:
    run(database)
    capture(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, Place("timeline", job=JOB, rank=0, start_ns=began(0, 5), end_ns=began(0, 6)))
        await press(pilot, "a", "a", "slash", *"GEMM", "enter")
        assert words(pilot, "#under").startswith("8 ms  ampere_gemm")
        assert "/GEMM" in words(pilot, "#heading")
        first = pilot.app.screen.query_one(Lanes).cursor_ns
        await press(pilot, "n")
        assert pilot.app.screen.query_one(Lanes).cursor_ns == first + 9 * MS
        await press(pilot, "N")
        assert pilot.app.screen.query_one(Lanes).cursor_ns == first
        await press(pilot, "slash", *"xx", "enter")
        assert any("'xx'" in each.message for each in pilot.app._notifications)


async def test_another_rank_stands_beside_on_one_clock_with_its_bound(database: Database) -> None:
    run(database)
    clocks(database)
    async with opened(database).run_test(size=(200, 60)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "c", "1", "enter")
        shown = lanes(pilot)
        assert shown["r0 steps"] == shown["r1 steps"], "its clock is 3 ms ahead, its steps are not late"
        assert "on the collector's clock, give or take" in words(pilot, "#notes")
        assert "┄" in shown["r0 coll. dp"]
        assert "┄" not in shown["r1 coll. dp"], "who comes last does not wait"
        await press(pilot, *"jjjjjjjjj")
        assert "120 ms    10 calls" in words(pilot, "#under"), "what rank 1 had, not rank 0"
        await press(pilot, "c", "enter")
        assert "steps" in lanes(pilot)


def test_without_clocks_two_ranks_are_laid_on_top_of_each_other_by_step_and_that_is_said(database: Database) -> None:
    run(database)
    view = TimelineView((JOB, 0), start_ns=SPAN[0], end_ns=SPAN[1], columns=100, beside=Beside(rank=1))
    shown = take(database, view, NOW)
    assert shown.shift_ns == 3 * MS
    assert "clocks not known" in shown.beside
    assert "lateness cannot be seen" in shown.beside


async def test_another_time_of_the_same_rank_stands_beside(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(200, 60)) as pilot:
        await go(pilot, Place("timeline", job=JOB, rank=0, start_ns=began(0, 4), end_ns=began(0, 5)))
        await press(pilot, "c", *"step", "space", "1", "enter")
        shown = lanes(pilot)
        assert "step 4" in shown["steps"]
        assert "step 1" in shown["then steps"]
        assert "step 1 laid beside step 4, 300 ms apart" in words(pilot, "#notes")


async def test_what_cannot_stand_beside_is_a_sentence(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 40)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "c", "9", "enter")
        assert "no step of rank 9 of train is kept near this time" in words(pilot, "#notes")
        await press(pilot, "c", *"tomorrow", "enter")
        assert any("is no time" in each.message for each in pilot.app._notifications)


async def test_the_brackets_change_the_rank_and_keep_the_time(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "right_square_bracket")
        assert "rank 1 of train" in words(pilot, "#heading")
        assert span(pilot) == SPAN


async def test_the_sql_and_the_export_of_what_is_drawn_are_one_key_away(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await press(pilot, "e")
        command = f"warpline export trace --job train --rank 0 --from {SPAN[0]} --to {SPAN[1]} -o timeline.json.gz"
        assert command in words(pilot, "#under").replace("\n", " ")
        assert pilot.app.clipboard == command
        await press(pilot, "y")
        assert "median of 5 other steps" in pilot.app.clipboard
        assert "FROM steps" in pilot.app.clipboard
        await press(pilot, "x")
        place = there(pilot)
        assert place.screen == "sql"
        assert place.sql is not None
        assert database.query(place.sql).num_rows == 6


async def test_enter_on_a_finding_opens_it(database: Database) -> None:
    run(database)
    fault(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, Place("timeline"))
        await press(pilot, "k", "k", "right_parenthesis")
        assert "rank 1 computes longer" in words(pilot, "#under")
        await press(pilot, "enter")
        assert there(pilot).incident == FINDING.id


async def test_in_the_past_nothing_is_shown_that_was_not_there_yet(database: Database) -> None:
    run(database)
    shown = take(database, TimelineView((JOB, 0), columns=100), NOW, at_ns=began(0, 3) + 50 * MS)
    steps = next(lane for lane in shown.lanes if lane.kind is Kind.STEP)
    assert sorted(each.step for each in steps.slices if each.step is not None) == [0, 1, 2]


async def test_the_mouse_puts_the_cursor(database: Database) -> None:
    run(database)
    async with opened(database).run_test(size=(120, 30)) as pilot:
        await go(pilot, HERE)
        await pilot.click(Lanes, offset=(20, 2))
        await settle(pilot)
        assert "forward" in words(pilot, "#under")


def test_a_million_kernels_are_summed_by_the_column_before_they_are_sent(database: Database) -> None:
    """Here a hundred thousand; what comes back is bounded by the columns."""
    run(database)
    database.connection.execute(
        f"INSERT INTO raw_kernels BY NAME SELECT '{JOB}' AS job, 0 AS rank, {BEGIN} + n * 5000 AS start_ns, 4000 AS duration_ns, "
        "7 AS stream, 7 AS kernel_id, 'compute' AS category FROM range(100000) t(n)"
    )
    shown = take(database, TimelineView((JOB, 0), start_ns=BEGIN, end_ns=BEGIN + 5 * STEP, columns=100), NOW)
    (stream,) = (lane for lane in shown.lanes if lane.label == "stream 7")
    assert len(stream.slices) == 100
    assert sum(each.count for each in stream.slices) == 100_000
    assert {round(each.share, 2) for each in stream.slices} == {0.8}


def test_a_recorded_trace_is_drawn_whole_with_the_figures_its_publisher_states(database: Database, data: Path) -> None:
    """9,096 kernels and copies over 996,477 µs of which 603,558 µs were busy; six steps."""
    found = read_paths([data / "A-kineto" / "kineto" / "resnet50_num_workers_0.pt.trace.json.gz"], raw=True)
    for batch in found.batches:
        database.connection.register("given", pa.Table.from_batches([batch.rows]))
        database.connection.execute(f"INSERT INTO {batch.table} BY NAME FROM given")
    shown = take(database, TimelineView(columns=160, jump=Jump("whole")), NOW)
    assert shown.found_ns is not None
    whole = TimelineView(start_ns=shown.found_ns[0], end_ns=shown.found_ns[1], columns=160)
    drawn = take(database, whole, NOW)
    kernels = [each for lane in drawn.lanes if lane.kind is Kind.KERNEL for each in lane.slices]
    assert sum(each.count for each in kernels) == 9_096
    idle = [each for lane in drawn.lanes if lane.kind is Kind.GAP for each in lane.slices]
    assert sum(each.busy_ns for each in idle) == (996_477 - 603_558) * 1_000
    steps = [each for lane in drawn.lanes if lane.kind is Kind.STEP for each in lane.slices]
    took = [(each.end_ns - each.start_ns) // 1_000 for each in sorted(steps, key=lambda each: each.start_ns)]
    assert took == [176_078, 173_992, 176_918, 181_259, 176_468, 164_261]
    near = take(
        database, TimelineView(start_ns=kernels[0].start_ns, end_ns=kernels[0].start_ns + 10**6, columns=10**6), NOW
    )
    assert {each.form for lane in near.lanes if lane.kind is Kind.KERNEL for each in lane.slices} == {Form.ONE}
