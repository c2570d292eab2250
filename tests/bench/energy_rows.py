"""What the account costs: ten minutes of 10,000 GPUs at one sample a second, from DuckDB to intervals, and reports on a day.

The samples lie in a real store of the collector, written by a process of its own: power, energy counter, utilisation, clock and
limit as the agent's NVML source gives them, byte counters of PCIe every 5 s, programs every 30 s. GPUs are busy and idle by turns
of 5 to 60 s, a tenth is empty. Another process runs `Accounting` (64 nodes of 8 GPUs at once, one DuckDB thread) until nothing is
due, and beside it, over the same rows and again by 64 nodes, the floor: one plain `SELECT count, sum GROUP BY` GPU.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from warpline_analysis.energy.money import Money
from warpline_analysis.energy.plan import plan
from warpline_analysis.energy.proposal import Settings
from warpline_analysis.energy.report import report
from warpline_collector.accounting import Accounting
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.power_tables import ENERGY_INTERVALS
from warpline_proto.tables import DEVICE_SAMPLES

NS: Final = 10**9
BEGIN: Final = 1_700_000_400 * NS
WINDOW: Final = 600
GPUS: Final = 8
NODES: Final = 64
"""Nodes that are written and asked for at once, as `Accounting` does."""
DAY_NODES: Final = 125
"""The day of intervals is of 1,000 GPUs."""
_SELF: Final = Path(__file__)


def samples(first: int, nodes: int) -> pa.RecordBatch:
    """Ten minutes of `nodes` nodes from number `first` on, by GPU and second."""
    draw = np.random.default_rng(first)
    gpus = nodes * GPUS
    flips = draw.uniform(5, 60, (gpus, WINDOW // 5)).cumsum(axis=1)
    second = np.arange(WINDOW)
    busy = np.array([np.searchsorted(each, second) for each in flips]) % 2 == 0
    empty = np.arange(gpus) % 10 == 9
    busy[empty] = False
    watts = np.where(busy, 620.0, np.where(empty, 70.0, 120.0)[:, None]) + draw.normal(0, 5, busy.shape).round(1)
    each = np.repeat(np.arange(gpus), WINDOW)
    often, rarely = (np.tile(second % period != 0, gpus) for period in (5, 30))
    names = pa.array([f"node{first + gpu // GPUS:05d}" for gpu in range(gpus)]).dictionary_encode()
    uuids = pa.array([f"GPU-{first:05d}-{gpu:04d}-4a57-9f5e-0123456789ab" for gpu in range(gpus)])
    jobs = pa.array([None if empty[gpu] else f"job{(first * GPUS + gpu) // 64}" for gpu in range(gpus)])
    moved = (busy * 2e9).cumsum(axis=1).ravel().astype(np.int64)
    columns: dict[str, Any] = {
        "node": names.cast(pa.string()).take(pa.array(each)),
        "source": "nvml",
        "gpu_uuid": uuids.take(pa.array(each)),
        "gpu_index": each % GPUS,
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "job": jobs.take(pa.array(each)),
        "time_ns": BEGIN + np.tile(second, gpus) * NS,
        "power_watts": watts.ravel(),
        "power_method": "average",
        "power_limit_watts": pa.array(np.full(len(each), 700.0), mask=rarely),
        "energy_joules": (1e6 + watts.cumsum(axis=1)).ravel(),
        "sm_clock_mhz": np.where(busy, 1755.0, 1980.0).ravel(),
        "sm_clock_max_mhz": pa.array(np.full(len(each), 1980.0), mask=rarely),
        "gpu_utilization_percent": np.where(busy, 98.0, 0.0).ravel(),
        "memory_utilization_percent": np.where(busy, 40.0, 0.0).ravel(),
        "pcie_tx_bytes": pa.array(moved, mask=often),
        "pcie_rx_bytes": pa.array(moved, mask=often),
        "resident_processes": pa.array(np.where(empty, 0, 1)[each], mask=rarely),
    }
    return DEVICE_SAMPLES.from_columns(columns, length=len(each))


def write(folder: Path, nodes: int) -> None:
    """The store, in a process of its own."""
    store = DuckDBStore(folder)
    for first in range(0, nodes, NODES):
        store.write([Batch(DEVICE_SAMPLES.name, "nvml", samples(first, min(NODES, nodes - first)))])
        store.maintain()
    store.close()


def account(folder: Path, nodes: int) -> dict[str, Any]:
    """Account everything and measure this process."""
    store = DuckDBStore(folder)
    with CatalogReader(folder, threads=1) as reader:
        floor = _spent(lambda: [reader.query(_plain(first, nodes)) for first in range(0, nodes, NODES)])
        accounting = Accounting(store, reader, clock=lambda: BEGIN + 3600 * NS)

        def all_of_it() -> None:
            while accounting.one_pass():
                pass

        spent = _spent(all_of_it)
        [rows] = reader.query("SELECT count(*) AS samples FROM device_samples").to_pylist()
        [found] = reader.query("SELECT count(*) AS intervals, sum(joules) AS joules FROM energy_states").to_pylist()
        [drawn] = reader.query(_GROWTH).to_pylist()
    store.close()
    return {
        "samples": rows["samples"],
        "intervals": found["intervals"],
        "joules_off_counters": abs(found["joules"] - drawn["joules"]),
        "account": spent,
        "floor": floor,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


_GROWTH: Final = """
SELECT sum(grown) AS joules FROM (SELECT max(energy_joules) - min(energy_joules) AS grown FROM device_samples
  GROUP BY node, gpu_uuid)"""


def _plain(first: int, nodes: int) -> str:
    named = ", ".join(f"'node{node:05d}'" for node in range(first, min(first + NODES, nodes)))
    return (
        "SELECT node, gpu_uuid, count(*) AS samples, sum(power_watts) AS watts, max(energy_joules) AS joules "
        f"FROM device_samples WHERE node IN ({named}) GROUP BY node, gpu_uuid"
    )


def _spent(work: Any) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def day(folder: Path, windows: int) -> dict[str, Any]:
    """The ten minutes of DAY_NODES nodes over and over, and what reports on them take."""
    target = folder.parent / f"day-{windows}"
    with CatalogReader(folder) as reader:
        named = ", ".join(f"'node{node:05d}'" for node in range(DAY_NODES))
        rows = reader.query(f"SELECT * FROM energy_intervals WHERE node IN ({named})").combine_chunks()
    store = DuckDBStore(target)
    for batch in _shifted(rows, windows):
        store.write([batch])
        store.maintain()
    store.close()
    end_ns = BEGIN + windows * WINDOW * NS
    told: dict[str, Any] = {"intervals": len(rows) * windows, "gpus": DAY_NODES * GPUS, "hours": windows / 6}
    with CatalogReader(target) as reader:
        for by in ("job", "gpu", "cause"):
            told[f"report_by_{by}"] = _spent(lambda by=by: report(reader.query, by, BEGIN, end_ns, Money()))
        told["plan"] = _spent(lambda: plan(reader.query, BEGIN, end_ns, Money(), Settings()))
    told["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return told


def _shifted(rows: pa.Table, windows: int) -> Iterator[Batch]:
    for window in range(windows):
        moved = rows
        for name in ("start_ns", "end_ns", "window_ns"):
            at = rows.column_names.index(name)
            values = pa.array(rows.column(name).to_numpy() + window * WINDOW * NS)
            moved = moved.set_column(at, name, values)
        [batch] = moved.cast(rows.schema).combine_chunks().to_batches()
        yield Batch(ENERGY_INTERVALS.name, "energy", batch.cast(ENERGY_INTERVALS.schema))


def part(words: Sequence[str]) -> int:
    """The role of a child process: its name, folder and a number."""
    role, folder, number = words[0], Path(words[1]), int(words[2])
    if role == "write":
        write(folder, number)
        return 0
    print(json.dumps(account(folder, number) if role == "account" else day(folder, number)))
    return 0


def _child(role: str, folder: Path, number: int) -> str:
    command = [sys.executable, str(_SELF), role, str(folder), str(number)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def figures(quick: bool) -> dict[str, Any]:
    """10,000 GPUs, a tenth of them where `quick`; a day, or two hours."""
    nodes = 125 if quick else 1250
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "store"
        _child("write", folder, nodes)
        found: dict[str, Any] = json.loads(_child("account", folder, nodes))
        found["day"] = json.loads(_child("day", folder, 12 if quick else 144))
    spent, floor = found["account"], found["floor"]
    found |= {
        "gpus": nodes * GPUS,
        "rows_per_second": found["samples"] / spent["cpu_seconds"],
        "share_of_one_core": spent["cpu_seconds"] / WINDOW,
        "times_the_floor": spent["cpu_seconds"] / floor["cpu_seconds"],
    }
    return found


if __name__ == "__main__":
    raise SystemExit(part(sys.argv[1:]))
