"""Frames that are made to take more memory than they travel with, or to end the reader: refused in words before they are read."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
import zstandard

from warpline_proto import service_pb2, wire
from warpline_proto.arrow_headers import BATCHES_MAX, rows_in
from warpline_proto.batch import Batch, Frame
from warpline_proto.bits import BitReader, BitWriter
from warpline_proto.errors import WireError
from warpline_proto.kernel_deltas import PLACES_MAX, Receiver
from warpline_proto.stream import Packer, Unpacker
from warpline_proto.tables import KERNEL_CLUSTERS, STEPS, TABLES


def frame(table: str, plain: bytes, rows: int) -> service_pb2.Frame:
    message = service_pb2.Frame(version=1, agent="a", boot="b", sequence=1)
    payload = zstandard.ZstdCompressor().compress(plain)
    message.parts.add(table=table, rows=rows, unpacked_bytes=len(plain), payload=payload)
    return message


def stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def nothing(rows: int, *names: str) -> bytes:
    """Rows of columns that take no bytes at all."""
    schema = pa.schema([pa.field(name, pa.null()) for name in names])
    return stream(schema, [pa.RecordBatch.from_arrays([pa.nulls(rows) for _ in names], schema=schema)])


def test_rows_without_a_byte_are_counted_as_the_memory_that_their_table_takes() -> None:
    """A hundred bytes could claim a thousand million rows, each of which takes the width of its table once it is read."""
    with pytest.raises(WireError, match="unpacks to"):
        wire.from_message(frame("steps", nothing(10**9, "job"), 10**9))
    assert wire.unpacked_bytes(frame("steps", nothing(1000, "job"), 1000)) >= 1000 * STEPS.row_bytes
    assert wire.from_message(frame("steps", nothing(1000, "job"), 1000)).batches[0].rows.num_rows == 1000


def test_rows_that_are_not_claimed_are_not_read() -> None:
    with pytest.raises(WireError, match="holds 1000000000 rows, not 1"):
        wire.from_message(frame("steps", nothing(10**9, "job"), 1))


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_bodies_that_arrow_itself_would_unpack_are_refused(compression: str) -> None:
    """A gibibyte of zeros packed twice travels in some kilobytes, and zstd's own size says nothing of the second packing."""
    schema = pa.schema([("step", pa.int64())])
    batch = pa.RecordBatch.from_arrays([pa.array(np.zeros(100_000, np.int64))], schema=schema)
    with pytest.raises(WireError, match="unpack without a bound"):
        wire.from_message(frame("steps", stream(schema, [batch], compression), 100_000))


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("job", pa.string_view()),
        ("job", pa.struct([("a", pa.int64())])),
        ("step", pa.list_(pa.int64())),
        ("job", pa.run_end_encoded(pa.int32(), pa.string())),
    ],
)
def test_columns_whose_rows_may_share_one_long_value_are_refused(column: str, kind: pa.DataType) -> None:
    schema = pa.schema([(column, kind)])
    batch = pa.RecordBatch.from_arrays([pa.nulls(1, kind)], schema=schema)
    with pytest.raises(WireError, match="without a bound"):
        wire.from_message(frame("steps", stream(schema, [batch]), 1))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.null()), pa.list_(pa.bool_()), pa.list_(pa.list_(pa.int32())), pa.list_view(pa.int32())]
)
def test_lists_of_what_takes_no_room_are_refused(kind: pa.DataType) -> None:
    """The values of a list are not counted by its rows."""
    schema = pa.schema([("run_counts", kind)])
    batch = pa.RecordBatch.from_arrays([pa.nulls(1, kind)], schema=schema)
    with pytest.raises(WireError, match="without a bound"):
        wire.from_message(frame(KERNEL_CLUSTERS.name, stream(schema, [batch]), 1))


def test_columns_of_a_later_version_may_be_of_any_type_and_are_left_out() -> None:
    schema = pa.schema(
        [("step", pa.int64()), ("new", pa.struct([("a", pa.string_view())])), ("other", pa.list_(pa.null()))]
    )
    batch = pa.RecordBatch.from_pylist([{"step": 7}], schema=schema)
    rows = wire.from_message(frame("steps", stream(schema, [batch]), 1)).batches[0].rows
    assert rows.schema == STEPS.schema
    assert rows.column("step").to_pylist() == [7]


