"""Replays of the planner: lower clocks, fewer active GPUs, caps; each figure held against a count by hand or by brute force."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warpline_analysis.energy.headroom import Powers, best, capped, choices, curves
from warpline_analysis.energy.lowering import MEMORY_SHARE, SM_SHARE, Rule, low_watts, lowered, saved
from warpline_analysis.energy.money import Money
from warpline_analysis.energy.packing import Pools, parked_at_least, parked_at_most
from warpline_analysis.energy.plan_rows import paged
from warpline_analysis.energy.proposal import Prices, Settings, Wake
from warpline_analysis.energy.replays import guards
from warpline_proto.power_tables import WINDOW_NS

NS = 10**9


def times(*spans: tuple[float, float], gpu: int = 0) -> tuple[Any, Any, Any]:
    whole = [[round(at * NS) for at in each] for each in zip(*spans, strict=True)]
    return np.full(len(spans), gpu), np.array(whole[0]), np.array(whole[1])


def test_clocks_go_down_after_three_seconds_and_up_with_the_first_work() -> None:
    found = lowered(*times((0, 10), (30, 33), (50, 53.5)), Rule())
    assert found.seconds.tolist() == [7.0, 0.0, 0.5]
    assert found.wakes.tolist() == [True, False, True]


def test_clocks_stay_up_for_five_seconds_after_a_wake_up() -> None:
    found = lowered(*times((0, 10), (11, 20), (24, 24.5), (25, 40)), Rule())
    assert found.seconds.tolist() == [7.0, 20 - 15.0, 0.0, 12.0]


def test_pieces_that_touch_are_one_idle_time_with_one_wake_up() -> None:
    found = lowered(*times((0, 2), (2, 600), (600, 610)), Rule())
    assert found.seconds.tolist() == [0.0, 597.0, 10.0]
    assert found.wakes.tolist() == [False, False, True]


def test_gpus_do_not_cool_down_for_each_other() -> None:
    one, other = times((0, 10)), times((11, 20), gpu=1)
    gpu, start, end = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    found = lowered(gpu, start, end, Rule())
    assert found.seconds.tolist() == [7.0, 6.0]


@pytest.mark.parametrize("seed", range(6))
def test_the_replay_is_the_algorithm_stepped_by_a_fine_clock(seed: int) -> None:
    """Algorithm 1 as the paper prints it, with a step of 20 ms, on random idle times."""
    draw = random.Random(seed)
    spans, at = [], 0.0
    for _ in range(15):
        at += draw.choice((0.5, 1.0, 3.0, 8.0))
        spans.append((at, at := at + draw.choice((1.0, 2.5, 4.0, 6.0, 20.0))))
    rule = Rule(draw.choice((2.0, 3.0, 5.0)), draw.choice((0.0, 5.0, 9.0)))
    found = lowered(*times(*spans), rule)
    step, low, cool, down, lowered_steps, wakes = 0.02, 0.0, 0.0, False, 0, 0
    for tick in range(round((at + 5) / step)):
        now = tick * step
        if any(begin - 1e-9 <= now < end - 1e-9 for begin, end in spans):
            low += step
        else:
            if down:
                down, cool, wakes = False, now + rule.cooldown_seconds, wakes + 1
            low = 0.0
        if low > rule.trigger_seconds + 1e-9 and now >= cool - 1e-9:
            down = True
        lowered_steps += down
    assert found.seconds.sum() == pytest.approx(lowered_steps * step, abs=0.06 * len(spans))
    assert found.wakes.sum() == wakes


def test_power_with_low_clocks_is_the_papers_on_the_papers_gpu() -> None:
    watts, floors = np.array([105.0, 35.0, 30.0, 200.0]), np.array([35.0, 35.0, 35.0, np.nan])
    assert low_watts(watts, floors, SM_SHARE)[:3].round(6).tolist() == [61.0, 35.0, 35.0]
    assert low_watts(watts, floors, MEMORY_SHARE)[:3].tolist() == [35.0, 35.0, 35.0]
    joules = saved(watts, low_watts(watts, floors, SM_SHARE), np.full(4, 10.0))
    assert joules[:3].round(6).tolist() == [440.0, 0.0, 0.0] and np.isnan(joules[3])


def pool(gpus: float, busy: float, together: float) -> Pools:
    columns = [np.array([value]) for value in (gpus, gpus * 600, busy, together, 105.0, 61.0)]
    return Pools(*columns)


def test_parked_are_at_least_the_gpus_that_were_never_needed_at_once() -> None:
    """Eight GPUs at a mean utilisation of 20 %, five of them at work at once at most."""
    pools = pool(8, 8 * 600 * 0.2, 5)
    least, most = parked_at_least(pools), parked_at_most(pools)
    assert (least.gpus[0], least.seconds[0], least.joules[0]) == (3, 1800, 1800 * 44.0)
    assert (most.gpus[0], most.seconds[0]) == (6, 3600)  # 0.2 x 8 / 0.8 = 2 stay active
    assert most.joules[0] == 3600 * 44.0


def test_no_more_is_parked_than_was_idle_and_one_gpu_stays() -> None:
    assert parked_at_least(pool(4, 0.0, 0)).gpus[0] == 3
    assert parked_at_most(pool(8, 8 * 600 * 0.95, 8)).joules[0] == 0
    assert parked_at_least(pool(1, 10.0, 1)).joules[0] == 0


def test_a_cap_saves_between_what_it_cuts_and_what_slower_work_costs() -> None:
    """An hour at 300 W and one at 100 W, a GPU that idles at 100 W; the cap is 200 W: half of the work's power is left."""
    powers = Powers(np.array([300.0, 100.0]), np.array([3600.0, 3600.0]), 300.0, 100.0)
    found = capped(powers, 200.0)
    assert (found.over_seconds, found.saved_at_most) == (3600.0, 100 * 3600.0)
    assert found.added_seconds_at_most == pytest.approx(3600.0)  # (300 - 100) / (200 - 100): twice as long
    assert found.saved_at_least == pytest.approx(300 * 3600 - 200 * 7200)
    assert powers.near_share == 0.5 and powers.quantile(0.5) == 100 and powers.quantile() == 300


