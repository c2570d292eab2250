"""What an operator relies on in a finding of slow compute: it says which kernels are slow, and the evidence runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warpline_analysis.detectors import straggler
from warpline_analysis.distributions import COLUMNS, Distribution, distance, of_rows
from warpline_analysis.kernel_families import family
from warpline_analysis.kernel_level import NO_CLUSTERS, STEPS_MAX, compare, told
from warpline_proto.clusters import cluster
from warpline_proto.tables import KERNEL_CLUSTERS

ReaderOf = Callable[[Mapping[str, Any]], Any]
KERNELS = {
    1: ("gemm", 300_000.0),
    2: ("flash_fwd", 200_000.0),
    3: ("elementwise", 10_000.0),
    4: ("ncclDevKernel_AllReduce", 4e6),
}


def clusters_of(durations: Any, **columns: Any) -> list[dict[str, Any]]:
    found = cluster(np.rint(durations).astype(np.int64))
    return [
        columns | {"cluster_index": index} | {name: getattr(each, name) for name in COLUMNS}
        for index, each in enumerate(found)
    ]


def kernels(
    steps: int, ranks: int, factor: Callable[[int, int], float], launches: int = 20
) -> dict[str, list[dict[str, Any]]]:
    """Clusters beside the phases of `train`; `factor` of (rank, kernel)."""
    random = np.random.default_rng(7)
    rows = [
        row
        for step in range(steps)
        for rank in range(ranks)
        for kernel, (_, middle) in KERNELS.items()
        for row in clusters_of(
            middle * factor(rank, kernel) * np.exp(random.normal(0, 0.03, launches)),
            job="train", rank=rank, dp=rank, step=step, start_ns=step, kernel_id=kernel, stream=7,
            category="communication" if kernel == 4 else "compute",
        )
    ]  # fmt: skip
    return {
        "kernel_clusters": rows,
        "kernel_names": [{"kernel_id": each, "name": name} for each, (name, _) in KERNELS.items()],
    }


def slow_job(train: Callable[..., Any], factor: Callable[[int, int], float]) -> dict[str, Any]:
    work = 0.1 * np.exp(np.random.default_rng(1).normal(0, 0.01, (40, 8)))
    work[:, 3] *= 1.4
    return dict(train(work)) | kernels(12, 8, factor)


def test_a_slow_rank_is_told_with_its_kernels(reader_of: ReaderOf, train: Callable[..., Any]) -> None:
    reader = reader_of(slow_job(train, lambda rank, kernel: 1.4 if rank == 3 and kernel != 4 else 1.0))
    (found,) = straggler.detect(reader).findings
    assert found.subject.rank == 3
    assert "3 of its 3 comparable compute kernels are slow" in found.summary
    assert found.next_step.startswith("Read clocks")
    last = found.evidence[-1]
    assert {row["kernel"]: row["ratio"] for row in last.rows} == pytest.approx(
        {"gemm": 1.4, "flash_fwd": 1.4, "elementwise": 1.4}, rel=0.02
    )
    assert reader.query(last.sql).to_pylist() == list(last.rows)
    assert any("Wasserstein" in text for text in found.ruled_out)
    assert NO_CLUSTERS not in found.missing


def test_long_communication_kernels_blame_nobody(reader_of: ReaderOf, train: Callable[..., Any]) -> None:
    """The slow rank's compute kernels are even: its time went elsewhere, and the finding says so."""
    reader = reader_of(slow_job(train, lambda rank, kernel: 3.0 if rank == 3 and kernel == 4 else 1.0))
    (found,) = straggler.detect(reader).findings
    assert "none of its 3 comparable compute kernels is slow" in found.summary
    assert not found.next_step.startswith("Read clocks")


