"""Table `progress`: where each training process stands, seen from outside of it."""

from __future__ import annotations

from typing import Final

from .columns import FLAG, INT, REAL, SMALL, TEXT, place, ranked
from .table import Column, Table

STEPS: Final = "steps"
KERNELS: Final = "kernels"
STARTING: Final = "starting"
IN_COLLECTIVE: Final = "in_collective"
SILENT: Final = "silent"
WORKING: Final = "working"
STOPPED: Final = "stopped"
BLOCKED: Final = "blocked"
ENDED: Final = "ended"
GONE: Final = "gone"

PROGRESS: Final = Table(
    "progress",
    "where one training process stands; while it does not go on, one row for each operation of each of its communicators",
    "time_ns",
    (
        *place(),
        *ranked(),
        Column("time_ns", INT, "ns", "when it was looked at"),
        Column("pid", INT, "", "process"),
        Column(
            "state",
            TEXT,
            "",
            "steps (they end), kernels (no step ends, kernels or operations go on), starting (no step has ended yet), "
            "in_collective (the kernel of an operation that was enqueued has not ended), silent (nothing goes on and the host "
            "sleeps), working (nothing goes on but its CPU or files), stopped (by a signal or debugger), blocked (in the "
            "kernel of the operating system), ended (in order) or gone (without a word)",
        ),
        Column("since_ns", INT, "ns", "since when it stands there"),
        Column("reason", TEXT, "", "what was seen, in words"),
        Column("step", INT, "", "newest step that ended"),
        Column("last_kernel_ns", INT, "ns", "end of the newest kernel; NULL where kernels are not watched"),
        Column("cpu_percent", REAL, "%", "CPU time of the process and its children since the look before, of one core"),
        Column("io_bytes_per_second", REAL, "B/s", "read and written by the process since the look before"),
        Column("watched", FLAG, "", "whether its NCCL operations are told"),
        Column("communicator", TEXT, "", "communicator, as in collectives; NULL on the row of the process"),
        Column("communicator_rank", SMALL, "", "rank within it"),
        Column("nranks", SMALL, "", "ranks in it"),
        Column("group_name", TEXT, "", "name of the process group"),
        Column("operation", TEXT, "", "operation, as in collectives; NULL where none was enqueued on the communicator"),
        Column(
            "sequence",
            INT,
            "",
            "number of the newest of this operation, counted on the communicator for each operation",
        ),
        Column("elements", INT, "", "its elements"),
        Column("datatype", TEXT, "", "its element type"),
        Column("enqueued_ns", INT, "ns", "when it was enqueued"),
    ),
    large=True,
)
"""The names above are its states."""
