"""Looks at the headers of an Arrow IPC stream before Arrow does: how many rows it claims, and that nothing in it unpacks further.

Without packed bodies and dictionaries everything that is read lies in the stream as it stands, so that reading it takes no more
memory than it has bytes. Headers are FlatBuffers (Arrow's Message.fbs); only the few fields that matter are looked at.
"""

from __future__ import annotations

import struct
from typing import Final

from .errors import WireError

METADATA_BYTES_MAX: Final = 256 * 1024
"""Longest header of one message: that of the widest table takes 4 KiB."""
BATCHES_MAX: Final = 256
"""Batches of one stream; an agent sends one."""
_CONTINUES: Final = b"\xff\xff\xff\xff"
_SCHEMA, _DICTIONARY, _RECORD_BATCH = 1, 2, 3
"""Kinds of message."""
_KIND, _HEADER, _BODY_LENGTH = 1, 2, 3
"""Fields of a message."""
_ROWS, _PACKED = 0, 3
"""Fields of a record batch."""


def rows_in(stream: bytes) -> int:
    """Rows of all batches, as the headers claim; WireError if they are malformed, too many, or announce packed bodies."""
    try:
        return _rows_in(stream)
    except (struct.error, IndexError) as error:
        raise WireError(f"not an Arrow stream: {error}") from error


def _rows_in(stream: bytes) -> int:
    at = rows = batches = 0
    while at < len(stream):
        (size,) = struct.unpack_from("<I", stream, at + 4)
        if stream[at : at + 4] != _CONTINUES or size > METADATA_BYTES_MAX:
            raise WireError("not an Arrow stream: a header that is none, or too long")
        if not size:
            break
        message = stream[at + 8 : at + 8 + size]
        table = _root(message)
        kind = _number(message, table, _KIND, "<B")
        if kind == _RECORD_BATCH:
            rows += _claimed(message, table)
            batches += 1
        if kind == _DICTIONARY:
            raise WireError("an Arrow stream with columns that unpack without a bound", "send plain columns")
        if kind not in (_SCHEMA, _RECORD_BATCH) or (at > 0) != (kind == _RECORD_BATCH) or batches > BATCHES_MAX:
            raise WireError("an Arrow stream that is not one schema and some batches")
        body = _number(message, table, _BODY_LENGTH, "<q")
        if body < 0 or at + 8 + size + body > len(stream):
            raise WireError("not an Arrow stream: a body that is not there")
        at += 8 + size + body
    return rows


def _claimed(message: bytes, table: int) -> int:
    """Rows of one batch."""
    place = _field(message, table, _HEADER)
    if not place:
        raise WireError("not an Arrow stream: a batch without a header")
    batch = place + struct.unpack_from("<I", message, place)[0]
    if _field(message, batch, _PACKED):
        raise WireError("an Arrow stream whose bodies unpack without a bound", "send plain columns")
    rows = _number(message, batch, _ROWS, "<q")
    if rows < 0:
        raise WireError("not an Arrow stream: less than no rows")
    return rows


def _root(message: bytes) -> int:
    place: int = struct.unpack_from("<I", message)[0]
    return place


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where it is not given."""
    layout = table - struct.unpack_from("<i", message, table)[0]
    if not 0 <= layout <= len(message) - 4:
        raise WireError("not an Arrow stream: a header that points outside itself")
    size: int = struct.unpack_from("<H", message, layout)[0]
    if 4 + 2 * number + 2 > size:
        return 0
    offset: int = struct.unpack_from("<H", message, layout + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _number(message: bytes, table: int, number: int, form: str) -> int:
    place = _field(message, table, number)
    value: int = struct.unpack_from(form, message, place)[0] if place else 0
    return value
