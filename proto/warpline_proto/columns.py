"""Types of columns, and the columns that many tables have alike."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from .table import Column

TEXT: Final = pa.string()
INT: Final = pa.int64()
SMALL: Final = pa.int32()
REAL: Final = pa.float64()
FLAG: Final = pa.bool_()
UNSIGNED: Final = pa.uint64()
INTS: Final = pa.list_(pa.int32())
LONGS: Final = pa.list_(pa.int64())
TEXTS: Final = pa.list_(pa.string())


def place() -> tuple[Column, ...]:
    """Where a row comes from."""
    return (
        Column("cluster", TEXT, "", "cluster the node belongs to, from the agent's configuration"),
        Column("node", TEXT, "", "host name of the node the row speaks of"),
        Column("source", TEXT, "", "name of the source that read the row"),
    )


def ranked() -> tuple[Column, ...]:
    """Which rank of which job a row speaks of."""
    return (
        Column("job", TEXT, "", "job the row belongs to, by evidence only"),
        Column("rank", SMALL, "", "global rank"),
        Column("dp", SMALL, "", "index in the data-parallel group"),
        Column("tp", SMALL, "", "index in the tensor-parallel group"),
        Column("pp", SMALL, "", "pipeline stage"),
        Column("ep", SMALL, "", "index in the expert-parallel group"),
        Column("gpu_uuid", TEXT, "", "NVML UUID of the GPU"),
        Column("device", SMALL, "", "device ordinal as the process sees it"),
    )


CLOCK: Final = Column(
    "clock", TEXT, "", "clock domain of the times: rows may be compared in time only where it is equal and not NULL"
)
