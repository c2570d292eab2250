"""GPUs of one node: the newest reading of each, how long its clocks were held, its line of the past, and who is on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.history_tables import HISTORY_SECONDS

from ..held import COUNTERS
from ..literal import literal
from ..spans import DAY, RECENT, Span, settled
from ..view import Ask

GPUS_MAX: Final = 64
"""With MIG a node has several devices a GPU."""
PROCESSES_MAX: Final = 256
RECENT_NS: Final = 120 * 10**9
"""A GPU that was not heard of for so long before the node's newest reading is gone; some sources tell some columns every 30 s."""
PROCESSES_NS: Final = 12 * 60 * 10**9
"""A process that stays is told every five minutes."""
SLOW_SECONDS: Final = 5.0
"""What changes slowly is asked for so rarely."""
_NEWEST: Final = (
    "gpu_index", "gpu_name", "bus_id", "job", "power_watts", "power_limit_watts", "sm_clock_mhz", "memory_clock_mhz",
    "sm_clock_max_mhz", "clock_event_reasons", "gpu_utilization_percent", "memory_utilization_percent", "sm_active_percent",
    "tensor_active_percent", "dram_active_percent", "memory_used_bytes", "memory_total_bytes", "temperature_celsius",
    "memory_temperature_celsius", "fan_percent", "performance_state", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second",
    "pcie_replays", "pcie_generation", "pcie_width", "nvlink_tx_bytes_per_second", "nvlink_rx_bytes_per_second", "nvlink_errors",
    "ecc_corrected", "ecc_uncorrected", "remapped_rows", "resident_processes",
)  # fmt: skip
"""Columns of which the newest value that is known is shown."""
_REMEMBERED: Final = (
    "gpu_index", "gpu_name", "job", "power_watts", "gpu_utilization_percent", "sm_active_percent", "sm_clock_mhz",
    "temperature_celsius", "memory_used_bytes",
)  # fmt: skip
"""Columns of the history."""
_GPU: Final = "coalesce(gpu_uuid, bus_id, CAST(gpu_index AS VARCHAR))"


@dataclass(frozen=True)
class Gpu:
    """The newest reading; None where the device does not tell. `key` is its UUID where it has one."""

    key: str
    time_ns: int
    gpu_uuid: str | None = None
    gpu_index: int | None = None
    gpu_name: str | None = None
    bus_id: str | None = None
    job: str | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    sm_clock_max_mhz: float | None = None
    clock_event_reasons: int | None = None
    gpu_utilization_percent: float | None = None
    memory_utilization_percent: float | None = None
    sm_active_percent: float | None = None
    tensor_active_percent: float | None = None
    dram_active_percent: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    fan_percent: float | None = None
    performance_state: int | None = None
    pcie_tx_bytes_per_second: float | None = None
    pcie_rx_bytes_per_second: float | None = None
    pcie_replays: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    nvlink_tx_bytes_per_second: float | None = None
    nvlink_rx_bytes_per_second: float | None = None
    nvlink_errors: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    resident_processes: int | None = None


@dataclass(frozen=True)
class Line:
    """One GPU over a span, one value a mark, the oldest first."""

    power_watts: tuple[float | None, ...]
    utilization_percent: tuple[float | None, ...]
    sm_clock_mhz: tuple[float | None, ...]
    temperature_celsius: tuple[float | None, ...]
    memory_used_bytes: tuple[float | None, ...]


@dataclass(frozen=True)
class Process:
    """A program that holds a GPU."""

    gpu_uuid: str | None
    gpu_index: int | None
    pid: int | None
    process: str | None
    user: str | None
    job: str | None
    rank: int | None
    memory_bytes: int | None
    pod: str | None
    evidence: str | None


@dataclass(frozen=True)
class Worker:
    """A rank whose newest step ran on a GPU of the node."""

    job: str
    rank: int | None
    gpu_uuid: str | None
    device: int | None
    step: int | None


def gpus(ask: Ask, node: str, end_ns: int) -> tuple[Gpu, ...]:
    """The newest readings that had come by `end_ns`, by index."""
    columns = ", ".join(f"arg_max({column}, time_ns) AS {column}" for column in _NEWEST)
    rows = ask.rows(f"""
SELECT {_GPU} AS key, max(time_ns) AS time_ns, any_value(gpu_uuid) AS gpu_uuid, {columns}
FROM device_samples WHERE node = {literal(node)} AND time_ns BETWEEN {end_ns - RECENT_NS} AND {end_ns}
GROUP BY key ORDER BY gpu_index NULLS LAST, key LIMIT {GPUS_MAX}
""")
    return tuple(Gpu(**row) for row in rows.to_pylist() if row["key"] is not None)


