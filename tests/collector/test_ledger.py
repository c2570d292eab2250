"""What an operator is told by the ledger: that two agents bear one name, and nothing where one was only started again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from warpline_collector import ledger
from warpline_proto.batch import Frame

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND


def told(frames: Iterable[tuple[str, int]], agent: str = "node-a") -> list[dict[str, Any]]:
    """Rows of source_health of frames (boot, second), each admitted by itself."""
    entries: dict[ledger.Key, ledger.Entry] = {}
    sequences: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for boot, second in frames:
        sequences[boot] = sequences.get(boot, 0) + 1
        frame = Frame(agent, boot, sequences[boot], START + second * SECOND, (), 0)
        admission = ledger.admit([frame], entries)
        entries.update(admission.changed)
        rows += map(dict, admission.losses)
    return rows


def test_two_agents_of_one_name_are_told_once_a_minute_as_long_as_both_send() -> None:
    rows = told((boot, second) for second in range(300) for boot in ("boot1", "boot2"))
    assert 4 <= len(rows) <= 10
    for row in rows:
        assert (row["node"], row["subject"], row["state"]) == ("node-a", "agent node-a", "busy")
        assert "two agents send as node-a at the same time (boots boot" in row["reason"]
        assert "give each machine a node of its own in [agent]" in row["reason"]


def test_an_agent_that_is_started_again_is_one_agent() -> None:
    """Also where frames of the earlier start wait and are sent after the first of the later one."""
    first = [("boot1", second) for second in range(100)]
    second = [("boot2", second) for second in range(101, 300)]
    assert told(first + second) == []
    assert told([*first[:50], second[0], *first[50:], *second[1:]]) == []
    clock_stepped_back = [("boot2", second) for second in range(60, 300)]
    assert told(first + clock_stepped_back) == []


def test_an_agent_that_ended_is_no_longer_a_second_one() -> None:
    both = [(boot, second) for second in range(50) for boot in ("boot1", "boot2")]
    assert told([*both, *(("boot1", second) for second in range(50, 400))]) == []
