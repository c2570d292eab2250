"""SuperBench's monitor: JSON lines, each one reading of all GPUs of a node (microsoft/superbenchmark, `sb/monitor`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import DEVICE_SAMPLES

from ..parsers import nvidia_values, values
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

GPUS_MAX: Final = 256
"""GPUs of one node."""
SAMPLES_MAX: Final = 1_000_000
"""Readings kept of one file; the rest is counted as dropped."""
_REALS: Final = {
    "gpu_usage": "gpu_utilization_percent",
    "gpu_temperature": "temperature_celsius",
    "gpu_power": "power_watts",
    "gpu_power_limit": "power_limit_watts",
}
_COUNTS: Final = {
    "gpu_mem_used": "memory_used_bytes",
    "gpu_mem_total": "memory_total_bytes",
    "gpu_corrected_ecc": "ecc_corrected",
    "gpu_uncorrected_ecc": "ecc_uncorrected",
}


class SuperbenchMonitor:
    """One file of one node."""

    name = "superbench_monitor"

    def recognises(self, candidate: Input) -> bool:
        """An object with a time, and the use of a GPU under the monitor's name for it."""
        head = candidate.head.lstrip()
        return head[:1] == b"{" and b'"time"' in head[:4096] and b'"gpu_usage:' in head

    def read(self, candidate: Input) -> Reading:
        """Lines -> device_samples, one row a GPU; bandwidths of network cards name no unit and are left out."""
        samples: list[Row] = []
        broken = dropped = 0
        for line in candidate.lines():
            found = _samples(line)
            broken += bool(line.strip()) and not found
            dropped += max(0, len(samples) + len(found) - SAMPLES_MAX)
            samples += found[: SAMPLES_MAX - len(samples)]
        if not samples:
            raise Refused("holds no complete line of the monitor", "the file is cut off")
        rows = Rows("device_samples", DEVICE_SAMPLES.from_rows(samples), dropped)
        times = [row["time_ns"] for row in samples if row["time_ns"] is not None]
        facts = {
            "rows": len(samples),
            "gpus": len({row["gpu_index"] for row in samples}),
            "seconds": (max(times) - min(times)) / 1e9 if times else None,
        }
        notes = ["times carry no zone and are read as UTC"]
        if broken:
            notes.append(f"{broken} lines are damaged or hold no GPU and were skipped")
        return Reading([rows], facts, Origin(content=values.digest([rows])), notes)


def _samples(line: str) -> list[Row]:
    try:
        told = values.mapping(json.loads(line))
    except (ValueError, RecursionError):
        return []
    time_ns = nvidia_values.time_ns(values.text(told.get("time")))
    gpus: dict[int, Row] = {}
    for name, value in told.items():
        quantity, _, index = name.partition(":")
        if (quantity in _REALS or quantity in _COUNTS) and index.isdecimal() and int(index[:6]) < GPUS_MAX:
            gpus.setdefault(int(index[:6]), {}).update(_cell(quantity, value))
    return [{"gpu_index": index, "time_ns": time_ns, **_settled(row)} for index, row in sorted(gpus.items())]


def _cell(quantity: str, value: object) -> Row:
    if quantity in _COUNTS:
        return {_COUNTS[quantity]: values.count(value)}
    return {_REALS[quantity]: values.real(value)}


def _settled(row: Mapping[str, Any]) -> Row:
    return {**row, "power_method": "unstated"} if row.get("power_watts") is not None else dict(row)
