"""A node whose clock is off changes no finding where its offset is known, and times that may be either of two judge nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import hang, throttling
from warpline_analysis.jobs import step_time
from warpline_analysis.node_clocks import on_one_clock
from warpline_proto.finding import Finding

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = list[dict[str, Any]]
SECOND = 10**9
HOUR = 3_600 * SECOND
START = 1_700_000_000 * SECOND
HW_THERMAL = 64


def clocks(**offsets: int) -> Rows:
    """What each node measured, from before the first row on."""
    return [
        {
            "node": name,
            "boot": "b",
            "time_ns": START - 60 * SECOND + offset,
            "steady_ns": 1,
            "offset_ns": offset,
            "error_ns": 1,
        }
        for name, offset in offsets.items()
    ]


def gpus(node1_ns: int = 0, seconds: int = 120) -> Rows:
    """Sixteen GPUs of one job on two nodes; the clock of GPU 11 on the second is held from second 40 on."""
    return [
        {"node": f"node{gpu // 8}", "gpu_uuid": f"GPU-{gpu}", "gpu_index": gpu % 8, "gpu_name": "H100", "job": "train",
         "time_ns": START + second * SECOND + (node1_ns if gpu >= 8 else 0), "power_watts": 600.0, "power_limit_watts": 700.0,
         "sm_clock_mhz": (1400.0 if gpu == 11 and second >= 40 else 1900.0) + (gpu * 7 + second * 3) % 11,
         "clock_event_reasons": HW_THERMAL if gpu == 11 and second >= 40 else 0, "gpu_utilization_percent": 100.0}
        for second in range(seconds) for gpu in range(16)
    ]  # fmt: skip


def ranks(node1_ns: int = 0) -> Rows:
    """Eight ranks that wait since a minute for rank 5, which does nothing."""
    rows: Rows = []
    for rank in range(8):
        off = node1_ns if rank >= 4 else 0
        state, sequence = ("silent", 39) if rank == 5 else ("in_collective", 40)
        common = {"job": "train", "rank": rank, "node": f"node{rank // 4}", "pid": 100 + rank, "time_ns": START + off,
                  "state": state, "since_ns": START - 60 * SECOND + off, "reason": f"it is {state}"}  # fmt: skip
        rows.append(common)
        rows.append(common | {"communicator": "w", "nranks": 8, "operation": "all_reduce", "sequence": sequence,
                              "enqueued_ns": START - 60 * SECOND + off + rank})  # fmt: skip
    return rows


def told(finding: Finding) -> tuple[Any, ...]:
    return finding.id, finding.summary, finding.onset, finding.severity, finding.confidence


@pytest.mark.parametrize("offset", [HOUR, -HOUR, 3 * SECOND])
def test_a_node_that_is_off_changes_no_finding(reader_of: ReaderOf, offset: int) -> None:
    known = clocks(node0=300_000, node1=offset)
    for detect, table, rows in ((throttling.detect, "device_samples", gpus), (hang.detect, "progress", ranks)):
        jobs = {"jobs": [{"job": "train", "world_size": 8}]}
        right = detect(reader_of({table: rows(), **jobs}))
        reader = reader_of({table: rows(offset), "node_clocks": known, **jobs})
        found = detect(reader)
        assert right.findings and [told(each) for each in found.findings] == [told(each) for each in right.findings]
        for evidence in (each for finding in found.findings for each in finding.evidence):
            assert evidence.rows and reader.query(evidence.sql).num_rows >= len(evidence.rows)


def test_without_a_clock_that_is_off_questions_stay_as_they_are(reader_of: ReaderOf) -> None:
    assert on_one_clock(reader_of({})) == "time_ns"
    assert on_one_clock(reader_of({"node_clocks": clocks(node0=400_000_000, node1=-5)})) == "time_ns"


def test_a_collector_whose_own_clock_is_off_moves_no_node(reader_of: ReaderOf) -> None:
    """All nodes show an hour more: what they show holds among them, and the one that shows the collector's time is off."""
    reader = reader_of({"node_clocks": clocks(node0=HOUR, node1=HOUR + 5, node2=HOUR, node3=0)})
    moved = on_one_clock(reader)
    rows = "SELECT unnest(['node0', 'node1', 'node2', 'node3']) AS node, 0 AS time_ns"
    assert reader.query(f"SELECT {moved} AS at FROM ({rows})").to_pydict() == {"at": [0, 0, 0, HOUR]}


def test_a_step_begins_where_its_first_rank_began_on_one_clock(reader_of: ReaderOf) -> None:
    steps = [
        {
            "job": "j",
            "rank": rank,
            "step": 7,
            "node": f"node{rank}",
            "clock": f"realtime@node{rank}",
            "start_ns": start_ns,
        }
        for rank, start_ns in enumerate((START, START - HOUR + SECOND))
    ]
    reader = reader_of({"steps": steps, "node_clocks": clocks(node0=0, node1=-HOUR)})
    assert step_time(reader, "steps", "j", 7) == START


def test_a_clock_that_was_set_is_followed_and_what_was_twice_is_nobody_s(reader_of: ReaderOf) -> None:
    """Ten minutes ahead and set right after five: before, after, and the times that it showed both before and after."""
    ahead = 600 * SECOND
    set_ns = START + 300 * SECOND
    rows = [
        {"time_ns": START + ahead, "steady_ns": 0, "offset_ns": ahead},
        {"time_ns": START + ahead + 240 * SECOND, "steady_ns": 240 * SECOND, "offset_ns": ahead + 9},
        {"time_ns": set_ns, "steady_ns": 300 * SECOND, "offset_ns": 3, "jump_ns": -ahead, "before_ns": set_ns + ahead},
        {"time_ns": set_ns + 1_200 * SECOND, "steady_ns": 1_500 * SECOND, "offset_ns": -4},
    ]
    told = [{"node": "n", "boot": "b", "error_ns": 1, **row} for row in rows]
    reader = reader_of({"node_clocks": told})
    seconds = (500, 599, 600, 899, 900, 901, 5_000)
    listed = ", ".join(f"({START + second * SECOND})" for second in seconds)
    found = reader.query(
        f"SELECT {on_one_clock(reader)} AS at FROM (SELECT 'n' AS node, * FROM (VALUES {listed}) AS t(time_ns))"
    )
    at = [None if value is None else (value - START) // SECOND for value in found.column("at").to_pylist()]
    assert at == [500, 599, None, None, None, 901, 5_000]


def test_a_clock_that_was_set_forward_is_never_in_doubt(reader_of: ReaderOf) -> None:
    rows = [
        {"time_ns": START - HOUR, "steady_ns": 0, "offset_ns": -HOUR},
        {
            "time_ns": START + SECOND,
            "steady_ns": SECOND,
            "offset_ns": 0,
            "jump_ns": HOUR,
            "before_ns": START - HOUR + SECOND,
        },
    ]
    reader = reader_of({"node_clocks": [{"node": "n", "boot": "b", "error_ns": 1, **row} for row in rows]})
    listed = f"VALUES ({START - HOUR}), ({START + 2 * SECOND})"
    found = reader.query(
        f"SELECT {on_one_clock(reader)} - {START} AS at FROM (SELECT 'n' AS node, * FROM ({listed}) AS t(time_ns))"
    )
    assert found.to_pydict() == {"at": [0, 2 * SECOND]}
