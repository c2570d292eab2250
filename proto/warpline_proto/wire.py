"""Frame <-> bytes: one zstd-compressed Arrow IPC stream a table inside a small protobuf envelope.

Each frame decodes alone. The outer zstd, rather than Arrow's own body compression, is several times smaller and faster on
batches of a few hundred rows. Everything is checked when it is read: sizes before unpacking, schemas after.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa
import zstandard
from google.protobuf.message import DecodeError

from . import service_pb2
from .arrow_headers import rows_in
from .batch import Batch, Frame
from .defaults import FRAME_BYTES_MAX, FRAME_UNPACKED_BYTES_MAX
from .errors import SchemaError, WireError
from .tables import TABLES, fit, table

VERSION = 1
NAME_CHARS_MAX = 256
"""Longest name of an agent, a boot or a source."""
COUNT_MAX = 2**48
"""Largest sequence and largest count: nobody counts so far, and many of them still add up within 64 bits."""
PARTS_MAX = 1_024
"""Parts of one frame: as many as tables and sources of a node, and then some."""
_UNBOUNDED = (
    pa.types.is_dictionary,
    pa.types.is_run_end_encoded,
    pa.types.is_string_view,
    pa.types.is_binary_view,
)
"""Types whose rows may all point to the same long value."""
SMALL_BYTES = 64 * 1024
"""Messages up to here are parsed as they are: whatever is in them takes some megabytes at most."""
FIELDS = 64
"""Fields of a frame beside its parts, those of later versions among them."""
TIME_MAX = 2**61
"""Latest time of a frame: two of them still add up within 64 bits."""
_BYTES = 2
_SIZES = {1: 8, 5: 4, 3: 0, 4: 0}
"""Bytes of a field by its wire type, where that is told by the type alone."""
_LEVEL = 3
_SIZE_NOT_DECLARED = -1
_END: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""How an Arrow stream ends."""
_OF_THREAD: Final = threading.local()
_UNREADABLE: Final = (pa.ArrowException, OSError, EOFError, ValueError, MemoryError)


def to_message(frame: Frame) -> service_pb2.Frame:
    """The message that carries `frame`."""
    packer = zstandard.ZstdCompressor(level=_LEVEL)
    message = service_pb2.Frame(
        version=VERSION,
        agent=frame.agent,
        boot=frame.boot,
        sequence=frame.sequence,
        created_ns=frame.created_ns,
        lost=frame.lost,
        sent_ns=frame.sent_ns or 0,
    )
    for batch in frame.batches:
        plain = to_ipc(batch.rows.schema, [batch.rows])
        message.parts.add(
            table=batch.table,
            source=batch.source,
            dropped=batch.dropped,
            rows=batch.rows.num_rows,
            unpacked_bytes=len(plain),
            payload=packer.compress(plain),
        )
    return message


def from_message(message: service_pb2.Frame) -> Frame:
    """The frame that `message` carries; WireError if it is malformed or claims more than the bounds allow."""
    check(message)
    return frame_of(message, (to_batch(part, unpack(part)) for part in message.parts))


def frame_of(message: service_pb2.Frame, batches: Iterable[Batch]) -> Frame:
    """A checked message's own values, with its rows as they were read."""
    return Frame(
        agent=message.agent,
        boot=message.boot,
        sequence=message.sequence,
        created_ns=message.created_ns,
        lost=message.lost,
        batches=tuple(batches),
        sent_ns=message.sent_ns or None,
    )


def encode(frame: Frame) -> bytes:
    """Bytes of `frame`; WireError if they exceed the bound on the wire."""
    data: bytes = to_message(frame).SerializeToString()
    if len(data) > FRAME_BYTES_MAX:
        raise WireError(f"frame of {len(data)} bytes", f"the bound is {FRAME_BYTES_MAX}: send fewer rows at once")
    return data


def decode(data: bytes) -> Frame:
    """The frame in `data`; WireError if it is not one."""
    message = service_pb2.Frame()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"not a frame: {error}") from error
    return from_message(message)


