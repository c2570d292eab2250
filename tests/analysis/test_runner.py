"""One broken detector is said to be broken and blinds no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import DETECTORS
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


def test_numbers_that_no_honest_node_sends_blind_no_question(reader_of: Callable[[Mapping[str, Any]], Reader]) -> None:
    """What one node tells of can add up beyond 64 bits, and all jobs of all others are judged by the same questions."""
    most, start = 2**62, 1_700_000_000 * 10**9
    place = {"node": "node-0", "job": "job", "rank": 0}
    kinds = ("xid", "off_bus", "wrong_data", "net_retry", "link_down", "link_flap", "aer", "ib_error", "timeout")
    events = [
        place | {"source": "kernel_log", "kind": kind, "code": 79, "count": most, "time_ns": start + at, "link": "mlx5_0"}
        for kind in kinds for at in range(3)
    ]  # fmt: skip
    steps = [
        place | {"scope": "step", "step": 1, "start_ns": start, "duration_ns": most, "compute_ns": most}
        for _ in range(3)
    ]
    phases = [place | {"phase": "forward", "step": 1, "start_ns": start, "duration_ns": most} for _ in range(3)]
    programs = [
        place | {"pid": 1, "kind": kind, "event": kind, "count": most, "start_ns": start, "duration_ns": 10**9}
        for kind in ("gpu_submit", "gpu_wait", "disk") for _ in range(3)
    ]  # fmt: skip
    tables = {"log_events": events, "steps": steps, "phases": phases, "process_events": programs}
    report = run(reader_of(tables), DETECTORS)
    assert report.findings
    assert not [check for check in report.checks if "failed" in check.detail]
