"""What an Xid code says about the machine: NVIDIA's GPU driver numbers its errors."""

from __future__ import annotations

from typing import Final

FROM_THE_PROGRAM: Final = frozenset({13, 31, 43, 45, 68, 69})
"""Usually the program's own fault, or the driver cleaning up after it (NVIDIA, "XID Errors")."""

CRITICAL: Final = frozenset({46, 48, 62, 64, 74, 79, 95, 119, 120, 136, 140, 143})
"""The GPU, its memory, its firmware or its NVLink is not usable until it is reset or repaired (NVIDIA, "XID Errors")."""


def severity(code: int, message: str = "") -> str:
    """`critical`, `warning` or `info` for an Xid; NVLink 5 codes (144 to 150) say in their text whether they are fatal."""
    if code in CRITICAL or (144 <= code <= 150 and " Fatal" in message):
        return "critical"
    return "info" if code in FROM_THE_PROGRAM else "warning"
