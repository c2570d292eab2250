"""One broken detector is said to be broken and blinds no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from warpline_analysis.detector import Reader
from warpline_analysis.runner import run
from warpline_proto.finding import Check, Report, Verdict


class Nothing:
    """A reader that nobody asks."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        raise AssertionError(sql)


def broken(reader: Reader) -> Report:
    reader.query("SELECT 1")
    return Report()


def well(reader: Reader) -> Report:
    return Report(checks=(Check("well", Verdict.HEALTHY, "job", "largest excess 0.4 %, gate 10 %"),))


def test_a_detector_that_fails_answers_unknown_and_the_others_go_on() -> None:
    report = run(Nothing(), {"broken": broken, "well": well})
    assert [(check.detector, check.verdict) for check in report.checks] == [
        ("broken", Verdict.UNKNOWN),
        ("well", Verdict.HEALTHY),
    ]
    assert "AssertionError" in report.checks[0].detail
    assert report.verdict == Verdict.HEALTHY


def test_nothing_judged_is_not_healthy() -> None:
    assert run(Nothing(), {}).verdict == Verdict.UNKNOWN
