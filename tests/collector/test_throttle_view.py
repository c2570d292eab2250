"""How long GPUs were held back, by reason: what counters grew by, over their resets too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import DEVICE_SAMPLES

SECOND = 10**9
BEGIN = 1_700_000_400 * SECOND


def row(second: int, gpu: str = "G", **counters: int | None) -> dict[str, Any]:
    return {
        "node": "n",
        "source": "nvml",
        "gpu_uuid": gpu,
        "gpu_name": "H100",
        "time_ns": BEGIN + second * SECOND,
        **counters,
    }


def ask(path: Path, rows: list[dict[str, Any]], sql: str) -> list[dict[str, Any]]:
    store = DuckDBStore(path)
    store.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(rows))])
    found: list[dict[str, Any]] = store.query(sql).to_pylist()
    store.close()
    return found


def test_growth_by_reason_and_reset_adds_up(tmp_path: Path) -> None:
    """2 s by the cap, then the counter begins anew and has 1 s; the readings without counters are skipped."""
    rows = [
        row(0, power_cap_ns=5 * SECOND, thermal_ns=0),
        row(1),
        row(10, power_cap_ns=7 * SECOND, thermal_ns=0),
        row(20, power_cap_ns=1 * SECOND, thermal_ns=4 * SECOND),
        row(20, gpu="H", power_brake_ns=9 * SECOND),
    ]
    found = ask(
        tmp_path, rows, "SELECT gpu, reason, held_ns, covered_ns, resets FROM throttle_time ORDER BY gpu, reason"
    )
    assert found == [
        {"gpu": "G", "reason": "power_cap", "held_ns": 3 * SECOND, "covered_ns": 20 * SECOND, "resets": 1},
        {"gpu": "G", "reason": "thermal", "held_ns": 4 * SECOND, "covered_ns": 20 * SECOND, "resets": 0},
    ]


def test_a_counter_that_began_anew_counts_no_more_than_the_time_that_passed(tmp_path: Path) -> None:
    rows = [row(0, thermal_ns=100 * SECOND), row(2, thermal_ns=50 * SECOND)]
    assert ask(tmp_path, rows, "SELECT held_ns, resets FROM throttle_time") == [{"held_ns": 2 * SECOND, "resets": 1}]


def test_time_is_by_ten_minutes(tmp_path: Path) -> None:
    rows = [row(second, sync_boost_ns=second * SECOND // 2) for second in range(0, 1300, 10)]
    found = ask(tmp_path, rows, "SELECT window_ns, held_ns FROM throttle_time ORDER BY window_ns")
    assert [each["held_ns"] for each in found] == [295 * SECOND, 300 * SECOND, 50 * SECOND]
    assert {each["window_ns"] % (600 * SECOND) for each in found} == {0}
