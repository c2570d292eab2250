"""A rank whose host leaves its GPU without work is named with the cause; slow GPUs and those who wait are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.detector import Reader
from warpline_analysis.detectors import host_straggler, straggler
from warpline_analysis.host_gaps import load_gaps
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Train = Callable[..., dict[str, Any]]
Times = npt.NDArray[np.float64]
BEGIN_NS = 1_700_000_000_000_000_000
HOST = FindingKind.HOST_STRAGGLER


def noisy(seed: int, steps: int = 100, ranks: int = 8, jitter: float = 0.02) -> Times:
    """(steps, ranks) of compute seconds around 0.1 s."""
    return 0.1 * np.exp(np.random.default_rng(seed).normal(0, jitter, (steps, ranks)))


def gaps(seed: int, late: Mapping[int, float] = {}, start: int = 0, steps: int = 100, ranks: int = 8) -> Times:
    """Seconds of each step in which a GPU has nothing to do: about 5 ms, more on late ranks."""
    result = 0.005 * np.exp(np.random.default_rng(seed + 999).normal(0, 0.3, (steps, ranks)))
    for rank, seconds in late.items():
        result[start:, rank] += seconds
    return result


def blind(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The same where neither activity of GPUs nor waiting for data is known of steps."""
    steps = tables["steps"]
    unknown = pa.nulls(steps.num_rows, pa.int64())
    for name in ("busy_ns", "data_wait_ns"):
        steps = steps.set_column(steps.schema.get_field_index(name), name, unknown)
    return {**tables, "steps": steps}


def judge(reader_of: ReaderOf, tables: Mapping[str, Any], **more: Any) -> Report:
    return host_straggler.detect(reader_of({**tables, **more}))


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, report
    return report.findings[0]


def test_a_late_rank_with_even_compute_is_named_with_cost_and_what_was_ruled_out(
    reader_of: ReaderOf, train: Train
) -> None:
    tables = train(noisy(1), gap=gaps(1, {5: 0.03}, start=40))
    finding = only(judge(reader_of, tables))
    assert (finding.kind, finding.severity, finding.subject.rank) == (HOST, Severity.WARNING, 5)
    assert finding.onset.step == 40 and finding.cost.seconds_per_step == pytest.approx(0.03, rel=0.15)
    assert any(text.startswith("network:") for text in finding.ruled_out)
    assert finding.evidence[0].rows[0]["rank"] == 5
    assert straggler.detect(reader_of(tables)).findings == ()


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.2])
def test_late_hosts_well_above_the_gate_are_found_and_nobody_else(
    reader_of: ReaderOf, train: Train, seconds: float
) -> None:
    for seed in range(10):
        victim = seed * 3 % 8
        report = judge(reader_of, train(noisy(seed), gap=gaps(seed, {victim: seconds})))
        assert [finding.subject.rank for finding in report.findings] == [victim], seed


def test_fifty_healthy_jobs_are_healthy(reader_of: ReaderOf, train: Train) -> None:
    for seed in range(50):
        report = judge(reader_of, train(noisy(seed, 60), gap=gaps(seed, steps=60)))
        assert (report.verdict, report.findings) == (Verdict.HEALTHY, ()), seed


def test_slow_gpus_and_those_who_wait_for_them_are_not_accused(reader_of: ReaderOf, train: Train) -> None:
    slow = noisy(2)
    slow[:, 3] *= 1.8
    for how in ({}, {"stages": 2}, {"stages": 2, "in_pipeline": True}):
        report = judge(reader_of, train(slow, gap=gaps(2), **how))
        assert report.findings == (), how


def test_below_the_gate_and_by_turns_nobody_is_accused(reader_of: ReaderOf, train: Train) -> None:
    turns = gaps(3)
    turns[np.arange(100), np.random.default_rng(3).integers(0, 8, 100)] += 0.05
    for gap in (gaps(3, {4: 0.002}), turns):
        assert judge(reader_of, train(noisy(3), gap=gap)).findings == ()


def test_the_data_loader_is_named_where_it_takes_the_time(reader_of: ReaderOf, train: Train) -> None:
    late = gaps(4, {2: 0.04})
    finding = only(judge(reader_of, train(noisy(4), gap=late, data_wait=late * 0.9)))
    assert finding.subject.rank == 2 and "its data loader" in finding.summary
    assert finding.evidence[1].rows[0]["rank"] == 2
    phases = {"compute": ("compute", noisy(4)), "next batch": ("data", late)}
    assert "its data loader" in only(judge(reader_of, train(phases))).summary


def test_garbage_collection_is_named_where_it_takes_the_time(reader_of: ReaderOf, train: Train) -> None:
    phases = {"compute": ("compute", noisy(5)), "gc": ("host", gaps(5, {6: 0.04}))}
    finding = only(judge(reader_of, train(phases)))
    assert finding.subject.rank == 6 and "garbage collection" in finding.summary and "gc." in finding.next_step


