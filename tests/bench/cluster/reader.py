"""Recorded rows as a Reader: the declared tables in an in-memory DuckDB, as the collector and `warpline analyze` ask them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from warpline_proto.tables import TABLES


class RecordingReader:
    """Every declared table, empty where nothing is given."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        for name, declared in TABLES.items():
            self._connection.register(name, tables.get(name, pa.Table.from_batches([declared.empty()])))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Arrow rows."""
        return self._connection.sql(sql, params=list(parameters)).to_arrow_table()

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()
