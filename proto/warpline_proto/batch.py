"""Batch: rows of one table, from one source of one node, in order, with what was dropped."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from .errors import SchemaError
from .tables import table


@dataclass(frozen=True)
class Batch:
    """Rows of one table.

    `rows` has exactly the schema of the table (checked here); `dropped` counts rows of the same table and source that fell
    off since the batch before.
    """

    table: str
    source: str
    rows: pa.RecordBatch
    dropped: int = 0

    def __post_init__(self) -> None:
        if not self.rows.schema.equals(table(self.table).schema):
            raise SchemaError(f"rows do not have the schema of table {self.table}", "build them with Table.from_rows")


@dataclass(frozen=True)
class Frame:
    """What travels, waits in the spool and is acknowledged as one: batches of one agent with a sequence number.

    `boot` is new with each start of the agent; (agent, boot, sequence) is stored once, however often it is sent.
    Sequences of one boot start at 1 and grow by one. `lost` counts frames of this boot that fell off the spool so far.
    `sent_ns` is the agent's clock when it was written to the stream that it came by; None where that is not told.
    """

    agent: str
    boot: str
    sequence: int
    created_ns: int
    batches: tuple[Batch, ...]
    lost: int = 0
    sent_ns: int | None = None
