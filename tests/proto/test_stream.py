"""What a user of packed streams relies on: exact counts and sums whatever is lost, bounded shapes, words for what is damaged."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_proto import service_pb2, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.bits import BitReader, BitWriter, bit_length
from warpline_proto.clusters import NUMBERS, Cluster, cluster
from warpline_proto.errors import WireError
from warpline_proto.kernel_shapes import DEAD_BAND
from warpline_proto.stream import OutOfStep, Packer, Unpacker
from warpline_proto.tables import KERNEL_CLUSTERS, STEPS

CHANGED = ("count", "sum_ns", "min_ns", "max_ns", "p10_ns", "p50_ns", "p90_ns", "p99_ns", "run_counts", "run_means_ns")
TODAY_NS = 1_795_000_000 * 10**9
"""Times as clocks of nodes tell them."""
FIXED = [name for name in KERNEL_CLUSTERS.schema.names if name not in CHANGED]


def rows_of(step: int | None, groups: dict[tuple[int, int | None, int], list[int]]) -> pa.RecordBatch:
    """Clusters of one step; a group is (rank, stream, kernel) with its durations (ns)."""
    rows = []
    for (rank, stream, kernel), durations in groups.items():
        found = cluster(np.array(durations, dtype=np.int64))
        for index, each in enumerate(found):
            rows.append(
                {name: getattr(each, name) for name in NUMBERS}
                | {"run_counts": [run[0] for run in each.runs], "run_means_ns": [run[1] for run in each.runs]}
                | {"node": "node1", "source": "test", "job": "train", "rank": rank, "clock": "realtime@node1"}
                | {
                    "step": step,
                    "start_ns": TODAY_NS + (step or 0) * 10**9,
                    "end_ns": TODAY_NS + (step or 0) * 10**9 + 5 * 10**8,
                }
                | {"stream": stream, "kernel_id": kernel, "category": "compute", "cluster_index": index}
            )
    return KERNEL_CLUSTERS.from_rows(rows)


def message(sequence: int, *batches: pa.RecordBatch) -> service_pb2.Frame:
    parts = tuple(Batch("kernel_clusters", "test", batch) for batch in batches)
    return wire.to_message(Frame("agent", "boot", sequence, sequence, parts))


def steady(steps: int, kernels: int = 12, launches: int = 60) -> list[pa.RecordBatch]:
    generator = np.random.default_rng(11)
    templates = {kernel: generator.lognormal(9 + kernel / 3, 0.2, launches) for kernel in range(kernels)}
    return [
        rows_of(
            step,
            {
                (0, 7, kernel): (template * generator.normal(1, 0.02, launches)).astype(np.int64).tolist()
                for kernel, template in templates.items()
            },
        )
        for step in range(steps)
    ]


def totals(frame: Frame) -> tuple[int, int]:
    batches = [batch.rows for batch in frame.batches]
    return (
        sum(pc.sum(rows.column("count")).as_py() or 0 for rows in batches),
        sum(pc.sum(rows.column("sum_ns")).as_py() or 0 for rows in batches),
    )


def test_a_later_step_takes_a_fraction_of_the_first_and_comes_back_row_by_row() -> None:
    packer, unpacker = Packer(), Unpacker()
    sizes = []
    for sequence, rows in enumerate(steady(12), start=1):
        packed = packer.pack(message(sequence, rows))
        sizes.append(packed.ByteSize())
        read = pa.Table.from_batches([batch.rows for batch in unpacker.unpack(packed).batches])
        order = [("kernel_id", "ascending"), ("cluster_index", "ascending")]
        assert read.sort_by(order).select([*FIXED, "count", "sum_ns"]) == pa.Table.from_batches([rows]).sort_by(
            order
        ).select([*FIXED, "count", "sum_ns"])
    assert sum(sizes[4:]) / len(sizes[4:]) < sizes[0] / 8


def test_what_is_read_lies_within_the_stated_distance() -> None:
    """Extremes within 5 %, quantiles in order, and runs that add up to the row."""
    packer, unpacker = Packer(), Unpacker()
    for sequence, rows in enumerate(steady(6), start=1):
        frame = unpacker.unpack(packer.pack(message(sequence, rows)))
        sent = {(row["kernel_id"], row["cluster_index"]): row for row in rows.to_pylist()}
        for batch in frame.batches:
            for row in batch.rows.to_pylist():
                before = sent[row["kernel_id"], row["cluster_index"]]
                assert row["min_ns"] == pytest.approx(before["min_ns"], rel=0.05)
                assert row["max_ns"] == pytest.approx(before["max_ns"], rel=0.05)
                assert (
                    row["min_ns"] <= row["p10_ns"] <= row["p50_ns"] <= row["p90_ns"] <= row["p99_ns"] <= row["max_ns"]
                )
                assert sum(row["run_counts"]) == row["count"]
                assert apart(row, before) < 3 * DEAD_BAND


def apart(left: dict[str, list[int]], right: dict[str, list[int]]) -> float:
    """W1 between two rows over the mean."""
    one, two = (np.repeat(row["run_means_ns"], row["run_counts"]) for row in (left, right))
    return float(np.abs(one - two).mean() / two.mean())


duration = st.integers(-3, 60) | st.integers(1, 2**40)
group = st.lists(duration, min_size=1, max_size=40)
batches = st.lists(
    st.dictionaries(st.tuples(st.integers(0, 2), st.sampled_from([None, 7]), st.integers(0, 3)), group, max_size=6),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(batches, st.randoms(use_true_random=False))
def test_whatever_is_lost_doubled_or_out_of_order_each_frame_that_arrives_adds_up(
    drawn: list[dict[tuple[int, int | None, int], list[int]]], chance: random.Random
) -> None:
    """Count and sum are those of its own records; rows that cannot be told apart are counted as dropped."""
    packer, unpacker = Packer(), Unpacker()
    sent, rows_again = [], {}
    for sequence, groups in enumerate(drawn, start=1):
        rows = rows_again[sequence] = rows_of(chance.choice([None, sequence]), groups)
        expected = (sum(map(len, groups.values())), sum(map(sum, groups.values())))
        sent.append((packer.pack(message(sequence, rows)), expected, rows.num_rows))
    arriving = [each for each in sent for _ in range(chance.choice([0, 1, 1, 1, 2]))]
    for at in range(len(arriving) - 1):
        if chance.random() < 0.2:
            arriving[at], arriving[at + 1] = arriving[at + 1], arriving[at]
    for packed, expected, rows_sent in arriving:
        try:
            frame = unpacker.unpack(service_pb2.Frame.FromString(packed.SerializeToString()))
        except OutOfStep:  # breaks the stream: it is sent again, and read, on the next
            frame = Unpacker().unpack(message(packed.sequence, rows_again[packed.sequence]))
        assert totals(frame) == expected
        assert sum(batch.rows.num_rows + batch.dropped for batch in frame.batches) == rows_sent


def test_a_stream_that_lost_its_keyframe_is_whole_again_with_the_next_book() -> None:
    packer, unpacker = Packer(), Unpacker()
    first, second, third, fourth = steady(4)
    packer.pack(message(1, first))
    frame = unpacker.unpack(packer.pack(message(2, second)))
    assert totals(frame) == totals(wire.from_message(message(2, second)))
    assert [batch.dropped for batch in frame.batches] == [second.num_rows - 1]
    assert frame.batches[0].rows.column("kernel_id").to_pylist() == [None]
    packer.begin_anew()
    for sequence, rows in ((3, third), (4, fourth)):
        frame = unpacker.unpack(packer.pack(message(sequence, rows)))
        assert sum(batch.dropped for batch in frame.batches) == 0
        assert sum(batch.rows.num_rows for batch in frame.batches) == rows.num_rows


def test_a_new_stream_needs_nothing_of_the_one_before() -> None:
    rows = steady(3)
    packer = Packer()
    packer.pack(message(1, rows[0]))
    frame = Unpacker().unpack(Packer().pack(message(2, rows[1])))
    assert frame.batches[0].rows == rows[1]


def test_rows_that_lack_something_travel_whole() -> None:
    """Foreign rows, those of older versions, and durations of zero come back as they went."""
    packer, unpacker = Packer(), Unpacker()
    strange = KERNEL_CLUSTERS.from_rows(
        [
            {"count": 3, "sum_ns": 5, "kernel_id": 1},
            {},
            {"count": 2, "sum_ns": 0, "min_ns": 0, "max_ns": 0, "kernel_id": 4},
        ]
    )
    for sequence in (1, 2, 3):
        frame = unpacker.unpack(packer.pack(message(sequence, strange)))
        assert [batch.rows for batch in frame.batches] == [strange]


def test_other_tables_become_small_by_what_was_sent_before() -> None:
    packer, unpacker = Packer(), Unpacker()
    sizes = []
    for step in range(4):
        rows = STEPS.from_columns(
            {"job": "train", "rank": [0, 1], "step": step, "duration_ns": [step + 1000, step + 3000]}
        )
        packed = packer.pack(wire.to_message(Frame("agent", "boot", step + 1, 0, (Batch("steps", "test", rows, 2),))))
        sizes.append(packed.ByteSize())
        (batch,) = unpacker.unpack(packed).batches
        assert (batch.rows, batch.dropped) == (rows, 2)
    assert max(sizes[1:]) < sizes[0] / 3


def test_a_frame_that_was_not_packed_is_read_too() -> None:
    plain = message(1, steady(1)[0])
    assert Unpacker().unpack(plain) == wire.from_message(plain)


def test_a_packed_frame_is_refused_by_whoever_reads_frames_one_by_one() -> None:
    packer = Packer()
    packed = [packer.pack(message(sequence, rows)) for sequence, rows in enumerate(steady(3), start=1)][-1]
    with pytest.raises(WireError, match="parts before it"):
        wire.from_message(packed)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_read_or_refused_in_words(data: st.DataObject) -> None:
    packer, unpacker = Packer(), Unpacker()
    frames = [packer.pack(message(sequence, rows)) for sequence, rows in enumerate(steady(3, 4, 20), start=1)]
    for packed in frames[:2]:
        unpacker.unpack(packed)
    part = next(part for part in frames[2].parts if part.encoding)
    payload = bytearray(part.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    part.payload = bytes(payload[: data.draw(st.integers(0, len(payload)))] if data.draw(st.booleans()) else payload)
    try:
        unpacker.unpack(frames[2])
    except WireError as error:
        assert str(error)


def test_a_part_cannot_claim_to_be_small_and_hold_many_rows() -> None:
    packer, unpacker = Packer(), Unpacker()
    for sequence, rows in enumerate(steady(2), start=1):
        packed = packer.pack(message(sequence, rows))
        if sequence == 1:
            unpacker.unpack(packed)
    part = next(part for part in packed.parts if part.encoding)
    part.unpacked_bytes = 10
    with pytest.raises(WireError, match="smaller than its rows"):
        unpacker.unpack(packed)


@given(st.lists(st.integers(-(2**60), 2**60), max_size=60), st.lists(st.integers(0, 300), max_size=60))
def test_packed_numbers_come_back(large: list[int], small: list[int]) -> None:
    writer = BitWriter()
    expected = np.array([(abs(value) + 1).bit_length() for value in large], dtype=np.int64)
    writer.sized(np.array(large, dtype=np.int64), expected)
    writer.small(np.array(small, dtype=np.int64))
    writer.number(len(small))
    reader = BitReader(bytes(writer.data))
    assert reader.sized(len(large), expected).tolist() == large
    assert reader.small(len(small)).tolist() == small
    assert reader.number() == len(small)
    reader.close()


@given(st.integers(1, 2**62))
def test_bit_lengths_are_exact(value: int) -> None:
    assert bit_length(np.array([value])).tolist() == [value.bit_length()]


def test_a_stored_row_gives_its_distribution_back() -> None:
    (row,) = rows_of(1, {(0, 7, 1): [100] * 30}).to_pylist()
    assert Cluster.of(row).runs == ((30, 100),)
