"""Why a GPU's clocks are where they are: NVML's clock-event reasons in words.

Bits after NVIDIA's nvml.h (nvmlClocksEventReason*).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Reason:
    """One bit; `short` fits a column, `slows` says that it takes speed from a program."""

    bit: int
    short: str
    words: str
    slows: bool = True


REASONS: Final = (
    Reason(0x80, "power brake", "the power supply asks it to slow down (external power brake)"),
    Reason(0x40, "HW thermal", "too hot: the hardware at least halves its clocks"),
    Reason(0x08, "HW slowdown", "the hardware slows it down: heat, power brake or power supply"),
    Reason(0x20, "SW thermal", "too hot: the driver lowers its clocks"),
    Reason(0x04, "power cap", "it is at its power limit"),
    Reason(0x10, "sync boost", "it runs as slow as the slowest GPU of its sync boost group"),
    Reason(0x02, "set clocks", "somebody set its application clocks (nvidia-smi -q -d CLOCK)"),
    Reason(0x100, "display", "a display setting holds it", slows=False),
    Reason(0x01, "idle", "nothing to do: clocks are low to save power", slows=False),
)
"""The gravest first."""
COUNTERS: Final = {
    "power_brake_ns": "power brake",
    "hardware_thermal_ns": "HW thermal",
    "thermal_ns": "SW thermal",
    "power_cap_ns": "power cap",
    "sync_boost_ns": "sync boost",
}
"""Counters of the time held, by the reason that they count."""


def reasons(bits: int | None) -> tuple[Reason, ...]:
    """Those that are set, the gravest first; none where the GPU does not tell."""
    return tuple(each for each in REASONS if bits and bits & each.bit)
