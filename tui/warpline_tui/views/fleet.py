"""What the fleet screen shows: a reading of each GPU in columns, who is accused, and a line about each job.

Who there is, and what of it rarely changes, is asked for rarely, with the last reading of each; what was read in the last seconds
is asked for each time, and laid over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.finding import GRAVITY
from warpline_proto.newest_run import STEPS, since, told

from ..incident import GRAVEST_FIRST
from ..view import Ask
from . import headline

RECENT_NS: Final = 120 * 10**9
"""A GPU that was not heard of for so long before the newest reading is gone from the fleet."""
FRESH_NS: Final = 5 * 10**9
"""What was read so shortly before the newest reading is asked for each time."""
SILENT_NS: Final = 30 * 10**9
"""A GPU that was not heard of for so long before the newest reading is silent."""
LISTED_SECONDS: Final = 15.0
"""Which GPUs there are is asked so rarely."""
JOBS_SECONDS: Final = 10.0
GPUS_MAX: Final = 20_000
JOBS_MAX: Final = 50
RECENT_STEPS: Final = 16
"""Steps of each rank that a job's line covers."""
FINDINGS_MAX: Final = 200
IDLE_PERCENT: Final = 5
"""Below this utilisation a GPU does nothing."""
READINGS: Final = (
    "power_watts",
    "busy_percent",
    "temperature_celsius",
    "clock_mhz",
    "link_bytes",
    "memory_bytes",
    "time_ns",
)
"""Columns that the last seconds replace, means of these (temperature and memory the highest); the others belong to the GPU."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Accusation:
    """The gravest open finding against a GPU, its node or its rank."""

    id: str
    severity: str
    kind: str
    summary: str


@dataclass(frozen=True)
class Job:
    """Recent steps of a job over its ranks: medians in ns, and the rank whose median step computes longest."""

    job: str
    ranks: int
    step: int | None
    step_ns: float | None
    compute_ns: float | None
    communication_ns: float | None
    idle_ns: float | None
    slowest_rank: int | None
    slowest_compute_ns: float | None


@dataclass(frozen=True, eq=False)
class Gpus:
    """A row a GPU, by node and index: `key` (node/UUID), node, gpu, gpu_uuid, gpu_name, job, limits, programs, and READINGS.

    `accused` is a number into `accusations` for each GPU, -1 where nothing is found against it. As long as `listed` is the same,
    so are the GPUs and their order.
    """

    table: pa.Table
    listed: pa.Table
    accused: npt.NDArray[np.int32]
    accusations: tuple[Accusation, ...] = ()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def numbers(self, column: str) -> Numbers:
        """A column, NaN where not known."""
        return _numbers(self.table[column])

    def texts(self, column: str) -> list[Any]:
        """A column of texts, None where not known."""
        listed: list[Any] = self.table[column].to_pylist()
        return listed

    @cached_property
    def keys(self) -> list[str]:
        """What names each GPU."""
        return [str(each) for each in self.texts("key")]

    def accusation(self, at: int) -> Accusation | None:
        """What is found against a GPU."""
        return None if self.accused[at] < 0 else self.accusations[self.accused[at]]

    def row(self, at: int) -> dict[str, Any]:
        """Everything of one GPU."""
        found: dict[str, Any] = self.table.slice(at, 1).to_pylist()[0]
        return found


@dataclass(frozen=True, eq=False)
class Fleet:
    """GPUs and jobs; `newest_ns` is the time of the newest reading, `past` says that a past moment is looked at."""

    gpus: Gpus
    jobs: tuple[Job, ...]
    accused_jobs: frozenset[str]
    newest_ns: int | None
    now_ns: int
    past: bool = False


@dataclass(frozen=True)
class FleetView:
    """The whole fleet."""

    def take(self, ask: Ask) -> Fleet:
        """Lists now and then, the last seconds each time."""
        newest_ns = headline.newest(ask)
        listed = ask.rows(_listed(ask, newest_ns), LISTED_SECONDS)
        table = listed
        if newest_ns is not None:
            table = overlaid(listed, ask.rows(_fresh(ask, newest_ns)))
        rows = ask.rows(_findings(ask)).to_pylist()
        return Fleet(
            _judged(table, listed, rows),
            tuple(Job(**row) for row in ask.rows(_jobs(ask), JOBS_SECONDS).to_pylist()),
            frozenset(str(row["job"]) for row in rows if row["job"] is not None),
            newest_ns,
            ask.now_ns,
            ask.at_ns is not None,
        )


_NODE: Final = "coalesce(device_samples.node, '-')"
_GPU: Final = "coalesce(device_samples.gpu_uuid, device_samples.gpu_index::VARCHAR, '')"
_KEY: Final = f"{_NODE} || '/' || {_GPU}"
"""Made once a GPU, not once a reading: rows are put together by its two parts."""


def _readings(mean: str, most: str) -> str:
    """SQL of the readings, `mean` and `most` being what is made of several."""
    busy = "coalesce(sm_active_percent, gpu_utilization_percent)"
    traffic = """coalesce(nvlink_tx_bytes_per_second + nvlink_rx_bytes_per_second,
                  pcie_tx_bytes_per_second + pcie_rx_bytes_per_second)"""
    means = (
        ("power_watts", "power_watts"),
        (busy, "busy_percent"),
        ("sm_clock_mhz", "clock_mhz"),
        (traffic, "link_bytes"),
    )
    mosts = (("temperature_celsius", "temperature_celsius"), ("memory_used_bytes", "memory_bytes"))
    columns = [f"TRY_CAST({mean.format(sql)} AS FLOAT) AS {name}" for sql, name in means]
    columns += [f"{most.format(sql)}::DOUBLE AS {name}" for sql, name in mosts]
    return ", ".join([*columns, "max(time_ns) AS time_ns"])


_LAST: Final = _readings("arg_max({}, time_ns)", "arg_max({}, time_ns)")
_LATELY: Final = _readings("avg({})", "max({})")


def _listed(ask: Ask, newest_ns: int | None) -> str:
    return f"""
