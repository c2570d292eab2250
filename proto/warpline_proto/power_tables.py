"""Tables of energy: what each GPU did with its power, who had it, and what was done about it."""

from __future__ import annotations

from typing import Final

from .columns import FLAG, INT, REAL, SMALL, TEXT, TEXTS, place
from .table import Column, Table

WINDOW_SECONDS: Final = 600
"""The account is cut at each multiple of this, so that hours, days and tariffs add up."""
WINDOW_NS: Final = WINDOW_SECONDS * 10**9
FORGOTTEN_SECONDS: Final = 1800
"""A program that has done nothing for so long is taken for a session that somebody forgot; views.sql says the same."""

ENERGY_INTERVALS = Table(
    "energy_intervals",
    "a time in which one GPU was in one state, and what it drew; cut at every ten minutes and where its job changes",
    "start_ns",
    (
        *place(),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("gpu_name", TEXT, "", "product name"),
        Column("start_ns", INT, "ns", "time of its first sample"),
        Column("end_ns", INT, "ns", "time of the first sample after it"),
        Column(
            "state",
            TEXT,
            "",
            "deep_idle (no program), execution_idle (a program and low activity for 5 s), low_unknown (the same without word "
            "on programs), busy_wait (a kernel that touches neither pipes, memory nor links), spinning (that, at idle power for "
            "10 s), active, blind (no signal of activity), unobserved (no sample for over 2 s)",
        ),
        Column("seconds", REAL, "s", "its length"),
        Column("joules", REAL, "J", "energy drawn in it; NULL where neither counter nor power is known"),
        Column("unmeasured_seconds", REAL, "s", "of it, time of which neither counter nor power is known"),
        Column("joules_method", TEXT, "", "counter, integrated (from power) or mixed"),
        Column(
            "error_joules", REAL, "J", "bound of what may belong to its neighbours instead; not the sensor's accuracy"
        ),
        Column(
            "run_seconds", REAL, "s", "length of the whole run it is part of, as far as it was looked at (a minute)"
        ),
        Column("continued", FLAG, "", "the run had begun before"),
        Column("short_seconds", REAL, "s", "of an active interval: in low activity for 1 s or more, but less than 5"),
        Column("short_joules", REAL, "J", "drawn in these"),
        Column("samples", INT, "", "readings"),
        Column("resets", SMALL, "", "times the energy counter began anew"),
        Column("sm_clock_mhz", REAL, "MHz", "mean SM clock"),
        Column("missing", TEXTS, "", "signals of the rule that the GPU did not give"),
        Column("job", TEXT, "", "job it is charged to; NULL: to none"),
        Column("user", TEXT, "", "who runs the job"),
        Column("account", TEXT, "", "Slurm account or Kubernetes namespace"),
        Column("pod", TEXT, "", "Kubernetes pod"),
        Column("unattributed", TEXT, "", "why it is charged to no job; NULL where it is charged to one"),
        Column("cause", TEXT, "", "of execution_idle: what went before it, in one word"),
        Column("before_compute_percent", REAL, "%", "the seconds before it: highest compute signal, mean"),
        Column("before_memory_percent", REAL, "%", "the seconds before it: device memory active"),
        Column("before_pcie_bytes_per_second", REAL, "B/s", "the seconds before it: PCIe, the busier direction"),
        Column("before_nvlink_bytes_per_second", REAL, "B/s", "the seconds before it: NVLink, the busier direction"),
        Column(
            "before_nic_bytes_per_second",
            REAL,
            "B/s",
            "the seconds before it: the node's network, the busier direction",
        ),
        Column("before_cpu_percent", REAL, "%", "the seconds before it: the node's CPUs in use"),
        Column(
            "before_disk_bytes_per_second", REAL, "B/s", "the seconds before it: the node's disks, the busier direction"
        ),
        Column("window_ns", INT, "ns", "start of the ten minutes it was accounted in"),
        Column(
            "updated_ns", INT, "ns", "when it was accounted; a later account of the same window and GPU replaces it"
        ),
        Column("merged", INT, "", "old intervals that it is the sum of, then window_ns is its hour; NULL: it is one"),
    ),
    large=True,
)

GPU_PROCESSES = Table(
    "gpu_processes",
    "a process that holds a GPU, told when it begins, changes, every five minutes, and when it is gone",
    "time_ns",
    (
        *place(),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("time_ns", INT, "ns", "when it was seen"),
        Column("state", TEXT, "", "resident or gone"),
        Column("pid", INT, "", "process, as the node counts"),
        Column("start_ticks", INT, "", "when it was started, in ticks since boot: with pid, which process it is"),
        Column("memory_bytes", INT, "B", "device memory it holds"),
        Column("process", TEXT, "", "name of its program"),
        Column("user", TEXT, "", "owner"),
        Column("job", TEXT, "", "job, by evidence only"),
        Column("rank", SMALL, "", "global rank"),
        Column("account", TEXT, "", "Slurm account or Kubernetes namespace"),
        Column("pod", TEXT, "", "Kubernetes pod, by name or UID"),
        Column("container", TEXT, "", "container, by its identifier"),
        Column("scheduler", TEXT, "", "slurm, kubernetes, launcher (its environment alone), none"),
        Column("evidence", TEXT, "", "where job and owner were read"),
    ),
    large=True,
)

GUARD_ACTIONS = Table(
    "guard_actions",
    "what the power guard did, or in a dry run would have done",
    "time_ns",
    (
        *place(),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("time_ns", INT, "ns", "when"),
        Column("action", TEXT, "", "lower, restore, refuse or back_off"),
        Column("dry_run", FLAG, "", "nothing was set"),
        Column("reason", TEXT, "", "why, in words"),
        Column("sm_clock_mhz", REAL, "MHz", "SM clock it was locked to; NULL: unlocked"),
        Column("memory_clock_mhz", REAL, "MHz", "memory clock it was locked to; NULL: unlocked"),
        Column("call_ns", INT, "ns", "time the calls took"),
        Column("lowered_seconds", REAL, "s", "of a restore: how long clocks were low"),
        Column("saved_joules", REAL, "J", "of a restore: estimate, power before against power while low"),
        Column("latency_ns", INT, "ns", "of a restore: from the first sample with work to clocks that are up"),
        Column("job", TEXT, "", "job that is resident, where known"),
    ),
)
