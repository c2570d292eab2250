"""What counts as doing nothing: each boundary of the rule, signals that are not offered, and programs."""

from __future__ import annotations

from typing import Any

import pytest

from warpline_agent.guard.activity import BLIND, EMPTY, UNKNOWN, Signals

SECOND = 10**9
FULL = {
    "sm_active_percent": 4.9, "tensor_active_percent": 0.0, "fp16_active_percent": 0.0, "dram_active_percent": 4.9,
    "pcie_tx_bytes_per_second": 0.99e9, "pcie_rx_bytes_per_second": 0.0, "nvlink_tx_bytes_per_second": 0.99e9,
    "gpu_utilization_percent": 100.0,
}  # fmt: skip


def row(second: float, **values: Any) -> dict[str, Any]:
    return {"time_ns": int(second * SECOND), **values}


def test_below_every_bound_with_a_program_is_idle_whatever_the_duty_cycle_says() -> None:
    """A kernel that is resident without doing anything counts by its SMs, where these are measured."""
    assert Signals().activity([row(1, **FULL, resident_processes=1)]).idle


@pytest.mark.parametrize(
    ("signal", "value"),
    [
        ("sm_active_percent", 5.0), ("tensor_active_percent", 5.0), ("fp16_active_percent", 5.0), ("fp32_active_percent", 5.0),
        ("fp64_active_percent", 5.0), ("dram_active_percent", 5.0), ("pcie_tx_bytes_per_second", 1e9),
        ("pcie_rx_bytes_per_second", 1e9), ("nvlink_tx_bytes_per_second", 1e9), ("nvlink_rx_bytes_per_second", 1e9),
    ],
)  # fmt: skip
def test_one_signal_at_its_bound_is_work(signal: str, value: float) -> None:
    activity = Signals().activity([row(1, **{**FULL, signal: value}, resident_processes=1)])
    assert activity.work
    assert not activity.idle


def test_signals_that_are_not_offered_are_dropped_from_the_rule() -> None:
    assert Signals().activity([row(1, gpu_utilization_percent=0.0, resident_processes=1)]).idle


def test_a_signal_that_was_there_and_is_missing_makes_the_sample_blind() -> None:
    signals = Signals()
    assert signals.activity([row(1, **FULL, resident_processes=1)]).idle
    without = {name: value for name, value in FULL.items() if name != "dram_active_percent"}
    activity = signals.activity([row(2, **without)])
    assert (activity.idle, activity.work) == (False, False)
    assert "dram_active_percent" in activity.reason


def test_without_any_signal_of_computing_it_is_blind() -> None:
    activity = Signals().activity([row(1, dram_active_percent=0.0, resident_processes=1)])
    assert (activity.idle, activity.reason) == (False, BLIND)


def test_programs_must_be_known_and_known_lately() -> None:
    signals = Signals()
    low = {"gpu_utilization_percent": 0.0}
    assert signals.activity([row(1, **low)]).reason == UNKNOWN
    assert signals.activity([row(2, **low, resident_processes=0)]).reason == EMPTY
    assert signals.activity([row(3, **low, resident_processes=2)]).idle
    assert signals.activity([row(17, **low)]).idle
    assert signals.activity([row(19, **low)]).reason == UNKNOWN


def test_counters_of_bytes_are_rates_from_the_second_sample_on() -> None:
    signals = Signals()
    low = {"gpu_utilization_percent": 0.0, "resident_processes": 1}
    assert not signals.activity([row(1, **low, pcie_tx_bytes=0)]).idle
    assert signals.activity([row(2, **low, pcie_tx_bytes=0.9e9)]).idle
    assert signals.activity([row(3, **low, pcie_tx_bytes=1.9e9)]).work
    assert not signals.activity([row(4, **low, pcie_tx_bytes=0)]).idle, "a counter that began anew says nothing"


def test_of_samples_that_come_together_work_in_any_counts() -> None:
    low, busy = {"gpu_utilization_percent": 0.0, "resident_processes": 1}, {"gpu_utilization_percent": 50.0}
    activity = Signals().activity([row(1, **low), row(2, **busy), row(3, **low)])
    assert activity.work
