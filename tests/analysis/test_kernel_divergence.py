"""What an operator relies on at kernel level: a kernel slow on some ranks is found, and work that differs accuses nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from warpline_analysis.detectors import kernel_divergence
from warpline_analysis.distributions import COLUMNS
from warpline_proto.clusters import cluster
from warpline_proto.finding import Finding, FindingKind, Report, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Any]
Factor = Callable[[int, int, str], float]
BEGIN_NS = 1_700_000_000_000_000_000
KERNELS = {
    "ampere_bf16_s16816gemm_128x128": (24, 300_000.0, 0.03),
    "flash_fwd_kernel": (12, 200_000.0, 0.03),
    "layer_norm_kernel": (24, 20_000.0, 0.08),
    "vectorized_elementwise_kernel": (60, 9_000.0, 0.3),
}
"""Launches a step, median in ns, scatter of the logarithm."""


def one(step: int, rank: int, name: str) -> float:
    """Every kernel as fast as it should be."""
    return 1.0


def job(
    factor: Factor = one, ranks: int = 8, steps: int = 12, stages: int = 1, seed: int = 1, experts: int = 1,
    launches: Callable[[int, int, str], int] | None = None, renamed: Callable[[int, str], str] = lambda rank, name: name,
    kernels: Mapping[str, tuple[int, float, float]] = KERNELS, category: str = "compute",
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Clusters of a job that tells nothing else; the codec of the agent makes them of single launches."""
    random = np.random.default_rng(seed)
    names: dict[str, int] = {}
    rows = []
    replicas = ranks // stages
    for step in range(steps):
        for rank in range(ranks):
            for name, (count, middle, scatter) in kernels.items():
                number = count if launches is None else launches(step, rank, name)
                durations = middle * factor(step, rank, name) * np.exp(random.normal(0, scatter, number))
                called = renamed(rank, name)
                kernel = names.setdefault(called, 100 + len(names))
                rows += list(_rows(durations, step, rank, replicas, stages, experts, kernel, category))
    return {
        "kernel_clusters": rows,
        "kernel_names": [{"kernel_id": each, "name": name} for name, each in names.items()],
    }


