"""What a table is: named, typed columns with units, and batches made of rows or of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from .errors import SchemaError


@dataclass(frozen=True)
class Column:
    """One column: `unit` is empty for names, identifiers and flags."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table.

    `time` names the column by which rows are ordered and kept; `large` tables are sealed into Parquet segments, the others
    stay in the DuckDB file.
    """

    name: str
    meaning: str
    time: str
    columns: tuple[Column, ...]
    large: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema; every column may be NULL."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])

    @cached_property
    def row_bytes(self) -> int:
        """Least memory of one row: its fixed columns, what says where texts and lists begin, and which values are NULL."""
        return -(-sum(_bits(column.type) + 1 for column in self.columns) // 8)

    def empty(self) -> pa.RecordBatch:
        """A batch of this table without rows."""
        return pa.RecordBatch.from_pylist([], schema=self.schema)

    def from_rows(self, rows: Iterable[Mapping[str, Any]]) -> pa.RecordBatch:
        """Rows as mappings -> a batch. Columns left out are NULL; an unknown column or a wrong type is a SchemaError."""
        listed = list(rows)
        known = {column.name for column in self.columns}
        unknown = sorted({key for row in listed for key in row} - known)
        if unknown:
            raise SchemaError(f"table {self.name} has no column {', '.join(unknown)}")
        try:
            return pa.RecordBatch.from_pylist(listed, schema=self.schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise SchemaError(f"rows do not fit table {self.name}: {error}") from error

    def from_columns(self, columns: Mapping[str, Any], length: int | None = None) -> pa.RecordBatch:
        """Columns as arrays, sequences or scalars (repeated) -> a batch. Columns left out are NULL.

        `length` is needed only when every given column is a scalar.
        """
        unknown = sorted(set(columns) - {column.name for column in self.columns})
        if unknown:
            raise SchemaError(f"table {self.name} has no column {', '.join(unknown)}")
        rows = length if length is not None else _length(columns)
        try:
            arrays = [_array(columns.get(column.name), column.type, rows) for column in self.columns]
            return pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise SchemaError(f"columns do not fit table {self.name}: {error}") from error


def _bits(kind: pa.DataType) -> int:
    try:
        return int(kind.bit_width)
    except ValueError:
        return 32


def _is_column(value: Any) -> bool:
    return isinstance(value, (pa.Array, pa.ChunkedArray)) or (
        hasattr(value, "__len__") and not isinstance(value, (str, bytes, Mapping))
    )


def _length(columns: Mapping[str, Any]) -> int:
    for value in columns.values():
        if _is_column(value):
            return len(value)
    return 1 if columns else 0


def _array(value: Any, type_: pa.DataType, rows: int) -> pa.Array:
    if value is None:
        return pa.nulls(rows, type_)
    if isinstance(value, pa.ChunkedArray):
        value = value.combine_chunks()
    if isinstance(value, pa.Array):
        return value if value.type == type_ else value.cast(type_)
    if _is_column(value):
        return pa.array(value, type=type_, from_pandas=False)
    return pa.repeat(pa.scalar(value, type=type_), rows)
