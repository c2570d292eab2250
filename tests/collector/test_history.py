"""Ten-minute histories: each row counted once, whatever comes late and whenever the collector is started or killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_collector.history import History
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError
from warpline_proto.tables import DEVICE_SAMPLES, KERNEL_CLUSTERS, STEPS

NS = 10**9
BEGIN = 1_800_000_000
GPU = "SELECT * FROM gpu_history WHERE node = 'a' ORDER BY time_ns"


def readings(node: str, seconds: range) -> Batch:
    """100 W and 300 W by turns of five minutes; the counter begins anew at second 900."""
    rows: list[dict[str, Any]] = []
    for second in seconds:
        watts = 300.0 if second // 300 % 2 else 100.0
        joules = 100.0 * min(second, 300) + 300.0 * max(second - 300, 0) if second < 900 else 10.0 * (second - 900)
        rows.append(
            {
                "node": node, "gpu_uuid": f"G-{node}", "job": "j", "time_ns": (BEGIN + second) * NS, "power_watts": watts,
                "energy_joules": joules, "gpu_utilization_percent": 50.0, "temperature_celsius": 40.0 + second % 7,
            }
        )  # fmt: skip
    return Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows(rows))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TendedStore]:
    made = TendedStore(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(store: TendedStore) -> Iterator[CatalogReader]:
    with CatalogReader(store.directory) as made:
        yield made


def at(second: int) -> int:
    return (BEGIN + second) * NS


def test_ten_minutes_of_a_gpu_are_one_row(store: TendedStore, reader: CatalogReader) -> None:
    """Means and highest of the readings, and what the counter grew by from window to window, resets included."""
    store.write([readings("a", range(1300))])
    history = History(store, reader, clock=lambda: at(1300))
    assert (history.one_pass(), history.one_pass(), history.one_pass()) == (0, 2, 0)
    first, second = reader.query(GPU).to_pylist()
    assert (first["samples"], first["power_watts"], first["power_max_watts"]) == (600, 200.0, 300.0)
    assert (first["energy_joules"], second["energy_joules"]) == (100.0 * 300 + 300.0 * 299, 300.0 * 300 + 10.0 * 299)
    assert (first["gpu_utilization_percent"], first["temperature_celsius"], first["job"]) == (50.0, 46.0, "j")
    assert (first["time_ns"], second["time_ns"]) == (at(0), at(600))


def test_what_comes_late_is_counted_and_what_is_over_is_made_in_the_end(
    store: TendedStore, reader: CatalogReader
) -> None:
    store.write([readings("a", range(300)), readings("b", range(700))])
    now = at(700)
    history = History(store, reader, clock=lambda: now)
    history.one_pass()
    assert history.one_pass() == 1
    store.write([readings("a", range(300, 650))])
    assert history.one_pass() == 0
    assert history.one_pass() == 1
    assert [row["samples"] for row in reader.query(GPU).to_pylist()] == [600]
    now = at(1200 + 900)
    assert history.one_pass() == 1
    total = reader.query(
        "SELECT CAST(sum(samples) AS BIGINT) AS rows, count(*) AS windows FROM gpu_history"
    ).to_pylist()
    assert total == [{"rows": 1350, "windows": 4}]


def test_a_collector_that_is_started_again_makes_nothing_twice(store: TendedStore, reader: CatalogReader) -> None:
    store.write([readings("a", range(1900))])
    history = History(store, reader, clock=lambda: at(1900))
    assert (history.one_pass(), history.one_pass()) == (0, 3)
    again = History(store, reader, clock=lambda: at(1900))
    assert (again.one_pass(), again.one_pass(), again.one_pass()) == (0, 0, 0)
    assert reader.query("SELECT count(*) AS rows FROM device_history").to_pylist() == [{"rows": 3}]


def test_steps_have_a_history_by_job_and_rank(store: TendedStore, reader: CatalogReader) -> None:
    rows = [
        {
            "job": "j",
            "rank": rank,
            "scope": "step",
            "step": step,
            "start_ns": at(2 * step),
            "duration_ns": (2 + rank) * NS,
        }
        for step in range(600)
        for rank in range(4)
    ]
    rows.append({"job": "j", "rank": 0, "scope": "trace", "start_ns": at(0), "duration_ns": 10**15})
    store.write([Batch(STEPS.name, "hook", STEPS.from_rows(rows))])
    history = History(store, reader, clock=lambda: at(5000))
    assert (history.one_pass(), history.one_pass()) == (0, 2)
    found = reader.query(
        "SELECT rank, samples, first_step, last_step, duration_ns FROM step_history ORDER BY time_ns, rank"
    ).to_pylist()
    assert found[5] == {"rank": 1, "samples": 300, "first_step": 300, "last_step": 599, "duration_ns": 3.0 * NS}
    assert len(found) == 8


def test_ten_minutes_of_a_kernel_are_one_row_that_names_the_slowest_rank(
    store: TendedStore, reader: CatalogReader
) -> None:
    """Exact count and sum over the ranks of the job, and the mean on each of them."""
    rows = [
        {
            "node": f"n{rank // 2}", "job": "j", "rank": rank, "gpu_uuid": f"G-{rank}", "kernel_id": kernel,
            "category": "compute", "step": step, "start_ns": at(4 * step), "count": 10,
            "sum_ns": 1_000 * kernel * (2 if rank == 3 else 1),
        }
        for step in range(200) for rank in range(4) for kernel in (1, 2)
    ]  # fmt: skip
    store.write([Batch(KERNEL_CLUSTERS.name, "kernels", KERNEL_CLUSTERS.from_rows(rows))])
    history = History(store, reader, clock=lambda: at(1300))
    assert (history.one_pass(), history.one_pass(), history.one_pass()) == (0, 1, 0)
    first, second = reader.query("SELECT * FROM kernel_history ORDER BY kernel_id").to_pylist()
    assert (first["count"], first["sum_ns"], first["ranks"], first["samples"]) == (6_000, 150 * 5_000, 4, 600)
    assert (second["min_mean_ns"], second["p50_mean_ns"], second["max_mean_ns"]) == (200.0, 200.0, 400.0)
    assert (second["slowest_rank"], second["slowest_node"], second["slowest_gpu_uuid"]) == (3, "n1", "G-3")
    assert (second["rank_numbers"], second["rank_means_ns"]) == ([0, 1, 2, 3], [200, 200, 200, 400])


def test_a_window_that_cannot_be_made_holds_no_other_up(
    store: TendedStore, reader: CatalogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one question past its memory would leave all that comes after without a history, and retention would take it."""
    store.write([readings("a", range(1900))])
    ask = reader.query

    def query(sql: str, *rest: Any) -> Any:
        if f"< {at(600)}" in sql:
            raise QueryError("out of memory")
        return ask(sql, *rest)

    history = History(store, reader, clock=lambda: at(1900))
    monkeypatch.setattr(reader, "query", query)
    assert (history.one_pass(), history.one_pass(), history.one_pass()) == (0, 2, 0)
    monkeypatch.setattr(reader, "query", ask)
    assert history.one_pass() == 1
    assert [row["time_ns"] for row in reader.query(GPU).to_pylist()] == [at(0), at(600), at(1200)]
