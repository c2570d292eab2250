"""Every table and every column, declared once: name, type, unit, meaning.

All times are nanoseconds. A column that ends in `start_ns` or is called `time_ns` counts from the Unix epoch of the clock
named in `clock`; where a table has no `clock` column it is the node's real-time clock. NULL means "not known"; a zero is
always a measured zero. Rates are per second and say so in their name, counters are cumulative and say so in their meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from .audit_table import AUDIT
from .capture_tables import CAPTURE_OVERHEAD
from .errors import SchemaError
from .history_tables import DEVICE_HISTORY, KERNELS_HISTORY, STEPS_HISTORY
from .inventory_table import INVENTORY
from .job_tables import (
    COLLECTIVES,
    COMMUNICATORS,
    JOBS,
    KERNEL_CLUSTERS,
    KERNEL_NAMES,
    PHASES,
    PROCESS_EVENTS,
    RAW_KERNELS,
    STACKS,
    STEPS,
)
from .node_tables import DEVICE_SAMPLES, HOST_SAMPLES, LINK_COUNTERS, LOG_EVENTS, METRICS, PROBES
from .own_tables import AGENTS, CAPTURES, FINDINGS, NODE_CLOCKS, SOURCE_HEALTH
from .power_tables import ENERGY_INTERVALS, GPU_PROCESSES, GUARD_ACTIONS
from .progress_table import PROGRESS
from .table import Table

__all__ = [
    "AGENTS",
    "AUDIT",
    "CAPTURES",
    "CAPTURE_OVERHEAD",
    "COLLECTIVES",
    "COMMUNICATORS",
    "DEVICE_HISTORY",
    "DEVICE_SAMPLES",
    "ENERGY_INTERVALS",
    "FINDINGS",
    "GPU_PROCESSES",
    "GUARD_ACTIONS",
    "HOST_SAMPLES",
    "INVENTORY",
    "JOBS",
    "KERNELS_HISTORY",
    "KERNEL_CLUSTERS",
    "KERNEL_NAMES",
    "LINK_COUNTERS",
    "LOG_EVENTS",
    "METRICS",
    "NODE_CLOCKS",
    "PHASES",
    "PROBES",
    "PROCESS_EVENTS",
    "PROGRESS",
    "RAW_KERNELS",
    "SOURCE_HEALTH",
    "STACKS",
    "STEPS",
    "STEPS_HISTORY",
    "TABLES",
    "fit",
    "table",
]

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
        AGENTS,
        NODE_CLOCKS,
        INVENTORY,
        FINDINGS,
        CAPTURES,
        ENERGY_INTERVALS,
        GPU_PROCESSES,
        GUARD_ACTIONS,
        CAPTURE_OVERHEAD,
        DEVICE_HISTORY,
        STEPS_HISTORY,
        KERNELS_HISTORY,
        AUDIT,
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
