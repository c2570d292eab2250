"""Flight-recorder dumps: what each rank had enqueued when the job stopped, the silent ranks included."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.flight_recorder import FlightRecorder
from warpline_proto.errors import Refused

GPU_ERROR = {**dict.fromkeys(range(4), 20), **dict.fromkeys(range(4, 8), 8), **dict.fromkeys(range(8, 12), 19)}
GPU_ERROR |= {12: 27, 13: 16, 14: 43, 15: 15}
LOCK_GIL = {**dict.fromkeys(range(4), 10), **dict.fromkeys(range(4, 8), 8), **dict.fromkeys((8, 9, 11), 23)}
LOCK_GIL |= {**dict.fromkeys((12, 13, 14), 25), 10: 0, 15: 0}


def _read(path: Path) -> Reading:
    candidate = memory_input(str(path), path.read_bytes())
    assert FlightRecorder().recognises(candidate)
    return FlightRecorder().read(candidate)


def _rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
@pytest.mark.parametrize(("case", "entries"), [("gpu_error_1st", GPU_ERROR), ("lock_gil_2nd", LOCK_GIL)])
def test_entries_of_each_rank_are_counted(data: Path, case: str, entries: dict[int, int]) -> None:
    """16 ranks, every entry scheduled, none started."""
    for rank, expected in entries.items():
        reading = _read(data / "C-collectives" / "flight_recorder" / case / f"_dump_{rank}")
        collectives = _rows(reading, "collectives")
        assert reading.facts["rank"] == rank == reading.origin.rank
        assert reading.facts["entries"] == expected == len(collectives)
        assert {row["state"] for row in collectives} <= {"scheduled"}
        assert {row["timing"] for row in collectives} <= {"enqueue"}
        assert reading.facts["version"] == "2.9"
        assert reading.facts["nccl_version"] == "2.27.3"
        assert reading.origin.world_size == 16


@pytest.mark.data
def test_how_far_each_group_came_is_kept(data: Path) -> None:
    """Group id 5 of ranks 12 to 15 is two groups of two; each has its own count under its own key."""
    enqueued = {}
    for rank in range(12, 16):
        reading = _read(data / "C-collectives" / "flight_recorder" / "gpu_error_1st" / f"_dump_{rank}")
        enqueued[rank] = reading.facts["last_enqueued"]["5"]
        tensor = next(row for row in _rows(reading, "communicators") if row["group_kind"] == "tp")
        assert tensor["last_enqueued"] == enqueued[rank]
        assert tensor["communicator"] == ("41[12-13]" if rank < 14 else "42[14-15]")
        assert tensor["ranks"] == ([12, 13] if rank < 14 else [14, 15])
    assert enqueued == {12: 42817, 13: 42826, 14: 42826, 15: 42826}


@pytest.mark.data
@pytest.mark.parametrize("rank", [10, 15])
def test_a_rank_without_entries_still_says_how_far_it_came(data: Path, rank: int) -> None:
    """Zero entries is a reading: its groups are there, each with its last operation enqueued and completed."""
    reading = _read(data / "C-collectives" / "flight_recorder" / "lock_gil_2nd" / f"_dump_{rank}")
    assert reading.facts["entries"] == 0
    communicators = _rows(reading, "communicators")
    assert {row["rank"] for row in communicators} == {rank}
    experts = next(row for row in communicators if row["group_kind"] == "ep")
    assert experts["last_enqueued"] == experts["last_completed"] == 20946
    assert any("order of creation" in note for note in reading.notes)


@pytest.mark.data
def test_groups_matched_by_order_agree_with_the_groups_that_entries_name(data: Path) -> None:
    """All ranks of one group that hold entries of it and those that hold none name the same communicator."""
    folder = data / "C-collectives" / "flight_recorder" / "lock_gil_2nd"
    seen: dict[str, set[tuple[int, ...]]] = {}
    for rank in range(16):
        for row in _rows(_read(folder / f"_dump_{rank}"), "communicators"):
            seen.setdefault(row["communicator"], set()).add(tuple(row["ranks"]))
            assert row["rank"] in row["ranks"]
            assert row["communicator_rank"] == row["ranks"].index(row["rank"])
    assert all(len(ranks) == 1 for ranks in seen.values())


@pytest.mark.data
def test_operations_have_sizes_peers_and_sequences(data: Path) -> None:
    """A tensor-parallel all-gather, an all-to-all and a pipeline receive of rank 12."""
    rows = _rows(_read(data / "C-collectives/flight_recorder/gpu_error_1st/_dump_12"), "collectives")
    gather = next(row for row in rows if row["sequence"] == 42806)
    assert gather["operation"] == "all_gather"
    assert gather["message_bytes"] == 8192 * 5120 * 2
    assert gather["start_ns"] == 1758610505880883597
    assert gather["clock"] is None
    exchange = next(row for row in rows if row["sequence"] == 20530)
    assert (exchange["operation"], exchange["message_bytes"]) == ("all_to_all", 4096 * 5120 * 2)
    receive = next(row for row in rows if row["operation"] == "recv" and row["sequence"] == 11977)
    assert (receive["peer"], receive["communicator"]) == (0, "43[0,4,8,12]")


@pytest.mark.data
@pytest.mark.parametrize("name", ["gpu_power_seren", "gpu_temp_seren", "ib_seren", "util_gpu_seren"])
def test_pickled_numpy_arrays_are_refused_with_the_reason(data: Path, name: str) -> None:
    """Published distributions of a cluster: not dumps, and not plain data."""
    with pytest.raises(Refused, match="numpy arrays"):
        _read(data / "D-telemetry" / "acmetrace" / f"{name}.pkl")


ENTRY = {
    "pg_id": 1,
    "process_group": ("7", "TENSOR_MODEL_PARALLEL_GROUP"),
    "collective_seq_id": 3,
    "profiling_name": "nccl:all_reduce",
    "input_sizes": [[4, 8]],
    "input_dtypes": ["Float"],
    "state": "completed",
    "time_created_ns": 5,
    "time_discovered_started_ns": 6,
    "duration_ms": 0.25,
    "is_p2p": False,
}
DUMP = {
    "version": "2.10",
    "pg_config": {"7": {"name": "7", "desc": "TENSOR_MODEL_PARALLEL_GROUP", "ranks": [3]}},
    "pg_status": {"1": {"last_enqueued_collective": 3, "last_completed_collective": -1}},
    "entries": [ENTRY],
}


@pytest.mark.parametrize("content", [json.dumps(DUMP).encode(), pickle.dumps(DUMP)], ids=["json", "pickle"])
def test_json_and_pickle_say_the_same(content: bytes) -> None:
    """With a measured duration; the rank comes from the only rank that is in every group."""
    candidate = memory_input("trace", content)
    assert FlightRecorder().recognises(candidate)
    reading = FlightRecorder().read(candidate)
    row = _rows(reading, "collectives")[0]
    assert (row["rank"], row["duration_ns"], row["timing"], row["start_ns"]) == (3, 250_000, "kernel_gpu", 6)
    assert (row["elements"], row["message_bytes"], row["communicator"]) == (32, 128, "7[3]")
    assert _rows(reading, "communicators")[0]["last_completed"] is None


def test_a_profiler_trace_with_the_same_group_table_is_not_taken() -> None:
    """Traces name their process groups in the same words."""
    trace = memory_input("trace.json", b'{"schemaVersion": 1, "distributedInfo": {"pg_config": []}, "traceEvents": []}')
    assert not FlightRecorder().recognises(trace)


def test_plain_data_that_is_no_dump_is_refused() -> None:
    """With the keys it would need."""
    with pytest.raises(Refused, match="neither entries nor pg_config"):
        FlightRecorder().read(memory_input("x.pkl", pickle.dumps({"a": 1})))


ODD = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ENTRY, "ranks", "name", "0"]), inner),
    max_leaves=12,
)


@given(ODD, ODD, st.dictionaries(st.sampled_from(list(ENTRY)), ODD), ODD)
@settings(max_examples=300, deadline=None)
def test_a_dump_with_odd_values_never_fails(config: Any, status: Any, entry: Any, group: Any) -> None:
    """Ids beyond 64 bits, text where numbers belong, anything anywhere: NULL or Refused, never another error."""
    dump = {"pg_config": {"0": config, "1": {"ranks": group}}, "pg_status": status, "entries": [{**ENTRY, **entry}]}
    try:
        FlightRecorder().read(memory_input("_dump_1", json.dumps(dump).encode()))
    except Refused as refused:
        assert refused.message


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    """Whatever the name promises."""
    candidate = memory_input("_dump_0", content)
    FlightRecorder().recognises(candidate)
    with pytest.raises(Refused):
        FlightRecorder().read(candidate)