def test_annotations_of_the_host_in_which_victims_may_wait_accuse_nobody(reader_of: ReaderOf, train: Train) -> None:
    waiting = np.full((100, 8), 0.05)
    waiting[:, 3] = 0.0
    tables = train({"compute": ("compute", noisy(5)), "wait for all-to-all": ("host", waiting)})
    assert judge(reader_of, blind(tables)).findings == ()


def host_rows(own: Mapping[str, float], usual: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {"node": node, "time_ns": BEGIN_NS + second * 10**9, **(own if node == "node1" else usual)}
        for node in ("node0", "node1") for second in range(10)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("own", "usual", "words"),
    [
        ({"cpu_percent": 98.0}, {"cpu_percent": 40.0}, "98 % of its node's CPU is in use"),
        ({"cpu_iowait_percent": 30.0}, {"cpu_iowait_percent": 1.0}, "waiting for input and output"),
        ({"cpu_steal_percent": 12.0}, {"cpu_steal_percent": 0.0}, "taken by the hypervisor"),
    ],
)
def test_contention_on_the_node_is_named_where_the_other_nodes_have_none(
    reader_of: ReaderOf, train: Train, own: Any, usual: Any, words: str
) -> None:
    tables = train(noisy(6), gap=gaps(6, {4: 0.04}))
    finding = only(judge(reader_of, tables, host_samples=host_rows(own, usual)))
    assert (finding.subject.rank, finding.subject.node) == (4, "node1")
    assert "contention" in finding.summary and words in finding.summary
    alike = only(judge(reader_of, tables, host_samples=host_rows(own, own)))
    assert "contention" not in alike.summary


def test_all_late_ranks_of_one_node_are_one_finding_on_the_node(reader_of: ReaderOf, train: Train) -> None:
    late = gaps(7, dict.fromkeys((8, 9, 10, 11), 0.05), ranks=32)
    finding = only(judge(reader_of, train(noisy(7, ranks=32), gap=late)))
    assert (finding.subject.rank, finding.subject.node) == (None, "node2")
    assert finding.subject.group == "ranks 8, 9, 10, 11"


def test_stacks_of_the_rank_are_shown_where_there_are_any(reader_of: ReaderOf, train: Train) -> None:
    stacks = [
        {"job": "train", "rank": rank, "time_ns": BEGIN_NS + 10**9, "frames": [frame, "train (train.py:1)"], "count": count}
        for rank, frame, count in ((5, "read (loader.py:7)", 40), (5, "step (adam.py:2)", 3), (1, "wait (nccl.py:1)", 90))
    ]  # fmt: skip
    finding = only(judge(reader_of, train(noisy(8), gap=gaps(8, {5: 0.03})), stacks=stacks))
    assert "read (loader.py:7) (40 times)" in finding.summary
    assert [row["times"] for row in finding.evidence[-1].rows] == [40, 3]
    assert not any("stacks" in text for text in finding.missing)


def test_of_stages_that_wait_for_each_other_the_one_with_a_cause_is_named(reader_of: ReaderOf, train: Train) -> None:
    late = gaps(9, {2: 0.05})
    tables = train(noisy(9), gap=late, stages=2, in_pipeline=True)
    replica = only(judge(reader_of, tables))
    assert (replica.subject.rank, replica.subject.dp) == (None, 2) and "which of the replica's ranks" in " ".join(
        replica.missing
    )
    named = only(judge(reader_of, train(noisy(9), gap=late, data_wait=late, stages=2, in_pipeline=True)))
    assert named.subject.rank == 2


def test_a_gap_for_which_the_others_do_not_wait_is_not_told(reader_of: ReaderOf, train: Train) -> None:
    tables = train(noisy(10), gap=gaps(10, {5: 0.04}))
    elsewhere = train(noisy(10), gap=gaps(10, {1: 0.04}))
    report = judge(reader_of, {**tables, "collectives": elsewhere["collectives"]})
    assert report.findings == () and "do not wait for it" in report.checks[0].detail


def test_a_job_whose_ranks_all_wait_for_data_is_told_as_a_whole(reader_of: ReaderOf, train: Train) -> None:
    starved = gaps(11) + 0.06
    finding = only(judge(reader_of, train(noisy(11), gap=starved, data_wait=starved)))
    assert finding.subject.named() == {"job": "train"} and "Every rank waits for its data loader" in finding.summary
    overlapped = judge(reader_of, train(noisy(11), gap=gaps(11), data_wait=starved))
    assert overlapped.findings == ()


