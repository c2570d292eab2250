"""States of GPUs: each boundary of the rule, what missing signals do, and joules that add up to the counter."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from warpline_analysis.energy.runs import METHODS, Runs, runs
from warpline_analysis.energy.signals import Samples, load
from warpline_analysis.energy.states import STATES
from warpline_proto.tables import DEVICE_SAMPLES

BEGIN = 1_700_000_000_000_000_000
IDLE = {"gpu_utilization_percent": 0.0, "power_watts": 120.0, "resident_processes": 1}
BUSY = {"gpu_utilization_percent": 97.0, "power_watts": 600.0, "resident_processes": 1}
Row = Mapping[str, Any]


class Rows:
    """A Reader over made-up samples."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._connection = duckdb.connect()
        self._connection.register("device_samples", pa.Table.from_batches([DEVICE_SAMPLES.from_rows(rows)]))

    def query(self, sql: str, parameters: Any = ()) -> pa.Table:
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()


def samples_of(*seconds: Row, gpu: str = "GPU-a", period: float = 1.0, at: float = 0.0) -> list[dict[str, Any]]:
    """One sample of one GPU every `period`."""
    place = {"node": "n0", "source": "nvml", "gpu_uuid": gpu, "gpu_index": 0, "gpu_name": "H100"}
    return [
        {**place, "time_ns": BEGIN + round((at + step * period) * 1e9), **each} for step, each in enumerate(seconds)
    ]


def taken(rows: Iterable[Row]) -> Samples:
    return load(Rows(rows))


def states(rows: Iterable[Row], **floors: float) -> list[tuple[str, float]]:
    """State and seconds of each run."""
    by_model: dict[str | None, float] = dict(floors.items())
    found = runs(taken(rows), by_model)
    return [(STATES[state], seconds) for state, seconds in zip(found.state, found.seconds.tolist(), strict=True)]


def idle_for(seconds: int, **changed: Any) -> list[tuple[str, float]]:
    """Busy for 3 s, then `seconds` of low activity, then busy; where a signal is `changed` the busy ones have it too."""
    busy = BUSY | {name: 50.0 for name, value in changed.items() if name.endswith("percent") and value is not None}
    return states(samples_of(*[busy] * 3, *[{**IDLE, **changed}] * seconds, *[busy] * 3))


def test_five_seconds_on_end_are_execution_idle_and_four_are_not() -> None:
    assert idle_for(5) == [("active", 3.0), ("execution_idle", 5.0), ("active", 2.0)]
    assert idle_for(4) == [("active", 9.0)]


@pytest.mark.parametrize(
    ("signal", "low", "high"),
    [
        ("gpu_utilization_percent", 4.999, 5.0),
        ("sm_active_percent", 4.999, 5.0),
        ("tensor_active_percent", 4.999, 5.0),
        ("fp16_active_percent", 4.999, 5.0),
        ("dram_active_percent", 4.999, 5.0),
        ("pcie_tx_bytes_per_second", 0.999e9, 1e9),
        ("pcie_rx_bytes_per_second", 0.999e9, 1e9),
        ("nvlink_tx_bytes_per_second", 0.999e9, 1e9),
        ("nvlink_rx_bytes_per_second", 0.999e9, 1e9),
    ],
)
def test_every_signal_alone_makes_a_gpu_active_from_its_limit_on(signal: str, low: float, high: float) -> None:
    assert idle_for(6, **{signal: low})[1] == ("execution_idle", 6.0)
    assert idle_for(6, **{signal: high}) == [("active", 11.0)]


def test_a_signal_that_is_not_offered_is_dropped_from_the_rule() -> None:
    assert idle_for(6, dram_active_percent=None, sm_active_percent=None)[1] == ("execution_idle", 6.0)


def test_without_any_signal_of_activity_nothing_is_said() -> None:
    assert states(samples_of(*[{"power_watts": 100.0, "resident_processes": 1}] * 8)) == [("blind", 7.0)]


