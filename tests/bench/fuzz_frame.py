"""Frames as fuzzing sees them: what one stream brings, read as the collector reads it, and looked at as it looks at agents.

An input is the serialised frames of one stream, each behind its length (32 bits). They are made by a Packer from rows of every
table, with hostile values in cells, and then changed at every layer: fields of the envelope, zstd, Arrow's headers and schemas,
the packed columns of differences, bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard
from fuzz_engine import Broken, changed, word
from google.protobuf.message import DecodeError

from warpline_collector import ledger, standing
from warpline_collector.fleet import Fleet, readings
from warpline_proto import service_pb2, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.clusters import NUMBERS, cluster
from warpline_proto.defaults import FRAME_UNPACKED_BYTES_MAX
from warpline_proto.errors import WireError
from warpline_proto.stream import Packer, Unpacker
from warpline_proto.tables import AGENTS, KERNEL_CLUSTERS, TABLES

NOW_NS: Final = 1_800_000_000 * 10**9
FRAMES_MAX: Final = 8
STREAMS: Final = 256
"""Sound streams to begin with."""
ROUND_TRIP_ROWS_MAX: Final = 2_000
TEXTS: Final = ("", "n1", "a" * 300, "x\0y", "\u2028", "’; DROP", "own", "agent", "NaN", "\U0001f4a5" * 20)
_LENGTH: Final = struct.Struct("<I")

Message = service_pb2.Frame


class FrameTarget:
    """The frame decoder and the collector's view of agents."""

    name = "frame"
    seconds_max = 20.0
    growth_bytes_max = 6 * FRAME_UNPACKED_BYTES_MAX

    def __init__(self) -> None:
        self._pool: dict[int, list[Message]] = {}

    def draw(self, random: Random) -> bytes:
        """A stream, sound one time in eight."""
        number = random.randrange(STREAMS)
        if number not in self._pool:
            self._pool[number] = _stream(Random(number))
        messages = [_copy(each) for each in self._pool[number]]
        if random.random() < 0.125:
            return _joined(messages)
        if random.random() < 0.25:
            messages.append(_bare(_hostile_part(random), random))
        for _ in range(random.randint(1, 4)):
            random.choice(_MESSAGE_CHANGES)(messages, random)
        return _joined(messages)

    def mutate(self, data: bytes, random: Random) -> bytes:
        """Changed within its layers where it can still be taken apart, else byte by byte."""
        if random.random() < 0.4:
            return changed(data, random)
        messages = []
        for piece in _pieces(data):
            message = Message()
            try:
                message.ParseFromString(piece)
            except DecodeError:
                continue
            messages.append(message)
        for _ in range(random.randint(1, 3)):
            if messages:
                random.choice(_MESSAGE_CHANGES)(messages, random)
        return _joined(messages)

    def run(self, data: bytes) -> str:
        """Read all frames of the stream."""
        unpacker, fleet = Unpacker(), Fleet()
        entries: dict[ledger.Key, ledger.Entry] = {}
        read = refused = 0
        for piece in _pieces(data):
            message = Message()
            try:
                message.ParseFromString(piece)
                frame = unpacker.unpack(message)
            except (DecodeError, WireError):
                refused += 1
                continue
            read += 1
            _hold_together(message, frame)
            fleet.hear(frame, len(piece), NOW_NS)
            entries |= ledger.admit([frame], entries).changed
        ledger.to_table(entries.values())
        rows = [standing.judge(each, standing.Config(), NOW_NS).row(NOW_NS) for each in fleet.seen(NOW_NS)]
        AGENTS.from_rows(rows)
        for each in fleet.seen(NOW_NS):
            list(readings(each))
        return "read" if read and not refused else "partly read" if read else "refused"


