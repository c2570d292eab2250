"""NCCL Inspector dumps: measured time and bandwidth of each operation, on the communicator's own ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.inspector import Inspector
from warpline_proto.errors import Refused


def _read(path: str, content: bytes) -> Reading:
    candidate = memory_input(path, content)
    assert Inspector().recognises(candidate)
    return Inspector().read(candidate)


def _rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
def test_a_record_without_a_timing_source(data: Path) -> None:
    """NCCL's first sample: 16 GiB all-reduce of 8 ranks; what was timed is not said, when is not said."""
    path = data / "C-collectives" / "nccl-inspector" / "readme_sample_1.json"
    reading = _read(str(path), path.read_bytes())
    (row,) = _rows(reading, "collectives")
    assert (row["operation"], row["sequence"], row["message_bytes"]) == ("all_reduce", 1407, 17179869184)
    assert (row["duration_ns"], row["timing"], row["start_ns"], row["clock"]) == (61_974_000, None, None, None)
    assert row["bus_bytes_per_second"] == pytest.approx(485.119099e9)
    assert row["algorithm_bytes_per_second"] == pytest.approx(277.210914e9)
    assert (row["communicator"], row["communicator_rank"], row["nranks"]) == ("0x7f8c496ae9f661", 2, 8)
    assert row["rank"] is None
    (member,) = _rows(reading, "communicators")
    assert (member["node"], member["pid"], member["nnodes"]) == ("example-hostname", 1639453, 1)
    assert reading.facts["versions"] == ["v4.0"]


@pytest.mark.data
def test_a_record_timed_on_the_gpu_starts_with_its_kernel(data: Path) -> None:
    """NCCL's second sample, with event traces: the first channel's kernel, not the host's call 122 us before it."""
    path = data / "C-collectives" / "nccl-inspector" / "readme_sample_2.json"
    (row,) = _rows(_read(str(path), path.read_bytes()), "collectives")
    assert (row["operation"], row["timing"]) == ("reduce_scatter", "kernel_gpu")
    assert row["start_ns"] == 1752867229235181000
    assert row["clock"] == "realtime@example-hostname"


def _record(sequence: int, name: str = "DP Group 0", **perf: Any) -> str:
    return json.dumps(
        {
            "header": {"id": "0x00abc", "comm_name": name, "rank": 1, "n_ranks": 4, "nnodes": 2},
            "metadata": {"inspector_output_format_version": "v5.1", "hostname": "n0", "pid": 7},
            "coll_perf": {"coll": "AllGather", "coll_sn": sequence, "coll_exec_time_us": 10, **perf},
        }
    )


def test_lines_are_read_one_by_one_and_damage_is_counted() -> None:
    """A line cut off in the middle costs that line; what was timed on the host is called so."""
    lines = [_record(1), _record(2)[:80], _record(3, coll_timing_source="collective_cpu"), "not json", _record(4)]
    reading = _read("nccl_inspector.log", "\n".join(lines).encode())
    rows = _rows(reading, "collectives")
    assert [(row["sequence"], row["timing"]) for row in rows] == [(1, None), (3, "host"), (4, None)]
    assert reading.notes[0].startswith("2 objects are damaged")
    assert {row["communicator"] for row in rows} == {"0xabc"}


def test_only_the_world_gives_global_ranks() -> None:
    """Rank 1 of a data-parallel group is somebody else's global rank."""
    reading = _read("x.json", (_record(1) + "\n" + _record(1, "default_pg").replace("0x00abc", "0xdef")).encode())
    assert [row["rank"] for row in _rows(reading, "communicators")] == [None, 1]
    assert reading.origin.rank == 1


def test_point_to_point_records() -> None:
    """Sends and receives have their own prefix."""
    record = json.loads(_record(1))
    del record["coll_perf"]
    record["p2p_perf"] = {
        "p2p": "Send", "p2p_sn": 8, "p2p_peer": 3, "p2p_msg_size_bytes": 5, "p2p_exec_time_us": 2,
        "p2p_timing_source": "kernel_cpu", "event_trace_ts": {"p2p_start_ts": 9},
    }  # fmt: skip
    (row,) = _rows(_read("x.json", json.dumps(record).encode()), "collectives")
    assert (row["operation"], row["sequence"], row["peer"], row["timing"]) == ("send", 8, None, "kernel_cpu")


def test_a_file_without_a_complete_record_is_refused() -> None:
    """With what is wrong."""
    with pytest.raises(Refused, match="no complete NCCL Inspector record"):
        Inspector().read(memory_input("x.json", _record(1)[:100].encode()))


ODD = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("id", "rank", "n_ranks", "hostname", "pid", "coll", "coll_sn", "coll_exec_time_us", "coll_busbw_gbs",
        "coll_timing_source", "event_trace_ts", "coll_msg_size_bytes")  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), ODD), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_odd_values_and_arbitrary_bytes_never_fail(part: dict[str, Any], junk: bytes) -> None:
    """NULL or Refused, never another error."""
    record = json.dumps({"header": part, "metadata": part, "coll_perf": part}).encode()
    for body in (record, junk, record + b"\n" + junk, b'{"header"' + junk + b'"coll_perf"'):
        candidate = memory_input("x", body)
        Inspector().recognises(candidate)
        try:
            Inspector().read(candidate)
        except Refused as refused:
            assert refused.message
