"""Rare long steps that recur on somebody are told with the phase and the rank; schedules and varying work are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import sporadic_stall
from warpline_proto.finding import Finding, FindingKind, Report, Severity, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Reader]
Train = Callable[..., dict[str, Any]]
Times = npt.NDArray[np.float64]
Phases = dict[str, tuple[str, Times]]
AT = (23, 61, 64, 118, 171)
"""Steps that stall: irregular."""


def phases(seed: int, steps: int = 200, ranks: int = 8, jitter: float = 0.02) -> Phases:
    """Forward 35 ms, backward 60 ms, optimizer 5 ms."""
    random = np.random.default_rng(seed)
    return {
        name: (kind, seconds * np.exp(random.normal(0, jitter, (steps, ranks))))
        for name, kind, seconds in (
            ("forward-compute", "compute", 0.035), ("backward-compute", "compute", 0.06), ("optimizer", "optimizer", 0.005),
        )
    }  # fmt: skip


def spiked(work: Phases, phase: str, ranks: Sequence[int], steps: Sequence[int], factor: float) -> Phases:
    """The same, one phase of some ranks so many times as long in some steps."""
    kind, seconds = work[phase]
    longer = seconds.copy()
    longer[np.ix_(list(steps), list(ranks))] *= factor
    return work | {phase: (kind, longer)}


def judge(reader_of: ReaderOf, tables: Mapping[str, Any], **more: Any) -> Report:
    return sporadic_stall.detect(reader_of({**tables, **more}))


def only(report: Report) -> Finding:
    """The one finding."""
    assert len(report.findings) == 1, report
    return report.findings[0]


def test_backward_spikes_of_40_times_on_one_rank_are_told_with_phase_rank_and_cost(
    reader_of: ReaderOf, train: Train
) -> None:
    finding = only(judge(reader_of, train(spiked(phases(1), "backward-compute", [5], AT, 40))))
    assert (finding.kind, finding.severity, finding.subject.rank) == (
        FindingKind.SPORADIC_STALL, Severity.WARNING, 5,
    )  # fmt: skip
    assert finding.summary.startswith("Backward-compute on rank 5 stalls in 5 of 200 steps")
    assert finding.onset.step == 23 and "compilation" in finding.next_step
    assert finding.cost.seconds_per_step == pytest.approx(0.06 * 39 * 5 / 200, rel=0.1)
    assert {row["step"] for row in finding.evidence[0].rows} == set(AT)


def test_compilation_on_every_rank_at_once_or_in_turn_is_told_of_the_job(reader_of: ReaderOf, train: Train) -> None:
    together = spiked(phases(2), "backward-compute", range(8), AT, 40)
    in_turn = phases(2)
    for number, step in enumerate((*AT, 90, 140, 188)):
        in_turn = spiked(in_turn, "backward-compute", [number], [step], 40)
    for work in (together, in_turn):
        finding = only(judge(reader_of, train(work)))
        assert finding.subject.named() == {"job": "train"} and "8 ranks in turn" in finding.summary


def test_the_kernel_behind_it_is_named_or_that_launches_fail_to_come(reader_of: ReaderOf, train: Train) -> None:
    tables = train(spiked(phases(3), "backward-compute", [5], AT, 40))
    names = [{"kernel_id": 1, "name": "gemm"}, {"kernel_id": 2, "name": "flash_bwd"}]

    def clusters(factor: float) -> list[dict[str, Any]]:
        return [
            {"job": "train", "rank": 5, "step": step, "kernel_id": kernel, "category": "compute", "count": 9,
             "p50_ns": 10**6, "max_ns": int(10**6 * (factor if step in AT and kernel == 2 else 1.1))}
            for step in range(200) for kernel in (1, 2)
        ]  # fmt: skip

    slow = only(judge(reader_of, tables, kernel_clusters=clusters(50.0), kernel_names=names))
    assert "kernel flash_bwd then takes 50 times" in slow.summary
    sparse = only(judge(reader_of, tables, kernel_clusters=clusters(1.1), kernel_names=names))
    assert "launches fail to come" in sparse.summary and "cache on disk" in sparse.next_step


def test_without_phases_the_rank_is_told_by_the_part_of_the_step_that_grew(reader_of: ReaderOf, train: Train) -> None:
    late = np.full((200, 8), 0.003)
    late[list(AT), 2] += 0.3
    for work, gap in ((phases(4), late), (spiked(phases(4), "backward-compute", [2], AT, 6), 0.003)):
        tables = train(work, gap=gap)
        finding = only(judge(reader_of, {"steps": tables["steps"]}))
        assert finding.subject.rank == 2 and "5 of 200 steps" in finding.summary
        assert finding.evidence[0].rows[0]["rank"] == 2


def test_collections_of_garbage_by_turns_are_told(reader_of: ReaderOf, train: Train) -> None:
    collecting = np.zeros((200, 8))
    for number, step in enumerate((11, 20, 57, 93, 130, 166)):
        collecting[step, number] = 0.5
    finding = only(judge(reader_of, train(phases(5) | {"gc": ("host", collecting)})))
    assert finding.summary.startswith("Gc on 6 ranks in turn") and "gc." in finding.next_step


def test_fifty_healthy_jobs_are_healthy(reader_of: ReaderOf, train: Train) -> None:
    for seed in range(50):
        report = judge(reader_of, train(phases(seed, steps=60)))
        assert (report.verdict, report.findings) == (Verdict.HEALTHY, ()), seed


def test_checkpoints_at_an_equal_period_are_a_schedule(reader_of: ReaderOf, train: Train) -> None:
    pause = np.zeros(200)
    pause[19::40] = 5.0
    report = judge(reader_of, train(phases(6), pause=pause))
    assert report.findings == () and report.verdict == Verdict.HEALTHY and "equal period" in report.checks[0].detail
    collecting = np.zeros((200, 8))
    collecting[19::40] = 0.5
    assert judge(reader_of, train(phases(6) | {"gc": ("host", collecting)})).findings == ()


def test_pauses_of_all_ranks_that_nothing_explains_accuse_nobody(reader_of: ReaderOf, train: Train) -> None:
    pause = np.zeros(200)
    pause[list(AT)] = 5.0
    report = judge(reader_of, train(phases(7), pause=pause))
    assert report.findings == () and report.verdict == Verdict.UNKNOWN


def test_varying_work_a_spell_and_a_lasting_slowness_are_no_stalls(reader_of: ReaderOf, train: Train) -> None:
    for seed in range(10):
        assert judge(reader_of, train(phases(seed, jitter=0.5))).findings == (), seed
    for steps, factor in ((range(60, 75), 12), (range(40, 200), 3), (range(0, 200, 7), 12)):
        assert judge(reader_of, train(spiked(phases(8), "backward-compute", [3], steps, factor))).findings == ()


def test_alternating_steps_and_accumulated_gradients_are_no_stalls(reader_of: ReaderOf, train: Train) -> None:
    alternating = spiked(phases(9), "forward-compute", range(8), range(0, 200, 2), 4)
    assert judge(reader_of, train(alternating)).findings == ()
    boundary = train(spiked(phases(9), "optimizer", range(8), range(15, 200, 16), 30))
    assert judge(reader_of, {"steps": boundary["steps"]}).findings == ()


def test_two_spikes_and_spikes_that_cost_nothing_are_not_told(reader_of: ReaderOf, train: Train) -> None:
    for work in (
        spiked(phases(10), "backward-compute", [5], AT[:2], 40),
        spiked(phases(10), "optimizer", [5], AT[:3], 6),
    ):
        assert judge(reader_of, train(work)).verdict == Verdict.HEALTHY


def test_too_few_steps_cannot_be_told(reader_of: ReaderOf, train: Train) -> None:
    report = judge(reader_of, train(phases(11, steps=20)))
    assert report.verdict == Verdict.UNKNOWN and "30 needed" in report.checks[0].detail


def test_names_clocks_and_units_do_not_matter(reader_of: ReaderOf, train: Train) -> None:
    work = spiked(phases(12), "backward-compute", [5], AT, 40)
    plain = only(judge(reader_of, train(work)))
    order = np.random.default_rng(0).permutation(8)
    assert only(judge(reader_of, train(work, order=order))).subject.rank == order[5]
    skewed = only(judge(reader_of, train(work, skew_ns=3_600_000_000_000)))
    assert (skewed.summary, skewed.id) == (plain.summary, plain.id)
    scaled = {name: (kind, seconds * 100) for name, (kind, seconds) in work.items()}
    assert only(judge(reader_of, train(scaled))).id == plain.id


def test_a_stall_of_half_a_step_is_seen_beside_the_ranks_that_do_the_same_work(
    reader_of: ReaderOf, train: Train
) -> None:
    """Lengths of sequences make steps vary by as much, but for all ranks alike."""
    for seed in range(5):
        random = np.random.default_rng(seed)
        work = phases(seed)
        lengths = random.lognormal(0, 0.2, (200, 1))
        varying = {name: (kind, seconds * lengths) for name, (kind, seconds) in work.items()}
        assert judge(reader_of, train(varying)).findings == (), seed
        finding = only(judge(reader_of, train(spiked(varying, "backward-compute", [seed], AT, 1.9))))
        assert (finding.kind, finding.subject.rank) == (FindingKind.SPORADIC_STALL, seed)
        assert finding.onset.step == AT[0]


def test_small_hiccups_of_one_rank_after_another_and_pauses_of_all_are_no_stalls(
    reader_of: ReaderOf, train: Train
) -> None:
    in_turn = phases(7)
    for number, step in enumerate((*AT, 90, 140, 188)):
        in_turn = spiked(in_turn, "backward-compute", [number], [step], 1.9)
    uneven = spiked(phases(8), "backward-compute", range(8), AT, 3)
    uneven = spiked(uneven, "backward-compute", [2], AT, 1.3)
    for work in (in_turn, uneven):
        assert judge(reader_of, train(work)).findings == ()


def test_three_equal_stalls_of_one_in_eight_are_enough_and_small_hiccups_of_others_hide_none(
    reader_of: ReaderOf, train: Train
) -> None:
    """That all three hit one rank and took alike long is no chance; of sizes that differ four are needed."""
    alike = spiked(phases(13), "backward-compute", [5], (*AT[:4:3], 90), 3)
    assert only(judge(reader_of, train(alike))).subject.rank == 5
    unlike = phases(13)
    for step, factor in zip((23, 90, 118), (1.3, 2, 7), strict=True):
        unlike = spiked(unlike, "backward-compute", [5], [step], factor)
    assert judge(reader_of, train(unlike)).findings == ()
    beside = spiked(phases(13), "backward-compute", [5], AT, 2.5)
    for number, step in enumerate((40, 77, 111, 160)):
        beside = spiked(beside, "backward-compute", [number], [step], 1.4)
    assert only(judge(reader_of, train(beside))).subject.rank == 5


def test_what_one_rank_does_every_so_many_steps_is_a_schedule(reader_of: ReaderOf, train: Train) -> None:
    """The first rank saves and logs for all."""
    saving = np.full((200, 8), 0.003)
    saving[19::40, 0] += 0.06
    for gap, found in ((saving, 0), (np.roll(saving, 7, axis=0) * np.linspace(1, 1.01, 200)[:, None], 0)):
        assert len(judge(reader_of, train(phases(14), gap=gap)).findings) == found
    strewn = np.full((200, 8), 0.003)
    strewn[list(AT), 0] += 0.06
    assert only(judge(reader_of, train(phases(14), gap=strewn))).subject.rank == 0


def test_checkpoints_of_all_ranks_beside_it_do_not_hide_whose_gpu_lacks_work(reader_of: ReaderOf, train: Train) -> None:
    late = np.full((200, 8), 0.003)
    late[49::50] += 0.25
    late[list(AT), 2] += 0.3
    finding = only(judge(reader_of, {"steps": train(phases(15), gap=late)["steps"]}))
    assert finding.subject.rank == 2 and finding.onset.step == AT[0] and "5 of 200 steps" in finding.summary
