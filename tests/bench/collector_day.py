"""Part `day`: 24 hours of 10,000 ranks in a collector's store, and the ten questions of questions.sql asked of it.

The histories hold a row a minute for each rank, for each GPU and for each kernel of each job, whose lists have the mean of that
minute on every rank that ran it: ten times finer than a collector makes them. The energy account is what a collector keeps
(ten minutes). The last ten minutes are there in full: clusters of every kernel, rank and step, steps, and readings each second.
Rows are written as segments of the store itself, twenty minutes or seconds each, by its own writer, beside its manifest.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from collector_rows import KERNELS, RANKS, STEP_SECONDS, categories, gpu_uuid, kernel_ids, node_name
from peers import python_of

from warpline_collector.pool import Config, WorkerPool
from warpline_collector.stores.duckdb import Config as StoreConfig
from warpline_collector.stores.tended import TendedStore
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError
from warpline_proto.history_tables import DEVICE_HISTORY, KERNELS_HISTORY, STEPS_HISTORY
from warpline_proto.power_tables import ENERGY_INTERVALS, WINDOW_SECONDS
from warpline_proto.table import Table
from warpline_proto.tables import DEVICE_SAMPLES, KERNEL_CLUSTERS, KERNEL_NAMES, LINK_COUNTERS, STEPS, TABLES

JOBS: Final = 20
MINUTE_NS: Final = 60 * 10**9
FULL_SECONDS: Final = 600
BEGIN_NS: Final = 1_795_219_200 * 10**9
SLOW_JOB, SLOW_RANK, SLOW_RATIO = 7, 13, 1.2
GROWN_JOB, GROWN_KERNEL, GROWN_RATIO = 3, 5, 1.15
"""What is wrong on that day: one rank computes longer from noon on, one kernel of one job takes longer in the last hours."""
ROUNDS: Final = 5
SEGMENT_MINUTES: Final = 20
"""Of a history in one segment."""
SEGMENT_SECONDS: Final = 20
"""Of the last ten minutes in one segment."""
Reals = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Day:
    """`ranks` in JOBS jobs, `hours` long."""

    ranks: int
    hours: int

    @property
    def each(self) -> int:
        """Ranks of one job."""
        return self.ranks // JOBS

    @property
    def end_ns(self) -> int:
        """When it is over."""
        return BEGIN_NS + self.hours * 3_600 * 10**9

    def place(self, repeat: int = 1) -> dict[str, Any]:
        """Names of each rank, `repeat` rows each, rank after rank."""
        every, numbered = np.arange(self.ranks), range(self.ranks)
        at = pa.array(np.repeat(every, repeat))
        told = {
            "node": pa.array([node_name(each // RANKS) for each in numbered]).take(at),
            "job": pa.array([f"job-{each // self.each:02d}" for each in numbered]).take(at),
            "gpu_uuid": pa.array([gpu_uuid(each // RANKS, each % RANKS) for each in numbered]).take(at),
        }
        numbers = {
            "rank": every % self.each,
            "dp": every % self.each // RANKS,
            "tp": every % RANKS,
            "device": every % RANKS,
        }
        return (
            told | {name: np.repeat(values, repeat) for name, values in numbers.items()} | {"cluster": "day", "pp": 0}
        )

    def slow(self, time_ns: Any) -> Reals:
        """By rank: how much longer it computes than usual."""
        ratio = np.ones((len(time_ns), self.ranks))
        ratio[np.asarray(time_ns) >= BEGIN_NS + self.hours * 1_800 * 10**9, SLOW_JOB * self.each + SLOW_RANK] = (
            SLOW_RATIO
        )
        return ratio


def write(day: Day, folder: Path) -> dict[str, Any]:
    """Make the store; rows and bytes of each table."""
    begun = time.perf_counter()
    store = TendedStore(folder, StoreConfig(direct_rows=1, merge_rows=2))
    try:
        for batch in ahead(rows(day)):
            store.write([batch])
        store.write([Batch(KERNEL_NAMES.name, "day", _names())])
    finally:
        store.close()
    listed = {name: list((folder / "segments" / name).glob("*.parquet")) for name in TABLES}
    told = {
        name: {"segments": len(paths), "bytes": sum(path.stat().st_size for path in paths)}
        for name, paths in listed.items()
        if paths
    }
    return {"tables": told, "made_seconds": round(time.perf_counter() - begun, 1)}


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same, the next one made while one is written."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def rows(day: Day) -> Iterator[Batch]:
    """All segments, one batch each."""
    random = np.random.default_rng(1)
    for part in range(day.hours * 60 // SEGMENT_MINUTES):
        minutes = BEGIN_NS + (part * SEGMENT_MINUTES + np.arange(SEGMENT_MINUTES)) * MINUTE_NS
        yield _batch(STEPS_HISTORY, _steps_history(day, minutes, random))
        yield _batch(DEVICE_HISTORY, _device_history(day, minutes, random))
        yield _batch(KERNELS_HISTORY, _kernels_history(day, minutes, random))
    yield _batch(ENERGY_INTERVALS, _energy(day, random))
    for second in range(0, FULL_SECONDS, SEGMENT_SECONDS):
        start_ns = day.end_ns - (FULL_SECONDS - second) * 10**9
        yield _batch(KERNEL_CLUSTERS, _clusters(day, start_ns, random))
        yield _batch(STEPS, _steps(day, start_ns, random))
        yield _batch(DEVICE_SAMPLES, _devices(day, start_ns, random))
        yield _batch(LINK_COUNTERS, _links(day, start_ns, random))


def _batch(table: Table, columns: dict[str, Any]) -> Batch:
    known = {column.name for column in table.columns}
    made = table.from_columns({"source": "day"} | {name: values for name, values in columns.items() if name in known})
    return Batch(table.name, "day", made)


def _names() -> pa.RecordBatch:
    ids = kernel_ids()
    return KERNEL_NAMES.from_columns(
        {
            "time_ns": BEGIN_NS,
            "kernel_id": ids,
            "name": [f"kernel_{at}" for at in range(len(ids))],
            "category": categories(),
        }
    )


def _tiled(day: Day, times: int) -> dict[str, Any]:
    """Names of all ranks, `times` times, for rows in order of time."""
    at = pa.array(np.tile(np.arange(day.ranks), times))
    told = {
        name: np.tile(values, times) if isinstance(values, np.ndarray) else values
        for name, values in day.place().items()
    }
    return {name: values.take(at) if isinstance(values, pa.Array) else values for name, values in told.items()}


def _steps_history(day: Day, minutes: Ints, random: np.random.Generator) -> dict[str, Any]:
    shape = (minutes.size, day.ranks)
    length = STEP_SECONDS * 1e9 * random.normal(1.0, 0.002, shape)
    compute = 0.7 * STEP_SECONDS * 1e9 * random.normal(1.0, 0.01, shape) * day.slow(minutes)
    first = (minutes - BEGIN_NS) // (STEP_SECONDS * 10**9)
    return _tiled(day, minutes.size) | {
        "time_ns": np.repeat(minutes, day.ranks), "first_step": np.repeat(first, day.ranks),
        "last_step": np.repeat(first + 14, day.ranks),
        "duration_ns": length.ravel().round(), "min_ns": _whole(0.98 * length), "max_ns": _whole(1.03 * length),
        "compute_ns": compute.ravel().round(), "communication_ns": (0.28 * length).ravel().round(),
        "exposed_communication_ns": (0.9 * length - compute).clip(0).ravel().round(), "idle_ns": (0.02 * length).ravel().round(),
        "data_wait_ns": random.lognormal(15, 0.3, shape).ravel().round(), "samples": 15,
        "updated_ns": np.repeat(minutes + 2 * MINUTE_NS, day.ranks),
    }  # fmt: skip


def _device_history(day: Day, minutes: Ints, random: np.random.Generator) -> dict[str, Any]:
    shape = (minutes.size, day.ranks)
    power = random.normal(620, 15, shape)
    return _tiled(day, minutes.size) | {
        "gpu_index": np.tile(np.arange(day.ranks) % RANKS, minutes.size), "gpu_name": "NVIDIA H100 80GB HBM3",
        "time_ns": np.repeat(minutes, day.ranks), "power_watts": power.ravel().round(2),
        "power_max_watts": (power + 40).ravel().round(1),
        "energy_joules": (60 * power).ravel().round(1), "gpu_utilization_percent": random.normal(96, 2, shape).ravel().round(1),
        "sm_active_percent": random.normal(88, 3, shape).ravel().round(1),
        "sm_clock_mhz": random.normal(1950, 12, shape).ravel().round(),
        "temperature_celsius": random.normal(62, 3, shape).ravel().round(), "memory_used_bytes": 70 * 2**30, "samples": 60,
        "updated_ns": np.repeat(minutes + 2 * MINUTE_NS, day.ranks),
    }  # fmt: skip


def _kernels_history(day: Day, minutes: Ints, random: np.random.Generator) -> dict[str, Any]:
    """Rows by minute, job and kernel; the mean on each rank in a list."""
    count = minutes.size * JOBS * KERNELS
    minute, job, kernel = np.unravel_index(np.arange(count), (minutes.size, JOBS, KERNELS))
    usual = 2e4 * 1.04**kernel
    usual[
        (job == GROWN_JOB) & (kernel == GROWN_KERNEL) & (minutes[minute] >= BEGIN_NS + day.hours * 3_000 * 10**9)
    ] *= GROWN_RATIO
    means = (usual[:, None] * (1 + 0.02 * random.standard_normal((count, day.each), dtype=np.float32))).astype(np.int64)
    late = (job == SLOW_JOB) & (minutes[minute] >= BEGIN_NS + day.hours * 1_800 * 10**9)
    means[late, SLOW_RANK] = (means[late, SLOW_RANK] * SLOW_RATIO).astype(np.int64)
    slowest = means.argmax(axis=1)
    rank = job * day.each + slowest
    offsets = pa.array(np.arange(count + 1) * day.each, pa.int32())
    numbers = np.tile(np.arange(day.each, dtype=np.int32), count)
    place = day.place()
    return {
        "cluster": "day", "job": pa.array([f"job-{each:02d}" for each in range(JOBS)]).take(pa.array(job)),
        "kernel_id": kernel_ids()[kernel], "category": pa.array(categories()).take(pa.array(kernel)), "time_ns": minutes[minute],
        "count": 15 * 48 * day.each, "sum_ns": 15 * 48 * means.sum(axis=1), "ranks": day.each, "min_mean_ns": means.min(axis=1),
        "p50_mean_ns": np.median(means, axis=1), "max_mean_ns": means.max(axis=1), "slowest_rank": slowest,
        "slowest_node": place["node"].take(pa.array(rank)), "slowest_gpu_uuid": place["gpu_uuid"].take(pa.array(rank)),
        "rank_numbers": pa.ListArray.from_arrays(offsets, pa.array(numbers)),
        "rank_means_ns": pa.ListArray.from_arrays(offsets, pa.array(means.ravel())),
        "samples": 15 * day.each, "updated_ns": minutes[minute] + 2 * MINUTE_NS,
    }  # fmt: skip


def _energy(day: Day, random: np.random.Generator) -> dict[str, Any]:
    """One interval for each GPU and ten minutes, and a second one where it idled."""
    windows = BEGIN_NS + np.arange(day.hours * 6) * WINDOW_SECONDS * 10**9
    start = np.repeat(windows, day.ranks)
    idle = random.random(start.size) < 0.05
    length = np.where(idle, random.uniform(10, 300, start.size), WINDOW_SECONDS).round(1)
    return _tiled(day, windows.size) | {
        "gpu_index": np.tile(np.arange(day.ranks) % RANKS, windows.size), "gpu_name": "NVIDIA H100 80GB HBM3", "start_ns": start,
        "end_ns": start + (length * 1e9).astype(np.int64), "window_ns": start, "updated_ns": start + WINDOW_SECONDS * 10**9,
        "state": pa.array(["active", "execution_idle"]).take(pa.array(idle.astype(np.int64))),
        "cause": pa.array([None, "data"]).take(pa.array(idle.astype(np.int64))), "seconds": length,
        "joules": (length * np.where(idle, 110.0, 620.0)).round(1), "run_seconds": length, "continued": False,
        "samples": length.astype(np.int64), "joules_method": "counter",
    }  # fmt: skip


def _clusters(day: Day, start_ns: int, random: np.random.Generator) -> dict[str, Any]:
    steps = SEGMENT_SECONDS // STEP_SECONDS
    count = day.ranks * steps * KERNELS
    rank, step, kernel = np.unravel_index(np.arange(count), (day.ranks, steps, KERNELS))
    middle = 2e4 * 1.04**kernel * random.normal(1.0, 0.02, count)
    middle[rank == SLOW_JOB * day.each + SLOW_RANK] *= SLOW_RATIO
    begun = start_ns + step * STEP_SECONDS * 10**9
    factors = (("min_ns", 0.9), ("p10_ns", 0.95), ("p50_ns", 1.0), ("p90_ns", 1.06), ("p99_ns", 1.15), ("max_ns", 1.3))
    shape = np.array([0.93, 0.98, 1.02, 1.12])
    means = (middle[:, None] * shape).astype(np.int64).ravel()
    offsets = pa.array(np.arange(count + 1) * shape.size, pa.int32())
    return day.place(steps * KERNELS) | {name: (middle * factor).astype(np.int64) for name, factor in factors} | {
        "step": (begun - BEGIN_NS) // (STEP_SECONDS * 10**9), "start_ns": begun, "end_ns": begun + STEP_SECONDS * 10**9,
        "stream": np.where(kernel < 88, 7, 13), "cluster_index": 0, "kernel_id": kernel_ids()[kernel], "grade": "clusters",
        "category": pa.array(categories()).take(pa.array(kernel)), "count": 48, "sum_ns": (48.5 * middle).astype(np.int64),
        "run_counts": pa.ListArray.from_arrays(offsets, pa.array(np.tile(np.array([12, 12, 12, 12], np.int32), count))),
        "run_means_ns": pa.ListArray.from_arrays(offsets, pa.array(means)), "clock": "realtime@day",
    }  # fmt: skip


def _steps(day: Day, start_ns: int, random: np.random.Generator) -> dict[str, Any]:
    steps = SEGMENT_SECONDS // STEP_SECONDS
    begun = start_ns + np.arange(steps) * STEP_SECONDS * 10**9
    length = STEP_SECONDS * 1e9 * random.normal(1.0, 0.002, (steps, day.ranks))
    compute = 0.7 * length * random.normal(1.0, 0.01, length.shape) * day.slow(begun)
    return _tiled(day, steps) | {
        "scope": "step", "step": np.repeat((begun - BEGIN_NS) // (STEP_SECONDS * 10**9), day.ranks),
        "start_ns": np.repeat(begun, day.ranks), "duration_ns": _whole(length), "compute_ns": _whole(compute),
        "idle_ns": _whole(0.02 * length), "clock": "realtime@day",
    }  # fmt: skip


def _devices(day: Day, start_ns: int, random: np.random.Generator) -> dict[str, Any]:
    seconds = start_ns + np.arange(SEGMENT_SECONDS) * 10**9
    count = seconds.size * day.ranks
    return _tiled(day, seconds.size) | {
        "gpu_index": np.tile(np.arange(day.ranks) % RANKS, seconds.size), "time_ns": np.repeat(seconds, day.ranks),
        "power_watts": random.normal(620, 15, count).round(2), "sm_clock_mhz": random.normal(1950, 12, count).round(),
        "gpu_utilization_percent": random.normal(96, 2, count).round(),
        "temperature_celsius": random.normal(62, 3, count).round(),
    }  # fmt: skip


def _links(day: Day, start_ns: int, random: np.random.Generator) -> dict[str, Any]:
    """One counter of errors a port, each ten seconds."""
    seconds = start_ns + np.arange(0, SEGMENT_SECONDS, 10) * 10**9
    count = seconds.size * day.ranks
    at = np.tile(np.arange(day.ranks), seconds.size)
    grown = np.where(at % 997 == 0, (np.repeat(seconds, day.ranks) - BEGIN_NS) // 10**10, 0)
    return {
        "cluster": "day", "node": pa.array([node_name(each // RANKS) for each in range(day.ranks)]).take(pa.array(at)),
        "time_ns": np.repeat(seconds, day.ranks), "link_kind": "infiniband", "port": 1, "counter": "symbol_error",
        "unit": "errors",
        "device": pa.array([f"mlx5_{each}" for each in range(RANKS)]).take(pa.array(at % RANKS)),
        "value": np.full(count, 3) + grown,
    }  # fmt: skip


def _whole(values: Reals) -> Ints:
    whole: Ints = values.ravel().astype(np.int64)
    return whole


def questions() -> list[tuple[str, str]]:
    """Name and SQL of each."""
    text = Path(__file__).with_name("questions.sql").read_text()
    parts = re.split(r"^-- (\d+)\. ", text, flags=re.M)[1:]
    told = []
    for number, body in zip(parts[::2], parts[1::2], strict=True):
        name, _, sql = body.partition("\n")
        told.append((f"{number}. {name}", sql.strip().rstrip(";")))
    return told


def ask(folder: Path, rounds: int) -> dict[str, Any]:
    """Each question through a worker as a user's would go, so many times; seconds of the median round, in milliseconds."""
    pool = WorkerPool(folder, Config(workers=2, seconds_max=600.0, memory_bytes=4 * 2**30))
    told = []
    try:
        for name, sql in questions():
            told.append({"question": name, **_asked(pool, sql, rounds)})
            print(told[-1], file=sys.stderr)
        counts = " UNION ALL ".join(f"SELECT '{name}' AS name, count(*) AS rows FROM {name}" for name in sorted(TABLES))
        held = {row["name"]: row["rows"] for row in pool.query(counts).rows().to_pylist() if row["rows"]}
    finally:
        pool.close()
    return {
        "questions": told,
        "query_p95_ms": round(float(np.quantile([each["ms"] for each in told if each["ms"] is not None], 0.95)), 1),
        "unanswered": sum(each["ms"] is None for each in told),
        "rows": held,
    }