def _hold_together(message: Message, frame: Frame) -> None:
    """Rows out and what was dropped are the rows that were claimed; what is read can be sent, read again and is the same."""
    known = [part for part in message.parts if part.table in TABLES]
    told = len(known) < len(message.parts)  # what is left out of tables that are not known
    if len(frame.batches) != len(known) + told:
        raise Broken("a part has gone")
    for part, batch in zip(known, frame.batches, strict=False):
        batch.rows.validate(full=True)
        missing = batch.dropped - part.dropped
        if part.encoding == 0 and (batch.rows.num_rows != part.rows or missing):
            raise Broken("rows have gone")
        if batch.rows.num_rows + missing > part.rows:
            raise Broken("rows came from nowhere")
        if batch.table == KERNEL_CLUSTERS.name and part.encoding:
            pc.sum(batch.rows.column("count")).as_py()
    if sum(batch.rows.num_rows for batch in frame.batches) > ROUND_TRIP_ROWS_MAX:
        return
    try:
        again = wire.decode(wire.encode(frame))
    except WireError as error:
        if "bound" in str(error):
            return
        raise
    for one, other in zip(frame.batches, again.batches, strict=True):
        same = one.rows.equals(other.rows) or str(one.rows.to_pylist()) == str(other.rows.to_pylist())  # NaN is not NaN
        if not same:
            raise Broken("a frame sent again is another")


