"""What an operator relies on of clocks: the truth lies within the stated bound, and a jump is a row with before and after."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from warpline_agent.clock_offset import MOVED, WAS_SET, ClockOffset
from warpline_proto import service_pb2

SECOND = 10**9
MILLISECOND = 10**6
BEGIN_NS = 1_700_000_000 * SECOND
PLACE = {"cluster": "c", "node": "node-1"}


class Pair:
    """A node and a collector by one true time; the node's wall clock is `ahead_ns` ahead of it and may drift."""

    def __init__(self, ahead_ns: int = 0, drift: float = 0.0) -> None:
        self.true_ns = 0
        self.ahead_ns = ahead_ns
        self.collector_ahead_ns = 0
        self._drift = drift
        self.offset = ClockOffset(lambda: BEGIN_NS + self.ahead_ns + self.steady(), self.steady)
        self.sequence = 0

    def steady(self) -> int:
        return self.true_ns + round(self._drift * self.true_ns)

    def collector(self) -> int:
        return BEGIN_NS + self.collector_ahead_ns + self.true_ns

    @property
    def truth_ns(self) -> int:
        return self.ahead_ns + self.steady() - self.true_ns - self.collector_ahead_ns

    def exchange(
        self, there_ns: int = MILLISECOND, held_ns: int = 150 * MILLISECOND, back_ns: int = MILLISECOND
    ) -> None:
        """One frame and its acknowledgement."""
        self.sequence += 1
        self.offset.sent("boot", self.sequence)
        self.true_ns += there_ns
        received_ns = self.collector()
        self.true_ns += held_ns
        collector_ns = self.collector()
        self.true_ns += back_ns
        self.offset.acknowledged(
            service_pb2.Ack(boot="boot", sequence=self.sequence, received_ns=received_ns, collector_ns=collector_ns)
        )

    def rows(self) -> list[dict[str, Any]]:
        return [row for batch in self.offset.rows(PLACE, "boot") for row in batch.rows.to_pylist()]

    def within(self) -> bool:
        told = self.offset.offset()
        assert told is not None
        return abs(told.offset_ns - self.truth_ns) <= told.error_ns


@pytest.mark.parametrize("ahead", [0, 3_600, -3_600])
@pytest.mark.parametrize("drift", [0.0, 50e-6, -50e-6])
def test_the_truth_lies_within_the_bound(ahead: int, drift: float) -> None:
    """Whichever way the delay lies, however long a frame is held, and between exchanges."""
    chance = random.Random(7)
    pair = Pair(ahead * SECOND, drift)
    for _ in range(300):
        there, back = (round(chance.expovariate(1) * chance.choice((0.1, 1, 50)) * MILLISECOND) for _ in range(2))
        pair.exchange(there, round(chance.uniform(0.1, 5.0) * SECOND), back)
        assert pair.within()
        pair.true_ns += round(chance.uniform(0, 10) * SECOND)
        assert pair.within()
    assert not [row for row in pair.rows() if row["jump_ns"] is not None]


def test_one_quick_exchange_among_slow_ones_speaks() -> None:
    pair = Pair(3 * SECOND)
    for each in range(10):
        pair.exchange(80 * MILLISECOND if each != 4 else 100_000, back_ns=100_000)
    told = pair.offset.offset()
    assert told is not None
    assert told.round_trip_ns == 200_000
    assert abs(told.offset_ns - 3 * SECOND) <= told.error_ns < MILLISECOND


