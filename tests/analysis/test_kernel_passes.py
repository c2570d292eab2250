"""A rank of a pipeline that is slow in the backward pass alone is told as that where only kernels say so, and no other is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import kernel_divergence, straggler
from warpline_analysis.distributions import COLUMNS
from warpline_analysis.kernel_excess import Kernel, backward_alone
from warpline_proto.clusters import cluster
from warpline_proto.finding import Finding, FindingKind

ReaderOf = Callable[[Mapping[str, Any]], Reader]
KERNELS = {
    "flash_fwd_kernel<128>": (20, 200_000.0, "ahead"),
    "flash_bwd_dq_dk_dv_kernel<128>": (20, 500_000.0, "back"),
    "ampere_bf16_s16816gemm_128x128": (40, 300_000.0, "shared"),
    "vectorized_elementwise_kernel<4>": (60, 20_000.0, "shared"),
}
"""Launches a step, median in ns, and the pass."""
BACKWARD = {"back": 1.4, "ahead": 1.0, "shared": 1.2}
WHOLE = {"back": 1.4, "ahead": 1.4, "shared": 1.4}
RANKS, STEPS, VICTIM = 8, 40, 5


def tables(
    factors: Mapping[str, float], stages: int = 2, renamed: Callable[[str], str] = lambda name: name, seed: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """Clusters of a job, one rank slow by `factors` of each pass, and a total of its compute beside them."""
    random = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, Any]]] = {"kernel_clusters": [], "steps": []}
    for step in range(STEPS):
        for rank in range(RANKS):
            place = {"job": "train", "rank": rank, "dp": rank % (RANKS // stages), "step": step, "node": "node0"}
            place["pp"] = rank // (RANKS // stages) if stages > 1 else None
            total = 0
            for number, (count, middle, of_pass) in enumerate(KERNELS.values()):
                slow = factors[of_pass] if rank == VICTIM else 1.0
                durations = np.rint(middle * slow * np.exp(random.normal(0, 0.03, count))).astype(np.int64)
                total += int(durations.sum())
                rows["kernel_clusters"] += [
                    place
                    | {
                        "start_ns": step,
                        "stream": 7,
                        "kernel_id": number,
                        "category": "compute",
                        "cluster_index": index,
                    }
                    | {name: getattr(found, name) for name in COLUMNS}
                    for index, found in enumerate(cluster(durations))
                ]
            rows["steps"].append(place | {"scope": "step", "duration_ns": 10**8, "compute_ns": total})
    rows["kernel_names"] = [{"kernel_id": at, "name": renamed(name)} for at, name in enumerate(KERNELS)]
    return rows


def told(reader_of: ReaderOf, rows: Mapping[str, Any]) -> list[Finding]:
    """By totals and kernels, then by kernels alone; each names the rank."""
    alone = {name: each for name, each in rows.items() if name != "steps"}
    found = [straggler.detect(reader_of(rows)).findings, kernel_divergence.detect(reader_of(alone)).findings]
    assert [[each.subject.rank for each in one] for one in found] == [[VICTIM], [VICTIM]]
    return [one[0] for one in found]


def test_slow_backward_kernels_beside_even_forward_kernels_are_one_phase_of_a_pipeline(reader_of: ReaderOf) -> None:
    for finding in told(reader_of, tables(BACKWARD)):
        assert finding.kind == FindingKind.PIPELINE_BUBBLE
        assert "those of the backward pass and not those of the forward pass" in finding.summary
        assert finding.next_step.startswith("Compare its backward kernels")


def test_a_rank_whose_kernels_are_all_slow_is_a_slow_gpu(reader_of: ReaderOf) -> None:
    for finding in told(reader_of, tables(WHOLE)):
        assert finding.kind == FindingKind.COMPUTE_STRAGGLER
        assert "backward pass" not in finding.summary


def test_without_stages_it_is_a_slow_rank_whose_backward_kernels_are_named(reader_of: ReaderOf) -> None:
    for finding in told(reader_of, tables(BACKWARD, stages=1)):
        assert finding.kind == FindingKind.COMPUTE_STRAGGLER
        assert "those of the backward pass and not those of the forward pass" in finding.summary


def test_names_that_do_not_tell_the_passes_decide_nothing(reader_of: ReaderOf) -> None:
    rows = tables(BACKWARD, renamed=lambda name: name.replace("_fwd", "").replace("_bwd_dq_dk_dv", "_2"))
    for finding in told(reader_of, rows):
        assert finding.kind == FindingKind.COMPUTE_STRAGGLER


def kernel(name: str, excess: float, error: float = 0.005, family: str = "attention", seconds: float = 0.01) -> Kernel:
    return Kernel(name, family, excess, error, excess, 0.1, seconds, excess * seconds)


@pytest.mark.parametrize(
    ("ahead", "alone"),
    [
        (kernel("flash_fwd", 0.01), True),
        (kernel("flash_fwd", 0.1), False),
        (kernel("flash_fwd", 0.05), False),
        (kernel("flash_fwd", 0.0, error=0.1), False),
        (kernel("flash_fwd", 0.0, error=math.nan), False),
        (kernel("flash_fwd", 0.0, seconds=0.0001), False),
        (kernel("layer_norm_fwd", 0.0, family="normalisation"), False),
        (kernel("gemm_fprop", 0.0, family="matrix product"), True),
        (kernel("fused_fwd_bwd", 0.0), False),
    ],
    ids=["even", "as slow", "half as slow", "restless", "few steps", "tiny", "bound by memory", "same bound", "both passes"],
)  # fmt: skip
def test_forward_kernels_clear_the_gpu_only_where_they_are_certainly_even(ahead: Kernel, alone: bool) -> None:
    back = kernel("flash_bwd", 0.1)
    assert backward_alone([back, ahead], [back]) == alone


def test_one_of_many_slow_backward_kernels_is_no_slow_pass() -> None:
    back = [kernel(f"flash_bwd_{at}", 0.5 if at == 0 else 0.0) for at in range(8)]
    assert not backward_alone([*back, kernel("flash_fwd", 0.0)], back[:1])


@pytest.mark.parametrize(
    ("name", "family"),
    [("cudnn::bn_bw_1C11_kernel_new", "normalisation"), ("sm80_xmma_dgrad_implicit_gemm", "matrix product"),
     ("split_embedding_backward_codegen_rowwise_adagrad", "embedding")],
)  # fmt: skip
def test_libraries_name_their_backward_kernels_in_their_own_ways(name: str, family: str) -> None:
    back = kernel(name, 0.3, family=family)
    assert backward_alone([back, kernel("kernel_forward", 0.0, family=family)], [back])
