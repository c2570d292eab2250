"""A test that every rank ran by itself names the rank that is slow in it, and nobody where all are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import probes
from warpline_cli.verbs.analyze import analyze
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]


def results(means: Sequence[float], number: int = 0, spread: float = 0.01, **extra: Any) -> list[dict[str, Any]]:
    """One round of a matrix product, by rank, in ms."""
    return [
        {"job": "j", "rank": rank, "round": number, "probe": "gemm", "kind": "compute", "duration_ns": int(mean * 1e6),
         "min_ns": int(mean * (1 - spread) * 1e6), "max_ns": int(mean * (1 + spread) * 1e6)} | extra
        for rank, mean in enumerate(means)
    ]  # fmt: skip


def judge(reader_of: ReaderOf, rows: list[dict[str, Any]], **tables: Any) -> Report:
    return probes.detect(reader_of({"probes": rows} | tables))


def test_the_slow_rank_is_named_with_when_and_what_it_costs(reader_of: ReaderOf) -> None:
    seconds = [1.0, 1.01, 1.0, 1.0, 1.0, 1.3]
    metrics = [
        {"job": "j", "rank": 0, "metric": "iteration_seconds", "value": value, "time_ns": 10**18 + turn * 10**9}
        for turn, value in enumerate(seconds)
    ]
    report = judge(reader_of, results([65, 65, 65, 65]) + results([65, 515, 65.5, 65], 1), metrics=metrics)
    (finding,) = report.findings
    assert (finding.kind, finding.severity, finding.subject.rank) == (
        FindingKind.COMPUTE_STRAGGLER,
        Severity.CRITICAL,
        1,
    )
    assert finding.cost.seconds_per_step == pytest.approx(0.3)
    assert finding.onset.time_ns == 10**18 + 5 * 10**9
    assert all(evidence.rows for evidence in finding.evidence)


def test_half_of_the_ranks_are_named_where_half_are_slow(reader_of: ReaderOf) -> None:
    report = judge(reader_of, results([65, 130, 65, 130]))
    assert {finding.subject.rank for finding in report.findings} == {1, 3}


@pytest.mark.parametrize(
    "rows",
    [
        results([65.4, 65.7, 65.7, 65.7]),
        results([65, 71, 65, 65]),  # beyond nothing that devices of one kind differ by
        results([65, 515, 65, 65]) + results([65, 65, 65, 65], 1),  # even again
        results([65, 75, 65, 65], spread=0.2),  # its best repetition is as good as the others'
    ],
)
def test_even_ranks_are_healthy(reader_of: ReaderOf, rows: list[dict[str, Any]]) -> None:
    report = judge(reader_of, rows)
    assert [check.verdict for check in report.checks] == [Verdict.HEALTHY]
    assert not report.findings


def test_a_single_repetition_or_a_single_rank_accuses_nobody(reader_of: ReaderOf) -> None:
    once = results([65, 515, 65], spread=0.0)
    for rows in (once, results([515])):
        report = judge(reader_of, rows)
        assert [check.verdict for check in report.checks] == [Verdict.UNKNOWN]
        assert not report.findings


def test_slow_transfers_are_no_slow_compute(reader_of: ReaderOf) -> None:
    rows = results([12, 40, 12, 12], probe="pair", kind="communication", peer=0)
    assert judge(reader_of, rows) == Report()


@pytest.mark.data
def test_the_rank_that_greyhound_recorded_as_slow_is_found_from_its_measurements(data: Path) -> None:
    """Rank 1 takes 515.5 ms where the others take 65.5 to 65.7 ms; the transfers between pairs are even."""
    answer = analyze([data / "G-stragglers" / "greyhound"])
    (finding,) = answer["findings"]
    assert (answer["verdict"], finding["kind"], finding["subject"]["rank"]) == ("critical", "compute_straggler", 1)
    assert any(text.startswith("network:") for text in finding["ruled_out"])
