"""The audit: what is noted becomes rows, however much comes and whatever the store does, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warpline_collector.audit import (
    COUNTED_MAX,
    DENIED,
    NOTES_PER_MINUTE_MAX,
    REFUSED,
    TEXT_CHARS_MAX,
    WAITING_MAX,
    Audit,
)
from warpline_collector.callers import LOCAL, Caller, Role
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.errors import StoreError

ANNA = Caller("anna", Role.VIEWER)
MINUTE_NS = 60 * 10**9


class Clock:
    """A clock that stands until it is told."""

    now_ns = 10 * MINUTE_NS

    def __call__(self) -> int:
        return self.now_ns


class Paper:
    """Where rows are written to; `full` refuses them."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.full = False

    def __call__(self, batches: Sequence[Batch]) -> None:
        if self.full:
            raise StoreError("the disk is full")
        for batch in batches:
            self.rows += batch.rows.to_pylist()


def test_a_denied_act_is_a_row_that_operators_can_ask_for(tmp_path: Path) -> None:
    """With the real store: who, as what, by which door, what, and why not."""
    store = DuckDBStore(tmp_path)
    audit = Audit(store.write)
    audit.start()
    audit.note(ANNA, "grpc", "capture", DENIED, "rank 3 of job j", "viewers only read")
    audit.note(Caller("node-7", Role.AGENT, "node-7"), "grpc", "push", DENIED, "rows of node-8")
    audit.note(None, "grpc", "connect", REFUSED, reason="no certificate")
    audit.close()
    found = store.query("SELECT caller, role, node, door, act, subject, outcome, reason, count FROM audit").to_pylist()
    store.close()
    assert [tuple(row.values()) for row in found] == [
        ("anna", "viewer", None, "grpc", "capture", "rank 3 of job j", "denied", "viewers only read", 1),
        ("node-7", "agent", "node-7", "grpc", "push", "rows of node-8", "denied", None, 1),
        (None, None, None, "grpc", "connect", None, "refused", "no certificate", 1),
    ]


def test_answers_are_counted_by_caller_and_minute() -> None:
    """A dashboard that asks every second costs a row a minute."""
    clock, paper = Clock(), Paper()
    audit = Audit(paper, clock)
    for second in range(120):
        clock.now_ns = 10 * MINUTE_NS + second * 10**9
        audit.answered(ANNA, "postgres")
        audit.answered(LOCAL, "grpc")
        audit.flush()
    audit.close()
    assert [(row["time_ns"] // MINUTE_NS, row["caller"], row["door"], row["count"]) for row in paper.rows] == [
        (10, "anna", "postgres", 60),
        (10, None, "grpc", 60),
        (11, "anna", "postgres", 60),
        (11, None, "grpc", 60),
    ]


def test_whoever_knocks_all_the_time_fills_no_disk() -> None:
    """So many rows a minute, the rest is one row with their number; the next minute begins anew."""
    clock, paper = Clock(), Paper()
    audit = Audit(paper, clock)
    for _ in range(NOTES_PER_MINUTE_MAX + 5_000):
        audit.note(ANNA, "postgres", "question", REFUSED, "DROP TABLE steps", "this door only reads")
    clock.now_ns += MINUTE_NS
    audit.note(ANNA, "postgres", "question", REFUSED, "x" * 10_000, "\ud800")
    audit.close()
    assert len(paper.rows) == NOTES_PER_MINUTE_MAX + 2
    told, newest = paper.rows[-2:]
    assert (told["act"], told["outcome"], told["count"]) == ("audit", "dropped", 5_000)
    assert (len(newest["subject"]), newest["reason"]) == (TEXT_CHARS_MAX, "?")


def test_a_thousand_callers_too_many_are_counted_together() -> None:
    """Names are the callers' own: they bound nothing."""
    clock, paper = Clock(), Paper()
    audit = Audit(paper, clock)
    for number in range(COUNTED_MAX + 500):
        audit.answered(Caller(f"caller {number}", Role.VIEWER), "grpc")
    audit.close()
    assert sum(row["count"] for row in paper.rows) == COUNTED_MAX + 500
    assert [row["count"] for row in paper.rows if row["caller"] is None] == [500]


def test_a_full_disk_loses_nothing_that_may_wait_and_counts_the_rest() -> None:
    """Rows wait for the disk, in a bounded number; whoever notes them hears nothing of it."""
    clock, paper = Clock(), Paper()
    audit = Audit(paper, clock)
    paper.full = True
    for _ in range(5):
        for _ in range(NOTES_PER_MINUTE_MAX):
            audit.note(ANNA, "grpc", "capture", DENIED)
        audit.flush()
        clock.now_ns += MINUTE_NS
    paper.full = False
    audit.flush()
    clock.now_ns += MINUTE_NS
    audit.flush()
    audit.close()
    assert len([row for row in paper.rows if row["outcome"] == "denied"]) <= WAITING_MAX
    assert sum(row["count"] for row in paper.rows) == 5 * NOTES_PER_MINUTE_MAX
