"""One form for PCI bus ids: lower case, domain:bus:device.function with a domain of four digits."""

from __future__ import annotations

import re

_SHAPE = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.([0-7]))?")


def normal_bus_id(text: str) -> str | None:
    """NVML's `00000000:1B:00.0`, the kernel's `PCI:0000:1b:00` and the like -> `0000:1b:00.0`; None for anything else.

    A missing domain or function is 0; a domain above ffff keeps all its digits.
    """
    found = _SHAPE.fullmatch(text.strip().removeprefix("PCI:"))
    if not found:
        return None
    domain, bus, device, function = found.groups()
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function or '0'}".lower()
