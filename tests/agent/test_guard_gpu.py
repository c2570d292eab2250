"""What the guard tells of one GPU: clocks, reasons, what was saved and what was paid, also where answers come late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from warpline_agent.guard.down_clock import Rule
from warpline_agent.guard.gpu import AGAIN_SECONDS_MAX, AVOID_SECONDS, Gpu
from warpline_agent.guard.orders import HUNG, Answer

SECOND = 10**9
FOUND = {"sm_clock_mhz": 210, "memory_clock_mhz": None, "usual_mhz": 1980}
LOST, NOT_SUPPORTED = 15, 3


class Driven:
    """One GPU, sampled once a second; orders are answered by the test."""

    def __init__(self, rule: Rule = Rule(), found: Mapping[str, Any] = FOUND) -> None:  # noqa: B008
        self.gpu = Gpu("GPU-0", 0, rule, memory=False, listed=False)
        self.second = 0
        assert self.order() == "look"
        self.answer("look", found=found)

    def sample(self, percent: float, watts: float | None = 105.0, mhz: float = 1980) -> str | None:
        """One second on; the order that follows."""
        self.second += 1
        row = {"gpu_utilization_percent": percent, "resident_processes": 1, "power_watts": watts, "sm_clock_mhz": mhz}
        self.gpu.sample([{"time_ns": self.second * SECOND, **row}], self.second)
        return self.order()

    def order(self) -> str | None:
        order = self.gpu.order(self.second)
        if order is not None:
            self.gpu.ask()
        return order

    def answer(self, order: str, code: int = 0, late_ns: int = 0, **more: Any) -> None:
        self.gpu.take(Answer(order, "GPU-0", code, "", **more), self.second, self.second * SECOND + late_ns)

    def until_lowered(self) -> None:
        self.sample(90)
        while self.sample(0) != "lower":
            assert self.second < 1000
        self.answer("lower", touched=True, call_ns=7)

    def told(self) -> list[tuple[str, str]]:
        return [(row["action"], row["reason"]) for row in self.gpu.rows]


def test_saving_and_latency_are_told_with_the_restore() -> None:
    driven = Driven()
    driven.until_lowered()
    for _ in range(10):
        assert driven.sample(0, watts=61) is None
    assert driven.sample(80, watts=200) == "restore"
    driven.answer("restore", late_ns=250_000_000)
    row = driven.gpu.rows[-1]
    assert row["saved_joules"] == pytest.approx(10 * (105 - 61))
    assert row["lowered_seconds"] == pytest.approx(11.25)
    assert row["latency_ns"] == 250_000_000


def test_without_power_the_saving_is_unknown_not_zero() -> None:
    driven = Driven()
    driven.until_lowered()
    driven.sample(0, watts=None)
    driven.sample(80)
    driven.answer("restore")
    assert driven.gpu.rows[-1]["saved_joules"] is None


def test_work_that_comes_while_clocks_are_being_lowered_is_answered_at_once() -> None:
    driven = Driven()
    driven.sample(90)
    while driven.sample(0) != "lower":
        pass
    assert driven.sample(80) is None, "the call is out"
    driven.answer("lower", late_ns=SECOND // 2, touched=True)
    assert driven.order() == "restore"
    driven.answer("restore", late_ns=SECOND)
    assert driven.gpu.rows[-1]["latency_ns"] == SECOND


def test_a_gpu_that_is_lost_counts_as_restored() -> None:
    driven = Driven()
    driven.until_lowered()
    assert driven.sample(80) == "restore"
    driven.answer("restore", code=LOST)
    assert [action for action, _ in driven.told()] == ["lower", "restore"]
    assert driven.order() is None


def test_a_restore_that_fails_is_tried_again_more_and_more_slowly_and_told_once() -> None:
    driven = Driven()
    driven.until_lowered()
    driven.sample(80)
    pauses = []
    for _ in range(8):
        driven.answer("restore", code=NOT_SUPPORTED)
        since = driven.second
        while driven.order() is None:
            driven.second += 1
        pauses.append(driven.second - since)
    assert pauses == sorted(pauses)
    assert pauses[-1] == AGAIN_SECONDS_MAX
    assert [action for action, _ in driven.told()] == ["lower", "refuse"]


def test_a_gpu_on_which_lowering_hung_is_restored_and_left_alone() -> None:
    driven = Driven()
    driven.sample(90)
    while driven.sample(0) != "lower":
        pass
    driven.answer("lower", code=HUNG)
    assert driven.order() == "restore"
    driven.answer("restore")
    since = driven.second
    while driven.sample(0) != "lower":
        assert driven.second < 2000
    assert driven.second - since >= AVOID_SECONDS
    assert [action for action, _ in driven.told()] == ["refuse"]


def test_frequent_wake_ups_are_told_and_end_lowering_for_a_while() -> None:
    driven = Driven(Rule(wakes_per_minute_max=1))
    while "back_off" not in {action for action, _ in driven.told()}:
        driven.until_lowered()
        assert driven.sample(80) == "restore"
        driven.answer("restore")
    since = driven.second
    assert ("back_off", "woken over 1 times a minute: left alone for 60 s") in driven.told()
    while driven.sample(0) != "lower":
        assert driven.second < 2000
    assert driven.second - since >= 60


def test_clocks_that_are_low_before_anything_was_lowered_are_left_alone() -> None:
    driven = Driven()
    driven.sample(90)
    orders = [driven.sample(0, mhz=1200) for _ in range(200)]
    assert set(orders) == {None}
    assert [action for action, _ in driven.told()] == ["refuse"]
