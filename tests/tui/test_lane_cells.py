"""How a timeline is drawn: what a line says of where things were, how long they took, and what is only known in sum."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from warpline_tui.lanes import Form, Kind, Lane, Reading, Slice, stacked
from warpline_tui.widgets.lane_cells import FILLS, Scale, line_of, name_of, ruler, spark_of

SCALE = Scale(0, 400, 40)
"""A column is 10 ns."""


def drawn(kind: Kind, slices: Iterable[Slice], scale: Scale = SCALE) -> str:
    slices = tuple(slices)
    return "".join(sign for sign, _ in line_of(Lane(kind, "lane", slices), slices, scale)).rstrip()


def one(start_ns: int, end_ns: int, name: str = "", **more: object) -> Slice:
    return Slice(start_ns, end_ns, name, busy_ns=end_ns - start_ns, **more)  # type: ignore[arg-type]


def test_a_kernel_stands_where_it_ran_with_its_name() -> None:
    line = drawn(Kind.KERNEL, [one(50, 200, "void ns::gemm<float>(int)")])
    assert line == "     ▏gemm━━━━━━━━━━"


def test_kinds_of_kernels_differ_in_sign_not_by_colour_alone() -> None:
    signs = {
        drawn(Kind.KERNEL, [one(0, 100, "k", category=each)])[-1] for each in ("compute", "communication", "memcpy")
    }
    assert len(signs) == 3


def test_what_began_before_the_screen_has_no_beginning_on_it() -> None:
    assert "▏" not in drawn(Kind.STEP, [one(-100, 50, "step 7")])
    assert drawn(Kind.STEP, [one(-30, 100, "step 7")]) == "step 7────"


def test_a_very_long_thing_costs_no_more_than_the_screen() -> None:
    """Zoomed in on nanoseconds of an hour."""
    assert drawn(Kind.STEP, [one(-(10**15), 10**15, "step 7")]).rstrip("─") == "step 7"
    assert len(drawn(Kind.COLLECTIVE, [one(-(10**15), 10**15, "ar", wait_ns=5)])) == 40


def test_what_is_shorter_than_a_column_is_summed_by_how_much_of_it_was_taken() -> None:
    few = Slice(100, 109, "k", form=Form.MANY, count=2, busy_ns=1)
    full = Slice(200, 210, "k", form=Form.MANY, count=9, busy_ns=10)
    line = drawn(Kind.KERNEL, [few, full])
    assert (line[10], line[20]) == ("▁", "█")


def test_sums_of_a_step_stand_in_brackets_and_say_how_much() -> None:
    """Where in the step its kernels ran is not known: nothing is drawn as if it were."""
    sums = Slice(0, 400, "gemm", "compute", Form.SUMS, 56, 200)
    line = drawn(Kind.KERNEL, [sums])
    assert line.startswith("[Σ 200 ns, 56 kernels, 50%")
    assert line.endswith("]")
    assert "gemm" not in line


def test_waiting_and_transfer_of_a_collective_differ() -> None:
    line = drawn(Kind.COLLECTIVE, [one(0, 200, "all_reduce", wait_ns=150)])
    assert line == "▏┄ all_reduce ┄▓▓▓▓▓"
    assert drawn(Kind.COLLECTIVE, [one(0, 100, "ar", wait_ns=None)]) == "▏ar▒▒▒▒▒▒▒"
    assert "┄" not in drawn(Kind.COLLECTIVE, [one(0, 200, "ar", wait_ns=0)])


def test_a_collective_that_only_waited_shows_no_transfer() -> None:
    assert "▓" not in drawn(Kind.COLLECTIVE, [one(0, 200, "ar", wait_ns=200)])


def test_found_kernels_are_marked_by_a_sign_where_they_are_too_short_for_a_name() -> None:
    assert drawn(Kind.KERNEL, [one(33, 34, "gemm", hit=True)]) == "   ◆"


def test_a_finding_stands_from_its_onset_on() -> None:
    assert drawn(Kind.FINDING, [one(100, 400, "straggler")]).startswith("          ▼straggler ═")
    assert drawn(Kind.FINDING, [one(-100, 400, "straggler")]).startswith("◀straggler")


def test_a_log_event_is_a_mark_with_its_name() -> None:
    assert drawn(Kind.LOG, [Slice(200, 200, "xid 79", "critical")]) == " " * 20 + "!xid 79"


def test_what_lies_in_something_else_stands_below_it() -> None:
    stack = stacked((one(0, 100, "forward"), one(10, 50, "wait"), one(50, 90, "more"), one(100, 200, "backward")))
    assert [[each.name for each in line] for line in stack.lines] == [["forward", "backward"], ["wait", "more"]]


def test_what_lies_too_deep_is_counted() -> None:
    stack = stacked(tuple(one(at, 100 - at, str(at)) for at in range(6)), depth_max=4)
    assert (len(stack.lines), stack.hidden) == (4, 2)


def test_readings_hold_until_the_next_and_unknown_stays_a_dot() -> None:
    readings = (Reading(100, 200, 350.0, 350.0, 350.0), Reading(200, 250, 700.0, 700.0, 700.0))
    line = "".join(sign for sign, _ in spark_of(Lane(Kind.POWER, "power", readings=readings, top=700.0), SCALE))
    assert line == "·" * 10 + "▅" * 10 + "█" * 5 + "·" * 15


def test_the_ruler_has_round_times() -> None:
    assert ruler(Scale(0, 4_000_000, 40)).split() == ["├0", "├+2", "ms"]


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 200])
def test_every_line_is_as_wide_as_the_screen_whatever_lies_on_it(columns: int) -> None:
    slices = [one(at * 7 - 50, at * 9, "n" * at, wait_ns=at if at % 2 else None) for at in range(60)]
    sums = Slice(-10, 500, "n", form=Form.SUMS, count=3, busy_ns=900)
    for kind in FILLS:
        lane = Lane(kind, "lane", (*slices, sums))
        assert len(line_of(lane, lane.slices, Scale(0, 400, columns))) == columns
    assert len(ruler(Scale(0, 400, columns))) == columns


def test_names_lose_what_stands_around_them_in_cpp() -> None:
    assert name_of(one(0, 1, "void at::native::elementwise_kernel<4, float>(int)")) == "elementwise_kernel"
    assert name_of(one(0, 1, "ncclDevKernel_AllReduce_Sum(args)")) == "ncclDevKernel_AllReduce_Sum"
    assert name_of(one(0, 1, "## forward ##")) == "## forward ##"
