"""Rows as text: columns to read, JSON, or CSV. Unknown is "-" in columns, null in JSON, empty in CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from warpline_proto.plain import plain

CELL_CHARS_MAX: Final = 120
"""Longer cells are cut in columns; the other forms have all of them."""


def columns(rows: pa.Table) -> str:
    """Columns as wide as they need to be, numbers to the right."""
    if rows.schema.names == ["explain_key", "explain_value"]:
        return "".join(rows.column("explain_value").to_pylist())
    cells = [[_cell(value) for value in column.to_pylist()] for column in rows.columns]
    widths = [max([len(name), *map(len, column)]) for name, column in zip(rows.schema.names, cells, strict=True)]
    right = [_number(field.type) for field in rows.schema]
    lines = [_line(rows.schema.names, widths, right), "  ".join("-" * width for width in widths)]
    lines += [_line([column[index] for column in cells], widths, right) for index in range(rows.num_rows)]
    return "\n".join(lines) + "\n"


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


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(placed).rstrip()
