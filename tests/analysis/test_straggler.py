"""Whoever computes longer than its peers is named, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import straggler
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict
from warpline_proto.tables import COLLECTIVES, STEPS

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Times = npt.NDArray[np.float64]
TRANSFER = 0.004
"""Seconds of one healthy collective."""


def healthy(seed: int, steps: int = 60, ranks: int = 8, jitter: float = 0.02) -> Times:
    """(steps, ranks) of compute seconds around 0.1 s."""
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, jitter, (steps, ranks)))


def step_rows(compute: Times, *, stages: int = 1, skew_ns: int = 0, numbers: Any = None, order: Any = None) -> pa.Table:
    """Rows of table steps; ranks are counted stage by stage, `order` renames them, `skew_ns` shifts each rank's clock."""
    steps, ranks = compute.shape
    replicas = ranks // stages
    rank = np.tile(np.arange(ranks), steps)
    number = np.repeat(np.arange(steps) if numbers is None else numbers, ranks)
    return pa.Table.from_batches(
        [
            STEPS.from_columns(
                {
                    "job": "train",
                    "rank": (np.arange(ranks) if order is None else np.asarray(order))[rank],
                    "dp": rank % replicas,
                    "pp": rank // replicas if stages > 1 else None,
                    "scope": "step",
                    "step": number,
                    "start_ns": 1_700_000_000_000_000_000 + number * 10**9 + rank * skew_ns,
                    "clock": [f"realtime@node{r}" for r in rank],
                    "compute_ns": np.round(compute.ravel() * 1e9).astype(np.int64),
                }
            )
        ]
    )


def collective_rows(compute: Times, waits_for: Times | None = None, **extra: Any) -> pa.Table:
    """One all-reduce a step after `compute`: each rank's duration is the transfer and its wait for the last."""
    arrive = compute if waits_for is None else waits_for
    steps, ranks = arrive.shape
    duration = arrive.max(axis=1)[:, None] - arrive + TRANSFER
    number = np.repeat(np.arange(steps), ranks)
    columns = {
        "job": "train",
        "rank": np.tile(np.arange(ranks), steps),
        "step": number,
        "sequence": number,
        "communicator": "world",
        "operation": "all_reduce",
        "message_bytes": 1 << 28,
        "nranks": ranks,
        "duration_ns": np.round(duration.ravel() * 1e9).astype(np.int64),
        "timing": "kernel_gpu",
    }
    return pa.Table.from_batches([COLLECTIVES.from_columns(columns | extra)])


def slowed(compute: Times, rank: int, excess: float, start: int = 0, stop: int | None = None) -> Times:
    """The same with one rank slower."""
    result = compute.copy()
    result[start:stop, rank] *= 1 + excess
    return result


def blamed(report: Report) -> list[tuple[FindingKind, int | None]]:
    """What was found, on which rank."""
    return [(finding.kind, finding.subject.rank) for finding in report.findings]


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, [finding.summary for finding in report.findings]
    return report.findings[0]


def judge(reader_of: ReaderOf, compute: Times, **how: Any) -> Report:
    """Steps and the collectives that go with them."""
    return straggler.detect(reader_of({"steps": step_rows(compute, **how), "collectives": collective_rows(compute)}))


STRAGGLER = FindingKind.COMPUTE_STRAGGLER


def test_a_slow_rank_is_named_with_cost_cause_and_what_was_ruled_out(reader_of: ReaderOf) -> None:
    finding = only(judge(reader_of, slowed(healthy(1), 5, 0.30)))
    assert (finding.kind, finding.subject.rank, finding.subject.dp) == (STRAGGLER, 5, 5)
    assert finding.severity == Severity.WARNING and finding.confidence >= 0.9
    assert finding.cost.seconds_per_step == pytest.approx(0.03, rel=0.15)
    assert finding.cost.gpu_hours == pytest.approx(0.03 * 60 * 8 / 3600, rel=0.15)
    assert any(text.startswith("network:") for text in finding.ruled_out)
    assert any("slowest in 60 of 60 steps" in text for text in finding.ruled_out)
    assert finding.evidence[0].rows[0]["rank"] == 5
    assert finding.onset.step == 0 and finding.onset.time_ns == 1_700_000_000_000_000_000


def test_fifty_healthy_runs_are_healthy(reader_of: ReaderOf) -> None:
    for seed in range(50):
        report = judge(reader_of, healthy(seed))
        assert (report.verdict, report.findings) == (Verdict.HEALTHY, ()), seed


