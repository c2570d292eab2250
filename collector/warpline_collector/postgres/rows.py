"""Rows of an answer as PostgreSQL sends them: made column by column, so that a hundred thousand take a fraction of a second."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.errors import QueryError

from .types import TEXT_FORM, Field, cells

COLUMNS_MAX: Final = 1_664
"""Columns of one row, PostgreSQL's own bound."""
_NULL: Final = b"\xff\xff\xff\xff"
_HEADER: Final = np.dtype([("kind", "S1"), ("size", ">i4"), ("columns", ">i2")])
_COPY_HEADER: Final = np.dtype([("kind", "S1"), ("size", ">i4")])
_LENGTH: Final = struct.Struct("!i")


def forms(given: Sequence[int], columns: int) -> list[int]:
    """The form of each column: one for all, or one for each; QueryError if neither."""
    if len(given) not in (0, 1, columns) or not set(given) <= {0, 1}:
        raise QueryError(f"{len(given)} result forms for {columns} columns")
    return list(given) if len(given) == columns else [given[0] if given else TEXT_FORM] * columns


def data_rows(rows: pa.Table, fields: Sequence[Field], given: Sequence[int], bytes_max: int) -> memoryview:
    """All rows as DataRow messages, one behind the other; QueryError if they are larger than `bytes_max`."""
    if len(fields) > COLUMNS_MAX:
        raise QueryError(f"{len(fields)} columns, the bound is {COLUMNS_MAX}", "name the columns you want")
    try:
        columns = [
            cells(column, field, form)
            for column, field, form in zip(rows.columns, fields, forms(given, len(fields)), strict=True)
        ]
    except ValueError as error:
        raise QueryError(str(error), "ask for it as text") from error
    lengths = [pc.binary_length(column).fill_null(-1).to_numpy(zero_copy_only=False) for column in columns]
    sizes = np.full(rows.num_rows, 6 + 4 * len(columns), dtype=np.int64)
    for length in lengths:
        sizes += np.maximum(length, 0)
    if int(sizes.sum()) + rows.num_rows > bytes_max:
        raise QueryError(f"the answer is larger than {bytes_max} bytes", "ask for less")
    parts = [_header(sizes, len(columns))]
    for column, length in zip(columns, lengths, strict=True):
        parts += [_binary(length.astype(">i4"), 4), pc.fill_null(column, b"")]
    return _joined(parts)


def split(payload: memoryview, rows_max: int) -> int:
    """Bytes of the first `rows_max` messages of `payload`, of all of them where there are fewer."""
    place = 0
    for _ in range(rows_max):
        if place >= len(payload):
            break
        place += 1 + _LENGTH.unpack_from(payload, place + 1)[0]
    return place


def count(payload: memoryview) -> int:
    """Messages in `payload`."""
    return sum(1 for _ in _messages(payload))


def copy_rows(rows: pa.Table, fields: Sequence[Field], csv: bool, header: bool, bytes_max: int) -> memoryview:
    """All rows as lines of COPY, each a CopyData message: text with tabs, or CSV."""
    written = [
        _escaped(cells(column, field, TEXT_FORM), csv) for column, field in zip(rows.columns, fields, strict=True)
    ]
    if header:
        names = (_escaped(pa.array([field.name.encode()], pa.large_binary()), csv) for field in fields)
        written = [pa.concat_arrays(pair) for pair in zip(names, written, strict=True)]
    lines = pc.binary_join_element_wise(*written, pa.scalar(b"," if csv else b"\t", pa.large_binary()))
    sizes = pc.binary_length(lines).to_numpy(zero_copy_only=False).astype(np.int64) + 5
    if int(sizes.sum()) + 2 * len(lines) > bytes_max:
        raise QueryError(f"the answer is larger than {bytes_max} bytes", "ask for less")
    head = np.zeros(len(lines), dtype=_COPY_HEADER)
    head["kind"], head["size"] = b"d", sizes
    return _joined([_binary(head, _COPY_HEADER.itemsize), lines, pa.scalar(b"\n", pa.large_binary())])


def _escaped(column: pa.Array, csv: bool) -> pa.Array:
    texts = column.cast(pa.large_string())
    if csv:
        needs = pc.or_(pc.match_substring_regex(texts, r'[",\r\n]'), pc.equal(texts, ""))
        inner = pc.replace_substring(texts, '"', '""')
        quote = pa.scalar('"', pa.large_string())
        marked = pc.binary_join_element_wise(quote, inner, quote, pa.scalar("", pa.large_string()))
        return pc.fill_null(pc.if_else(needs, marked, texts), "").cast(pa.large_binary())
    for before, after in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        texts = pc.replace_substring(texts, before, after)
    return pc.fill_null(texts, "\\N").cast(pa.large_binary())


def _header(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], columns: int) -> pa.Array:
    head = np.zeros(len(sizes), dtype=_HEADER)
    head["kind"], head["size"], head["columns"] = b"D", sizes, columns
    return _binary(head, _HEADER.itemsize)


def _binary(values: np.ndarray[tuple[int], np.dtype[np.generic]], size: int) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), [None, buffer])
    return fixed.cast(pa.large_binary())


def _joined(parts: Sequence[pa.Array]) -> memoryview:
    whole = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
    if len(whole) == 0:
        return memoryview(b"")
    offsets = np.frombuffer(whole.buffers()[1], dtype=np.int64)[whole.offset : whole.offset + len(whole) + 1]
    return memoryview(whole.buffers()[2])[int(offsets[0]) : int(offsets[-1])]


def _messages(payload: memoryview) -> Iterator[int]:
    place = 0
    while place < len(payload):
        yield place
        place += 1 + _LENGTH.unpack_from(payload, place + 1)[0]
