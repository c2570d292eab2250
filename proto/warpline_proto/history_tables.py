"""Tables that outlive what they are made of: readings, steps and kernels, ten minutes in a row."""

from __future__ import annotations

from typing import Final

from .columns import CLOCK, INT, INTS, LONGS, REAL, SMALL, TEXT, place, ranked
from .table import Column, Table

HISTORY_SECONDS: Final = 600
"""Time of one row."""
_MADE: Final = (
    Column("samples", INT, "", "rows that it is made of"),
    Column("updated_ns", INT, "ns", "when it was made; all rows of a later making of the same time replace it"),
)

DEVICE_HISTORY = Table(
    "device_history",
    "ten minutes of one GPU; the view gpu_history has the newest making of each",
    "time_ns",
    (
        *place(),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("gpu_name", TEXT, "", "product name"),
        Column("job", TEXT, "", "last job in it, where known"),
        Column("time_ns", INT, "ns", "start of the ten minutes"),
        Column("power_watts", REAL, "W", "board power, mean"),
        Column("power_max_watts", REAL, "W", "highest"),
        Column("energy_joules", REAL, "J", "growth of the energy counter since the reading before"),
        Column("gpu_utilization_percent", REAL, "%", "utilisation, mean"),
        Column("sm_active_percent", REAL, "%", "share of SM cycles with a warp resident, mean"),
        Column("sm_clock_mhz", REAL, "MHz", "SM clock, mean"),
        Column("temperature_celsius", REAL, "C", "highest GPU core temperature"),
        Column("memory_used_bytes", INT, "B", "most device memory in use"),
        *_MADE,
    ),
    large=True,
)

STEPS_HISTORY = Table(
    "steps_history",
    "the steps of one rank that began within ten minutes; the view step_history has the newest making of each",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "start of the ten minutes"),
        CLOCK,
        Column("first_step", INT, "", "lowest step number"),
        Column("last_step", INT, "", "highest"),
        Column("duration_ns", REAL, "ns", "wall time of a step, mean"),
        Column("min_ns", INT, "ns", "shortest"),
        Column("max_ns", INT, "ns", "longest"),
        Column("compute_ns", REAL, "ns", "mean of the column of this name in steps"),
        Column("communication_ns", REAL, "ns", "the same"),
        Column("exposed_communication_ns", REAL, "ns", "the same"),
        Column("idle_ns", REAL, "ns", "the same"),
        Column("data_wait_ns", REAL, "ns", "the same"),
        *_MADE,
    ),
    large=True,
)

KERNELS_HISTORY = Table(
    "kernels_history",
    "one kernel in the steps of all ranks of a job that began within ten minutes; the view kernel_history has the newest making",
    "time_ns",
    (
        *place(),
        Column("job", TEXT, "", "job"),
        Column("kernel_id", INT, "", "see kernel_names"),
        Column("category", TEXT, "", "compute, communication, memcpy or memset"),
        Column("time_ns", INT, "ns", "start of the ten minutes"),
        Column("count", INT, "", "kernels, exact"),
        Column("sum_ns", INT, "ns", "total duration, exact"),
        Column("ranks", INT, "", "ranks that ran it"),
        Column("min_mean_ns", REAL, "ns", "mean duration on the rank with the lowest"),
        Column("p50_mean_ns", REAL, "ns", "median of the ranks' mean durations"),
        Column("max_mean_ns", REAL, "ns", "mean duration on the rank with the highest"),
        Column("slowest_rank", SMALL, "", "that rank"),
        Column("slowest_node", TEXT, "", "its node"),
        Column("slowest_gpu_uuid", TEXT, "", "its GPU"),
        Column("rank_numbers", INTS, "", "the ranks"),
        Column("rank_means_ns", LONGS, "ns", "mean duration on each of them"),
        *_MADE,
    ),
    large=True,
)

HISTORIES: Final = (DEVICE_HISTORY, STEPS_HISTORY, KERNELS_HISTORY)
"""The collector alone makes them."""