@pytest.mark.parametrize("excess", [0.15, 0.2, 0.3, 0.5, 1.0])
def test_every_straggler_well_above_the_gate_is_found_and_nobody_else(reader_of: ReaderOf, excess: float) -> None:
    for seed in range(10):
        victim = seed * 3 % 8
        assert blamed(judge(reader_of, slowed(healthy(seed), victim, excess))) == [(STRAGGLER, victim)], seed


def test_a_rank_below_the_gate_is_not_accused(reader_of: ReaderOf) -> None:
    for seed in range(10):
        assert judge(reader_of, slowed(healthy(seed), 3, 0.03)).verdict == Verdict.HEALTHY


def test_a_gpu_that_was_always_a_little_slower_wakes_nobody_unless_it_became_so(reader_of: ReaderOf) -> None:
    """GPUs of one model differ by some percent for good; one that slows down by as much is another matter."""
    always = only(judge(reader_of, slowed(healthy(1, steps=100, jitter=0.004), 3, 0.065)))
    assert (always.subject.rank, always.severity) == (3, Severity.INFO)
    assert any("kept up" in text for text in always.missing)
    soon = only(judge(reader_of, slowed(healthy(1, steps=100, jitter=0.004), 3, 0.065, start=4)))
    assert (soon.subject.rank, soon.severity) == (3, Severity.INFO)  # four steps do not show that it kept up
    became = only(judge(reader_of, slowed(healthy(1, steps=100, jitter=0.004), 3, 0.065, start=50)))
    assert (became.subject.rank, became.severity) == (3, Severity.WARNING)


@pytest.mark.parametrize(("start", "stop"), [(60, None), (30, None), (0, 70), (85, None)])
def test_a_fault_within_the_window_is_found_with_its_onset(reader_of: ReaderOf, start: int, stop: int | None) -> None:
    finding = only(judge(reader_of, slowed(healthy(7, steps=100), 2, 0.4, start, stop)))
    assert (finding.kind, finding.subject.rank) == (STRAGGLER, 2)
    assert finding.onset.step is not None and abs(finding.onset.step - start) <= 1
    assert ("even again" in finding.summary) == (stop is not None)


def test_imbalance_that_begins_within_the_window_is_dated(reader_of: ReaderOf) -> None:
    rotating = healthy(21, steps=100)
    rotating[40:] = healthy(21, steps=60, jitter=0.3)
    finding = only(judge(reader_of, rotating))
    assert finding.kind == FindingKind.DATA_IMBALANCE
    assert finding.onset.step is not None and abs(finding.onset.step - 40) <= 2
    heavy = healthy(22, steps=100)
    heavy[60:, 4:] *= 1.5
    finding = only(judge(reader_of, heavy, stages=2))
    assert (finding.kind, finding.subject.stage, finding.onset.step) == (FindingKind.STAGE_IMBALANCE, 1, 60)


def test_a_rank_that_is_last_by_microseconds_is_not_accused(reader_of: ReaderOf) -> None:
    tiny = collective_rows(slowed(healthy(1) / 1000, 3, 0.5))
    short = tiny.set_column(
        tiny.schema.get_field_index("duration_ns"), "duration_ns", pc.subtract(tiny["duration_ns"], 3_990_000)
    )
    assert straggler.detect(reader_of({"collectives": short})).findings == ()


def test_work_that_is_slow_on_another_rank_each_time_is_imbalance(reader_of: ReaderOf) -> None:
    for seed in range(10):
        finding = only(judge(reader_of, healthy(seed, jitter=0.3)))
        assert (finding.kind, finding.subject.rank) == (FindingKind.DATA_IMBALANCE, None)
        assert finding.severity == Severity.WARNING


def test_a_heavy_stage_is_a_partition_problem_and_no_gpu(reader_of: ReaderOf) -> None:
    compute = healthy(3)
    compute[:, 6:] *= 1.5
    finding = only(judge(reader_of, compute, stages=4))
    assert (finding.kind, finding.subject.stage, finding.subject.rank) == (FindingKind.STAGE_IMBALANCE, 3, None)
    assert finding.cost.seconds_per_step == pytest.approx(0.0375, rel=0.1)


def test_a_slow_rank_and_a_heavy_stage_are_both_told(reader_of: ReaderOf) -> None:
    compute = slowed(healthy(4), 1, 0.6)
    compute[:, 4:] *= 1.4
    found = judge(reader_of, compute, stages=2)
    assert {(f.kind, f.subject.rank, f.subject.stage) for f in found.findings} == {
        (STRAGGLER, 1, 0),
        (FindingKind.STAGE_IMBALANCE, None, 1),
    }


