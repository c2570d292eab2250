"""All detectors together over a made-up job: each fault is found for what it is, on whom it is, from when it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pytest

from warpline_agent.identity import stamp
from warpline_agent.sources.synthetic import Synthetic, SyntheticConfig
from warpline_analysis.detector import Reader
from warpline_analysis.runner import run
from warpline_proto.finding import Report, Verdict, from_json

ReaderOf = Callable[[Mapping[str, Any]], Reader]
BEGIN_NS = 1_800_000_000_000_000_000
STEPS = 100
ONSET = 40


def recorded(seed: int, **fault: Any) -> dict[str, pa.Table]:
    """STEPS seconds of two nodes with four ranks each, two pipeline stages, and one more GPU that serves requests."""
    found: dict[str, list[pa.RecordBatch]] = {}
    for index in range(2):
        now = [BEGIN_NS]
        config = SyntheticConfig(
            node=f"node{index}", node_index=index, stages=2, seed=seed, start_ns=BEGIN_NS, origin_ns=BEGIN_NS,
            serving=index == 1, start_step=ONSET, **fault,
        )  # fmt: skip
        source = Synthetic(config, clock_ns=lambda now=now: now[0])  # type: ignore[misc]
        source.open()
        for _ in range(STEPS // 20):
            now[0] += 20 * 10**9
            for rows in source.read():
                found.setdefault(rows.table, []).append(stamp(rows.batch, node=config.node, source="synthetic"))
    return {name: pa.Table.from_batches(batches) for name, batches in found.items()}


def told(report: Report) -> list[tuple[str, int | None, int | None, int | None]]:
    """Kind, rank, stage and first step of all that was found, which also has to survive the wire."""
    for finding in report.findings:
        assert from_json(json.loads(json.dumps(finding.to_json()))) == finding
    return [(str(f.kind), f.subject.rank, f.subject.stage, f.onset.step) for f in report.findings]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({}, []),
        ({"fault": "compute_straggler", "victim": 5, "factor": 1.4}, [("compute_straggler", 5, 1, ONSET)]),
        ({"fault": "link_degradation", "victim": 1, "factor": 2.0}, [("link_degradation", None, 1, ONSET)]),
        ({"fault": "stage_imbalance", "victim": 1, "factor": 1.5}, [("stage_imbalance", None, 1, ONSET)]),
        ({"fault": "data_imbalance", "factor": 1.5}, [("data_imbalance", None, None, ONSET)]),
        ({"fault": "execution_idle"}, [("execution_idle", None, None, None)]),
    ],
    ids=["none", "compute_straggler", "link_degradation", "stage_imbalance", "data_imbalance", "execution_idle"],
)
def test_what_was_put_in_is_found_and_nothing_else(
    reader_of: ReaderOf, seed: int, fault: dict[str, Any], found: list[Any]
) -> None:
    report = run(reader_of(recorded(seed, **fault)))
    assert not [check.detail for check in report.checks if "failed" in check.detail]
    assert told(report) == found
    assert (report.verdict == Verdict.HEALTHY) == (not found)