SELECT {_KEY} AS key, {_NODE} AS node, any_value(gpu_index)::INTEGER AS gpu,
    any_value(gpu_uuid) AS gpu_uuid, any_value(gpu_name) AS gpu_name, arg_max(job, time_ns) AS job,
    TRY_CAST(any_value(power_limit_watts) AS FLOAT) AS limit_watts,
    TRY_CAST(any_value(sm_clock_max_mhz) AS FLOAT) AS clock_max_mhz, any_value(memory_total_bytes)::DOUBLE AS memory_total_bytes,
    arg_max(resident_processes, time_ns)::INTEGER AS programs, {_LAST}
FROM device_samples
WHERE {ask.until()}
  AND (time_ns IS NULL OR {headline.since(newest_ns, RECENT_NS)})
GROUP BY {_NODE}, {_GPU}
ORDER BY {_NODE}, gpu, key LIMIT {GPUS_MAX}
"""


def _fresh(ask: Ask, newest_ns: int) -> str:
    return f"""
SELECT {_KEY} AS key, {_LATELY} FROM device_samples
WHERE {ask.until()} AND time_ns >= {newest_ns - FRESH_NS} GROUP BY {_NODE}, {_GPU} LIMIT {GPUS_MAX}
"""


def _findings(ask: Ask) -> str:
    return f"""
SELECT id, severity, kind, job, node, gpu_uuid, summary FROM (
    SELECT * FROM findings WHERE {ask.until("updated_ns")}
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
) WHERE state = 'open' ORDER BY {GRAVEST_FIRST} LIMIT {FINDINGS_MAX}
"""


def _jobs(ask: Ask) -> str:
    return f"""
WITH {told(f"job IS NOT NULL AND {ask.until('start_ns')}")}, ranks AS (
    SELECT s.job, s.rank, max(s.step) AS step, median(s.duration_ns) AS step_ns, median(s.compute_ns) AS compute_ns,
           median(s.communication_ns) AS communication_ns, median(s.idle_ns) AS idle_ns
    FROM {STEPS}
    WHERE {since(RECENT_STEPS)} AND {ask.until("s.start_ns")} GROUP BY s.job, s.rank
)
SELECT job, count(*) AS ranks, max(step) AS step, median(step_ns) AS step_ns, median(compute_ns) AS compute_ns,
       median(communication_ns) AS communication_ns, median(idle_ns) AS idle_ns,
       arg_max(rank, compute_ns) AS slowest_rank, max(compute_ns) AS slowest_compute_ns
FROM ranks GROUP BY job ORDER BY ranks DESC, job LIMIT {JOBS_MAX}
"""


def overlaid(listed: pa.Table, fresh: pa.Table) -> pa.Table:
    """The list with the readings of those that are in `fresh`, matched by their key."""
    lines = {key: line for line, key in enumerate(listed["key"].to_pylist())}
    found = np.fromiter((lines.get(key, -1) for key in fresh["key"].to_pylist()), np.int64, fresh.num_rows)
    for name in READINGS:
        numbers, newer = _numbers(listed[name]), _numbers(fresh[name])
        told = (found >= 0) & np.isfinite(newer)
        numbers[found[told]] = newer[told]
        listed = listed.set_column(listed.schema.get_field_index(name), name, pa.array(numbers, from_pandas=True))
    return listed


def _numbers(column: pa.ChunkedArray) -> Numbers:
    """A copy, NaN where not known."""
    return np.array(column.to_numpy(), np.float64)


def _on(listed: pa.Table, node: str) -> list[int]:
    return [line for line, each in enumerate(listed["node"].to_pylist()) if each == node]


def _judged(table: pa.Table, listed: pa.Table, rows: list[dict[str, Any]]) -> Gpus:
    """Open findings laid on the GPUs, or else the nodes, that they name; the gravest wins."""
    order = [str(severity) for severity in GRAVITY]
    rows = sorted(rows, key=lambda row: order.index(row["severity"]) if row["severity"] in order else len(order))
    accused = np.full(table.num_rows, -1, np.int32)
    made = []
    lines = {uuid: line for line, uuid in enumerate(listed["gpu_uuid"].to_pylist())} if rows else {}
    for number, row in enumerate(rows):
        made.append(Accusation(str(row["id"]), str(row["severity"]), str(row["kind"]), str(row["summary"])))
        if row["gpu_uuid"] is not None:
            named = [lines[row["gpu_uuid"]]] if row["gpu_uuid"] in lines else []
        else:
            named = [] if row["node"] is None else _on(listed, row["node"])
        accused[[line for line in named if accused[line] < 0]] = number
    return Gpus(table, listed, accused, tuple(made))
