"""Every table and every column, declared once: name, type, unit, meaning.

All times are nanoseconds. A column that ends in `start_ns` or is called `time_ns` counts from the Unix epoch of the clock
named in `clock`; where a table has no `clock` column it is the node's real-time clock. NULL means "not known"; a zero is
always a measured zero. Rates are per second and say so in their name, counters are cumulative and say so in their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from .capture_tables import CAPTURE_OVERHEAD
from .columns import CLOCK, FLAG, INT, INTS, LONGS, REAL, SMALL, TEXT, TEXTS, UNSIGNED, place, ranked
from .errors import SchemaError
from .power_tables import ENERGY_INTERVALS, GPU_PROCESSES, GUARD_ACTIONS
from .progress_table import PROGRESS
from .table import Column, Table

DEVICE_SAMPLES = Table(
    "device_samples",
    "one reading of one GPU",
    "time_ns",
    (
        *place(),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU (of the MIG device where MIG is on)"),
        Column("gpu_index", SMALL, "", "NVML index on the node"),
        Column("gpu_name", TEXT, "", "product name"),
        Column("bus_id", TEXT, "", "PCI bus id, lower case, domain:bus:device.function"),
        Column("job", TEXT, "", "job whose process is resident, where known"),
        Column("time_ns", INT, "ns", "when it was read"),
        Column("power_watts", REAL, "W", "board power"),
        Column("power_method", TEXT, "", "instant, average, or unstated"),
        Column("power_limit_watts", REAL, "W", "enforced limit"),
        Column("energy_joules", REAL, "J", "energy counter since the driver was loaded"),
        Column("sm_clock_mhz", REAL, "MHz", "current SM clock"),
        Column("memory_clock_mhz", REAL, "MHz", "current memory clock"),
        Column("sm_clock_max_mhz", REAL, "MHz", "highest SM clock the device offers"),
        Column("clock_event_reasons", INT, "bits", "NVML clock-event reasons"),
        Column("power_cap_ns", INT, "ns", "counter: time held by the software power cap"),
        Column("thermal_ns", INT, "ns", "counter: time held by the software thermal limit"),
        Column("hardware_thermal_ns", INT, "ns", "counter: time held by the hardware thermal limit"),
        Column("power_brake_ns", INT, "ns", "counter: time held by the external power brake"),
        Column("sync_boost_ns", INT, "ns", "counter: time held by sync boost"),
        Column("gpu_utilization_percent", REAL, "%", "share of the last period in which a kernel was resident"),
        Column("memory_utilization_percent", REAL, "%", "share of the last period in which memory was read or written"),
        Column("sm_active_percent", REAL, "%", "share of SM cycles with a warp resident (GPM or DCGM)"),
        Column("tensor_active_percent", REAL, "%", "share of cycles the tensor pipe was active"),
        Column("fp64_active_percent", REAL, "%", "share of cycles the FP64 pipe was active"),
        Column("fp32_active_percent", REAL, "%", "share of cycles the FP32 pipe was active"),
        Column("fp16_active_percent", REAL, "%", "share of cycles the FP16 pipe was active"),
        Column("dram_active_percent", REAL, "%", "share of cycles device memory was active"),
        Column("memory_used_bytes", INT, "B", "device memory in use"),
        Column("memory_total_bytes", INT, "B", "device memory"),
        Column("temperature_celsius", REAL, "C", "GPU core temperature"),
        Column("memory_temperature_celsius", REAL, "C", "device memory temperature"),
        Column("fan_percent", REAL, "%", "fan speed"),
        Column("performance_state", SMALL, "", "P-state, 0 is the fastest"),
        Column("pcie_tx_bytes", INT, "B", "counter: bytes sent over PCIe"),
        Column("pcie_rx_bytes", INT, "B", "counter: bytes received over PCIe"),
        Column("pcie_tx_bytes_per_second", REAL, "B/s", "PCIe send rate where the device reports a rate"),
        Column("pcie_rx_bytes_per_second", REAL, "B/s", "PCIe receive rate where the device reports a rate"),
        Column("pcie_replays", INT, "", "counter: PCIe replays"),
        Column("pcie_generation", SMALL, "", "current PCIe link generation"),
        Column("pcie_width", SMALL, "lanes", "current PCIe link width"),
        Column("nvlink_tx_bytes", INT, "B", "counter: bytes sent over all NVLinks"),
        Column("nvlink_rx_bytes", INT, "B", "counter: bytes received over all NVLinks"),
        Column("nvlink_tx_bytes_per_second", REAL, "B/s", "NVLink send rate where the device reports a rate"),
        Column("nvlink_rx_bytes_per_second", REAL, "B/s", "NVLink receive rate where the device reports a rate"),
        Column("nvlink_errors", INT, "", "counter: NVLink CRC, replay and recovery errors"),
        Column("ecc_corrected", INT, "", "counter: corrected ECC errors since the driver was loaded"),
        Column("ecc_uncorrected", INT, "", "counter: uncorrected ECC errors since the driver was loaded"),
        Column("remapped_rows", INT, "", "counter: memory rows remapped"),
        Column("resident_processes", SMALL, "", "compute processes resident; 0 is a measured zero"),
    ),
    large=True,
)

HOST_SAMPLES = Table(
    "host_samples",
    "one reading of one host",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when it was read"),
        Column("cpu_percent", REAL, "%", "CPU in use, of all cores together"),
        Column("cpu_iowait_percent", REAL, "%", "CPU waiting for input and output"),
        Column("cpu_steal_percent", REAL, "%", "CPU taken by the hypervisor"),
        Column("cpu_count", SMALL, "", "logical cores"),
        Column("load_1m", REAL, "", "load average over one minute"),
        Column("memory_used_bytes", INT, "B", "memory in use"),
        Column("memory_total_bytes", INT, "B", "memory"),
        Column("swap_used_bytes", INT, "B", "swap in use"),
        Column("disk_read_bytes", INT, "B", "counter: bytes read from disks"),
        Column("disk_write_bytes", INT, "B", "counter: bytes written to disks"),
        Column("network_rx_bytes", INT, "B", "counter: bytes received, loopback left out"),
        Column("network_tx_bytes", INT, "B", "counter: bytes sent, loopback left out"),
        Column("context_switches", INT, "", "counter: context switches"),
        Column("processes", SMALL, "", "processes on the host"),
        Column("boot_ns", INT, "ns", "when the host was started"),
    ),
    large=True,
)

LINK_COUNTERS = Table(
    "link_counters",
    "one counter of one network, NVLink or PCIe port",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when it was read"),
        Column("link_kind", TEXT, "", "infiniband, ethernet, nvlink or pcie"),
        Column("device", TEXT, "", "device name, for example mlx5_0, eth0 or a GPU UUID"),
        Column("port", SMALL, "", "port or link number"),
        Column("counter", TEXT, "", "name as the device gives it; `state`, `phys_state` and `rate` are readings"),
        Column("value", UNSIGNED, "", "value in `unit`"),
        Column("unit", TEXT, "", "B, packets, ticks, errors, links, bit/s or code"),
        Column(
            "saturated", FLAG, "", "the counter stands at the ceiling of its width: the true value is at least this"
        ),
    ),
    large=True,
)

KERNEL_CLUSTERS = Table(
    "kernel_clusters",
    "durations of one kernel on one stream in one step, one row a cluster of log-durations",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("step", INT, "", "step number; NULL for activity outside any step"),
        Column("start_ns", INT, "ns", "start of the window the cluster covers"),
        Column("end_ns", INT, "ns", "end of the window the cluster covers"),
        CLOCK,
        Column("stream", INT, "", "CUDA stream"),
        Column("kernel_id", INT, "", "see kernel_names"),
        Column("category", TEXT, "", "compute, communication, memcpy or memset"),
        Column("cluster_index", SMALL, "", "0 is the cluster with the shortest durations"),
        Column(
            "grade",
            TEXT,
            "",
            "clusters; kernels: one row each, where a step has too many rows or CPU time is short; sums: these without a shape",
        ),
        Column("count", INT, "", "kernels, exact"),
        Column("sum_ns", INT, "ns", "total duration, exact"),
        Column("min_ns", INT, "ns", "shortest; exact offline, within 2.5 % where it came over the network"),
        Column("p10_ns", INT, "ns", "10th percentile; NULL, as the next three, of grade sums"),
        Column("p50_ns", INT, "ns", "median"),
        Column("p90_ns", INT, "ns", "90th percentile"),
        Column("p99_ns", INT, "ns", "99th percentile"),
        Column("max_ns", INT, "ns", "longest, as min_ns"),
        Column("run_counts", INTS, "", "its durations, shortest first, in runs: kernels of each; NULL where not known"),
        Column("run_means_ns", LONGS, "ns", "mean duration of each run"),
    ),
    large=True,
)

RAW_KERNELS = Table(
    "raw_kernels",
    "one kernel, copy or set as it was recorded, exact to the nanosecond: where a closer look or an import asked for it",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("capture_id", TEXT, "", "closer look that it was sent for, see captures; NULL for an import"),
        Column("step", INT, "", "step number; NULL for activity outside any step"),
        Column("start_ns", INT, "ns", "start"),
        CLOCK,
        Column("duration_ns", INT, "ns", "duration"),
        Column("stream", INT, "", "CUDA stream"),
        Column("kernel_id", INT, "", "see kernel_names"),
        Column("category", TEXT, "", "compute, communication, memcpy or memset"),
    ),
    large=True,
)

KERNEL_NAMES = Table(
    "kernel_names",
    "what a kernel_id stands for",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when it was first named"),
        Column("kernel_id", INT, "", "first 63 bits of the BLAKE2 hash of the name"),
        Column("name", TEXT, "", "kernel name as the driver gives it"),
        Column("category", TEXT, "", "compute, communication, memcpy or memset"),
    ),
)

STEPS = Table(
    "steps",
    "one training or serving step of one rank, or a whole trace where it has no steps",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("scope", TEXT, "", "step, or trace for the whole of a recorded file"),
        Column("step", INT, "", "step number"),
        Column("start_ns", INT, "ns", "start"),
        CLOCK,
        Column("duration_ns", INT, "ns", "wall time of the step"),
        Column(
            "boundary",
            TEXT,
            "",
            "NULL where the framework or a profiler marked the step; nccl or kernels where its end was inferred from what recurs "
            "once a step, and its number counts NCCL's operations in steps or the time, alike on all ranks, and may skip",
        ),
        Column("span_ns", INT, "ns", "first GPU activity to last"),
        Column("busy_ns", INT, "ns", "union of all GPU activity"),
        Column(
            "compute_ns",
            INT,
            "ns",
            "union of kernels that are not communication; where a model computes on the CPU, the CPU time of its thread",
        ),
        Column("communication_ns", INT, "ns", "union of communication kernels; on the CPU, waiting for gradients"),
        Column("exposed_communication_ns", INT, "ns", "communication covered by no other kernel"),
        Column("memcpy_ns", INT, "ns", "union of copies and sets"),
        Column("idle_ns", INT, "ns", "span less busy"),
        Column("idle_gaps", INT, "", "times within the span in which nothing ran"),
        Column("idle_gap_p50_ns", INT, "ns", "median of them"),
        Column("idle_gap_max_ns", INT, "ns", "longest of them"),
        Column(
            "launch_gaps",
            INT,
            "",
            "kernels whose launch on the CPU is known too; NULL, as the next three, where none is",
        ),
        Column(
            "launch_gap_sum_ns",
            INT,
            "ns",
            "their times from the end of the launching call to the start, waiting behind earlier work included",
        ),
        Column("launch_gap_p50_ns", INT, "ns", "median of them"),
        Column("launch_gap_max_ns", INT, "ns", "longest of them"),
        Column("kernels", INT, "", "kernels, copies and sets"),
        Column("data_wait_ns", INT, "ns", "waiting for the data loader"),
    ),
    large=True,
)

PHASES = Table(
    "phases",
    "one operation of a step as the framework names it",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("step", INT, "", "step number"),
        Column("phase", TEXT, "", "name, for example forward-compute or grads-reduce-scatter"),
        Column("kind", TEXT, "", "compute, communication, optimizer, host or data"),
        Column("microbatch", SMALL, "", "micro-batch"),
        Column("chunk", SMALL, "", "model chunk on the stage"),
        Column("sequence", INT, "", "number of the operation within its kind and step"),
        Column("start_ns", INT, "ns", "start; on a clock named step@... it counts from the start of the step"),
        CLOCK,
        Column("duration_ns", INT, "ns", "duration"),
    ),
    large=True,
)

COLLECTIVES = Table(
    "collectives",
    "one collective or point-to-point operation of one rank (or, with `count`, a published summary of several)",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("step", INT, "", "step number"),
        Column("communicator", TEXT, "", "communicator, unique within the job"),
        Column("communicator_rank", SMALL, "", "rank within the communicator"),
        Column("group_name", TEXT, "", "name of the process group, where the framework gives one"),
        Column("sequence", INT, "", "number of the operation on its communicator"),
        Column(
            "operation", TEXT, "", "all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, reduce, send, ..."
        ),
        Column("datatype", TEXT, "", "element type as NCCL names it, for example bfloat16"),
        Column("reduction", TEXT, "", "sum, prod, max, min or avg"),
        Column("elements", INT, "", "elements per rank as passed to the call"),
        Column("message_bytes", INT, "B", "message size as nccl-tests defines it for the operation"),
        Column("nranks", SMALL, "", "ranks in the communicator"),
        Column("peer", SMALL, "", "peer of a send or receive"),
        Column("stream", INT, "", "CUDA stream"),
        Column("algorithm", TEXT, "", "ring, tree, nvls, ..."),
        Column("protocol", TEXT, "", "simple, ll or ll128"),
        Column("channels", SMALL, "", "channels used"),
        Column("start_ns", INT, "ns", "start, of what `timing` names"),
        CLOCK,
        Column("duration_ns", INT, "ns", "duration, waiting included"),
        Column(
            "timing",
            TEXT,
            "",
            "what was timed: kernel_gpu, kernel_shared (another operation has the kernel), kernel_cpu, host, enqueue or summary",
        ),
        Column("enqueued_ns", INT, "ns", "when the host enqueued it, where that is known apart from its start"),
        Column("sharing", INT, "", "operations that one kernel did together; start and duration are the kernel's"),
        Column("algorithm_bytes_per_second", REAL, "B/s", "message_bytes over the time used"),
        Column("bus_bytes_per_second", REAL, "B/s", "bus bandwidth as nccl-tests defines it"),
        Column("state", TEXT, "", "scheduled, started or completed"),
        Column("count", INT, "", "operations this row stands for"),
        Column("min_ns", INT, "ns", "shortest of them"),
        Column("max_ns", INT, "ns", "longest of them"),
        Column("wrong_values", INT, "", "values that came out wrong in a check; 0 is a measured zero"),
    ),
    large=True,
)

COMMUNICATORS = Table(
    "communicators",
    "one rank's membership of one communicator",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("communicator", TEXT, "", "communicator, unique within the job (NCCL's commId where given)"),
        Column("parent", TEXT, "", "communicator it was split from"),
        Column("group_name", TEXT, "", "name of the process group"),
        Column("group_kind", TEXT, "", "world, dp, tp, pp, ep, cp or other"),
        Column("communicator_rank", SMALL, "", "rank within the communicator"),
        Column("nranks", SMALL, "", "ranks in the communicator"),
        Column("ranks", INTS, "", "global ranks, where known"),
        Column("nnodes", SMALL, "", "nodes it spans"),
        Column("local_ranks", SMALL, "", "its ranks on this node"),
        Column("pid", INT, "", "process"),
        Column("bus_id", TEXT, "", "PCI bus id of the GPU"),
        Column("channels", SMALL, "", "collective channels"),
        Column("network", TEXT, "", "IB, Socket, AWS Libfabric, ..."),
        Column("transports", TEXT, "", "connections by transport, for example P2P/CUMEM:24,NET/IB/GDRDMA:8"),
        Column("library_version", TEXT, "", "NCCL or RCCL version"),
        Column("start_ns", INT, "ns", "when it was set up"),
        Column("init_seconds", REAL, "s", "time the set-up took"),
        Column("state", TEXT, "", "init, ready, destroyed, aborted, dead or missing"),
        Column("last_enqueued", INT, "", "newest operation enqueued"),
        Column("last_completed", INT, "", "newest operation completed"),
    ),
)

STACKS = Table(
    "stacks",
    "one thread's stack at one moment",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when it was taken"),
        Column("pid", INT, "", "process"),
        Column("thread", INT, "", "operating system thread"),
        Column("thread_name", TEXT, "", "thread name"),
        Column("active", FLAG, "", "on a CPU"),
        Column("owns_gil", FLAG, "", "holds the interpreter lock"),
        Column(
            "frames",
            TEXTS,
            "",
            "innermost first, `function (file:line)`; NULL of a thread that runs no Python, or where denied",
        ),
        Column("os_state", TEXT, "", "running, sleeping, disk (cannot be interrupted), stopped, zombie, dead or idle"),
        Column(
            "waits_in",
            TEXT,
            "",
            "function of the operating system that it sleeps in; NULL where it runs, or where denied",
        ),
        Column(
            "kernel_frames",
            TEXTS,
            "",
            "functions of the operating system it is in, innermost first; root alone sees them",
        ),
        Column("count", INT, "", "times it was seen"),
    ),
    large=True,
)

LOG_EVENTS = Table(
    "log_events",
    "one line of a log that speaks of a fault",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when it was written"),
        Column(
            "kind",
            TEXT,
            "",
            "xid, sxid, off_bus, nccl_warn, net_error, link_event, oom, segfault, wrong_data, hang, ...",
        ),
        Column("code", INT, "", "Xid, SXid or completion status"),
        Column("severity", TEXT, "", "info, warning or critical"),
        Column("bus_id", TEXT, "", "PCI bus id named in the line"),
        Column("link", TEXT, "", "port or peer named in the line"),
        Column("pid", INT, "", "process named in the line"),
        Column("message", TEXT, "", "the line, at most 1,000 characters"),
        Column("count", INT, "", "times it was seen in a row"),
    ),
)

METRICS = Table(
    "metrics",
    "one value of a foreign exporter that has no column of its own",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when it was exposed"),
        Column("metric", TEXT, "", "name as exposed"),
        Column("labels", TEXT, "", "labels that are not identity, as JSON with sorted keys"),
        Column("value", REAL, "", "value in `unit`"),
        Column("unit", TEXT, "", "unit where the exporter states it"),
    ),
    large=True,
)

PROBES = Table(
    "probes",
    "a test that a rank ran apart from training, the same work on every rank: one row for all repetitions of one round",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when it was run"),
        Column("round", SMALL, "", "how often the rank had run this test, with this peer, before in the run"),
        Column("probe", TEXT, "", "name of the test, for example gemm or pair"),
        Column("kind", TEXT, "", "what it tests: compute or communication"),
        Column("peer", SMALL, "", "rank it communicated with"),
        Column("duration_ns", INT, "ns", "mean duration of a repetition"),
        Column("min_ns", INT, "ns", "shortest"),
        Column("max_ns", INT, "ns", "longest"),
        Column("count", INT, "", "repetitions"),
    ),
)

PROCESS_EVENTS = Table(
    "process_events",
    "what one process did in the kernel or in the GPU's library (or, with `count`, several such events together)",
    "start_ns",
    (
        *place(),
        *ranked(),
        Column("start_ns", INT, "ns", "start of the event, or of the time in which `count` of them were counted"),
        CLOCK,
        Column("pid", INT, "", "process"),
        Column("thread", INT, "", "operating system thread"),
        Column("process", TEXT, "", "name of the process"),
        Column(
            "kind",
            TEXT,
            "",
            "gpu_wait (until the GPU has finished), gpu_submit (work given to it), gpu_memory, off_cpu, wakeup, disk, "
            "network, memory, process or other",
        ),
        Column("event", TEXT, "", "name as the tracer gives it, for example cudaStreamSync"),
        Column("duration_ns", INT, "ns", "duration, of `count` events together"),
        Column("max_ns", INT, "ns", "longest of them"),
        Column("count", INT, "", "events this row stands for"),
    ),
    large=True,
)

JOBS = Table(
    "jobs",
    "what is known of a job as a whole",
    "time_ns",
    (
        *place(),
        Column("job", TEXT, "", "job"),
        Column("time_ns", INT, "ns", "when it was first seen"),
        Column("run_id", TEXT, "", "identifier the launcher or the files give"),
        Column("framework", TEXT, "", "framework, where known"),
        Column("world_size", SMALL, "", "ranks"),
        Column("dp_size", SMALL, "", "data-parallel size"),
        Column("tp_size", SMALL, "", "tensor-parallel size"),
        Column("pp_size", SMALL, "", "pipeline stages"),
        Column("ep_size", SMALL, "", "expert-parallel size"),
        Column("ranks_per_record", SMALL, "", "ranks that one recorded rank stands for (a tensor-parallel group, say)"),
        Column("user", TEXT, "", "owner"),
        Column("evidence", TEXT, "", "why rows were given to this job"),
    ),
)

SOURCE_HEALTH = Table(
    "source_health",
    "how one source fared in one round",
    "time_ns",
    (
        *place(),
        Column("time_ns", INT, "ns", "when the round ended"),
        Column("subject", TEXT, "", "what the row speaks of: the source itself, a GPU, a field, a port, a file"),
        Column("state", TEXT, "", "fresh, stale, unsupported, busy, denied, dropped, refused or dead"),
        Column("reason", TEXT, "", "why, in words"),
        Column("rows", INT, "", "rows read"),
        Column("dropped", INT, "", "rows that fell off"),
        Column("duration_ns", INT, "ns", "time the round took"),
        Column("cpu_ns", INT, "ns", "CPU time of the agent since its start, on rows of source `own`"),
        Column("rss_bytes", INT, "B", "memory of the agent, on rows of source `own`"),
    ),
    large=True,
)

FINDINGS = Table(
    "findings",
    "one state of one finding; the view current_findings has the newest state of each",
    "updated_ns",
    (
        *place(),
        Column("id", TEXT, "", "stable identifier: kind and subject"),
        Column("kind", TEXT, "", "see FindingKind"),
        Column("severity", TEXT, "", "info, warning or critical"),
        Column("confidence", REAL, "", "0 to 1"),
        Column("state", TEXT, "", "open, resolved, or ended: its job or node fell silent with the finding standing"),
        Column("detector", TEXT, "", "the question that it answers"),
        Column("job", TEXT, "", "job of the subject"),
        Column("rank", SMALL, "", "rank of the subject"),
        Column("gpu_uuid", TEXT, "", "GPU of the subject"),
        Column("subject", TEXT, "", "the whole subject as JSON"),
        Column("opened_ns", INT, "ns", "when it was first raised"),
        Column("updated_ns", INT, "ns", "when this state was written"),
        Column("onset_ns", INT, "ns", "since when, where a clock is known"),
        Column("onset_step", INT, "", "since which step"),
        Column("summary", TEXT, "", "one sentence for an operator"),
        Column("document", TEXT, "", "the whole finding as JSON, as `warpline findings --json` prints it"),
    ),
)

CAPTURES = Table(
    "captures",
    "one state of one request to look closer; the view current_captures has the furthest state of each",
    "requested_ns",
    (
        *place(),
        Column("id", TEXT, "", "identifier"),
        Column("requested_ns", INT, "ns", "when it was asked for"),
        Column("updated_ns", INT, "ns", "when this state was written"),
        Column("job", TEXT, "", "job"),
        Column("rank", SMALL, "", "rank"),
        Column("what", TEXT, "", "kernels, stacks, flight_recorder or trace"),
        Column("start_ns", INT, "ns", "from when"),
        Column("duration_ns", INT, "ns", "for how long"),
        Column("reason", TEXT, "", "finding that asked"),
        Column("state", TEXT, "", "requested, sent, done, denied or expired"),
        Column("detail", TEXT, "", "why, or what came of it, in words"),
        Column("records", INT, "", "raw records delivered"),
        Column("delivered_start_ns", INT, "ns", "start of the time that they cover, on their own clock"),
        Column("delivered_end_ns", INT, "ns", "end of that time"),
        Column("missing_ns", INT, "ns", "time asked for of which no record is or was held"),
    ),
)

TABLES: Final[Mapping[str, Table]] = {
    table.name: table
    for table in (
        DEVICE_SAMPLES,
        HOST_SAMPLES,
        LINK_COUNTERS,
        KERNEL_CLUSTERS,
        RAW_KERNELS,
        KERNEL_NAMES,
        STEPS,
        PHASES,
        COLLECTIVES,
        COMMUNICATORS,
        STACKS,
        LOG_EVENTS,
        METRICS,
        PROBES,
        PROCESS_EVENTS,
        PROGRESS,
        JOBS,
        SOURCE_HEALTH,
        FINDINGS,
        CAPTURES,
        ENERGY_INTERVALS,
        GPU_PROCESSES,
        GUARD_ACTIONS,
        CAPTURE_OVERHEAD,
    )
}


def table(name: str) -> Table:
    """The table called `name`; SchemaError if there is none."""
    found = TABLES.get(name)
    if found is None:
        raise SchemaError(f"there is no table {name!r}", f"tables: {', '.join(TABLES)}")
    return found


def fit(name: str, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, Sequence[str]]:
    """Bring rows of another version to this version's schema.

    Columns that are missing become NULL, columns that are not known are left out and returned by name. A column of a type
    that cannot be cast is a SchemaError.
    """
    wanted = table(name)
    if rows.schema.equals(wanted.schema):
        return rows, ()
    names = rows.schema.names
    if len(set(names)) < len(names):
        raise SchemaError(f"rows of table {name} name a column twice")
    known = {column.name for column in wanted.columns}
    extra = tuple(field for field in names if field not in known)
    columns = {field: rows.column(field) for field in names if field in known}
    return wanted.from_columns(columns, length=rows.num_rows), extra
