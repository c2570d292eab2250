"""Rows as text: columns to read, JSON, or CSV. Unknown is "-" in columns, null in JSON, empty in CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from warpline_proto.plain import plain
from warpline_tui.grid import grid, width

CELL_CHARS_MAX: Final = 120
"""Longer cells are cut in columns; the other forms have all of them."""


def columns(rows: pa.Table) -> str:
    """Columns as wide as they need to be, numbers to the right."""
    if rows.schema.names == ["explain_key", "explain_value"]:
        return "".join(rows.column("explain_value").to_pylist())
    cells = [[_cell(value) for value in column.to_pylist()] for column in rows.columns]
    names = [_cell(name) for name in rows.schema.names]
    rows_of_cells = [[column[index] for column in cells] for index in range(rows.num_rows)]
    heading, *lines = grid([names, *rows_of_cells], [_number(field.type) for field in rows.schema])
    rule = ["-" * max(map(width, [name, *column])) for name, column in zip(names, cells, strict=True)]
    return "\n".join([heading, "  ".join(rule), *lines]) + "\n"


def as_json(rows: pa.Table) -> str:
    """An array of objects, one a line."""
    lines = [json.dumps(plain(dict(zip(rows.schema.names, values, strict=True)))) for values in _values(rows)]
    return "[" + ",\n ".join(lines) + "]\n"


def as_csv(rows: pa.Table) -> str:
    """A header line, then one line a row; lists and structures as JSON."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(rows.schema.names)
    for values in _values(rows):
        writer.writerow([json.dumps(each) if isinstance(each, (list, dict)) else each for each in map(plain, values)])
    return sink.getvalue()


def _values(rows: pa.Table) -> Sequence[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, (list, dict, tuple)):
        text = json.dumps(plain(value))
    else:
        text = str(plain(value))
    shown = "".join(each if each.isprintable() else " " for each in text)
    return shown if len(shown) <= CELL_CHARS_MAX else shown[: CELL_CHARS_MAX - 1] + "…"