def test_an_empty_gpu_is_deep_idle_and_one_of_unknown_residency_is_told_apart() -> None:
    assert idle_for(6, resident_processes=0)[1] == ("deep_idle", 6.0)
    unknown = [{**each, "resident_processes": None} for each in samples_of(*[BUSY] * 3, *[IDLE] * 6, *[BUSY] * 3)]
    assert states(unknown)[1] == ("low_unknown", 6.0)


def test_residency_read_every_half_a_minute_holds_between_readings_that_agree() -> None:
    rows = samples_of(*[IDLE] * 91)
    for second, row in enumerate(rows):
        row["resident_processes"] = {0: 1, 30: 1, 60: 0, 90: 0}.get(second)
    assert states(rows) == [("execution_idle", 31.0), ("low_unknown", 29.0), ("deep_idle", 30.0)]


def test_work_on_a_gpu_that_is_said_to_be_empty_is_active() -> None:
    assert states(samples_of(*[{**BUSY, "resident_processes": 0}] * 4)) == [("active", 3.0)]


def test_a_mean_over_five_seconds_holds_for_these_but_not_where_no_kernel_was_resident() -> None:
    rows = samples_of(*[BUSY] * 6, *[IDLE] * 10)
    for second, row in enumerate(rows):
        row["sm_active_percent"] = {0: 80.0, 5: 80.0, 10: 20.0, 15: 0.0}.get(second)
    assert states(rows) == [("active", 6.0), ("execution_idle", 4.0 + 5.0)]


def test_counters_of_links_are_rates_over_the_time_since_they_were_read() -> None:
    rows = samples_of(*[IDLE] * 16)
    for second, total in {0: 0, 5: 10_000_000_000, 10: 10_000_000_500, 15: 10_000_001_000}.items():
        rows[second]["pcie_rx_bytes"] = total
    assert states(rows) == [("active", 6.0), ("execution_idle", 9.0)]


def test_a_gap_breaks_a_run_and_is_a_time_of_its_own() -> None:
    rows = samples_of(*[IDLE] * 4) + samples_of(*[IDLE] * 4, at=13.0)
    assert states(rows) == [("active", 3.0), ("unobserved", 10.0), ("active", 3.0)]


def test_waiting_in_a_collective_is_busy_wait_where_pipes_and_memory_are_measured() -> None:
    spin = {**BUSY, "sm_active_percent": 20.0, "tensor_active_percent": 0.0, "dram_active_percent": 1.0}
    assert states(samples_of(*[spin] * 8)) == [("busy_wait", 7.0)]
    assert states(samples_of(*[{**spin, "nvlink_tx_bytes_per_second": 2e9}] * 8)) == [("active", 7.0)]
    assert states(samples_of(*[BUSY] * 8)) == [("active", 7.0)], "utilisation alone cannot tell"


def test_spinning_at_idle_power_for_ten_seconds_is_a_livelock() -> None:
    spin = {
        **BUSY,
        "power_watts": 140.0,
        "power_limit_watts": 700.0,
        "sm_clock_mhz": 1980.0,
        "sm_clock_max_mhz": 1980.0,
    }
    assert states(samples_of(*[spin] * 11), H100=70.0) == [("spinning", 10.0)]
    assert states(samples_of(*[spin] * 10), H100=70.0) == [("busy_wait", 9.0)]
    assert states(samples_of(*[{**spin, "power_watts": 400.0}] * 11), H100=70.0) == [("active", 10.0)]
    assert states(samples_of(*[spin] * 11)) == [("active", 10.0)], "the floor of this model is not known"


def test_short_low_activity_is_told_within_the_active_time() -> None:
    found = runs(taken(samples_of(*[BUSY] * 3, *[IDLE] * 3, *[BUSY] * 3)), {})
    assert (found.short_seconds.tolist(), found.short_joules.tolist()) == ([3.0], [2 * 120.0 + 360.0])