def _pieces(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while len(found) < 4 * FRAMES_MAX and at + _LENGTH.size <= len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        found.append(data[at + _LENGTH.size : at + _LENGTH.size + size])
        at += _LENGTH.size + size
    return found


def _joined(messages: list[Message]) -> bytes:
    pieces = [each.SerializeToString() for each in messages[: 4 * FRAMES_MAX]]
    return b"".join(_LENGTH.pack(len(piece)) + piece for piece in pieces)


def _copy(message: Message) -> Message:
    copy = Message()
    copy.CopyFrom(message)
    return copy


def _stream(random: Random) -> list[Message]:
    """Sound frames as an agent sends them: steps of kernels that differ a little, and rows of other tables."""
    packer, sent = Packer(), []
    shapes = [[random.lognormvariate(10, 1) for _ in range(random.randint(1, 40))] for _ in range(random.randint(1, 6))]
    others = random.sample([name for name in TABLES if name != KERNEL_CLUSTERS.name], 2)
    for number in range(1, random.randint(2, FRAMES_MAX)):
        batches = [Batch(KERNEL_CLUSTERS.name, "kernels", _step(number, shapes, random))]
        batches += [Batch(name, "own", _rows(name, random), random.choice((0, 0, 5))) for name in others]
        frame = Frame("a1", "boot1", number, NOW_NS + number, tuple(batches), random.choice((0, 0, 3)))
        plain = wire.to_message(frame)
        sent.append(packer.pack(plain) if random.random() < 0.9 else plain)
    return sent


def _step(number: int, shapes: list[list[float]], random: Random) -> pa.RecordBatch:
    rows = []
    for kernel, shape in enumerate(shapes):
        durations = np.array([max(int(each * random.gauss(1, 0.05)), 1) for each in shape], np.int64)
        for index, each in enumerate(cluster(durations)):
            told: dict[str, Any] = {name: getattr(each, name) for name in NUMBERS}
            told |= {"run_counts": [run[0] for run in each.runs], "run_means_ns": [run[1] for run in each.runs]}
            told |= {"node": "n1", "source": "kernels", "rank": kernel % 2, "step": number, "stream": 7}
            told |= {"start_ns": NOW_NS + number * 10**9, "end_ns": NOW_NS + number * 10**9 + 10**8}
            rows.append(told | {"kernel_id": kernel, "category": "compute", "cluster_index": index})
    return KERNEL_CLUSTERS.from_rows(rows)


def _cell(kind: pa.DataType, random: Random) -> Any:
    if random.random() < 0.2:
        return None
    if pa.types.is_list(kind):
        return [
            each for each in (_cell(kind.value_type, random) for _ in range(random.randrange(5))) if each is not None
        ]
    if pa.types.is_boolean(kind):
        return random.random() < 0.5
    if pa.types.is_floating(kind):
        return random.choice((0.0, -1.5, float("nan"), float("inf"), -float("inf"), 1e308, random.random()))
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        low, high = (0, 2**bits - 1) if kind == pa.uint64() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return min(max(random.choice((0, 1, NOW_NS, low, high, word(random), -word(random))), low), high)
    return random.choice(TEXTS)


def _rows(name: str, random: Random) -> pa.RecordBatch:
    columns = TABLES[name].columns
    rows = [{each.name: _cell(each.type, random) for each in columns} for _ in range(random.randrange(12))]
    return TABLES[name].from_rows(rows)


def _field(messages: list[Message], random: Random) -> None:
    """A number or a name of the envelope."""
    message = random.choice(messages)
    if not message.parts or random.random() < 0.3:
        kind = random.randrange(6)
        if kind == 0:
            message.sequence = word(random)
        elif kind == 1:
            message.created_ns = (word(random) ^ 2**63) - 2**63
        elif kind == 2:
            message.lost = word(random)
        elif kind == 3:
            message.version = random.choice((0, 1, 1, 2, 2**32 - 1))
        elif kind == 4:
            message.agent = random.choice(TEXTS)
        else:
            message.boot = random.choice(TEXTS)
        return
    part = random.choice(message.parts)
    name = random.choice(
        (
            "rows",
            "unpacked_bytes",
            "dropped",
            "dictionary",
            "remember",
            "keyframe",
            "encoding",
            "new_book",
            "table",
            "source",
        )
    )
    if name in ("table", "source"):
        setattr(part, name, random.choice((*TABLES, *TEXTS) if name == "table" else TEXTS))
    elif name == "encoding":
        part.encoding = random.choice((0, 1, 1, 2, 2**32 - 1))
    elif name == "new_book":
        part.new_book = not part.new_book
    else:
        near = getattr(part, name) + random.randint(-2, 2)
        setattr(part, name, random.choice((word(random), max(near, 0) & (2**64 - 1))))


def _order(messages: list[Message], random: Random) -> None:
    """Frames or parts lost, sent twice, or out of order."""
    kind = random.randrange(5)
    if kind == 0:
        del messages[random.randrange(len(messages))]
        messages.append(Message(version=1, agent="a1", boot="boot1", sequence=99))
    elif kind == 1:
        messages.insert(random.randrange(len(messages)), _copy(random.choice(messages)))
    elif kind == 2:
        random.shuffle(messages)
    else:
        message = random.choice(messages)
        if message.parts:
            message.parts.add().CopyFrom(random.choice(random.choice([each for each in messages if each.parts]).parts))


def _payload(messages: list[Message], random: Random) -> None:
    """Bytes as they travel: zstd, or packed columns."""
    parts = [part for message in messages for part in message.parts]
    if parts:
        part = random.choice(parts)
        part.payload = changed(part.payload, random, 3)


def _differences(messages: list[Message], random: Random) -> None:
    """Packed columns, mostly in their first bytes, where counts and widths are."""
    parts = [part for message in messages for part in message.parts if part.encoding]
    if parts:
        part = random.choice(parts)
        size = random.choice((16, 64, 4096))
        part.payload = changed(part.payload[:size], random, 3) + part.payload[size:]
        if random.random() < 0.5:
            part.rows = random.choice((part.rows, 50_000, 10**6))
            part.unpacked_bytes = part.rows * 128


def _arrow(messages: list[Message], random: Random) -> None:
    """The Arrow stream within zstd, so that it is reached: mostly its headers."""
    parts = [part for message in messages for part in message.parts if not part.encoding and not part.dictionary]
    if not parts:
        return
    part = random.choice(parts)
    try:
        plain = zstandard.ZstdDecompressor().decompress(part.payload, max_output_size=4 * 1024 * 1024)
    except zstandard.ZstdError:
        return
    size = random.choice((64, 1024, 4096, len(plain)))
    _put(part, changed(plain[:size], random, 3) + plain[size:])


def _schema(messages: list[Message], random: Random) -> None:
    """Rows of another schema in place of what a part holds."""
    parts = [part for message in messages for part in message.parts]
    if parts:
        random.choice(parts).CopyFrom(_hostile_part(random))


_MESSAGE_CHANGES: Final[tuple[Callable[[list[Message], Random], None], ...]] = (
    _field, _field, _order, _payload, _differences, _differences, _arrow, _arrow, _schema,
)  # fmt: skip


def _put(part: service_pb2.Part, plain: bytes) -> None:
    part.payload = zstandard.ZstdCompressor(level=1).compress(plain)
    part.unpacked_bytes = len(plain)


def _bare(part: service_pb2.Part, random: Random) -> Message:
    message = Message(version=1, agent="a1", boot="boot1", sequence=random.randrange(1, 50), created_ns=NOW_NS)
    message.parts.add().CopyFrom(part)
    return message


_KINDS: Final = (
    pa.null(), pa.bool_(), pa.int8(), pa.int32(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.string(),
    pa.large_string(), pa.binary(), pa.string_view(), pa.binary_view(), pa.date32(), pa.timestamp("ns"), pa.duration("s"),
    pa.decimal128(38, 10), pa.binary(16), pa.month_day_nano_interval(), pa.time64("us"),
)  # fmt: skip


def _kind(random: Random, depth: int = 0) -> pa.DataType:
    within = random.randrange(12) if depth < 6 else 11
    if within == 0:
        return pa.list_(_kind(random, depth + 1))
    if within == 1:
        return pa.large_list(_kind(random, depth + 1))
    if within == 2:
        return pa.list_view(_kind(random, depth + 1))
    if within == 3:
        return pa.struct(
            [(random.choice(("a", "b", "node")), _kind(random, depth + 1)) for _ in range(random.randrange(4))]
        )
    if within == 4:
        return pa.list_(_kind(random, depth + 1), random.choice((0, 1, 3)))
    if within == 5:
        return pa.map_(pa.string(), _kind(random, depth + 1))
    return random.choice(_KINDS)


def _column(kind: pa.DataType, rows: int, random: Random) -> pa.Array:
    if random.random() < 0.1:
        return (
            pa.nulls(rows, pa.int64()).dictionary_encode() if random.random() < 0.5 else pa.nulls(rows).cast(pa.int32())
        )
    if random.random() < 0.05 and rows:
        return pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([1]))
    return pa.nulls(rows, kind)


def _hostile_part(random: Random) -> service_pb2.Part:
    """A part of a real table with columns of other types, twice named ones, many, or none; bodies packed by Arrow at times."""
    name = random.choice(list(TABLES))
    table = TABLES[name]
    rows = random.choice((0, 1, 3, 100, 10_000, 10**6, 2**31))
    small = rows if rows <= 10_000 else 16
    fields = [(each.name, _kind(random)) for each in random.sample(table.columns, random.randrange(len(table.columns)))]
    if random.random() < 0.2:
        fields += fields[:2]
    if random.random() < 0.1:
        fields += [(f"c{number}", pa.null()) for number in range(random.choice((10, 1000)))]
    if random.random() < 0.3 or rows > 10_000:
        fields = [(each[0], pa.null()) for each in fields]
        small = rows
    arrays = [_column(kind, small, random) if kind != pa.null() else pa.nulls(small) for _, kind in fields]
    part = service_pb2.Part(table=name, source="own", rows=small)
    packed = random.choice((None, None, "zstd", "lz4"))
    try:
        schema = pa.schema([pa.field(each[0], array.type) for each, array in zip(fields, arrays, strict=True)])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=packed)) as writer:
            batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
            for _ in range(random.choice((1, 1, 1, 0, 3, 200))):
                writer.write_batch(batch)
        _put(part, sink.getvalue().to_pybytes())
    except (pa.ArrowException, NotImplementedError):
        _put(part, b"")
    return part