def test_a_heavy_stage_without_replicas_is_not_decided(reader_of: ReaderOf) -> None:
    compute = healthy(3, ranks=4)
    compute[:, 3] *= 1.5
    report = judge(reader_of, compute, stages=4)
    assert report.verdict == Verdict.UNKNOWN and report.findings == ()


def test_two_slow_of_four_are_named_together(reader_of: ReaderOf) -> None:
    compute = slowed(slowed(healthy(5, ranks=4), 1, 0.5), 3, 0.5)
    finding = only(judge(reader_of, compute))
    assert (finding.kind, finding.subject.rank, finding.subject.group) == (STRAGGLER, None, "ranks 1, 3")
    assert finding.confidence < 0.9


def test_two_slow_of_eight_are_named_one_by_one_though_they_take_turns_as_slowest(reader_of: ReaderOf) -> None:
    compute = slowed(slowed(healthy(5), 1, 0.5), 6, 0.5)
    assert blamed(judge(reader_of, compute)) == [(STRAGGLER, 1), (STRAGGLER, 6)]


def test_the_slower_of_two_peers_needs_more_steps(reader_of: ReaderOf) -> None:
    assert blamed(judge(reader_of, slowed(healthy(6, ranks=2), 0, 0.4))) == [(STRAGGLER, 0)]
    early = judge(reader_of, slowed(healthy(6, steps=5, ranks=2), 0, 0.4))
    assert early.findings == () and early.verdict == Verdict.UNKNOWN
    assert "needed" in early.checks[0].detail


def test_a_replica_slow_at_every_stage_has_more_work(reader_of: ReaderOf) -> None:
    compute = slowed(slowed(healthy(8), 1, 0.4), 5, 0.4)
    finding = only(judge(reader_of, compute, stages=2))
    assert (finding.kind, finding.subject.dp, finding.subject.rank) == (FindingKind.DATA_IMBALANCE, 1, None)


def test_too_few_steps_or_ranks_are_unknown_with_what_is_missing(reader_of: ReaderOf) -> None:
    for steps, ranks, text in ((1, 8, "1 step; 5 needed"), (60, 1, "2 peers needed")):
        report = judge(reader_of, slowed(healthy(9, steps, ranks), 0, 0.5))
        assert report.findings == () and report.verdict == Verdict.UNKNOWN
        assert text in report.checks[0].detail


def test_a_blame_that_waiting_contradicts_is_told_with_little_confidence(reader_of: ReaderOf) -> None:
    compute = slowed(healthy(10), 2, 0.3)
    elsewhere = slowed(healthy(10), 6, 0.5)
    reader = reader_of({"steps": step_rows(compute), "collectives": collective_rows(compute, elsewhere)})
    finding = only(straggler.detect(reader))
    assert finding.subject.rank == 2 and finding.confidence < 0.5
    assert "waiting does not fit" in finding.summary


def test_even_compute_with_one_late_rank_is_not_called_healthy(reader_of: ReaderOf) -> None:
    compute = healthy(11)
    reader = reader_of({"steps": step_rows(compute), "collectives": collective_rows(compute, slowed(compute, 6, 0.8))})
    report = straggler.detect(reader)
    assert report.findings == () and report.verdict == Verdict.UNKNOWN and "rank 6" in report.checks[0].detail


def test_collectives_alone_name_a_persistently_late_rank_and_nobody_in_a_healthy_run(reader_of: ReaderOf) -> None:
    for seed in range(10):
        compute = healthy(seed)
        late = straggler.detect(reader_of({"collectives": collective_rows(slowed(compute, 4, 0.5))}))
        assert blamed(late) == [(STRAGGLER, 4)] and late.findings[0].confidence <= 0.5
        even = straggler.detect(reader_of({"collectives": collective_rows(compute)}))
        assert even.findings == () and even.verdict == Verdict.UNKNOWN


