"""A process whose host does not keep up with its GPU is found, one at its disk too; sleep, waiting and idle sessions are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import process_waits
from warpline_cli.verbs.analyze import analyze
from warpline_proto.finding import FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Rows = list[dict[str, Any]]
START = 1_700_000_000_000_000_000
SECOND = 10**9


def rounds(waiting: float, count: int = 30, seconds: float = 1.0, pid: int = 7) -> Rows:
    """A round a second: some launches, then a wait for the GPU of this part of the round."""
    length = int(seconds * SECOND)
    launches = [
        {
            "kind": "gpu_submit",
            "event": "cudaLaunchKernel",
            "start_ns": START + turn * length + place * 10**6,
            "duration_ns": 10**5,
        }
        for turn in range(count)
        for place in range(5)
    ]
    syncs = [
        {"kind": "gpu_wait", "event": "cudaStreamSync", "duration_ns": int(waiting * length),
         "start_ns": START + (turn + 1) * length - int(waiting * length)}
        for turn in range(count)
    ]  # fmt: skip
    return [row | {"job": "j", "node": "n", "pid": pid, "process": "python3"} for row in launches + syncs]


def host(cpu_percent: float) -> Rows:
    return [
        {"node": "n", "time_ns": START + turn * SECOND, "cpu_percent": cpu_percent, "cpu_count": 8}
        for turn in range(30)
    ]


def judge(reader_of: ReaderOf, events: Rows, cpu_percent: float = 50.0) -> Report:
    return process_waits.detect(reader_of({"process_events": events, "host_samples": host(cpu_percent)}))


def test_a_gpu_that_waits_for_its_data_loader_is_found(reader_of: ReaderOf) -> None:
    workers = [
        {"job": "j", "node": "n", "pid": 100 + worker, "process": "pt_data_worker", "kind": "off_cpu", "start_ns": START,
         "duration_ns": SECOND} for worker in range(3)
    ]  # fmt: skip
    (finding,) = judge(reader_of, rounds(0.05) + workers).findings
    assert (finding.kind, finding.severity) == (FindingKind.HOST_STRAGGLER, Severity.WARNING)
    assert "its data loader (3 workers" in finding.summary
    assert (finding.subject.node, finding.subject.rank) == ("n", None)
    assert all(evidence.rows for evidence in finding.evidence)


def test_without_loader_processes_the_cause_is_left_open(reader_of: ReaderOf) -> None:
    (finding,) = judge(reader_of, rounds(0.05)).findings
    assert "waits for its host" in finding.summary
    assert "stacks of the process outside GPU calls" in finding.missing


@pytest.mark.parametrize(("events", "cpu_percent"), [(rounds(0.7), 50.0), (rounds(0.05), 2.0)])
def test_waiting_for_the_gpu_and_an_idle_session_are_healthy(
    reader_of: ReaderOf, events: Rows, cpu_percent: float
) -> None:
    report = judge(reader_of, events, cpu_percent)
    assert not report.findings
    assert [check.verdict for check in report.checks] == [Verdict.HEALTHY]


def test_a_process_that_sleeps_and_gives_no_work_is_not_judged(reader_of: ReaderOf) -> None:
    asleep = [
        {"job": "j", "node": "n", "pid": 7, "kind": kind, "start_ns": START + turn * SECOND, "duration_ns": length}
        for turn in range(30)
        for kind, length in (("off_cpu", 9 * 10**8), ("gpu_memory", 10**6))
    ]
    report = judge(reader_of, asleep)
    assert [check.verdict for check in report.checks] == [Verdict.UNKNOWN]


def test_a_process_at_its_disk_is_found_and_a_few_requests_are_not(reader_of: ReaderOf) -> None:
    def reads(count: int) -> Rows:
        return [
            {
                "job": "j",
                "node": "n",
                "pid": 7,
                "kind": "disk",
                "start_ns": START + turn * 2 * 10**6,
                "duration_ns": 10**6,
            }
            for turn in range(count)
        ]

    (finding,) = judge(reader_of, reads(100)).findings
    assert "waits for the disk for 50 %" in finding.summary
    assert not judge(reader_of, reads(5)).findings


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("pytorch-dataloader-starvation", "data loader"),
        ("sample-gpu-node-01", "disk"),
        ("sample-gpu-node-02", None),
        ("sample-gpu-node-03", None),
    ],
)
def test_recorded_nodes_are_told_as_they_are(data: Path, name: str, word: str | None) -> None:
    """Starved by data loader workers; contended; and two where nobody is at fault."""
    answer = analyze([data / "F-nsys" / "ingero" / f"{name}.db.gz"])
    assert [finding["kind"] for finding in answer["findings"]] == (["host_straggler"] if word else [])
    assert all(word in finding["summary"] for finding in answer["findings"] if word)
    assert answer["verdict"] == ("warning" if word else "unknown")
