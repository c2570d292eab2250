"""Tables of `nvidia-smi --query-gpu` and of the scripts that imitate it: a header, then one line a reading of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from warpline_proto.tables import DEVICE_SAMPLES, LOG_EVENTS

from ..source import Rows
from . import nvidia_values, values
from .nvidia_values import GPU_LOST

Row = dict[str, Any]

SAMPLES_MAX: Final = 5_000_000
"""Readings kept of one file; the rest is counted as dropped."""

GPUS_MAX: Final = 4096
"""GPUs, nodes and names told apart in one file; readings of further ones are rows, but are not summed up."""

BATCH_ROWS: Final = 50_000
COLUMNS_MAX: Final = 1024

_REALS: Final = {
    "power.draw.average": "power_average", "power.draw": "power_unstated", "power.draw.instant": "power_instant",
    "power_w": "power_unstated", "enforced.power.limit": "power_limit_watts", "power.limit": "power_limit_watts",
    "clocks.current.sm": "sm_clock_mhz", "clocks.sm": "sm_clock_mhz", "clocks.current.memory": "memory_clock_mhz",
    "clocks.mem": "memory_clock_mhz", "clocks.max.sm": "sm_clock_max_mhz", "utilization.gpu": "gpu_utilization_percent",
    "utilization_gpu_percent": "gpu_utilization_percent", "utilization.memory": "memory_utilization_percent",
    "temperature.gpu": "temperature_celsius", "temperature_c": "temperature_celsius",
    "temperature.memory": "memory_temperature_celsius", "fan.speed": "fan_percent",
}  # fmt: skip
_WHOLES: Final = {
    "memory.used": "memory_used_bytes", "memory.total": "memory_total_bytes", "pcie.link.gen.current": "pcie_generation",
    "pcie.link.gen.gpucurrent": "pcie_generation", "pcie.link.width.current": "pcie_width", "index": "gpu_index",
    "gpu_index": "gpu_index", "ecc.errors.corrected.volatile.total": "ecc_corrected",
    "ecc.errors.uncorrected.volatile.total": "ecc_uncorrected", "remapped_rows.correctable": "remapped_corrected",
    "remapped_rows.uncorrectable": "remapped_uncorrected",
}  # fmt: skip
_COUNTERS: Final = {
    "sw_power_cap": "power_cap_ns", "sw_thermal_slowdown": "thermal_ns", "hw_thermal_slowdown": "hardware_thermal_ns",
    "hw_power_brake_slowdown": "power_brake_ns", "sync_boost": "sync_boost_ns",
}  # fmt: skip
_TEXTS: Final = {
    "name": "gpu_name", "gpu_name": "gpu_name", "hostname": "node",
}  # fmt: skip
_UUIDS: Final = ("uuid", "gpu_uuid")
_BUSES: Final = ("pci.bus_id", "gpu_bus_id")
_TIMES: Final = ("timestamp", "time")
_BARE_UNITS: Final = {"memory.used": "MiB", "memory.total": "MiB"}
_POWERS: Final = (("power_average", "average"), ("power_unstated", "unstated"), ("power_instant", "instant"))
_REASON_PREFIXES: Final = ("clocks_event_reasons", "clocks_throttle_reasons")

Convert = Callable[[str], Any]


class Cell(NamedTuple):
    """One column of the table: where, what for, and how its text becomes a value."""

    position: int
    column: str
    convert: Convert


@dataclass
class Readings:
    """What has been read so far, as batches, and what was left out."""

    rows: list[Rows] = field(default_factory=list)
    pending: list[Row] = field(default_factory=list)
    lost: dict[str, Row] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None
    count: int = 0
    broken: int = 0
    dropped: int = 0

    def add(self, row: Row) -> None:
        """Take one reading."""
        if self.count >= SAMPLES_MAX:
            self.dropped += 1
            return
        self.count += 1
        self.pending.append(row)
        self._note(row)
        if len(self.pending) >= BATCH_ROWS:
            self._flush()

    def finish(self) -> list[Rows]:
        """All rows."""
        self._flush()
        if self.lost:
            self.rows.append(Rows("log_events", LOG_EVENTS.from_rows(self.lost.values())))
        if self.dropped and self.rows:
            self.rows[0] = self.rows[0]._replace(dropped=self.dropped)
        return self.rows

    def facts(self) -> Row:
        """Counts, the time covered, and the mean power of each GPU."""
        means = {key: round(total / number, 2) for key, (number, total) in sorted(self.samples.items()) if number}
        seconds = None if self.first_ns is None or self.last_ns is None else (self.last_ns - self.first_ns) / 1e9
        return {
            "rows": self.count,
            "gpus": len(self.samples),
            "gpu_names": sorted(self.names),
            "seconds": seconds,
            "mean_power_watts": means,
        }

    def _note(self, row: Row) -> None:
        key = str(row.get("gpu_uuid") or row.get("gpu_index") or 0)
        if key in self.samples or len(self.samples) < GPUS_MAX:
            number_total = self.samples.setdefault(key, [0, 0.0])
            if (power := row.get("power_watts")) is not None:
                number_total[0] += 1
                number_total[1] += power
        if (time := row.get("time_ns")) is not None:
            self.first_ns = time if self.first_ns is None else min(self.first_ns, time)
            self.last_ns = time if self.last_ns is None else max(self.last_ns, time)
        for place, name in ((self.nodes, row.get("node")), (self.names, row.get("gpu_name"))):
            if name is not None and len(place) < GPUS_MAX:
                place.add(name)

    def _flush(self) -> None:
        if self.pending:
            self.rows.append(Rows("device_samples", DEVICE_SAMPLES.from_rows(self.pending)))
            self.pending = []


def columns(line: str) -> list[tuple[str, str]]:
    """A header line -> (name in lower case, unit or nothing) of each column."""
    found = []
    for part in line.split(",")[:COLUMNS_MAX]:
        name, _, unit = part.strip().strip('"').partition(" [")
        found.append((name.strip().lower(), unit.rstrip("]").strip()))
    return found


def is_header(line: str) -> bool:
    """Whether a line names a GPU or a time, and something that is measured."""
    names = {name for name, _ in columns(line)}
    return bool(names & set(_REALS) | names & {"memory.used"}) and bool(
        names & {*_TIMES, *_TEXTS, *_UUIDS, *_BUSES, "index", "gpu_index"}
    )


def plan(line: str, offset_seconds: int) -> tuple[list[Cell], int]:
    """A header line -> how to read each line below it, and how many fields such a line has."""
    named = columns(line)
    cells = [
        Cell(position, column, convert)
        for position, (name, unit) in enumerate(named)
        for column, convert in _cells(name, unit, offset_seconds)
    ]
    return cells, len(named)


def _cells(name: str, unit: str, offset_seconds: int) -> list[tuple[str, Convert]]:
    bare = unit or _BARE_UNITS.get(name, "")
    prefix, _, last = name.rpartition(".")
    if name in _REALS:
        return [(_REALS[name], lambda text: nvidia_values.quantity(text, bare))]
    if name in _WHOLES:
        return [(_WHOLES[name], lambda text: nvidia_values.whole(text, bare))]
    if name in _TEXTS:
        return [(_TEXTS[name], _name)]
    if name in _TIMES:
        return [("time_ns", lambda text: nvidia_values.time_ns(text, offset_seconds))]
    if name in _UUIDS:
        return [("gpu_uuid", nvidia_values.gpu_uuid)]
    if name in _BUSES:
        return [("bus_id", nvidia_values.bus_id)]
    if name == "pstate":
        return [("performance_state", nvidia_values.performance_state)]
    if prefix in _REASON_PREFIXES and last == "active":
        return [("clock_event_reasons", nvidia_values.bits)]
    if prefix in tuple(f"{each}_counters" for each in _REASON_PREFIXES) and last in _COUNTERS:
        return [(_COUNTERS[last], lambda text: nvidia_values.whole(text, unit or "us"))]
    return []


def _name(text: str) -> str | None:
    return None if text.startswith("[") or text in ("N/A", "") else values.text(text)


def sample(cells: Sequence[Cell], fields: Sequence[str]) -> Row:
    """One line's fields -> a row of device_samples; where two columns mean the same, the first with a value counts."""
    row: Row = {}
    for position, column, convert in cells:
        if row.get(column) is None:
            row[column] = convert(fields[position].strip())
    return _settle(row)


