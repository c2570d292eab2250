"""What a user of the wire relies on: frames come back as they went, and nothing malformed gets further than a WireError."""

from __future__ import annotations

import tracemalloc

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from warpline_proto import service_pb2, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.defaults import FRAME_UNPACKED_BYTES_MAX
from warpline_proto.errors import SchemaError, WireError
from warpline_proto.tables import HOST_SAMPLES, STEPS, TABLES, fit


def frame(rows: int = 3, sequence: int = 1) -> Frame:
    batch = STEPS.from_columns({"job": "job", "rank": list(range(rows)), "step": 7, "duration_ns": 10}, length=rows)
    return Frame("node-1", "boot-1", sequence, 5, (Batch("steps", "test", batch, dropped=2),), lost=1)


def test_a_frame_comes_back_as_it_went() -> None:
    sent = frame()
    read = wire.decode(wire.encode(sent))
    assert read == sent
    assert read.batches[0].rows.to_pylist()[2]["rank"] == 2


def test_a_frame_without_rows_comes_back() -> None:
    sent = Frame("n", "b", 1, 0, tuple(Batch(name, "s", table.empty()) for name, table in TABLES.items()))
    assert wire.decode(wire.encode(sent)) == sent


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_in_words(data: bytes) -> None:
    try:
        wire.decode(data)
    except WireError as error:
        assert str(error)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(position: int, value: int) -> None:
    data = bytearray(wire.encode(frame()))
    data[position % len(data)] = value
    try:
        wire.decode(bytes(data))
    except WireError as error:
        assert str(error)


def test_a_frame_that_claims_to_unpack_to_more_than_the_bound_is_refused_unread() -> None:
    message = wire.to_message(frame())
    message.parts[0].unpacked_bytes = FRAME_UNPACKED_BYTES_MAX + 1
    with pytest.raises(WireError, match="unpacks to"):
        wire.from_message(message)


def test_a_bomb_that_hides_its_size_is_refused() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 50_000_000)
    message = wire.to_message(frame())
    message.parts[0].payload = bomb
    with pytest.raises(WireError):
        wire.from_message(message)


def test_a_bomb_that_states_its_size_is_refused_before_it_is_unpacked() -> None:
    """The size that zstd declares wins over any bound given to it: 10 KB would become 300 MB."""
    message = wire.to_message(frame())
    message.parts[0].payload = zstandard.ZstdCompressor().compress(b"\0" * 300_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="unpacks to 300000000 bytes, not"):
            wire.from_message(message)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", ["sequence", "lost"])
def test_a_count_that_no_column_holds_is_refused(field: str) -> None:
    """Sequences travel as 64 bits without a sign and are kept with one."""
    message = wire.to_message(frame())
    setattr(message, field, 2**63)
    with pytest.raises(WireError, match="counts to"):
        wire.from_message(message)


def test_a_name_of_megabytes_is_refused() -> None:
    """The ledger keeps each agent's name for good."""
    message = wire.to_message(frame())
    message.agent = "n" * 1_000_000
    with pytest.raises(WireError, match="a name of 1000000"):
        wire.from_message(message)


def test_columns_that_unpack_without_a_bound_are_refused() -> None:
    """A dictionary of one long text and a million references to it is small on the wire and a gigabyte as rows."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int8()), pa.array(["x" * 1_000]))
    table = pa.table({"job": words})
    plain = wire.to_ipc(table.schema, table.to_batches())
    message = service_pb2.Frame(version=1, agent="a", boot="b", sequence=1)
    payload = zstandard.ZstdCompressor().compress(plain)
    message.parts.add(table="steps", rows=1_000, unpacked_bytes=len(plain), payload=payload)
    with pytest.raises(WireError, match="without a bound"):
        wire.from_message(message)


@pytest.mark.parametrize("field", ["agent", "boot", "sequence"])
def test_a_frame_without_identity_is_refused(field: str) -> None:
    message = wire.to_message(frame())
    message.ClearField(field)
    with pytest.raises(WireError):
        wire.from_message(message)


def test_a_newer_sender_may_have_more_columns_and_an_older_one_fewer() -> None:
    newer = pa.RecordBatch.from_pydict({"node": ["a"], "time_ns": [1], "invented_later": [3]})
    rows, extra = fit("host_samples", newer)
    assert rows.schema == HOST_SAMPLES.schema
    assert list(extra) == ["invented_later"]
    assert rows.to_pylist()[0]["cpu_percent"] is None


def test_a_column_of_another_type_is_refused() -> None:
    with pytest.raises(SchemaError):
        fit("host_samples", pa.RecordBatch.from_pydict({"time_ns": ["yesterday"]}))


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    message = service_pb2.Frame(version=1, agent="a", boot="b", sequence=1)
    plain = wire.to_ipc(pa.schema([("x", pa.int64())]), [])
    message.parts.add(table="nonsense", unpacked_bytes=len(plain), payload=zstandard.ZstdCompressor().compress(plain))
    with pytest.raises(WireError, match="steps"):
        wire.from_message(message)


def test_an_id_beyond_64_bits_is_refused_in_words() -> None:
    with pytest.raises(SchemaError, match="steps"):
        STEPS.from_rows([{"step": 2**70}])


def test_a_column_named_twice_is_refused() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["time_ns", "time_ns"])
    with pytest.raises(SchemaError, match="twice"):
        fit("host_samples", twice)
