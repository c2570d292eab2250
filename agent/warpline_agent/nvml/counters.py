"""Which counters of a GPU are read, how often, and in which ways: data, for the NVML source and for whoever measures it."""

from __future__ import annotations

from typing import Final

from .plan import ALL_LINKS, call, counter, field, gpm

MEBIBYTE: Final = 2**20
POWER: Final = (
    field(186, scale=1e-3, power_method="instant"),
    field(185, scale=1e-3, power_method="average"),
    call("nvmlDeviceGetPowerUsage", scale=1e-3, power_method="unstated"),
)
REASONS: Final = (
    call("nvmlDeviceGetCurrentClocksEventReasons"),
    call("nvmlDeviceGetCurrentClocksThrottleReasons"),
)
CONTEXT_BYTES: Final = 100 * MEBIBYTE
"""A program that begins or ends takes or frees more device memory than this: its context alone is larger."""
PROCESSES: Final = (
    call("nvmlDeviceGetComputeRunningProcesses", part="processes"),
    call("nvmlDeviceGetComputeRunningProcesses_v2", part="processes"),
)
COUNTERS: Final = (
    counter("energy_joules", 1, field(83, scale=1e-3), call("nvmlDeviceGetTotalEnergyConsumption", scale=1e-3)),
    counter("power_watts", 1, *POWER),
    counter("sm_clock_mhz", 1, call("nvmlDeviceGetClockInfo", 1)),
    counter("memory_clock_mhz", 1, call("nvmlDeviceGetClockInfo", 2)),
    counter("clock_event_reasons", 1, *REASONS),
    counter("power_cap_ns", 1, field(74)),
    counter("sync_boost_ns", 1, field(76)),
    counter("thermal_ns", 1, field(269)),
    counter("hardware_thermal_ns", 1, field(270)),
    counter("power_brake_ns", 1, field(271)),
    counter("gpu_utilization_percent", 1, call("nvmlDeviceGetUtilizationRates", part="gpu")),
    counter("memory_utilization_percent", 1, call("nvmlDeviceGetUtilizationRates", part="memory")),
    counter("temperature_celsius", 5, call("nvmlDeviceGetTemperature", 0)),
    counter("memory_temperature_celsius", 5, field(82)),
    counter("memory_used_bytes", 5, call("nvmlDeviceGetMemoryInfo", part="used")),
    counter("memory_total_bytes", 5, call("nvmlDeviceGetMemoryInfo", part="total")),
    counter("power_limit_watts", 5, call("nvmlDeviceGetEnforcedPowerLimit", scale=1e-3)),
    counter("performance_state", 5, call("nvmlDeviceGetPerformanceState")),
    counter("pcie_tx_bytes", 5, field(197)),
    counter("pcie_rx_bytes", 5, field(198)),
    counter("pcie_replays", 5, field(94)),
    counter("pcie:recoveries", 5, field(169)),
    counter("pcie:correctable_errors", 5, field(173)),
    counter("pcie:naks_received", 5, field(174)),
    counter("pcie:receiver_errors", 5, field(175)),
    counter("pcie:bad_tlps", 5, field(176)),
    counter("pcie:naks_sent", 5, field(177)),
    counter("pcie:bad_dllps", 5, field(178)),
    counter("pcie:non_fatal_errors", 5, field(179)),
    counter("pcie:fatal_errors", 5, field(180)),
    counter("pcie:unsupported_requests", 5, field(181)),
    counter("pcie:lcrc_errors", 5, field(182)),
    counter("pcie:lane_errors", 5, field(183)),
    counter("nvlink_tx_bytes", 5, field(138, scope=ALL_LINKS, scale=1024), field(202, scope=ALL_LINKS)),
    counter("nvlink_rx_bytes", 5, field(139, scope=ALL_LINKS, scale=1024), field(204, scope=ALL_LINKS)),
    counter("nvlink_errors", 5, field(38, 45, 52, 59), field(208, 215)),
    counter("sm_active_percent", 5, gpm(2)),
    counter("tensor_active_percent", 5, gpm(5)),
    counter("dram_active_percent", 5, gpm(10)),
    counter("fp64_active_percent", 5, gpm(11)),
    counter("fp32_active_percent", 5, gpm(12)),
    counter("fp16_active_percent", 5, gpm(13)),
    counter("pcie_tx_bytes_per_second", 5, gpm(20, MEBIBYTE)),
    counter("pcie_rx_bytes_per_second", 5, gpm(21, MEBIBYTE)),
    counter("nvlink_rx_bytes_per_second", 5, gpm(60, MEBIBYTE)),
    counter("nvlink_tx_bytes_per_second", 5, gpm(61, MEBIBYTE)),
    counter("resident_processes", 30, *PROCESSES, sooner="memory_used_bytes", change=CONTEXT_BYTES),
    counter("fan_percent", 60, call("nvmlDeviceGetFanSpeed")),
    counter("sm_clock_max_mhz", 60, call("nvmlDeviceGetMaxClockInfo", 1)),
    counter("pcie_generation", 60, call("nvmlDeviceGetCurrPcieLinkGeneration")),
    counter("pcie_width", 60, call("nvmlDeviceGetCurrPcieLinkWidth")),
    counter("ecc_corrected", 60, call("nvmlDeviceGetTotalEccErrors", 0, 0)),
    counter("ecc_uncorrected", 60, call("nvmlDeviceGetTotalEccErrors", 1, 0)),
    counter("remapped_rows", 60, field(142, 143)),
)
"""Every counter: column, seconds between readings, and the ways to get it, best first. In the seconds between it is NULL.

`nvmlDeviceGetPcieThroughput` is not among them: it blocks 20 ms for each direction.
"""