def _settle(row: Row) -> Row:
    """Fold what nvidia-smi gives in parts: power by three methods, remapped rows by two causes."""
    powers = [(row.pop(column, None), method) for column, method in _POWERS]
    row["power_watts"], row["power_method"] = next(
        ((power, method) for power, method in powers if power is not None), (None, None)
    )
    remapped = [row.pop(column, None) for column in ("remapped_corrected", "remapped_uncorrected")]
    row["remapped_rows"] = sum(remapped) if None not in remapped else None
    for column in ("gpu_index", "pcie_generation", "pcie_width"):
        if column in row:
            row[column] = values.small(row[column])
    row["source"] = "nvidia_smi"
    return row


def lost(row: Mapping[str, Any], fields: Sequence[str]) -> Row | None:
    """The event for a GPU of which nvidia-smi says that it fell off the bus."""
    if not any(GPU_LOST in text.lower() for text in fields):
        return None
    gpu = row.get("gpu_uuid") or row.get("gpu_index")
    return {
        "source": "nvidia_smi",
        "node": row.get("node"),
        "gpu_uuid": row.get("gpu_uuid"),
        "time_ns": row.get("time_ns"),
        "kind": "off_bus",
        "severity": "critical",
        "bus_id": row.get("bus_id"),
        "message": f"nvidia-smi: GPU {gpu if gpu is not None else '?'} is lost",
        "count": 1,
    }


def read_line(readings: Readings, cells: Sequence[Cell], width: int, line: str) -> None:
    """Take one line of the table; a line cut off in the middle is counted."""
    fields = line.split(",")
    if len(fields) != width:
        readings.broken += 1
        return
    row = sample(cells, fields)
    if (event := lost(row, fields)) is not None:
        key = str(event["gpu_uuid"] or event["message"])
        if key in readings.lost or len(readings.lost) < GPUS_MAX:
            readings.lost.setdefault(key, {**event, "count": 0})["count"] += 1
    if row["power_watts"] is None and all(
        row.get(column) is None for column in {*_REALS.values(), "memory_used_bytes"} - {each for each, _ in _POWERS}
    ):
        readings.broken += event is None
        return
    readings.add(row)
