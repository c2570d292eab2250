"""A rank that is slow in one phase and hidden by even totals or by a network alarm is named; chance and victims are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import faults, link, masked, straggler
from warpline_analysis.runner import run
from warpline_proto.finding import Finding, FindingKind, Report, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Times = npt.NDArray[np.float64]
RANKS, STEPS = 8, 60
PHASES = {"self_attention": 0.05, "mlp": 0.03, "router": 0.02}
TRANSFER = 0.002
ALARM = {
    "kind": "link_event",
    "severity": "warning",
    "node": "node7",
    "link": "mlx5_3:1",
    "message": "port down",
    "count": 2,
}


def phases(seed: int, jitter: float = 0.01) -> dict[str, Times]:
    """(steps, ranks) of seconds of each compute phase."""
    random = np.random.default_rng(seed)
    return {name: mean * np.exp(random.normal(0, jitter, (STEPS, RANKS))) for name, mean in PHASES.items()}


def slowed(times: dict[str, Times], phase: str, rank: int, excess: float, start: int = 0) -> dict[str, Times]:
    """One rank slower in one phase."""
    times[phase][start:, rank] *= 1 + excess
    return times


def tables(times: dict[str, Times], stages: int = 1, waits_for: Times | None = None, **extra: Any) -> dict[str, Any]:
    """Phases, and one all-reduce a step that ends when the last rank has arrived."""
    replicas = RANKS // stages
    place = [{"job": "train", "rank": rank, "dp": rank % replicas, "pp": rank // replicas, "node": f"node{rank}"}
             for rank in range(RANKS)]  # fmt: skip
    arrive = sum(times.values()) if waits_for is None else waits_for
    duration = np.asarray(arrive).max(axis=1)[:, None] - arrive + TRANSFER
    return {
        "phases": [place[rank] | {"step": step, "phase": name, "kind": "compute", "duration_ns": int(values[step, rank] * 1e9)}
                   for name, values in times.items() for step in range(STEPS) for rank in range(RANKS)],
        "collectives": [place[rank] | {"step": step, "sequence": step, "communicator": "dp", "operation": "reduce_scatter",
                        "message_bytes": 1 << 26, "nranks": RANKS, "timing": "kernel_gpu",
                        "duration_ns": int(duration[step, rank] * 1e9)}
                        for step in range(STEPS) for rank in range(RANKS)],
    } | extra  # fmt: skip


def judge(reader_of: ReaderOf, given: dict[str, Any]) -> Report:
    return masked.detect(reader_of(given))


def only(report: Report) -> Finding:
    assert len(report.findings) == 1, [finding.summary for finding in report.findings]
    return report.findings[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_phase_behind_even_totals_is_found_on_the_rank_that_is_waited_for(
    reader_of: ReaderOf, seed: int
) -> None:
    finding = only(judge(reader_of, tables(slowed(phases(seed), "mlp", 3, 0.30, 20))))
    assert (finding.kind, finding.subject.rank) == (FindingKind.MASKED_STRAGGLER, 3)
    assert finding.onset.step is not None and abs(finding.onset.step - 20) <= 2
    assert finding.cost.seconds_per_step == pytest.approx(0.009, rel=0.2)
    assert "in mlp" in finding.summary and finding.evidence[0].rows[0]["rank"] == 3
    assert any(text.startswith("network:") for text in finding.ruled_out)


def test_an_alarm_of_the_network_is_told_to_be_secondary(reader_of: ReaderOf) -> None:
    finding = only(judge(reader_of, tables(slowed(phases(1), "mlp", 3, 0.30), log_events=[ALARM])))
    assert any("port down (2 times)" in text for text in finding.ruled_out)
    assert finding.evidence[1].rows[0]["link"] == "mlx5_3:1"


def test_a_pipeline_is_judged_here_only_where_the_network_was_accused(reader_of: ReaderOf) -> None:
    quiet = judge(reader_of, tables(slowed(phases(2), "mlp", 3, 0.30), stages=2))
    assert (quiet.findings, quiet.checks) == ((), ())
    alarmed = judge(reader_of, tables(slowed(phases(2), "mlp", 3, 0.30), stages=2, log_events=[ALARM]))
    assert only(alarmed).subject.rank == 3


def test_a_rank_that_is_slow_as_a_whole_is_told_elsewhere(reader_of: ReaderOf) -> None:
    times = phases(3)
    for name in PHASES:
        slowed(times, name, 3, 0.4)
    assert judge(reader_of, tables(times)).findings == ()


def test_nobody_is_accused_for_whom_nobody_waits(reader_of: ReaderOf) -> None:
    elsewhere = sum(slowed(phases(4), "self_attention", 6, 0.3).values())
    report = judge(reader_of, tables(slowed(phases(4), "mlp", 3, 0.30), waits_for=np.asarray(elsewhere)))
    assert (report.findings, report.verdict) == ((), Verdict.UNKNOWN) and "Rank 3" in report.checks[0].detail
    silent = judge(reader_of, tables(slowed(phases(4), "mlp", 3, 0.30)) | {"collectives": []})
    assert (silent.findings, silent.verdict) == ((), Verdict.UNKNOWN)


def test_fifty_healthy_jobs_are_healthy(reader_of: ReaderOf) -> None:
    for seed in range(50):
        report = judge(reader_of, tables(phases(seed, 0.03), log_events=[ALARM] if seed % 2 else []))
        assert (report.findings, report.verdict) == ((), Verdict.HEALTHY), seed


def test_a_phase_of_no_weight_is_no_matter(reader_of: ReaderOf) -> None:
    times = phases(5)
    times["router"] *= 0.05
    assert judge(reader_of, tables(slowed(times, "router", 3, 0.5))).findings == ()


def test_a_job_without_named_phases_is_not_looked_at(reader_of: ReaderOf) -> None:
    report = judge(reader_of, {"phases": [row | {"phase": "forward"} for row in tables(phases(6))["phases"]]})
    assert (report.findings, report.checks) == ((), ())


def test_a_straggler_behind_an_alarm_of_the_network_is_the_one_answer(reader_of: ReaderOf) -> None:
    """Fifth case study of ARGUS: a port is reported down, one rank's mlp is slow, its own reduce-scatter is faster."""
    given = tables(slowed(phases(7), "mlp", 3, 1.5), log_events=[ALARM | {"job": None, "source": "kernel_log"}])
    nodes = [{"job": "train", "rank": rank, "node": f"node{rank}", "communicator": "dp"} for rank in range(RANKS)]
    asked = {"faults": faults.detect, "straggler": straggler.detect, "masked": masked.detect, "link": link.detect}
    finding = only(run(reader_of(given | {"communicators": nodes}), asked))
    assert (finding.kind, finding.subject.rank) == (FindingKind.MASKED_STRAGGLER, 3)
    assert any("port down" in text for text in finding.ruled_out)