def _rows(
    durations: npt.NDArray[np.float64],
    step: int,
    rank: int,
    replicas: int,
    stages: int,
    experts: int,
    kernel: int,
    category: str,
) -> Iterable[dict[str, Any]]:
    place = {"dp": rank % replicas, "pp": rank // replicas if stages > 1 else None}
    if experts > 1:
        place["ep"] = (rank % replicas) % experts
    for index, found in enumerate(cluster(np.rint(durations).astype(np.int64))):
        yield {
            "job": "train", "rank": rank, "node": f"node{rank // 4}", "step": step, "start_ns": BEGIN_NS + step * 10**9,
            "clock": f"realtime@node{rank // 4}", "stream": 7, "kernel_id": kernel, "category": category,
            "cluster_index": index, **place, **{name: getattr(found, name) for name in COLUMNS},
        }  # fmt: skip


def asked(reader_of: ReaderOf, tables: Mapping[str, Any]) -> Report:
    return kernel_divergence.detect(reader_of(tables))


def the_one(report: Report) -> Finding:
    """The only finding, its queries run."""
    (found,) = report.findings
    assert all(item.rows for item in found.evidence)
    return found


def test_one_slow_kernel_is_named_where_nothing_but_kernels_is_recorded(reader_of: ReaderOf) -> None:
    found = the_one(asked(reader_of, job(lambda step, rank, name: 1.4 if rank == 5 and "gemm" in name else 1.0)))
    assert (found.kind, found.subject.rank, found.subject.node) == (FindingKind.COMPUTE_STRAGGLER, 5, "node1")
    assert "1 of its 4 comparable compute kernels are slow" in found.summary
    assert "one family (matrix product)" in found.summary
    assert found.onset.step == 0
    assert found.cost.seconds_per_step == pytest.approx(24 * 300e-6 * 0.4, rel=0.1)
    assert found.evidence[0].rows[0]["rank"] == 5
    assert found.evidence[-1].rows[0]["kernel"] == "ampere_bf16_s16816gemm_128x128"
    assert found.evidence[-1].rows[0]["ratio"] == pytest.approx(1.4, rel=0.03)


def test_all_kernels_alike_point_to_the_clock(reader_of: ReaderOf) -> None:
    found = the_one(asked(reader_of, job(lambda step, rank, name: 1.3 if rank == 2 and step >= 4 else 1.0)))
    assert found.subject.rank == 2
    assert found.onset.step == 4
    assert "4 of its 4 comparable compute kernels are slow" in found.summary
    assert "all alike" in found.summary
    assert found.next_step.startswith("Read clocks")


def test_kernels_bound_by_memory_point_to_memory(reader_of: ReaderOf) -> None:
    def factor(step: int, rank: int, name: str) -> float:
        return 1.6 if rank == 3 and ("norm" in name or "elementwise" in name) else 1.0

    found = the_one(asked(reader_of, job(factor)))
    assert found.subject.rank == 3
    assert "bound by memory" in found.summary
    assert found.next_step.startswith("Read ECC")


def test_many_small_kernels_that_each_cost_little_are_found_together(reader_of: ReaderOf) -> None:
    kernels = {f"kernel_{number}": (4, 50_000.0, 0.03) for number in range(80)}
    found = the_one(
        asked(reader_of, job(lambda step, rank, name: 1.2 if rank == 6 else 1.0, steps=12, kernels=kernels))
    )
    assert found.subject.rank == 6
    assert "compute kernels together" in found.summary


@pytest.mark.parametrize("slow", [(0, 1), (4, 5, 6, 7)])
def test_half_of_the_ranks_and_small_groups(reader_of: ReaderOf, slow: tuple[int, ...]) -> None:
    """Two of four, and four of eight: a fence around the middle would see nothing."""
    ranks = 4 if len(slow) == 2 else 8
    report = asked(reader_of, job(lambda step, rank, name: 1.5 if rank in slow else 1.0, ranks=ranks))
    found = the_one(report)
    assert found.subject.rank is None
    assert found.subject.group == f"ranks {', '.join(map(str, slow))}"


def test_a_slow_rank_is_found_in_a_group_of_four(reader_of: ReaderOf) -> None:
    found = the_one(asked(reader_of, job(lambda step, rank, name: 1.2 if rank == 1 else 1.0, ranks=4)))
    assert found.subject.rank == 1


@pytest.mark.parametrize("seed", range(8))
def test_even_kernels_accuse_nobody(reader_of: ReaderOf, seed: int) -> None:
    report = asked(reader_of, job(seed=seed, ranks=(4, 8, 16)[seed % 3]))
    assert report.findings == ()
    assert [check.verdict for check in report.checks] == [Verdict.HEALTHY]


@pytest.mark.parametrize("seed", range(4))
def test_sequence_lengths_that_vary_accuse_nobody(reader_of: ReaderOf, seed: int) -> None:
    """Attention grows with the square of the length, and in each step another rank has the longest."""
    length = np.random.default_rng(seed).uniform(0.5, 1.5, (30, 8))
    report = asked(
        reader_of,
        job(lambda step, rank, name: float(length[step, rank]) ** (2 if "flash" in name else 1), steps=30, seed=seed),
    )
    assert report.findings == ()


def test_a_replica_with_longer_sequences_is_no_slow_gpu(reader_of: ReaderOf) -> None:
    """It takes longer at every stage."""
    report = asked(reader_of, job(lambda step, rank, name: 1.5 if rank % 4 == 1 else 1.0, ranks=16, stages=4))
    assert report.findings == ()
    assert "sequence lengths" in report.checks[0].missing


def test_a_kernel_of_one_stage_is_compared_on_that_stage_alone(reader_of: ReaderOf) -> None:
    """The last stage has the loss, the first the embedding."""

    def renamed(rank: int, name: str) -> str:
        return "cross_entropy_kernel" if rank >= 6 and "norm" in name else name

    assert asked(reader_of, job(ranks=8, stages=4, renamed=renamed)).findings == ()
    slow = job(
        lambda step, rank, name: 2.0 if rank == 7 and "flash" in name else 1.0,
        ranks=8,
        stages=4,
        renamed=renamed,
        steps=16,
    )
    assert the_one(asked(reader_of, slow)).subject.rank == 7


def test_another_algorithm_chosen_on_some_ranks_accuses_nobody(reader_of: ReaderOf) -> None:
    """Two ranks run other kernels under other names; those are a little slower than each other."""

    def renamed(rank: int, name: str) -> str:
        return name.replace("128x128", "256x64") if rank in (2, 3) else name

    def factor(step: int, rank: int, name: str) -> float:
        return 1.15 if rank == 3 and "gemm" in name else 1.0

    report = asked(reader_of, job(factor, renamed=renamed, ranks=16, stages=2))
    assert report.findings == ()


def test_more_launches_are_more_work(reader_of: ReaderOf) -> None:
    """An expert that is popular for good runs its kernel more often, and on larger inputs."""

    def launches(step: int, rank: int, name: str) -> int:
        count = KERNELS[name][0]
        return 2 * count if rank == 1 and "gemm" in name else count

    def factor(step: int, rank: int, name: str) -> float:
        return 1.3 if rank == 1 and "gemm" in name else 1.0

    report = asked(reader_of, job(factor, launches=launches))
    assert report.findings == ()


def test_routing_that_moves_between_experts_accuses_nobody(reader_of: ReaderOf) -> None:
    load = np.random.default_rng(3).dirichlet(np.full(8, 4.0), 20) * 8

    def factor(step: int, rank: int, name: str) -> float:
        return float(load[step, rank]) if "gemm" in name else 1.0

    report = asked(reader_of, job(factor, steps=20, experts=4))
    assert report.findings == ()


def test_lost_records_accuse_nobody(reader_of: ReaderOf) -> None:
    """A tenth of the clusters of one rank never arrived, and a burst of another rank's."""
    tables = job(seed=4)
    random = np.random.default_rng(5)
    kept = [
        row
        for row in tables["kernel_clusters"]
        if not (row["rank"] == 3 and random.random() < 0.1) and not (row["rank"] == 6 and 4 <= row["step"] < 8)
    ]
    report = asked(reader_of, tables | {"kernel_clusters": kept})
    assert report.findings == ()


def test_few_steps_are_too_few(reader_of: ReaderOf) -> None:
    report = asked(reader_of, job(lambda step, rank, name: 2.0 if rank == 1 else 1.0, steps=2))
    assert report.findings == ()
    assert report.checks[0].verdict == Verdict.UNKNOWN
    assert "2 steps" in report.checks[0].detail


def test_a_slow_past_is_past(reader_of: ReaderOf) -> None:
    report = asked(reader_of, job(lambda step, rank, name: 1.5 if rank == 1 and step < 12 else 1.0, steps=30))
    assert report.findings == ()


def test_a_kernel_that_even_totals_hide_is_found(reader_of: ReaderOf, train: Callable[..., Any]) -> None:
    """Compute and phases are even within two percent; one kernel of one rank takes twice its time, others less."""
    work = 0.1 * np.exp(np.random.default_rng(1).normal(0, 0.01, (12, 8)))
    above = train(work)

    def factor(step: int, rank: int, name: str) -> float:
        return 1.5 if rank == 4 and "flash" in name else 1.0

    found = the_one(asked(reader_of, above | job(factor)))
    assert (found.subject.rank, found.kind) == (4, FindingKind.COMPUTE_STRAGGLER)
    assert "do not stand out" in found.summary


def test_what_compute_as_a_whole_shows_is_left_to_it(reader_of: ReaderOf, train: Callable[..., Any]) -> None:
    """One accusation is enough."""
    work = 0.1 * np.exp(np.random.default_rng(1).normal(0, 0.01, (12, 8)))
    work[:, 4] *= 1.5
    report = asked(reader_of, train(work) | job(lambda step, rank, name: 1.5 if rank == 4 else 1.0))
    assert report.findings == ()
    assert report.checks[0].verdict == Verdict.HEALTHY
