"""What an operator relies on where only communication kernels are known: a slow link is found, and nobody waiting is blamed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detectors import kernel_divergence
from warpline_analysis.distributions import COLUMNS
from warpline_proto.clusters import cluster
from warpline_proto.finding import FindingKind, Report, Verdict

ReaderOf = Callable[[Mapping[str, Any]], Any]
RANKS, EXPERTS, LAUNCHES = 32, 4, 12
TRANSFER_NS = 2e6


def expert_group(rank: int) -> int:
    """Replicas that hold the same experts reduce their gradients with each other."""
    return rank % EXPERTS


def job(
    slow_group: int | None = None, factor: float = 2.0, late: Mapping[int, float] | None = None, jitter: float = 0.3,
    steps: int = 12, from_step: int = 0, seed: int = 1, communicators: bool = False,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """One reduction per layer inside each expert-data-parallel group; `late` ranks arrive so many ns after the others.

    Every launch synchronises its group: its members' durations are the transfer and what each waited for the last.
    """
    random = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        arrival = random.exponential(jitter * TRANSFER_NS, (LAUNCHES, RANKS))
        for rank, delay in (late or {}).items():
            arrival[:, rank] += delay
        for group in range(EXPERTS):
            members = [rank for rank in range(RANKS) if expert_group(rank) == group]
            degraded = factor if group == slow_group and step >= from_step else 1.0
            transfer = TRANSFER_NS * degraded * np.exp(random.normal(0, 0.04, (LAUNCHES, 1)))
            spent = transfer + arrival[:, members].max(axis=1, keepdims=True) - arrival[:, members]
            rows += [row for at, rank in enumerate(members) for row in _rows(spent[:, at], step, rank)]
    tables = {
        "kernel_clusters": rows,
        "kernel_names": [{"kernel_id": 7, "name": "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL"}],
    }
    if communicators:
        tables["communicators"] = [
            {
                "job": "train",
                "rank": rank,
                "communicator": f"edp{expert_group(rank)}",
                "group_kind": "dp",
                "nranks": 8,
                "pp": None,
            }
            for rank in range(RANKS)
        ]
    return tables


def _rows(durations: Any, step: int, rank: int) -> list[dict[str, Any]]:
    place = {"job": "train", "rank": rank, "dp": rank, "tp": 0, "ep": expert_group(rank), "node": f"node{rank // 8}"}
    window = {"step": step, "start_ns": 1_700_000_000_000_000_000 + step * 10**9, "clock": "realtime@n", "stream": 20}
    kernel = {"kernel_id": 7, "category": "communication"}
    return [
        {**place, **window, **kernel, "cluster_index": index, **{name: getattr(found, name) for name in COLUMNS}}
        for index, found in enumerate(cluster(np.rint(durations).astype(np.int64)))
    ]


def asked(reader_of: ReaderOf, tables: Mapping[str, Any]) -> Report:
    return kernel_divergence.detect(reader_of(tables))


@pytest.mark.parametrize("communicators", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_slow_link_inside_one_expert_group_is_found_by_kernels_alone(
    reader_of: ReaderOf, seed: int, communicators: bool
) -> None:
    """ARGUS' second case: nothing but durations of NCCL kernels, iteration time flat; chosen magnitude: twice the transfer."""
    report = asked(reader_of, job(2, seed=seed, communicators=communicators))
    (found,) = report.findings
    assert found.kind == FindingKind.LINK_DEGRADATION
    assert found.subject.rank is None
    assert found.subject.group == "ranks 2, 6, 10, 14, 18, 22, 26, 30"
    assert found.subject.communicator == ("edp2" if communicators else None)
    rows = found.evidence[0].rows
    assert rows[0]["first_rank"] == 2
    assert rows[0]["transfer_microseconds"] > 1.4 * rows[1]["transfer_microseconds"]
    assert found.cost.seconds_per_step == pytest.approx(LAUNCHES * TRANSFER_NS / 1e9, rel=0.35)


def test_it_is_dated(reader_of: ReaderOf) -> None:
    (found,) = asked(reader_of, job(1, steps=30, from_step=14)).findings
    assert found.onset.step == 14


@pytest.mark.parametrize("seed", range(6))
def test_even_links_accuse_nobody(reader_of: ReaderOf, seed: int) -> None:
    report = asked(reader_of, job(seed=seed))
    assert report.findings == ()
    assert Verdict.HEALTHY in {check.verdict for check in report.checks}


@pytest.mark.parametrize("late", [{6: 5e6}, {6: 2e7, 9: 1e7}, {2: 8e6, 10: 8e6}])
def test_a_late_rank_makes_its_group_wait_and_blames_no_link(reader_of: ReaderOf, late: Mapping[int, float]) -> None:
    """All others of its group run the kernel for many times as long; the late one does not."""
    assert asked(reader_of, job(late=late)).findings == ()


def test_a_missing_member_blames_no_link(reader_of: ReaderOf) -> None:
    """The late rank's rows are lost: what is left of its group only waits."""
    tables = job(late={6: 2e7})
    kept = [row for row in tables["kernel_clusters"] if row["rank"] != 6]
    assert asked(reader_of, tables | {"kernel_clusters": kept}).findings == ()


def test_timed_collectives_are_left_to_the_detector_of_links(reader_of: ReaderOf) -> None:
    timed = [
        {"job": "train", "rank": 0, "communicator": "c", "sequence": 1, "operation": "all_reduce", "duration_ns": 1}
    ]
    report = asked(reader_of, job(2) | {"collectives": timed})
    assert report.findings == ()