def test_without_clusters_the_finding_says_what_is_missing(reader_of: ReaderOf, train: Callable[..., Any]) -> None:
    tables = {
        name: rows for name, rows in slow_job(train, lambda rank, kernel: 1.0).items() if not name.startswith("kernel")
    }
    (found,) = straggler.detect(reader_of(tables)).findings
    assert NO_CLUSTERS in found.missing


def test_few_steps_and_ranks_are_read(reader_of: ReaderOf) -> None:
    level = compare(reader_of(kernels(30, 8, lambda rank, kernel: 1.0)), "train", [3], [0, 1, 2], 5)
    assert level is not None
    assert level.steps == (30 - STEPS_MAX, 29)
    assert (level.peers, level.slow) == (3, ())


@pytest.mark.parametrize(
    ("slow", "words"),
    [
        ({1}, "one family (matrix product)"),
        ({1, 2}, "bound by arithmetic"),
        ({3}, "bound by memory"),
        ({1, 2, 3}, "all alike"),
    ],
)
def test_what_is_slow_together_says_what_to_look_at(reader_of: ReaderOf, slow: set[int], words: str) -> None:
    reader = reader_of(kernels(8, 8, lambda rank, kernel: 1.3 if rank == 3 and kernel in slow else 1.0))
    level = compare(reader, "train", [3], [0, 1, 2, 4], None)
    assert level is not None
    assert words in told(level)


def test_only_the_tail_is_told_apart_from_every_launch(reader_of: ReaderOf) -> None:
    tables = kernels(8, 4, lambda rank, kernel: 1.0, launches=100)
    random = np.random.default_rng(2)
    others = [row for row in tables["kernel_clusters"] if row["rank"] != 3 or row["kernel_id"] != 1]
    stalls = [
        row
        for step in range(8)
        for row in clusters_of(
            300_000 * np.exp(random.normal(0, 0.03, 100)) * np.where(np.arange(100) % 33 == 0, 12.0, 1.0),
            job="train", rank=3, step=step, start_ns=step, kernel_id=1, stream=7, category="compute",
        )
    ]  # fmt: skip
    level = compare(reader_of(tables | {"kernel_clusters": others + stalls}), "train", [3], [0, 1, 2], None)
    assert level is not None
    assert "only their slowest launches differ" in told(level)


@pytest.mark.parametrize("runs", [False, True])
def test_a_distribution_rebuilt_from_clusters_is_near_the_durations(runs: bool) -> None:
    """Two modes; count and mean are exact, quantiles near, and the distance to a shifted copy is the shift."""
    random = np.random.default_rng(1)
    modes = np.concatenate([random.lognormal(np.log(1e5), 0.05, 600), random.lognormal(np.log(1e6), 0.05, 400)])

    def rebuilt(durations: Any) -> Distribution:
        rows = clusters_of(durations)
        if runs:
            found = cluster(np.rint(durations).astype(np.int64))
            rows = [
                row | {"run_counts": [run[0] for run in each.runs], "run_means_ns": [run[1] for run in each.runs]}
                for row, each in zip(rows, found, strict=True)
            ]
        return of_rows(pa.Table.from_batches([KERNEL_CLUSTERS.from_rows(rows)]))

    one, other = rebuilt(modes), rebuilt(modes * 1.2)
    assert one.launches == 1000
    assert one.mean_ns == pytest.approx(np.rint(modes).mean(), rel=1e-9)
    for share in (0.1, 0.3, 0.7, 0.9):
        assert one.quantile_ns(share) == pytest.approx(np.quantile(modes, share), rel=0.05)
    far = distance(one, other)
    assert far.wasserstein_ns == pytest.approx(0.2 * modes.mean(), rel=0.03)
    assert distance(one, one).wasserstein_ns == 0.0


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ampere_bf16_s16816gemm_bf16_128x128", "matrix product"),
        ("void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<128>>", "attention"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>", "copy"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...Adam...>", "optimizer"),
        ("_Z9something", "other"),
    ],
)
def test_families_by_name(name: str, wanted: str) -> None:
    assert family(name) == wanted