def summary_rows(means_ms: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    return [
        {"job": "fsdp", "rank": rank, "communicator": "0", "operation": operation, "elements": 855654400, "nranks": 8,
         "duration_ns": int(mean * 1e6), "count": 160, "timing": "summary"}
        for operation, means in means_ms.items() for rank, mean in enumerate(means)
    ]  # fmt: skip


def test_published_statistics_name_the_rank_that_waits_least_in_all_that_dominates(reader_of: ReaderOf) -> None:
    scatter = [71.8, 49.9, 31.4, 39.1, 11.7, 26.2, 54.1, 52.2]
    gather = [17.7, 14.7, 13.4, 14.2, 6.2, 13.2, 15.5, 15.2]
    report = straggler.detect(
        reader_of({"collectives": summary_rows({"reduce_scatter": scatter, "all_gather": gather})})
    )
    assert blamed(report) == [(STRAGGLER, 4)]
    other = [*gather[:4], 15.0, 13.2, 6.2, 15.2]
    disputed = straggler.detect(
        reader_of(
            {"collectives": summary_rows({"reduce_scatter": scatter, "all_gather": [5 * value for value in other]})}
        )
    )
    assert disputed.findings == ()


def test_names_clocks_dropped_steps_and_units_change_nothing_else(reader_of: ReaderOf) -> None:
    compute = slowed(healthy(12, steps=100), 3, 0.35, 40)
    plain = only(judge(reader_of, compute))
    order = np.random.default_rng(0).permutation(8)
    renamed = only(straggler.detect(reader_of({"steps": step_rows(compute, order=order)})))
    assert renamed.subject.rank == order[3]
    for skew in (10_000_000, 3_600_000_000_000):
        skewed = only(judge(reader_of, compute, skew_ns=skew))
        assert replace(skewed, onset=plain.onset) == plain
    kept = np.sort(np.random.default_rng(1).choice(100, 80, replace=False))
    fewer = only(straggler.detect(reader_of({"steps": step_rows(compute[kept], numbers=kept)})))
    assert fewer.subject == plain.subject and fewer.onset.step is not None and 40 <= fewer.onset.step <= 43
    scaled = only(judge(reader_of, compute * 1000))
    assert (scaled.subject, scaled.onset.step) == (plain.subject, plain.onset.step)
    assert scaled.cost.seconds_per_step == pytest.approx(1000 * (plain.cost.seconds_per_step or 0), rel=1e-3)


def test_a_job_with_a_quote_in_its_name_and_rows_without_a_job_are_no_trouble(reader_of: ReaderOf) -> None:
    rows = [
        {"job": job, "rank": rank, "scope": "step", "step": step, "compute_ns": 10**8 * (2 if rank == 1 else 1)}
        for job in ("it's", None) for rank in range(4) for step in range(20)
    ]  # fmt: skip
    assert [f.subject.job for f in straggler.detect(reader_of({"steps": rows})).findings] == ["it's"]


def test_ten_thousand_ranks_with_one_straggler(reader_of: ReaderOf) -> None:
    compute = slowed(healthy(13, steps=20, ranks=10_000), 4321, 0.3)
    assert blamed(straggler.detect(reader_of({"steps": step_rows(compute)}))) == [(STRAGGLER, 4321)]
    quiet = straggler.detect(reader_of({"steps": step_rows(healthy(13, steps=20, ranks=10_000))}))
    assert quiet.findings == ()


def tables_of(*paths: Path) -> dict[str, pa.Table]:
    found: dict[str, list[pa.RecordBatch]] = {}
    for batch in read_paths(paths).batches:
        found.setdefault(batch.table, []).append(batch.rows)
    return {name: pa.Table.from_batches(batches) for name, batches in found.items()}


@pytest.mark.data
def test_trace_ar_names_stage_0_of_replica_0_as_a_group_and_none_of_its_victims(
    data: Path, reader_of: ReaderOf
) -> None:
    tables = tables_of(data / "G-stragglers/bytedance/trace-AR.parquet")
    finding = only(straggler.detect(reader_of(tables)))
    assert (finding.kind, finding.severity) == (STRAGGLER, Severity.CRITICAL)
    assert (finding.subject.stage, finding.subject.dp, finding.subject.rank) == (0, 0, None)
    assert finding.subject.group == "group of 4 ranks recorded as rank 0"
    assert finding.summary.startswith("Group of 4 ranks recorded as rank 0 (stage 0, dp 0) computes ")
    assert "44 of 44 steps" in finding.summary and re.search("13[4-6] %", finding.summary)
    assert finding.cost.seconds_per_step == pytest.approx(45.29 - 19.2, abs=0.3)
    assert any(text.startswith("network:") for text in finding.ruled_out)


@pytest.mark.data
def test_trace_ar_without_the_slow_replica_accuses_nobody(data: Path, reader_of: ReaderOf) -> None:
    tables = tables_of(data / "G-stragglers/bytedance/trace-AR.parquet")
    rest = {
        name: table.filter(pc.not_equal(table["dp"], 0)) if name in ("phases", "steps", "collectives") else table
        for name, table in tables.items()
    }
    report = straggler.detect(reader_of(rest))
    assert (report.findings, report.verdict) == ((), Verdict.HEALTHY)


@pytest.mark.data
def test_trace_st_is_a_heavy_stage_and_names_no_rank(data: Path, reader_of: ReaderOf) -> None:
    finding = only(straggler.detect(reader_of(tables_of(data / "G-stragglers/bytedance/trace-ST.parquet"))))
    assert (finding.kind, finding.subject.stage) == (FindingKind.STAGE_IMBALANCE, 3)
    assert (finding.subject.rank, finding.subject.dp) == (None, None)


@pytest.mark.data
def test_one_step_of_eight_ranks_accuses_nobody(data: Path, reader_of: ReaderOf) -> None:
    report = straggler.detect(reader_of(tables_of(data / "A-kineto/param/dlrm_8rank_v100.tar.gz")))
    assert report.findings == () and report.verdict == Verdict.UNKNOWN
    assert [check.detail for check in report.checks] == ["1 step; 5 needed"]


@pytest.mark.data
def test_eight_ranks_of_fsdp_wait_for_rank_4(data: Path, reader_of: ReaderOf) -> None:
    tables = tables_of(data / "C-collectives/tracelens_fsdp_8rank/nccl_summary_long.csv")
    finding = only(straggler.detect(reader_of(tables)))
    assert (finding.subject.rank, finding.severity) == (4, Severity.WARNING) and finding.confidence <= 0.5
    assert "11.7 ms" in finding.summary and "6.2 ms" in finding.summary


def test_a_tenth_more_work_of_a_stage_is_found_and_the_usual_head_of_a_model_is_not(reader_of: ReaderOf) -> None:
    for seed in range(5):
        usual = healthy(seed, steps=100, ranks=32)
        usual[:, 16:] *= 1.03
        assert judge(reader_of, usual, stages=2).findings == (), seed
        heavy = usual.copy()
        heavy[:, 16:] *= 1.10
        finding = only(judge(reader_of, heavy, stages=2))
        assert (finding.kind, finding.subject.stage) == (FindingKind.STAGE_IMBALANCE, 1), seed


def test_a_first_stage_that_is_heavier_than_the_one_with_the_loss_is_found_from_a_twentieth_on(
    reader_of: ReaderOf,
) -> None:
    """Only the last stage has a reason to be a little heavier."""
    for seed in range(5):
        compute = healthy(seed, steps=100, ranks=32)
        compute[:, 16:] *= 1.04
        compute[:, :16] *= 1.11
        finding = only(judge(reader_of, compute, stages=2))
        assert (finding.kind, finding.subject.stage) == (FindingKind.STAGE_IMBALANCE, 0), seed
        slight = healthy(seed, steps=100, ranks=32)
        slight[:, :16] *= 1.04
        assert judge(reader_of, slight, stages=2).findings == (), seed


def test_chips_that_differ_make_no_stage_heavy(reader_of: ReaderOf) -> None:
    for seed in range(20):
        chips = np.random.default_rng(seed).lognormal(0, 0.015, (1, 8))
        assert judge(reader_of, healthy(seed, steps=100) * chips, stages=4).findings == (), seed


@pytest.mark.parametrize(("ranks", "other"), [(4, 3), (8, 6), (64, 57)])
def test_two_ranks_that_became_slow_at_different_times_are_both_named_with_their_own_onsets(
    reader_of: ReaderOf, ranks: int, other: int
) -> None:
    for seed in range(3):
        compute = slowed(slowed(healthy(seed, steps=200, ranks=ranks), 0, 0.5, 88), other, 0.3, 117)
        onsets = {f.subject.rank: f.onset.step for f in judge(reader_of, compute).findings}
        assert set(onsets) == {0, other}, seed
        assert abs((onsets[0] or 0) - 88) <= 30 and abs((onsets[other] or 0) - 117) <= 3, seed


def test_beside_one_slow_rank_nobody_else_is_named(reader_of: ReaderOf) -> None:
    for seed in range(20):
        for ranks in (4, 16):
            found = judge(reader_of, slowed(healthy(seed, ranks=ranks), 1, 0.4, 20)).findings
            assert [f.subject.rank for f in found] == [1], seed