def remembered(ask: Ask, node: str, end_ns: int) -> tuple[Gpu, ...]:
    """The last ten minutes of each GPU that the history has, where readings are gone."""
    newest = ", ".join(f"arg_max({column}, time_ns) AS {column}" for column in _REMEMBERED)
    rows = ask.rows(
        f"""
SELECT coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) AS key, max(time_ns) AS time_ns, any_value(gpu_uuid) AS gpu_uuid, {newest}
FROM gpu_history WHERE node = {literal(node)} AND time_ns BETWEEN {DAY.start_ns(end_ns)} AND {end_ns} AND {ask.until()}
GROUP BY key ORDER BY gpu_index NULLS LAST, key LIMIT {GPUS_MAX}
""",
        60.0,
    )
    return tuple(Gpu(**row) for row in rows.to_pylist() if row["key"] is not None)


def held(ask: Ask, node: str, end_ns: int) -> dict[str, dict[str, float]]:
    """GPU -> reason in short -> share of the last ten minutes for which it held the clocks, where a counter tells."""
    names = list(COUNTERS)
    shares = ", ".join(
        f"CASE WHEN arg_max({name}, time_ns) >= arg_min({name}, time_ns) "
        f"THEN (arg_max({name}, time_ns) - arg_min({name}, time_ns)) / (max(time_ns) - min(time_ns)) END AS {name}"
        for name in names
    )
    rows = ask.rows(
        f"""
SELECT {_GPU} AS key, {shares} FROM device_samples
WHERE node = {literal(node)} AND time_ns BETWEEN {RECENT.start_ns(end_ns)} AND {end_ns} AND {ask.until()}
GROUP BY key HAVING max(time_ns) > min(time_ns) LIMIT {GPUS_MAX}
""",
        SLOW_SECONDS,
    )
    return {
        row["key"]: {COUNTERS[name]: min(row[name], 1.0) for name in names if row[name]} for row in rows.to_pylist()
    }


def lines(ask: Ask, node: str, span: Span, end_ns: int) -> tuple[Span, dict[str, Line]]:
    """GPU -> its line, and the span that it is of: readings where they are still kept, else a day of the history."""
    found = _lines(ask, node, span, end_ns)
    if span.raw and not found:
        return DAY, _lines(ask, node, DAY, end_ns)
    return span, found


def _lines(ask: Ask, node: str, span: Span, end_ns: int) -> dict[str, Line]:
    if not span.raw:
        end_ns = settled(end_ns, HISTORY_SECONDS)
    rows = ask.rows(
        f"""
SELECT coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR)) AS key, {span.bin_of("time_ns", end_ns)} AS bin,
       avg(power_watts) AS power, avg(coalesce(sm_active_percent, gpu_utilization_percent)) AS utilization,
       avg(sm_clock_mhz) AS clock, max(temperature_celsius) AS temperature, max(memory_used_bytes) AS memory
FROM {"device_samples" if span.raw else "gpu_history"}
WHERE node = {literal(node)} AND time_ns BETWEEN {span.start_ns(end_ns)} AND {end_ns} AND {ask.until()}
GROUP BY key, bin ORDER BY key, bin LIMIT {GPUS_MAX * span.bins}
""",
        SLOW_SECONDS if span.raw else 60.0,
    ).to_pylist()
    by_gpu: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        by_gpu.setdefault(str(row["key"]), []).append(row)
    return {key: _line(points, span.bins) for key, points in by_gpu.items()}


def _line(points: Sequence[dict[str, float]], bins: int) -> Line:
    at = {int(point["bin"]): point for point in points}

    def column(name: str) -> tuple[float | None, ...]:
        return tuple(at[each][name] if each in at else None for each in range(bins))

    return Line(column("power"), column("utilization"), column("clock"), column("temperature"), column("memory"))


def processes(ask: Ask, node: str, end_ns: int) -> tuple[Process, ...]:
    """Programs that hold GPUs, by GPU."""
    rows = ask.rows(
        f"""
SELECT gpu_uuid, gpu_index, pid, process, "user", job, rank, memory_bytes, pod, evidence FROM (
    SELECT * FROM gpu_processes
    WHERE node = {literal(node)} AND time_ns BETWEEN {end_ns - PROCESSES_NS} AND {end_ns} AND {ask.until()}
    QUALIFY row_number() OVER (PARTITION BY gpu_uuid, gpu_index, pid, start_ticks ORDER BY time_ns DESC) = 1
) WHERE state <> 'gone' ORDER BY gpu_index NULLS LAST, memory_bytes DESC NULLS LAST, pid LIMIT {PROCESSES_MAX}
""",
        SLOW_SECONDS,
    )
    return tuple(Process(**row) for row in rows.to_pylist())


def workers(ask: Ask, node: str, end_ns: int) -> tuple[Worker, ...]:
    """Ranks at work on the node in the last ten minutes."""
    rows = ask.rows(
        f"""
SELECT job, rank, any_value(gpu_uuid) AS gpu_uuid, any_value(device) AS device, max(step) AS step FROM steps
WHERE node = {literal(node)} AND job IS NOT NULL AND start_ns BETWEEN {RECENT.start_ns(end_ns)} AND {end_ns}
  AND {ask.until("start_ns")}
GROUP BY job, rank ORDER BY job, rank LIMIT {GPUS_MAX}
""",
        SLOW_SECONDS,
    )
    return tuple(Worker(**row) for row in rows.to_pylist())
