"""Answers that are used again: what changes slowly is asked rarely, and a failure does not stay longer than it must."""

from __future__ import annotations

import pyarrow as pa
import pytest

from warpline_proto.errors import QueryError
from warpline_tui.answers import KEPT_MAX, Answers

NS = 10**9


class Collector:
    """Answers with how often it was asked; fails for so many seconds while `down`."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * NS
        self.asked = 0
        self.down: float | None = None

    def query(self, sql: str) -> pa.Table:
        self.asked += 1
        if self.down is not None:
            self.now_ns += int(self.down * NS)
            raise QueryError("nobody answers")
        return pa.table({"asked": [self.asked]})

    def answers(self) -> Answers:
        return Answers(self.query, lambda: self.now_ns)


def told(table: pa.Table) -> int:
    return int(table["asked"][0].as_py())


def test_an_answer_is_used_again_for_as_long_as_was_said() -> None:
    collector = Collector()
    answers = collector.answers()
    assert [told(answers.rows("a", 10)), told(answers.rows("a", 10)), told(answers.rows("a"))] == [1, 1, 2]
    collector.now_ns += 10 * NS
    assert told(answers.rows("a", 10)) == 3


@pytest.mark.parametrize(("took_seconds", "asked_again"), [(0.0, True), (0.1, True), (5.0, False)])
def test_a_failure_is_remembered_only_where_it_took_long(took_seconds: float, asked_again: bool) -> None:
    collector = Collector()
    answers = collector.answers()
    collector.down = took_seconds
    with pytest.raises(QueryError):
        answers.rows("a", 60)
    collector.down = None
    collector.now_ns += 2 * NS
    if asked_again:
        assert told(answers.rows("a", 60)) == 2
    else:
        with pytest.raises(QueryError):
            answers.rows("a", 60)


def test_what_is_kept_is_bounded_the_oldest_goes_first() -> None:
    collector = Collector()
    answers = collector.answers()
    for number in range(KEPT_MAX + 1):
        answers.rows(f"question {number}", 3600)
    assert told(answers.rows(f"question {KEPT_MAX}", 3600)) == KEPT_MAX + 1
    assert told(answers.rows("question 0", 3600)) == KEPT_MAX + 2, "it was let go"