def to_ipc(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> bytes:
    """One Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """The table in one Arrow IPC stream; WireError if it is not one."""
    try:
        with pa.ipc.open_stream(data) as reader:
            read = reader.read_all()
        read.validate(full=True)
    except _UNREADABLE as error:
        raise WireError(f"not an Arrow stream: {error}") from error
    return read


def _of_this_version(name: str, plain: bytes) -> pa.RecordBatch | None:
    """The one batch of a stream that begins as this version would begin it; None where it does not. WireError if it is damaged.

    Reading the schema costs more than reading some hundred rows, and most agents are of the collector's version.
    """
    schema, beginning = _declared(name)
    if not plain.startswith(beginning):
        return None
    stream = pa.BufferReader(plain)
    stream.seek(len(beginning))
    try:
        message = pa.ipc.read_message(stream)
        if message.type != "record batch" or plain[stream.tell() :] != _END:
            return None
        rows = pa.ipc.read_record_batch(message, schema)
        rows.validate(full=True)
    except _UNREADABLE as error:
        raise WireError(f"not an Arrow stream: {error}") from error
    return rows


@lru_cache(64)
def _declared(name: str) -> tuple[pa.Schema, bytes]:
    """The schema of a table, and how its Arrow streams begin."""
    schema = table(name).schema
    return schema, schema.serialize().to_pybytes()


def _unpacker() -> zstandard.ZstdDecompressor:
    """One for each thread: they are dear to make, and belong to one thread at a time."""
    if not hasattr(_OF_THREAD, "unpacker"):
        _OF_THREAD.unpacker = zstandard.ZstdDecompressor()
    made: zstandard.ZstdDecompressor = _OF_THREAD.unpacker
    return made


def parse(data: bytes) -> service_pb2.Frame:
    """The message in `data`, or an empty one, which is refused, where it has very many parts: each takes memory of its own."""
    message = service_pb2.Frame()
    if len(data) <= SMALL_BYTES or _fields(data) <= PARTS_MAX + FIELDS:
        message.ParseFromString(data)
    return message


def _fields(data: bytes) -> int:
    """Fields at the top of a message, counted up to what is refused; DecodeError where it is none."""
    at = count = 0
    while at < len(data) and count <= PARTS_MAX + FIELDS:
        tag, at = _varint(data, at)
        size = _SIZES.get(tag & 7)
        if size is None:
            size, at = _varint(data, at)
            size *= tag & 7 == _BYTES
        at += size
        count += 1
    return count


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7
    raise DecodeError("a number that does not end")


def check(message: service_pb2.Frame) -> None:
    """WireError if `message` is of another version, names nobody, or claims more than the bounds allow."""
    if message.version != VERSION:
        raise WireError(f"frame of version {message.version}", f"this side speaks version {VERSION}")
    if not message.agent or not message.boot or message.sequence < 1:
        raise WireError("frame without agent, boot or sequence")
    if len(message.parts) > PARTS_MAX:
        raise WireError(f"frame of {len(message.parts)} parts", f"the bound is {PARTS_MAX}")
    total = unpacked_bytes(message)
    if total > FRAME_UNPACKED_BYTES_MAX:
        raise WireError(f"frame unpacks to {total} bytes", f"the bound is {FRAME_UNPACKED_BYTES_MAX}")
    longest = max(map(len, (message.agent, message.boot, *(part.source for part in message.parts))))
    if longest > NAME_CHARS_MAX:
        raise WireError(f"frame with a name of {longest} characters", f"the bound is {NAME_CHARS_MAX}")
    largest = max((message.sequence, message.lost, *(part.dropped for part in message.parts)))
    if largest > COUNT_MAX:
        raise WireError(f"frame that counts to {largest}", f"the bound is {COUNT_MAX}")
    if not 0 <= message.created_ns <= TIME_MAX:
        raise WireError(f"frame made at {message.created_ns} ns since the epoch")


def unpacked_bytes(message: service_pb2.Frame) -> int:
    """Memory that the rows of `message` take once they are read, as it claims: columns that did not come take room too."""
    return sum(max(part.unpacked_bytes, part.rows * _row_bytes(part.table)) for part in message.parts)


def _row_bytes(name: str) -> int:
    known = TABLES.get(name)
    return known.row_bytes if known is not None else 1


def unpack(part: service_pb2.Part, dictionary: zstandard.ZstdCompressionDict | None = None) -> bytes:
    """The Arrow stream of `part`. The size that the zstd frame itself declares is looked at before anything is unpacked."""
    if part.encoding or bool(part.dictionary) != (dictionary is not None):
        raise WireError(f"part of table {part.table!r} that cannot be read without the parts before it")
    try:
        declared = zstandard.frame_content_size(part.payload)
        if declared not in (part.unpacked_bytes, _SIZE_NOT_DECLARED):
            raise WireError(f"part of table {part.table!r} unpacks to {declared} bytes, not {part.unpacked_bytes}")
        unpacker = _unpacker() if dictionary is None else zstandard.ZstdDecompressor(dict_data=dictionary)
        plain = unpacker.decompress(part.payload, max_output_size=max(part.unpacked_bytes, 1))
    except zstandard.ZstdError as error:
        raise WireError(f"part of table {part.table!r} does not unpack: {error}") from error
    if len(plain) != part.unpacked_bytes:
        raise WireError(f"part of table {part.table!r} unpacks to {len(plain)} bytes, not {part.unpacked_bytes}")
    return plain


def to_batch(part: service_pb2.Part, plain: bytes) -> Batch:
    """The rows of `part`, whose Arrow stream is `plain`. Headers are looked at before Arrow takes memory for what they claim."""
    claimed = rows_in(plain)
    if claimed != part.rows:
        raise WireError(f"part of table {part.table!r} holds {claimed} rows, not {part.rows}")
    try:
        rows = _of_this_version(part.table, plain)
        if rows is None:
            rows, _ = fit(part.table, one_batch(_known_columns(part.table, plain)))
    except SchemaError as error:
        raise WireError(str(error)) from error
    return Batch(table=part.table, source=part.source, rows=rows, dropped=part.dropped)


def _known_columns(name: str, plain: bytes) -> pa.Table:
    """The columns that the table knows, of types that take no more room once they are cast; SchemaError for others."""
    wanted = table(name).schema
    try:
        with pa.ipc.open_stream(plain) as reader:
            known = _checked(name, reader.schema, wanted)
            read = reader.read_all().select(known)
        read.validate(full=True)
    except _UNREADABLE as error:
        raise WireError(f"not an Arrow stream: {error}") from error
    return read


def _checked(name: str, schema: pa.Schema, wanted: pa.Schema) -> list[str]:
    """Names of the columns that are known."""
    if len(set(schema.names)) < len(schema.names):
        raise SchemaError(f"rows of table {name} name a column twice")
    known = [field for field in schema.names if wanted.get_field_index(field) >= 0]
    for field in known:
        if not _bounded(schema.field(field).type, wanted.field(field).type):
            raise SchemaError(f"column {field} of table {name} unpacks without a bound", "send plain columns")
    return known


def _bounded(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of this type takes about as much as the one it is cast to, or as little as it has rows."""
    if pa.types.is_list(wanted) and not pa.types.is_null(kind):
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return bool(listed and kind.value_type == wanted.value_type)
    return not pa.types.is_nested(kind) and not any(unbounded(kind) for unbounded in _UNBOUNDED)


def one_batch(read: pa.Table) -> pa.RecordBatch:
    """All rows of a table as one batch."""
    batches: Sequence[pa.RecordBatch] = read.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    return pa.RecordBatch.from_arrays(
        [pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type) for column in read.columns],
        schema=read.schema,
    )