def _asked(pool: WorkerPool, sql: str, rounds: int) -> dict[str, Any]:
    """What one question takes; why it was not answered, where it was not."""
    took, found = [], 0
    try:
        for _ in range(rounds):
            begun = time.perf_counter()
            found = pool.query(sql).rows().num_rows
            took.append(1e3 * (time.perf_counter() - begun))
    except QueryError as error:
        return {"ms": None, "first_ms": None, "rows": 0, "why": str(error).splitlines()[0]}
    return {"ms": round(statistics.median(took), 1), "first_ms": round(took[0], 1), "rows": found}


def in_pandas(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds by number of the question, in an environment of its own."""
    command = [str(python_of("pandas")), str(Path(__file__).with_name("collector_pandas.py")), str(folder), str(rounds)]
    told: dict[str, dict[str, float]] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told["ms"]


def day(ranks: int, hours: int, folder: Path, rounds: int = ROUNDS, *, peer: bool = True) -> dict[str, Any]:
    """Make the store, unless it is there, and ask."""
    made = (
        write(Day(ranks, hours), folder)
        if not (folder / "catalog.json").exists()
        else {"tables": {}, "made_seconds": None}
    )
    answered = ask(folder, rounds)
    found = in_pandas(folder, rounds) if peer else {}
    for each in answered["questions"]:
        each["pandas_ms"] = found.get(each["question"].split(".")[0])
    for name, table in made["tables"].items():
        table["rows"] = answered["rows"].get(name, 0)
        table["bytes_per_row"] = round(table["bytes"] / max(table["rows"], 1), 2)
    return {"ranks": ranks, "hours": hours, **made, **answered}