def random_rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for gpu in range(3):
        at, energy = 0.0, draw.uniform(0, 1e6)
        for _ in range(400):
            step = draw.choice((1.0, 1.0, 1.0, 0.9, 1.1, 3.0)) if draw.random() < 0.2 else 1.0
            state = draw.choice((BUSY, IDLE, IDLE, {**IDLE, "resident_processes": 0}))
            for _ in range(draw.randint(1, 9)):
                watts = state["power_watts"] + draw.uniform(-20, 20)
                energy += watts * step
                [row] = samples_of({**state, "power_watts": watts, "energy_joules": energy}, gpu=f"G{gpu}", at=at)
                if draw.random() < 0.1:
                    row["energy_joules"] = None
                at += step
                rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_joules_of_all_states_are_the_growth_of_the_counter(seed: int) -> None:
    rows = random_rows(seed)
    found = runs(taken(rows), {})
    for gpu in range(3):
        counter = [
            row["energy_joules"] for row in rows if row["gpu_uuid"] == f"G{gpu}" and row["energy_joules"] is not None
        ]
        mine = found.joules[found.gpu == gpu]
        counted = counter[-1] - counter[0]
        assert abs(np.nansum(mine) - counted - _outside(rows, f"G{gpu}")) < 1e-3


def _outside(rows: list[dict[str, Any]], gpu: str) -> float:
    """By power, what was drawn before the counter's first reading and after its last."""
    mine = [row for row in rows if row["gpu_uuid"] == gpu]
    known = [at for at, row in enumerate(mine) if row["energy_joules"] is not None]
    spans = [*range(known[0]), *range(known[-1], len(mine) - 1)]
    lengths = {at: (mine[at + 1]["time_ns"] - mine[at]["time_ns"]) / 1e9 for at in spans}
    watts = {at: (mine[at]["power_watts"] + mine[at + 1]["power_watts"]) / 2 for at in spans}
    return math.fsum(watts[at] * seconds for at, seconds in lengths.items() if seconds <= 2)


@pytest.mark.parametrize("seed", range(6))
def test_parts_of_time_add_up_to_the_whole(seed: int) -> None:
    samples = taken(random_rows(seed))
    whole = runs(samples, {})
    middle = BEGIN + 700 * 10**9
    parts = [runs(samples, {}, end_ns=middle), runs(samples, {}, start_ns=middle)]
    for name in ("seconds", "joules", "short_seconds", "samples", "unmeasured_seconds"):
        assert np.nansum(getattr(whole, name)) == pytest.approx(sum(np.nansum(getattr(each, name)) for each in parts))
    assert int(sum((~each.continued).sum() for each in parts)) == int((~whole.continued).sum())


def test_a_counter_that_begins_anew_is_told_and_bridged_by_power() -> None:
    rows = samples_of(*[{**BUSY, "energy_joules": joules} for joules in (1000.0, 1600.0, 100.0, 700.0)])
    found = runs(taken(rows), {})
    assert (found.joules.tolist(), found.resets.tolist(), _method(found)) == ([1800.0], [1], ["mixed"])


def test_without_a_counter_power_is_integrated_and_the_error_stated() -> None:
    found = runs(taken(samples_of(*[BUSY] * 3, *[IDLE] * 6)), {})
    assert (_method(found), found.joules.tolist()) == (["integrated"] * 2, [1200.0 + 360.0, 600.0])
    assert found.error_joules.tolist() == [240.0, 0.0]
    averaged = runs(taken({**row, "power_method": "average"} for row in samples_of(*[BUSY] * 3, *[IDLE] * 6)), {})
    assert averaged.error_joules.tolist() == [240.0 + 480.0, 480.0]


def test_a_gpu_that_two_sources_sample_is_counted_once() -> None:
    rows = samples_of(*[IDLE] * 8) + [
        {**row, "source": "other", "power_watts": None} for row in samples_of(*[IDLE] * 8)
    ]
    assert states(rows) == [("execution_idle", 7.0)]


def _method(found: Runs) -> list[str]:
    return [METHODS[each] for each in found.method]
