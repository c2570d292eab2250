"""What went before a GPU fell idle names the cause; nothing is named where nothing is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.energy.account import account

ReaderOf = Callable[[Mapping[str, Any]], Reader]
BEGIN = 1_700_000_400_000_000_000
BUSY = {
    "sm_active_percent": 80.0, "tensor_active_percent": 60.0, "dram_active_percent": 40.0, "gpu_utilization_percent": 99.0,
    "pcie_tx_bytes_per_second": 1e7, "nvlink_tx_bytes_per_second": 1e7,
}  # fmt: skip
IDLE = dict.fromkeys(BUSY, 0.0)


def told(reader_of: ReaderOf, *pattern: tuple[int, Mapping[str, Any]], host: Mapping[str, float] | None = None) -> Any:
    """Rows of the account of so many seconds of each kind; the node's `host` rates from the start on."""
    place = {
        "node": "n0",
        "source": "nvml",
        "gpu_uuid": "G",
        "gpu_index": 0,
        "resident_processes": 1,
        "power_watts": 100.0,
    }
    seconds = [kind for count, kind in pattern for _ in range(count)]
    rows = [{**place, **kind, "time_ns": BEGIN + at * 10**9} for at, kind in enumerate(seconds)]
    readings = [
        {"node": "n0", "time_ns": BEGIN + at * 10**9, **{name: int(rate * at) for name, rate in (host or {}).items()}}
        for at in range(len(seconds))
        if host
    ]
    batch = account(reader_of({"device_samples": rows, "host_samples": readings}), BEGIN, {}, 1)
    return [row for row in batch.to_pylist() if row["state"] == "execution_idle"]


@pytest.mark.parametrize(
    ("kind", "host", "cause"),
    [
        (BUSY, None, "compute_to_idle"),
        (BUSY | {"pcie_tx_bytes_per_second": 8e9}, None, "pcie"),
        (BUSY | {"nvlink_tx_bytes_per_second": 90e9}, None, "nvlink"),
        (BUSY, {"network_rx_bytes": 1e9}, "nic"),
        (BUSY, {"disk_write_bytes": 1e9}, "disk"),
        (BUSY | {"tensor_active_percent": 0.0, "dram_active_percent": 1.0}, None, "collective_wait"),
    ],
)
def test_the_signal_furthest_above_its_limit_names_the_cause(
    reader_of: ReaderOf, kind: Mapping[str, Any], host: Mapping[str, float] | None, cause: str
) -> None:
    [row] = told(reader_of, (30, kind), (20, IDLE), host=host)
    assert row["cause"] == cause


def test_only_the_ten_seconds_before_count_and_only_the_active_time_next_to_it(reader_of: ReaderOf) -> None:
    loading = BUSY | {"pcie_tx_bytes_per_second": 8e9}
    [row] = told(reader_of, (30, loading), (10, BUSY), (20, IDLE))
    assert (row["cause"], row["before_pcie_bytes_per_second"]) == ("compute_to_idle", 1e7)
    first, second = told(reader_of, (30, loading), (6, IDLE), (3, BUSY), (20, IDLE))
    assert (first["cause"], second["cause"]) == ("pcie", "compute_to_idle")


def test_what_a_gpu_did_before_it_was_watched_is_not_known(reader_of: ReaderOf) -> None:
    [row] = told(reader_of, (20, IDLE), (5, BUSY))
    assert (row["cause"], row["before_compute_percent"]) == (None, None)


def test_the_signals_behind_a_cause_are_told_with_it(reader_of: ReaderOf) -> None:
    [row] = told(reader_of, (30, BUSY), (20, IDLE), host={"network_rx_bytes": 2e9, "network_tx_bytes": 1e6})
    assert row["before_compute_percent"] == 80.0 and row["before_memory_percent"] == 40.0
    assert row["before_nic_bytes_per_second"] == pytest.approx(2e9)
    assert row["before_cpu_percent"] is None
