"""Declared tables as DuckDB writes them: types, CREATE TABLE, and a SELECT that gives no rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from warpline_proto.errors import SchemaError
from warpline_proto.table import Table

Parameters = Sequence[Any] | Mapping[str, Any]
"""What fills `?` in their order, or `$name` by name."""
_TYPES: Final = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.int32(): "INTEGER",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.uint64(): "UBIGINT",
}


def sql_type(kind: pa.DataType) -> str:
    """The DuckDB type that holds `kind`; SchemaError if none is declared for it."""
    if pa.types.is_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    found = _TYPES.get(kind)
    if found is None:
        raise SchemaError(f"no column type for {kind}")
    return found


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """`value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def column_list(table: Table) -> str:
    """The columns of `table`, quoted, in their order."""
    return ", ".join(quoted(column.name) for column in table.columns)


def create_table(table: Table) -> str:
    """CREATE TABLE IF NOT EXISTS for `table`."""
    columns = ", ".join(f"{quoted(column.name)} {sql_type(column.type)}" for column in table.columns)
    return f"CREATE TABLE IF NOT EXISTS {quoted(table.name)} ({columns})"


def select_nothing(table: Table) -> str:
    """A SELECT with the columns and types of `table` and no row."""
    columns = ", ".join(f"CAST(NULL AS {sql_type(column.type)}) AS {quoted(column.name)}" for column in table.columns)
    return f"SELECT {columns} WHERE false"


def fingerprint(schema: pa.Schema) -> str:
    """Short and equal for equal columns: tells files of this version's schema from older ones."""
    described = ",".join(f"{field.name}:{field.type}" for field in schema)
    return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()
