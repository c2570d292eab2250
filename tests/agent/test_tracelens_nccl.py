"""TraceLens' collective statistics: the durations by which a persistently late rank can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.tracelens_nccl import TracelensNccl
from warpline_proto.errors import Refused

REDUCE_SCATTER_MS = [71.8, 49.9, 31.4, 39.1, 11.7, 26.2, 54.1, 52.2]
ALL_GATHER_MS = [17.7, 14.7, 13.4, 14.2, 6.2, 13.2, 15.5, 15.2]


def _recorded(data: Path, name: str) -> Reading:
    path = data / "C-collectives" / "tracelens_fsdp_8rank" / f"{name}.csv"
    candidate = memory_input(str(path), path.read_bytes())
    assert TracelensNccl().recognises(candidate)
    return TracelensNccl().read(candidate)


def _rows(reading: Reading) -> list[dict[str, Any]]:
    return [row for rows in reading.rows for row in rows.batch.to_pylist()]


@pytest.mark.data
def test_mean_durations_of_each_rank(data: Path) -> None:
    """The two dominant collectives of 8 ranks: rank 4 waits least in both."""
    reading = _recorded(data, "nccl_summary_long")
    reduce_scatter = _of(reading, "reduce_scatter", 855654400 * 4)
    assert [round(row["duration_ns"] / 1e6, 1) for row in reduce_scatter] == REDUCE_SCATTER_MS
    assert {(row["count"], row["nranks"], row["datatype"]) for row in reduce_scatter} == {(160, 8, "float32")}
    assert {row["elements"] for row in reduce_scatter} == {855654400 // 8}
    all_gather = max(
        (_of(reading, "all_gather", size) for size in {row["message_bytes"] for row in _rows(reading)}),
        key=lambda rows: sum(row["count"] * row["duration_ns"] for row in rows),
    )
    assert [round(row["duration_ns"] / 1e6, 1) for row in all_gather] == ALL_GATHER_MS
    assert all(row["min_ns"] <= row["duration_ns"] <= row["max_ns"] for row in _rows(reading))
    assert {row["timing"] for row in _rows(reading)} == {"summary"}
    assert reading.origin.world_size == 8


def _of(reading: Reading, operation: str, size: int) -> list[dict[str, Any]]:
    rows = [row for row in _rows(reading) if row["operation"] == operation and row["message_bytes"] == size]
    return sorted(rows, key=lambda row: int(row["rank"]))


@pytest.mark.data
def test_transfer_times_over_all_ranks(data: Path) -> None:
    """Without waiting and without a rank; sizes agree with the table's own to the byte."""
    rows = _rows(_recorded(data, "nccl_summary_implicit_sync"))
    gather = next(row for row in rows if row["operation"] == "all_gather" and row["count"] == 318)
    assert gather["message_bytes"] == round(1632.03125 * 2**20)
    assert gather["bus_bytes_per_second"] == pytest.approx(231.01277892513312e9)
    assert {row["rank"] for row in rows} == {None}


def test_a_table_without_lines_is_refused() -> None:
    """A header alone says nothing."""
    header = b"rank,Collective name,Group size,dtype,In msg nelems,dur_mean,dur_min,dur_max,operation_count\n"
    candidate = memory_input("x.csv", header)
    assert TracelensNccl().recognises(candidate)
    with pytest.raises(Refused, match="no statistics"):
        TracelensNccl().read(candidate)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_are_read_or_refused(junk: bytes) -> None:
    """Never anything but Refused."""
    header = b"rank,Collective name,Group size,dtype,In msg nelems,dur_mean,dur_min,dur_max,operation_count\n"
    for body in (junk, header + junk, header + b"0,allreduce," + junk):
        candidate = memory_input("x.csv", body)
        TracelensNccl().recognises(candidate)
        try:
            TracelensNccl().read(candidate)
        except Refused as refused:
            assert refused.message
