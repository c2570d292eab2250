"""Stamps place and job into rows that sources gave without them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def stamp(rows: pa.RecordBatch, **identity: Any) -> pa.RecordBatch:
    """Fill NULLs of the named columns with the given values.

    Columns that the table does not have and values that are None are passed over; what a source wrote itself stays.
    """
    columns = list(rows.columns)
    for name, value in identity.items():
        position = rows.schema.get_field_index(name)
        if value is None or position < 0 or columns[position].null_count == 0:
            continue
        columns[position] = pc.fill_null(columns[position], pa.scalar(value, type=columns[position].type))
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)
