"""What the engines of this process hold in memory by their own account: DuckDB's buffers and Arrow's pool."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import duckdb
import pyarrow as pa


class Held(NamedTuple):
    """Bytes; the rest of the process's memory is Python's, gRPC's and what allocators keep."""

    engine_bytes: int
    arrow_bytes: int


def held(connections: Iterable[duckdb.DuckDBPyConnection]) -> Held:
    """Of DuckDB through each of the connections, of which none are of one database; one that is closed holds nothing."""
    return Held(sum(map(_engine_bytes, connections)), pa.total_allocated_bytes())


def _engine_bytes(connection: duckdb.DuckDBPyConnection) -> int:
    with contextlib.suppress(duckdb.Error), connection.cursor() as own:
        return int(own.sql("SELECT coalesce(sum(memory_usage_bytes), 0) FROM duckdb_memory()").fetchall()[0][0])
    return 0
