"""DCGM's vocabulary: which field is which column of device_samples, in what unit, and what it writes for "blank"."""

from __future__ import annotations

import re
from typing import Final

from . import values

_MIB: Final = 1024.0 * 1024.0

REALS: Final = {
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_mhz", 1.0),
    "DCGM_FI_DEV_MEM_CLOCK": ("memory_clock_mhz", 1.0),
    "DCGM_FI_DEV_MAX_SM_CLOCK": ("sm_clock_max_mhz", 1.0),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_celsius", 1.0),
    "DCGM_FI_DEV_MEMORY_TEMP": ("memory_temperature_celsius", 1.0),
    "DCGM_FI_DEV_POWER_USAGE": ("power_watts", 1.0),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": ("power_limit_watts", 1.0),
    "DCGM_FI_DEV_ENFORCED_POWER_LIMIT": ("power_limit_watts", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_joules", 1e-3),
    "DCGM_FI_DEV_GPU_UTIL": ("gpu_utilization_percent", 1.0),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("memory_utilization_percent", 1.0),
    "DCGM_FI_DEV_FAN_SPEED": ("fan_percent", 1.0),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm_active_percent", 100.0),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor_active_percent", 100.0),
    "DCGM_FI_PROF_PIPE_FP64_ACTIVE": ("fp64_active_percent", 100.0),
    "DCGM_FI_PROF_PIPE_FP32_ACTIVE": ("fp32_active_percent", 100.0),
    "DCGM_FI_PROF_PIPE_FP16_ACTIVE": ("fp16_active_percent", 100.0),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("dram_active_percent", 100.0),
    "DCGM_FI_PROF_PCIE_TX_BYTES": ("pcie_tx_bytes_per_second", 1.0),
    "DCGM_FI_PROF_PCIE_RX_BYTES": ("pcie_rx_bytes_per_second", 1.0),
    "DCGM_FI_PROF_NVLINK_TX_BYTES": ("nvlink_tx_bytes_per_second", 1.0),
    "DCGM_FI_PROF_NVLINK_RX_BYTES": ("nvlink_rx_bytes_per_second", 1.0),
}
"""Field -> column and factor. The profiling byte fields are rates whatever TYPE an exporter gives them (dcgm_fields.h)."""

INTEGERS: Final = {
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("clock_event_reasons", 1.0),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("clock_event_reasons", 1.0),
    "DCGM_FI_DEV_FB_USED": ("memory_used_bytes", _MIB),
    "DCGM_FI_DEV_FB_TOTAL": ("memory_total_bytes", _MIB),
    "DCGM_FI_DEV_PSTATE": ("performance_state", 1.0),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("pcie_replays", 1.0),
    "DCGM_FI_DEV_PCIE_LINK_GEN": ("pcie_generation", 1.0),
    "DCGM_FI_DEV_PCIE_LINK_WIDTH": ("pcie_width", 1.0),
    "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": ("ecc_corrected", 1.0),
    "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": ("ecc_uncorrected", 1.0),
}

VIOLATIONS: Final = {
    "DCGM_FI_DEV_POWER_VIOLATION": "power_cap_ns",
    "DCGM_FI_DEV_THERMAL_VIOLATION": "thermal_ns",
    "DCGM_FI_DEV_SYNC_BOOST_VIOLATION": "sync_boost_ns",
}
"""Throttling counters. DCGM's versions differ in unit, so they are taken only where HELP names it."""

XID: Final = "DCGM_FI_DEV_XID_ERRORS"
POWER_INSTANT: Final = "DCGM_FI_DEV_POWER_USAGE_INSTANT"

_BLANKS: Final = ((2.0**31 - 16, 2.0**31 - 1), (2.0**47, 2.0**47 + 15), (2.0**63 - 1024, 2.0**63))
"""DCGM's blank, not found, not supported and not permitted as 32-bit, floating point and 64-bit values."""

_VIOLATION_UNIT: Final = re.compile(r"\bin (us|ns|ms)\b")
_UNIT_NS: Final = {"ns": 1.0, "us": 1e3, "ms": 1e6}


def is_blank(value: float) -> bool:
    """Whether a value is one of DCGM's marks for "no value"."""
    return any(low <= value <= high for low, high in _BLANKS)


def column(field: str, value: float, help_text: str) -> tuple[str, float | int] | None:
    """One field -> the column of device_samples and the value in its unit; None for fields that have no column."""
    if field in REALS:
        name, factor = REALS[field]
        return name, value * factor
    if field in INTEGERS:
        name, factor = INTEGERS[field]
        number = values.scaled(value, factor)
        return None if number is None else (name, number)
    unit = _VIOLATION_UNIT.search(help_text)
    if field in VIOLATIONS and unit:
        number = values.scaled(value, _UNIT_NS[unit[1]])
        return None if number is None else (VIOLATIONS[field], number)
    return None
