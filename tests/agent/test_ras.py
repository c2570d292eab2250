"""NCCL RAS reports: who is behind, who is silent, in text and in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warpline_agent.source import Reading, memory_input
from warpline_agent.sources.ras import Ras
from warpline_proto.errors import Refused


def _read(path: str, content: bytes) -> Reading:
    candidate = memory_input(path, content)
    assert Ras().recognises(candidate)
    return Ras().read(candidate)


def _recorded(data: Path, line: int) -> Reading:
    path = data / "C-collectives" / "nccl-ras" / f"ras_rst_line{line}.txt"
    return _read(str(path), path.read_bytes())


def _rows(reading: Reading, table: str) -> list[dict[str, Any]]:
    return [row for rows in reading.rows if rows.table == table for row in rows.batch.to_pylist()]


@pytest.mark.data
def test_the_ranks_that_are_behind_are_named(data: Path) -> None:
    """26 ranks launched up to operation 6650, six named ones up to 6649."""
    reading = _recorded(data, 93)
    (event,) = _rows(reading, "log_events")
    assert (event["kind"], event["severity"]) == ("ras_mismatch", "warning")
    assert "26 ranks have launched up to operation 6650; 6 ranks have launched up to operation 6649" in event["message"]
    (warning,) = reading.facts["warnings"]
    assert [(each["ranks"], each["last_enqueued"]) for each in warning["cohorts"]] == [(26, 6650), (6, 6649)]
    behind = _rows(reading, "communicators")
    assert [row["communicator_rank"] for row in behind] == [0, 2, 3, 4, 5, 7]
    assert {(row["communicator"], row["last_enqueued"]) for row in behind} == {("0x27a079b828ff1a75", 6649)}
    assert {row["rank"] for row in behind} == {None}
    assert (behind[1]["device"], behind[1]["pid"], behind[1]["node"]) == (2, 483074, "172.16.64.210")


@pytest.mark.data
def test_states_that_differ_within_a_communicator(data: Path) -> None:
    """Four ranks still run, two finalize, the rest did not answer; the table has three groups of communicators."""
    reading = _recorded(data, 128)
    assert [(group["communicators"], group["ranks"], group["status"]) for group in reading.facts["groups"]] == [
        (1, 32, "FINALIZE"),
        (7, 4, "RUNNING"),
        (1, 4, "INIT"),
    ]
    states = {row["communicator_rank"]: row["state"] for row in _rows(reading, "communicators")}
    assert states == {0: "ready", 8: "ready", 16: "ready", 24: "ready", 4: "destroyed", 20: "destroyed"}


@pytest.mark.data
def test_json_names_the_missing_rank(data: Path) -> None:
    """One rank of two answers, having launched nothing (a measured zero); the other is silent, not yet dead."""
    reading = _recorded(data, 223)
    present, missing = _rows(reading, "communicators")
    assert (present["state"], present["last_enqueued"], present["nranks"]) == ("ready", 0, 2)
    assert (missing["state"], missing["last_enqueued"], missing["communicator_rank"]) == ("missing", None, 1)
    assert present["communicator"] == "0xae94423cfbb2ef4a"
    assert present["library_version"] == "2.29.1"
    (event,) = _rows(reading, "log_events")
    assert (event["kind"], event["pid"], event["severity"]) == ("ras_incomplete", 1524345, "critical")
    assert event["time_ns"] == 1766149613_000000000
    assert (reading.facts["ranks"], reading.facts["missing_ranks"], reading.facts["timeouts"]) == (1, 1, 0)


def test_a_single_rank_behind_and_a_dead_process() -> None:
    """The forms of newer versions: one line for one rank, counts by operation, processes instead of ranks."""
    reading = _read(
        "ras.txt",
        b"Errors\n======\n\nDEAD\n  1 job process is considered dead (unreachable via the RAS network)\n"
        b"  Process 3487984 on node 172.16.64.213 managing GPU 5\n\nWarnings\n========\n\n"
        b"#0-0 (78db921d1c117b4a) MISMATCH\n  Communicator ranks have different AllReduce operation counts\n"
        b"  7 ranks have launched up to operation 64\n"
        b"  Rank 7 has launched up to operation 60 -- GPU 3 managed by process 1650386 on node node1\n",
    )
    dead, mismatch = _rows(reading, "log_events")
    assert (dead["kind"], dead["severity"], dead["node"], dead["pid"]) == (
        "ras_dead", "critical", "172.16.64.213", 3487984,
    )  # fmt: skip
    assert (mismatch["kind"], mismatch["node"]) == ("ras_mismatch", "node1")
    (behind,) = _rows(reading, "communicators")
    assert (behind["communicator_rank"], behind["last_enqueued"], behind["pid"]) == (7, 60, 1650386)


def test_json_of_another_kind_is_refused() -> None:
    """With what is missing."""
    with pytest.raises(Refused, match="no list of communicators"):
        Ras().read(memory_input("x", b'{"communicators": 3}'))
    with pytest.raises(Refused, match="neither a communicator table nor a warning"):
        Ras().read(memory_input("x", b"hello\n"))


ODD = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("rank", "host", "pid", "cuda_dev", "status", "collective_counts", "hash", "size", "ranks")


@given(st.dictionaries(st.sampled_from(KEYS), ODD), ODD, st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_odd_values_and_arbitrary_bytes_never_fail(part: dict[str, Any], odd: Any, junk: bytes) -> None:
    """NULL or Refused, never another error."""
    report = {"communicators": [{"ranks": [part], "missing_ranks": [part], **part}, odd], "ras": odd, "timestamp": odd}
    text = b"#0-0 (ab) MISMATCH\n  26 ranks have launched up to operation 1\n  Rank " + junk
    for body in (json.dumps(report).encode(), junk, text):
        candidate = memory_input("x", body)
        Ras().recognises(candidate)
        try:
            Ras().read(candidate)
        except Refused as refused:
            assert refused.message
