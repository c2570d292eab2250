"""Recorded rows as a Reader: the declared tables in an in-memory DuckDB, as the collector and `warpline analyze` ask them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa

from warpline_proto.tables import TABLES


class RecordingReader:
    """Every declared table, empty where nothing is given. Tables belong to the reader's own cursor, so several may live."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._cursor = _database().cursor()
        for name, declared in TABLES.items():
            self._cursor.register(name, tables.get(name, pa.Table.from_batches([declared.empty()])))

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Arrow rows. `execute` plans once where a relation does so twice; results are small, so that a copy is no matter."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Arrow output on a DB-API result")
            return self._cursor.execute(sql, list(parameters)).to_arrow_table()

    def close(self) -> None:
        """Give the memory back."""
        self._cursor.close()


@lru_cache(maxsize=1)
def _database() -> duckdb.DuckDBPyConnection:
    """One a process: to open one costs more than many of the queries."""
    return duckdb.connect(":memory:", config={"threads": 1})
