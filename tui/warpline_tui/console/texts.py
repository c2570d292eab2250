"""Results as text: cells as they are shown, rows as TSV and CSV as they are copied and saved."""

from __future__ import annotations

import csv
import io
from datetime import date, datetime
from typing import Any, Final

import pyarrow as pa

COPY_BYTES_MAX: Final = 64 * 1024
"""What goes to a clipboard through the terminal at most; terminals drop what is much longer without a word."""
CELL_CHARS_MAX: Final = 400
"""Longest text of a cell on the screen."""
NULL: Final = "NULL"


def cell(value: Any) -> str:
    """One value on one line."""
    if value is None:
        return NULL
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e15 else repr(value)
    said = value.isoformat(" ") if isinstance(value, datetime) else plain(value)
    return " ".join(said[:CELL_CHARS_MAX].split("\n"))


def plain(value: Any) -> str:
    """One value whole; empty where it is not known."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def written(rows: pa.Table, *, tabs: bool = False, bytes_max: int | None = None) -> tuple[str, int]:
    """Rows with a heading as CSV or TSV, and how many they are: as many whole ones as fit into `bytes_max`."""
    stream = io.StringIO()
    writer = csv.writer(stream, dialect="excel-tab" if tabs else "excel", lineterminator="\n")
    writer.writerow(rows.column_names)
    count = 0
    for batch in rows.to_batches(max_chunksize=256):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            before = stream.tell()
            writer.writerow(map(plain, row))
            if bytes_max is not None and len(stream.getvalue().encode()) > bytes_max:
                stream.truncate(before)
                return stream.getvalue()[:before], count
            count += 1
    return stream.getvalue(), count
