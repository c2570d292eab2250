"""How nvidia-smi writes readings: numbers with units, states, times without a zone, and many words for "no value"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from . import values
from .bus_id import normal_bus_id

GPU_LOST: Final = "gpu is lost"

_QUANTITY: Final = re.compile(r"([-+]?\d{1,18}(?:\.\d{1,9})?)\s*([a-zA-Z%/]*)")
_UNITS: Final = {
    "": 1.0, "%": 1.0, "w": 1.0, "mw": 1e-3, "c": 1.0, "mhz": 1.0, "x": 1.0, "b": 1.0, "kib": 1024.0, "mib": 2.0**20,
    "gib": 2.0**30, "us": 1e3, "ms": 1e6, "s": 1e9, "ns": 1.0, "kb/s": 1e3, "mb/s": 1e6, "kib/s": 1024.0, "j": 1.0, "mj": 1e-3,
}  # fmt: skip
"""Unit -> factor to watt, byte, nanosecond, megahertz, joule. Unknown units give no value."""

_REASONS: Final = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clocks_setting": 0x100,
}
_TIME: Final = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s*(?:(Z)|([+-])(\d\d):?(\d\d))?"
)
_LONG_TIME: Final = re.compile(r"[A-Z][a-z]{2} ([A-Z][a-z]{2}) +(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def quantity(text: str | None, unit: str = "") -> float | None:
    """`71.15 W` -> watts, `59 MiB` -> bytes, `7 us` -> nanoseconds; `unit` is that of a bare number. Words are None."""
    found = _QUANTITY.fullmatch((text or "").strip())
    factor = _UNITS.get((found[2] or unit).lower()) if found else None
    return None if found is None or factor is None else float(found[1]) * factor


def whole(text: str | None, unit: str = "") -> int | None:
    """As `quantity`, rounded to a 64-bit integer."""
    return values.scaled(quantity(text, unit), 1.0)


def performance_state(text: str | None) -> int | None:
    """`P8` -> 8."""
    return values.small((text or "").strip().removeprefix("P"))


def bits(text: str | None) -> int | None:
    """`0x0000000000000004` -> 4."""
    digits = (text or "").strip().lower()
    return int(digits, 16) if re.fullmatch(r"0x0*[0-7]?[0-9a-f]{1,15}", digits) else None


def reasons(states: Mapping[str, str | None]) -> int | None:
    """Clock-event reasons by name with `Active` or `Not Active` -> NVML's bits; None where no state is known."""
    known = {name: state for name, state in states.items() if name in _REASONS and state in ("Active", "Not Active")}
    return sum(_REASONS[name] for name, state in known.items() if state == "Active") if known else None


def gpu_uuid(text: str | None) -> str | None:
    """A GPU's or MIG device's UUID; None where it was masked, which shows in middle groups that are all zero."""
    stripped = (text or "").strip()
    if not stripped.startswith(("GPU-", "MIG-")) or "-0000-0000-0000-" in stripped:
        return None
    return values.text(stripped)


def bus_id(text: str | None) -> str | None:
    """The PCI bus id in the one form used everywhere."""
    return normal_bus_id(text) if text else None


def time_ns(text: str | None, offset_seconds: int = 0) -> int | None:
    """A time of day with or without a zone -> ns since the epoch; `offset_seconds` east of UTC where it names none."""
    stripped = (text or "").strip()
    if found := _LONG_TIME.fullmatch(stripped):
        if found[1] not in _MONTHS:
            return None
        parts = (found[6], _MONTHS.index(found[1]) + 1, found[2], found[3], found[4], found[5])
        return _epoch(tuple(int(part) for part in parts), -offset_seconds)
    if not (found := _TIME.fullmatch(stripped)):
        return None
    if found[8]:
        offset_seconds = 0
    elif found[9]:
        offset_seconds = (int(found[10]) * 3600 + int(found[11]) * 60) * (1 if found[9] == "+" else -1)
    seconds = _epoch(tuple(int(part) for part in found.groups()[:6]), -offset_seconds)
    return None if seconds is None else values.count(seconds + int((found[7] or "0").ljust(9, "0")))


def has_zone(text: str) -> bool:
    """Whether a time names its zone."""
    found = _TIME.fullmatch(text.strip())
    return bool(found and (found[8] or found[9]))


def _epoch(parts: tuple[int, ...], shift_seconds: int) -> int | None:
    try:
        year, month, day, hour, minute, second = parts
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    whole_ns = values.epoch_ns(moment)
    return None if whole_ns is None else values.count(whole_ns + shift_seconds * 1_000_000_000)
