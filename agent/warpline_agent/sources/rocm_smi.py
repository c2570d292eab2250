"""`rocm-smi -a --json`: one reading of every AMD GPU of a node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import DEVICE_SAMPLES

from ..parsers import values
from ..parsers.bus_id import normal_bus_id
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

REPORT_BYTES_MAX: Final = 16 * 1024 * 1024
GPUS_MAX: Final = 4096
_CARD: Final = re.compile(r"card(\d{1,4})")
_RECOGNISED: Final = re.compile(rb'"card\d{1,4}"\s*:\s*\{')
_MARKS: Final = (b'"GPU use (%)"', b'"VBIOS version"', b'"Unique ID"', b'"Card series"', b"Graphics Package Power (W)")
_MEGAHERTZ: Final = re.compile(r"\(?(\d{1,6})Mhz\)?", re.IGNORECASE)
_LINK: Final = re.compile(r".{0,20}?(\d{1,3}(?:\.\d)?)GT/s x(\d{1,2})\)?")
_GENERATIONS: Final = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
"""GT/s of one lane -> PCIe generation."""
_REALS: Final = {
    "power_limit_watts": "Max Graphics Package Power (W)",
    "gpu_utilization_percent": "GPU use (%)",
    "memory_utilization_percent": "GPU memory use (%)",
    "temperature_celsius": "Temperature (Sensor edge) (C)",
    "memory_temperature_celsius": "Temperature (Sensor memory) (C)",
    "fan_percent": "Fan speed (%)",
}
_COUNTS: Final = {
    "memory_used_bytes": "VRAM Total Used Memory (B)",
    "memory_total_bytes": "VRAM Total Memory (B)",
    "pcie_replays": "PCIe Replay Count",
}
_POWERS: Final = (
    ("Average Graphics Package Power (W)", "average"),
    ("Current Socket Graphics Package Power (W)", "instant"),
)


class RocmSmi:
    """One JSON report."""

    name = "rocm_smi"

    def recognises(self, candidate: Input) -> bool:
        """By a card and one of rocm-smi's own names in it."""
        head = candidate.head
        return (
            head.lstrip()[:1] == b"{" and _RECOGNISED.search(head) is not None and any(mark in head for mark in _MARKS)
        )

    def read(self, candidate: Input) -> Reading:
        """Cards -> device_samples; the report has no time, so rows have none."""
        report = values.mapping(values.json_value(candidate.read_bytes(REPORT_BYTES_MAX)))
        cards = [
            (int(match[1]), values.mapping(told)) for name, told in report.items() if (match := _CARD.fullmatch(name))
        ]
        samples = [_sample(index, card) for index, card in cards[:GPUS_MAX]]
        if not samples:
            raise Refused("a report of rocm-smi without a card")
        rows = Rows("device_samples", DEVICE_SAMPLES.from_rows(samples), len(cards) - len(samples))
        facts = {
            "gpus": len(samples),
            "gpu_names": sorted({row["gpu_name"] for row in samples if row["gpu_name"]}),
            "driver_version": values.text(values.mapping(report.get("system")).get("Driver version")),
        }
        return Reading([rows], facts, Origin(content=values.digest([rows])), ["it carries no time"])


def _sample(index: int, card: Mapping[Any, Any]) -> Row:
    powers = ((_measured(card.get(name)), method) for name, method in _POWERS)
    power, method = next(((watts, method) for watts, method in powers if watts is not None), (None, None))
    generation, width = _link(values.text(card.get("pcie clock level")) or "")
    return {
        "gpu_index": index,
        "gpu_uuid": values.text(card.get("Unique ID")) if card.get("Unique ID") != "N/A" else None,
        "gpu_name": values.text(card.get("Card series")),
        "bus_id": normal_bus_id(values.text(card.get("PCI Bus")) or ""),
        "power_watts": power,
        "power_method": method,
        "sm_clock_mhz": _megahertz(card.get("sclk clock speed:")),
        "memory_clock_mhz": _megahertz(card.get("mclk clock speed:")),
        "pcie_generation": generation,
        "pcie_width": width,
        **{column: _measured(card.get(name)) for column, name in _REALS.items()},
        **{column: values.count(card.get(name)) for column, name in _COUNTS.items()},
    }


def _measured(value: object) -> float | None:
    """A number that is not below zero."""
    number = values.real(value)
    return number if number is not None and number >= 0 else None


def _megahertz(value: object) -> float | None:
    found = _MEGAHERTZ.fullmatch(values.text(value) or "")
    return float(found[1]) if found else None


def _link(said: str) -> tuple[int | None, int | None]:
    found = _LINK.fullmatch(said)
    return (_GENERATIONS.get(float(found[1])), int(found[2])) if found else (None, None)