def test_a_part_of_very_many_batches_and_a_frame_of_very_many_parts_are_refused() -> None:
    schema = pa.schema([("step", pa.int64())])
    empty = pa.RecordBatch.from_pylist([], schema=schema)
    with pytest.raises(WireError, match="schema and some batches"):
        wire.from_message(frame("steps", stream(schema, [empty] * (BATCHES_MAX + 1)), 0))
    message = frame("steps", stream(schema, [empty]), 0)
    for _ in range(wire.PARTS_MAX):
        message.parts.add()
    with pytest.raises(WireError, match="parts"):
        wire.from_message(message)


def test_headers_that_point_outside_themselves_are_refused() -> None:
    schema = pa.schema([("step", pa.int64())])
    plain = stream(schema, [pa.RecordBatch.from_pylist([{"step": 1}], schema=schema)])
    for at in range(len(plain) - 8):
        for word in (0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
            damaged = plain[:at] + struct.pack("<I", word) + plain[at + 4 :]
            try:
                rows_in(damaged)
            except WireError:
                continue


def clusters(runs: int, windows: int = 1, job: str = "train") -> pa.RecordBatch:
    """Rows of one kernel, a window each, of so many runs."""
    counts, means = [1] * runs, [1_000 + each for each in range(runs)]
    row = {"node": "n", "job": job, "rank": 0, "kernel_id": 1, "stream": 7, "category": "compute", "cluster_index": 0}
    row |= {"count": runs, "sum_ns": sum(means), "min_ns": means[0], "max_ns": means[-1]}
    row |= dict.fromkeys(("p10_ns", "p50_ns", "p90_ns", "p99_ns"), means[runs // 2])
    row |= {"run_counts": counts, "run_means_ns": means}
    return KERNEL_CLUSTERS.from_rows(
        [
            row | {"step": each, "start_ns": 10**18 + each * 10**9, "end_ns": 10**18 + each * 10**9 + 1}
            for each in range(windows)
        ]
    )


def told(sequence: int, *batches: pa.RecordBatch) -> service_pb2.Frame:
    return wire.to_message(
        Frame("a", "b", sequence, 1, tuple(Batch(KERNEL_CLUSTERS.name, "s", each) for each in batches))
    )


def test_differences_that_speak_of_one_long_entry_again_and_again_are_refused() -> None:
    """Fifty thousand rows of some bytes, each standing for 100,000 runs, would take 80 GB."""
    receiver = Receiver()
    receiver.keyframe(clusters(100_000), 1, True)
    windows = 20
    writer = BitWriter()
    writer.number(1)
    writer.number(1)
    writer.number(windows)
    zeros, ones = np.zeros(windows, np.int64), np.ones(windows, np.int64)
    writer.small(zeros)
    for _ in range(3):
        writer.sized(ones, zeros + 2)
    writer.small(zeros)
    for _ in range(2):
        writer.sized(ones, zeros + 2)
    writer.small(zeros)
    with pytest.raises(WireError):
        receiver.read(bytes(writer.data), windows)


def test_a_sender_sends_whole_what_a_receiver_would_not_take_as_differences() -> None:
    packer, unpacker = Packer(), Unpacker()
    for sequence, rows in enumerate((clusters(40_000), clusters(10, 60), clusters(10, 3), clusters(10, 3)), 1):
        read = unpacker.unpack(packer.pack(told(sequence, rows)))
        assert sum(batch.rows.num_rows for batch in read.batches) == rows.num_rows


def test_a_stream_of_very_many_places_is_not_remembered_without_a_bound() -> None:
    receiver = Receiver()
    rows = pa.concat_batches([clusters(2, job=f"job {number}") for number in range(PLACES_MAX + 1)])
    with pytest.raises(WireError, match="too many rows"):
        receiver.keyframe(rows, 1, True)
    with pytest.raises(WireError, match="too many rows"):
        Receiver().keyframe(clusters(2, job="x" * 100_000), 1, True)
    packer, unpacker = Packer(), Unpacker()
    for sequence in (1, 2):
        assert unpacker.unpack(packer.pack(told(sequence, rows))).batches[0].rows.num_rows == rows.num_rows


def test_a_packed_column_may_not_be_longer_than_it_needs_to_be() -> None:
    """Each of its bits takes eight bytes once it is read."""
    writer = BitWriter()
    writer.data.append(1)
    writer.number(1_000_000)
    writer.data += b"\xff" * 1_000_000
    with pytest.raises(WireError, match="longer than it needs"):
        BitReader(bytes(writer.data)).small(3)


def test_every_table_takes_at_least_its_fixed_columns() -> None:
    for table in TABLES.values():
        rows = table.from_columns({}, length=1_000)
        assert (table.row_bytes - 1) * 1_000 <= rows.nbytes <= (table.row_bytes + 1) * 1_000
