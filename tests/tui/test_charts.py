"""Charts of an accused and its peers: told apart by signs, right in any room."""

from __future__ import annotations

import pytest

from warpline_tui.beside.durations import BINS_A_DECADE, NOBODY, Side, Timed, edges_ns
from warpline_tui.beside.steps import Line, Point
from warpline_tui.widgets.against import chart
from warpline_tui.widgets.mirror import join, mirrored

POINTS: tuple[Point, ...] = tuple((step, 2e9 if step >= 5 else 1e9, 1e9, 0.9e9, 1.1e9) for step in range(10))
ITEM = Timed("7", "gemm", "compute", 0.5, Side(100, 2e8, 2e6, 2e6, 3e6, 4e6), Side(100, 1e8, 1e6, 1e6, 1e6, 1e6))


@pytest.mark.parametrize(("width", "height"), [(20, 4), (80, 8), (200, 40)])
def test_a_chart_fills_its_room_and_no_more(width: int, height: int) -> None:
    lines = chart(Line("compute", POINTS, 2e9, 1e9), width, height, 5).plain.splitlines()
    assert len(lines) == max(height, 5)
    assert all(len(line) <= max(width, 80) for line in lines[:-1])


def test_the_accused_stands_above_its_peers_from_the_onset_on() -> None:
    top, *_ = lines = chart(Line("compute", POINTS, 2e9, 1e9), 60, 10, 5).plain.splitlines()
    assert top.index("●") == 9 + 5 * 4, "four cells a step"
    assert "▲ since 5" in lines[-2] and lines[-2].index("▲") == top.index("●")
    assert any("─" in line or "●" in line for line in lines[5:8])
    assert "░" in "".join(lines[:-1])


def test_many_steps_become_few_cells_and_no_peak_is_lost() -> None:
    points = tuple((step, 9e9 if step == 777 else 1e9, 1e9, 1e9, 1e9) for step in range(1_000))
    top = chart(Line("step time", points, 1e9, 1e9), 49, 10).plain.splitlines()[0]
    assert top.count("●") == 1


def test_what_is_not_known_is_left_blank() -> None:
    told = chart(Line("idle", tuple((step, None, None, None, None) for step in range(5)), None, None), 40, 8).plain
    assert "●" not in told.rsplit("\n", 1)[0]


def test_bars_of_both_sides_share_one_scale() -> None:
    low, high = int(BINS_A_DECADE * 6), int(BINS_A_DECADE * 6.3)
    told = mirrored(
        ITEM, ((low, 0.0, 1.0), (high, 0.995, 0.0), (high + 1, 0.005, 0.0)), "rank 2", "3 peers", 80, 12
    ).plain
    lines = told.splitlines()
    assert lines[0].split() == ["rank", "2", "3", "peers"]
    assert "median 2 ms, p99 3 ms" in lines[2] and "median 1 ms, p99 1 ms" in lines[2]
    assert "100%" in lines[3] and lines[3].index("█") > 40, "peers to the right"
    assert lines[-1].index("█") < 40, "the accused to the left"
    assert all(len(line) <= 80 for line in lines)


def test_joined_bins_hold_everything() -> None:
    bins = tuple((number, 0.01, 0.01) for number in range(100))
    for rows in (1, 3, 7, 100, 1_000):
        joined = join(bins, rows)
        assert len(joined) <= rows and sum(each[2] for each in joined) == pytest.approx(1.0)
    assert join((), 5) == []
    assert edges_ns(0) == pytest.approx((1.0, 10 ** (1 / BINS_A_DECADE)))


def test_a_kernel_without_peers_has_no_ratio() -> None:
    alone = Timed("7", "gemm", "compute", 1.0, ITEM.mine, NOBODY)
    assert alone.ratio is None and alone.excess_ns == 0.0
    assert "median -" in mirrored(alone, (), "rank 2", "peers", 80, 10).plain
