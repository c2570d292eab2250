"""Which tables, views and columns may be asked for, and what each means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import pyarrow as pa

from warpline_proto.tables import TABLES


@dataclass(frozen=True)
class Relation:
    """A table or view: what a row of it is, and what each column means, with its unit in brackets."""

    sentence: str
    columns: Mapping[str, str]


Catalogue = Mapping[str, Relation]


PRESENT: Final = (
    "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL LIMIT 10000"
)
"""What the store that is asked really has: an older collector has fewer."""


@cache
def tables() -> Catalogue:
    """The documented tables."""
    return {
        name: Relation(
            table.meaning,
            {column.name: column.meaning + (f" [{column.unit}]" if column.unit else "") for column in table.columns},
        )
        for name, table in TABLES.items()
    }


def _not_to_be_stopped() -> None:
    """What is under way goes on to its bound."""


@dataclass(frozen=True)
class Console:
    """Where the user's own SQL goes, which is looked at as a stranger's is, what may be asked for there, and what ends what is
    under way."""

    query: Callable[[str], pa.Table]
    catalogue: Callable[[], Catalogue] = tables
    stop: Callable[[], None] = _not_to_be_stopped


def present(documented: Catalogue, rows: pa.Table) -> Catalogue:
    """What of the documented is there, by the answer to PRESENT; a column that is not described is told by its type."""
    found: dict[str, dict[str, str]] = {}
    for row in rows.to_pylist():
        relation = documented.get(row["table_name"])
        if relation is not None:
            meaning = relation.columns.get(row["column_name"]) or row["data_type"].lower()
            found.setdefault(row["table_name"], {})[row["column_name"]] = meaning
    ordered = ((name, found[name]) for name in documented if name in found)
    return {name: Relation(documented[name].sentence, columns) for name, columns in ordered}


def listed(catalogue: Catalogue) -> pa.Table:
    """Every table and view, as rows."""
    return pa.table({"name": list(catalogue), "a row is": [each.sentence for each in catalogue.values()]})


def described(relation: Relation) -> pa.Table:
    """Every column of one, as rows."""
    return pa.table({"column": list(relation.columns), "means": list(relation.columns.values())})