def test_a_row_comes_at_once_and_then_once_a_minute() -> None:
    pair = Pair(2 * SECOND)
    assert pair.rows() == []
    pair.exchange()
    (row,) = pair.rows()
    assert (row["node"], row["source"], row["boot"], row["jumps"]) == ("node-1", "clock", "boot", 0)
    assert abs(row["offset_ns"] - 2 * SECOND) <= row["error_ns"] <= 2 * MILLISECOND
    assert row["time_ns"] == BEGIN_NS + 2 * SECOND + pair.true_ns
    for _ in range(59):
        pair.true_ns += SECOND // 2
        pair.exchange(held_ns=SECOND // 2)
    assert pair.rows() == []
    pair.true_ns += SECOND
    assert len(pair.rows()) == 1


@pytest.mark.parametrize("seconds", [3_600, -3_600, 0.5])
def test_a_clock_that_is_set_is_told_at_once_with_before_and_after(seconds: float) -> None:
    """By how much is exact, and what holds from then on is known before the next exchange, also while a frame is on its way."""
    pair = Pair()
    pair.exchange()
    pair.rows()
    jump_ns = round(seconds * SECOND)
    pair.offset.sent("boot", 2)
    before_ns = BEGIN_NS + pair.true_ns
    pair.ahead_ns += jump_ns
    pair.offset.look()
    (row,) = pair.rows()
    assert (row["jump_ns"], row["before_ns"], row["time_ns"]) == (jump_ns, before_ns, before_ns + jump_ns)
    assert (row["jumps"], row["detail"]) == (1, WAS_SET)
    assert abs(row["offset_ns"] - jump_ns) <= row["error_ns"] <= 2 * MILLISECOND
    pair.true_ns += MILLISECOND
    now_ns = pair.collector()
    pair.offset.acknowledged(service_pb2.Ack(boot="boot", sequence=2, received_ns=now_ns, collector_ns=now_ns))
    pair.exchange()
    assert pair.within()
    assert pair.rows() == []


def test_small_corrections_are_followed_and_no_jump() -> None:
    pair = Pair()
    pair.exchange()
    for _ in range(5):
        pair.ahead_ns += 3 * MILLISECOND
        pair.offset.look()
        assert pair.within()
    assert [row["jump_ns"] for row in pair.rows()] == [None]
    pair.ahead_ns += 10 * MILLISECOND
    pair.offset.look()
    assert [row["jump_ns"] for row in pair.rows()] == [25 * MILLISECOND], "together they are one"


def test_a_collector_whose_clock_is_set_is_told_apart_from_a_node() -> None:
    pair = Pair()
    pair.exchange()
    pair.rows()
    pair.collector_ahead_ns = -60 * SECOND
    pair.exchange()
    (row,) = pair.rows()
    assert row["detail"] == MOVED
    assert abs(row["jump_ns"] - 60 * SECOND) <= 4 * MILLISECOND
    assert row["before_ns"] == row["time_ns"]
    assert pair.within()


def test_a_collector_that_does_not_tell_its_time_tells_nothing() -> None:
    """One of an earlier version, or one whose clock was set while it held the frame. A jump is told once a collector does."""
    pair = Pair()

    def answer(received_ns: int, collector_ns: int) -> None:
        pair.sequence += 1
        pair.offset.sent("boot", pair.sequence)
        pair.true_ns += MILLISECOND
        ack = service_pb2.Ack(sequence=pair.sequence, received_ns=received_ns, collector_ns=collector_ns, boot="boot")
        pair.offset.acknowledged(ack)

    answer(0, 0)
    answer(0, BEGIN_NS)
    answer(BEGIN_NS, BEGIN_NS - SECOND)
    answer(BEGIN_NS, BEGIN_NS + SECOND)
    pair.offset.acknowledged(service_pb2.Ack(boot="other", sequence=99, received_ns=BEGIN_NS, collector_ns=BEGIN_NS))
    assert pair.offset.offset() is None
    pair.ahead_ns = SECOND
    pair.offset.look()
    assert pair.rows() == [], "an earlier version refuses frames with a table that it does not know"
    pair.exchange()
    jump, now = pair.rows()
    assert (jump["jump_ns"], jump["offset_ns"], jump["error_ns"]) == (SECOND, None, None)
    assert abs(now["offset_ns"] - SECOND) <= now["error_ns"]


def test_one_acknowledgement_of_many_frames_counts_for_the_last() -> None:
    pair = Pair()

    def send(sequences: Iterable[int]) -> None:
        for sequence in sequences:
            pair.offset.sent("boot", sequence)
            pair.true_ns += SECOND

    send(range(1, 200))
    now_ns = pair.collector()
    for sequence in (199, 150):
        pair.offset.acknowledged(
            service_pb2.Ack(boot="boot", sequence=sequence, received_ns=now_ns, collector_ns=now_ns)
        )
    (row,) = pair.rows()
    assert row["exchanges"] == 1
    assert row["round_trip_ns"] == SECOND