def test_without_a_floor_a_cap_has_no_lower_bound() -> None:
    powers = Powers(np.array([300.0]), np.array([10.0]), None, None)
    found = capped(powers, 200.0)
    assert (found.saved_at_most, found.saved_at_least, found.added_seconds_at_most) == (1000.0, None, None)
    assert powers.near_share is None


def test_of_runs_at_several_limits_the_one_that_saves_most_within_the_time_is_chosen() -> None:
    table = "network,power_limit,time_per_epoch,average_power\na,300,10,290\na,200,10.4,195\na,100,30,98\n"
    curve = curves(table.splitlines())["a"]
    assert [each.limit_watts for each in choices(curve)] == [300, 200, 100]
    assert best(curve, 0.05).limit_watts == 200
    assert best(curve, 0.05).saving == pytest.approx(1 - 10.4 * 195 / 2900)
    assert best(curve, 0.01).limit_watts == 300


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a,b\n1,2\n", "columns"),
        ("power_limit,time_per_epoch,average_power\n1,x,3\n", "line 2"),
        ("power_limit,time_per_epoch,average_power\n1,0,3\n", "more than 0"),
        ("power_limit,time_per_epoch,average_power\n1,2\n", "line 2"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_in_a_sentence(table: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        curves(table.splitlines())


def test_answers_that_come_cut_short_are_asked_for_by_halves() -> None:
    asked: list[tuple[int, int]] = []

    def ask(words: str) -> pa.Table:
        start, end = map(int, words.split())
        asked.append((start, end))
        rows = pa.table({"window": pa.array(range(start // WINDOW_NS, end // WINDOW_NS), pa.int64())})
        return rows.slice(0, 3).replace_schema_metadata({"truncated": "true"}) if len(rows) > 3 else rows

    found = paged(ask, lambda start, end: f"{start} {end}", 0, 10 * WINDOW_NS)
    assert sorted(found.column("window").to_pylist()) == list(range(10))
    with pytest.raises(ValueError, match="--store"):
        paged(lambda words: pa.table({}).replace_schema_metadata({"truncated": "true"}), lambda *_: "", 0, WINDOW_NS)


def test_intervals_that_are_kept_as_a_sum_are_not_taken_for_one(reader_of: Any) -> None:
    """Idle pieces of 600 s together between 20 and 3600 s: their joules are not known to be saved."""
    place = {
        "node": "n",
        "gpu_uuid": "G",
        "gpu_name": "H100",
        "state": "execution_idle",
        "window_ns": 0,
        "unmeasured_seconds": 0.0,
    }
    rows = [
        {**place, "start_ns": 0, "end_ns": 10 * NS, "seconds": 10.0, "joules": 1050.0},
        {**place, "start_ns": 20 * NS, "end_ns": 3600 * NS, "seconds": 600.0, "joules": 63_000.0},
    ]
    reader = reader_of({"energy_intervals": rows})

    def ask(sql: str) -> Any:
        return reader.query(sql.replace("energy_states", "energy_intervals"))

    guard, _ = guards(ask, 0, 3600 * NS, Prices(Money(), 0, 1), Settings(low_watts=61.0), Wake((0.1, 0.1), ""))
    assert guard.saved_joules == pytest.approx((7 * 44.0, 7 * 44.0)) and guard.wakes == (1, 1)
    assert guard.unknown_joules == 63_000