def test_names_clocks_and_units_do_not_matter(reader_of: ReaderOf, train: Train) -> None:
    work, late = noisy(12), gaps(12, {5: 0.03}, start=40)
    plain = only(judge(reader_of, train(work, gap=late)))
    order = np.random.default_rng(0).permutation(8)
    assert only(judge(reader_of, train(work, gap=late, order=order))).subject.rank == order[5]
    skewed = only(judge(reader_of, train(work, gap=late, skew_ns=3_600_000_000_000)))
    assert (skewed.summary, skewed.id) == (plain.summary, plain.id)
    assert only(judge(reader_of, train(work * 100, gap=late * 100))).id == plain.id


def process(steps: int, wait: float) -> list[dict[str, Any]]:
    """Steps of 100 ms of a single process without a rank, `wait` of each in the data loader."""
    return [
        {"job": "alone", "scope": "step", "step": step, "duration_ns": 10**8, "data_wait_ns": int(wait * 1e8),
         "busy_ns": int((0.95 - wait) * 1e8)} for step in range(steps)
    ]  # fmt: skip


def test_a_single_process_is_told_of_its_data_loader_only_from_a_fifth_of_the_step_on(reader_of: ReaderOf) -> None:
    assert only(judge(reader_of, {"steps": process(20, 0.4)})).severity == Severity.WARNING
    assert judge(reader_of, {"steps": process(20, 0.1)}).verdict == Verdict.HEALTHY
    short = judge(reader_of, {"steps": process(2, 0.4)})
    assert short.verdict == Verdict.UNKNOWN and "40 %" in short.checks[0].detail
    unseen = only(judge(reader_of, {"steps": [row | {"busy_ns": None} for row in process(20, 0.4)]}))
    assert unseen.confidence < 0.8 and "GPU activity" in unseen.missing
    nothing = [row | {"data_wait_ns": None} for row in process(20, 0.4)]
    assert "without peers" in judge(reader_of, {"steps": nothing}).checks[0].detail


@pytest.mark.data
def test_recorded_resnet50_is_starved_without_workers_and_not_with_four(data: Path, reader_of: ReaderOf) -> None:
    told = {}
    for workers in (0, 4):
        found: dict[str, list[pa.RecordBatch]] = {}
        for batch in read_paths([data / f"A-kineto/kineto/resnet50_num_workers_{workers}.pt.trace.json.gz"]).batches:
            found.setdefault(batch.table, []).append(batch.rows)
        told[workers] = judge(reader_of, {name: pa.Table.from_batches(rows) for name, rows in found.items()})
    assert "data loader in 39 %" in only(told[0]).summary and only(told[0]).subject.rank is None
    assert told[4].findings == () and told[4].verdict == Verdict.HEALTHY


def test_what_no_phase_accounts_for_is_a_matter_of_the_host_where_others_wait_for_it(
    reader_of: ReaderOf, train: Train
) -> None:
    """No activity of GPUs is known, and neither the data loader nor garbage collection is told of the late rank."""
    for seed in range(5):
        compute = noisy(seed)
        work = {"forward": ("compute", compute), "next batch": ("data", np.full_like(compute, 0.001))}
        late = only(judge(reader_of, blind(train(work, gap=gaps(seed, {3: 0.02}, 50)))))
        assert (late.kind, late.subject.rank) == (HOST, 3) and "neither computes nor communicates" in late.summary, seed
        assert late.onset.step is not None and abs(late.onset.step - 50) <= 2
        assert judge(reader_of, blind(train(work, gap=gaps(seed)))).findings == (), seed


def test_rows_that_got_lost_of_a_rank_are_no_gap_of_its_host(reader_of: ReaderOf, train: Train) -> None:
    """Others wait for a rank that computes longer, so that what is left of their steps is looked at."""
    for seed in range(3):
        compute = noisy(seed)
        compute[50:, 3] *= 1.3
        work = {
            "forward": ("compute", 0.4 * compute),
            "backward": ("compute", 0.6 * compute),
            "next batch": ("data", np.full_like(compute, 0.001)),
        }
        tables = blind(train(work, gap=gaps(seed)))
        rows = tables["phases"]
        chance = np.random.default_rng(seed).random(rows.num_rows)
        rank, phase = rows.column("rank").to_numpy(), np.array(rows.column("phase").to_pylist())
        lost = (rank == 5) & (phase == "backward") & (chance < 0.2)
        reader = reader_of(tables | {"phases": rows.filter(pa.array(~lost))})
        assert host_straggler.detect(reader).findings == (), seed
        *_, left = load_gaps(reader, "train", 0.11)
        known = left.times.groups[0].seconds[:, 5]
        assert np.nanmax(known) < 1.3 * np.nanmedian(known) and np.isnan(known).sum() == lost.sum(), seed
