"""Frame <-> bytes: one zstd-compressed Arrow IPC stream a table inside a small protobuf envelope.

Each frame decodes alone. The outer zstd, rather than Arrow's own body compression, is several times smaller and faster on
batches of a few hundred rows. Everything is checked when it is read: sizes before unpacking, schemas after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import zstandard
from google.protobuf.message import DecodeError

from . import service_pb2
from .batch import Batch, Frame
from .defaults import FRAME_BYTES_MAX, FRAME_UNPACKED_BYTES_MAX
from .errors import SchemaError, WireError
from .tables import fit

VERSION = 1
NAME_CHARS_MAX = 256
"""Longest name of an agent, a boot or a source."""
COUNT_MAX = 2**63 - 1
"""Largest sequence and largest count: what a column of whole numbers holds."""
_LEVEL = 3
_SIZE_NOT_DECLARED = -1


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
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError) as error:
        raise WireError(f"not an Arrow stream: {error}") from error
    return read


def check(message: service_pb2.Frame) -> None:
    """WireError if `message` is of another version, names nobody, or claims more than the bounds allow."""
    if message.version != VERSION:
        raise WireError(f"frame of version {message.version}", f"this side speaks version {VERSION}")
    if not message.agent or not message.boot or message.sequence < 1:
        raise WireError("frame without agent, boot or sequence")
    total = sum(part.unpacked_bytes for part in message.parts)
    if total > FRAME_UNPACKED_BYTES_MAX:
        raise WireError(f"frame unpacks to {total} bytes", f"the bound is {FRAME_UNPACKED_BYTES_MAX}")
    longest = max(map(len, (message.agent, message.boot, *(part.source for part in message.parts))))
    if longest > NAME_CHARS_MAX:
        raise WireError(f"frame with a name of {longest} characters", f"the bound is {NAME_CHARS_MAX}")
    largest = max((message.sequence, message.lost, *(part.dropped for part in message.parts)))
    if largest > COUNT_MAX:
        raise WireError(f"frame that counts to {largest}", f"the bound is {COUNT_MAX}")


def unpack(part: service_pb2.Part, dictionary: zstandard.ZstdCompressionDict | None = None) -> bytes:
    """The Arrow stream of `part`. The size that the zstd frame itself declares is looked at before anything is unpacked."""
    if part.encoding or bool(part.dictionary) != (dictionary is not None):
        raise WireError(f"part of table {part.table!r} that cannot be read without the parts before it")
    try:
        declared = zstandard.frame_content_size(part.payload)
        if declared not in (part.unpacked_bytes, _SIZE_NOT_DECLARED):
            raise WireError(f"part of table {part.table!r} unpacks to {declared} bytes, not {part.unpacked_bytes}")
        unpacker = zstandard.ZstdDecompressor(dict_data=dictionary)
        plain = unpacker.decompress(part.payload, max_output_size=max(part.unpacked_bytes, 1))
    except zstandard.ZstdError as error:
        raise WireError(f"part of table {part.table!r} does not unpack: {error}") from error
    if len(plain) != part.unpacked_bytes:
        raise WireError(f"part of table {part.table!r} unpacks to {len(plain)} bytes, not {part.unpacked_bytes}")
    return plain


def to_batch(part: service_pb2.Part, plain: bytes) -> Batch:
    """The rows of `part`, whose Arrow stream is `plain`."""
    read = from_ipc(plain)
    if any(pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind) for kind in read.schema.types):
        raise WireError(f"part of table {part.table!r} holds columns that unpack without a bound", "send plain columns")
    if read.num_rows != part.rows:
        raise WireError(f"part of table {part.table!r} holds {read.num_rows} rows, not {part.rows}")
    try:
        rows, _ = fit(part.table, one_batch(read))
    except SchemaError as error:
        raise WireError(str(error)) from error
    return Batch(table=part.table, source=part.source, rows=rows, dropped=part.dropped)


def one_batch(read: pa.Table) -> pa.RecordBatch:
    """All rows of a table as one batch."""
    batches: Sequence[pa.RecordBatch] = read.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    return pa.RecordBatch.from_arrays(
        [pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type) for column in read.columns],
        schema=read.schema,
    )
