"""Network ports in sysfs: the text of one file -> its value, its unit, and whether the counter is at its ceiling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

WIDTHS: Final = {
    "local_link_integrity_errors": 4,
    "excessive_buffer_overrun_errors": 4,
    "link_error_recovery": 8,
    "link_downed": 8,
    "port_xmit_constraint_errors": 8,
    "port_rcv_constraint_errors": 8,
    "symbol_error": 16,
    "port_rcv_errors": 16,
    "port_rcv_remote_physical_errors": 16,
    "port_rcv_switch_relay_errors": 16,
    "port_xmit_discards": 16,
    "VL15_dropped": 16,
    "port_xmit_wait": 32,
}
"""Bits of the PortCounters attribute (InfiniBand Architecture Specification, 16.1.3.5): these stop at their ceiling."""
EXTENDED: Final = frozenset(
    {
        *("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets"),
        *("unicast_xmit_packets", "unicast_rcv_packets", "multicast_xmit_packets", "multicast_rcv_packets"),
    }
)
"""64 bits where the port has PortCountersExtended, else 32: both ceilings count."""
LANES: Final = 4
"""port_xmit_data and port_rcv_data count in units of four bytes, whatever the width of the link."""
NOT_COUNTERS: Final = frozenset({"lifespan"})
"""Files among the counters that are settings."""
UNSIGNED_MAX: Final = 2**64 - 1
_NUMBER: Final = re.compile(r"\d{1,20}")
_CODE: Final = re.compile(r"(\d{1,3}):")
_RATE: Final = re.compile(r"([\d.]{1,10}) Gb/sec")
OPERATIONAL: Final = {
    "up": 1,
    "down": 2,
    "testing": 3,
    "unknown": 4,
    "dormant": 5,
    "notpresent": 6,
    "lowerlayerdown": 7,
}
"""ifOperStatus of RFC 2863."""

ACTIVE: Final = 4
"""`state` of a port that carries traffic."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """One value in `unit`; `saturated` means the true value is at least this."""

    value: int
    unit: str
    saturated: bool = False


def reading(name: str, text: str) -> Reading | None:
    """The file `name` of a port (state, phys_state, rate, or a counter) -> its reading; None where it says nothing.

    `4: ACTIVE` is the code 4, `400 Gb/sec (4X NDR)` is in bit/s, data words are bytes.
    """
    text = text.strip()
    if name in ("state", "phys_state"):
        code = _CODE.match(text)
        return Reading(int(code[1]), "code") if code else None
    if name == "rate":
        return _rate(text)
    if name in NOT_COUNTERS or not _NUMBER.fullmatch(text) or int(text) > UNSIGNED_MAX:
        return None
    return _counter(name, int(text))


def card_reading(name: str, text: str) -> Reading | None:
    """The file `name` of a network card below /sys/class/net; `speed` is in Mbit/s there and -1 for unknown."""
    text = text.strip()
    if name == "operstate":
        code = OPERATIONAL.get(text)
        return Reading(code, "code") if code else None
    if not _NUMBER.fullmatch(text) or int(text) > UNSIGNED_MAX:
        return None
    if name == "speed":
        return Reading(int(text) * 1_000_000, "bit/s") if int(text) * 1_000_000 <= UNSIGNED_MAX else None
    unit = "B" if name.endswith("_bytes") else "packets" if name.endswith("_packets") else "errors"
    return Reading(int(text), unit)


def counter_row(kind: str, device: str, port: int | None, counter: str, found: Reading) -> Row:
    """One row of link_counters without time."""
    place = {"link_kind": kind, "device": device, "port": port, "counter": counter}
    return {**place, "value": found.value, "unit": found.unit, "saturated": found.saturated}


def port_facts(rows: Sequence[Row]) -> Row:
    """What rows say of their ports: how many there are, how many carry traffic, how fast, which counters are full."""
    states = {(row["device"], row["port"]): row["value"] for row in rows if row["counter"] == "state"}
    return {
        "adapters": len({row["device"] for row in rows}),
        "ports": len({(row["device"], row["port"]) for row in rows}),
        "ports_active": sum(value == ACTIVE for value in states.values()),
        "rates_bits_per_second": sorted({row["value"] for row in rows if row["counter"] == "rate"}),
        "saturated_counters": sorted(
            f"{row['device']}/{row['port']} {row['counter']}" for row in rows if row["saturated"]
        ),
    }


def _rate(text: str) -> Reading | None:
    found = _RATE.match(text)
    try:
        return Reading(round(float(found[1]) * 1e9), "bit/s") if found else None
    except ValueError:
        return None


def extended_reading(name: str, text: str) -> Reading | None:
    """As `reading`, for a counter of an attribute in which all of them have 64 bits."""
    found = reading(name, text)
    full = found is not None and (int(text) == UNSIGNED_MAX or found.value == UNSIGNED_MAX)
    return None if found is None else replace(found, saturated=full)


def _counter(name: str, value: int) -> Reading | None:
    width = WIDTHS.get(name)
    saturated = value >= 2**width - 1 if width else value == UNSIGNED_MAX
    if name in EXTENDED:
        saturated = saturated or value == 2**32 - 1
    if name.endswith("_data"):
        bytes_ = value * LANES
        return Reading(min(bytes_, UNSIGNED_MAX), "B", saturated or bytes_ > UNSIGNED_MAX)
    if name.endswith("_wait"):
        return Reading(value, "ticks", saturated)
    return Reading(value, "packets" if "packets" in name else "errors", saturated)
