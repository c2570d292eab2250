"""Five of the ten questions in pandas over the same files: columns that the question names, read by pyarrow, then grouped.

    python tests/bench/collector_pandas.py STORE ROUNDS     with an interpreter that has pandas and pyarrow

What a notebook would do: no index, nothing kept between questions. Prints milliseconds by the number of the question.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HOUR_NS = 3_600_000_000_000


def frame(store: Path, table: str, *columns: str, filters: Any = None) -> Any:
    """Some columns of a table."""
    paths = sorted((store / "segments" / table).glob("*.parquet"))
    read = [pq.read_table(path, columns=list(columns), filters=filters) for path in paths]
    return pa.concat_tables(read).to_pandas()


def steps_by_hour(store: Path) -> Any:
    """Question 2."""
    names = ("job", "time_ns", "duration_ns", "max_ns", "exposed_communication_ns", "data_wait_ns")
    rows = frame(store, "steps_history", *names)
    return rows.groupby(["job", rows.time_ns // HOUR_NS]).mean()


def kernels_by_job(store: Path) -> Any:
    """Question 3."""
    rows = frame(store, "kernels_history", "job", "kernel_id", "count", "sum_ns")
    return rows.groupby(["job", "kernel_id"]).sum().sort_values("sum_ns").groupby("job").tail(5)


def communication_by_hour(store: Path) -> Any:
    """Question 6."""
    rows = frame(store, "kernels_history", "job", "time_ns", "category", "sum_ns")
    return rows.groupby(["job", rows.time_ns // HOUR_NS, "category"]).sum_ns.sum().unstack()


def power_and_kernels(store: Path) -> Any:
    """Question 8."""
    mine = [("job", "=", "job-07")]
    kernels = frame(store, "kernel_clusters", "gpu_uuid", "category", "sum_ns", "count", filters=mine)
    power = frame(store, "device_samples", "gpu_uuid", "power_watts", "sm_clock_mhz", filters=mine)
    sums = kernels[kernels.category == "compute"].groupby("gpu_uuid")[["sum_ns", "count"]].sum()
    return (
        (sums.sum_ns / sums["count"]).to_frame("mean_ns").join(power.groupby("gpu_uuid").mean()).nlargest(10, "mean_ns")
    )


def idle_energy(store: Path) -> Any:
    """Question 9."""
    rows = frame(store, "energy_intervals", "job", "cause", "state", "joules", "seconds", "gpu_uuid")
    idle = rows[rows.state == "execution_idle"].groupby(["job", "cause"])
    return idle.agg({"joules": "sum", "seconds": "sum", "gpu_uuid": "nunique"}).nlargest(20, "joules")


QUESTIONS: dict[str, Callable[[Path], Any]] = {
    "2": steps_by_hour,
    "3": kernels_by_job,
    "6": communication_by_hour,
    "8": power_and_kernels,
    "9": idle_energy,
}


def main() -> int:
    """Ask each so many times; the median counts."""
    store, rounds = Path(sys.argv[1]), int(sys.argv[2])
    told = {}
    for number, question in QUESTIONS.items():
        took = []
        for _ in range(rounds):
            begun = time.perf_counter()
            question(store)
            took.append(1e3 * (time.perf_counter() - begun))
        told[number] = round(statistics.median(took), 1)
    print(json.dumps({"pandas": version("pandas"), "ms": told}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
