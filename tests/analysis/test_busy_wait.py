"""The energy that others spend on waiting is charged to the rank they wait for, where their power is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import straggler

ReaderOf = Callable[[Mapping[str, Any]], Reader]
RANKS, STEPS, WATTS = 4, 60, 250.0


def tables(slow: float = 1.5) -> dict[str, Any]:
    """Rank 2 computes longer from the start; one all-reduce a step of 4 ms once all have arrived; power of each GPU."""
    random = np.random.default_rng(1)
    compute = 0.1 * np.exp(random.normal(0, 0.005, (STEPS, RANKS)))
    compute[:, 2] *= slow
    place = [{"job": "train", "rank": rank, "gpu_uuid": f"GPU-{rank}"} for rank in range(RANKS)]
    wait = compute.max(axis=1)[:, None] - compute
    return {
        "steps": [place[rank] | {"scope": "step", "step": step, "compute_ns": int(compute[step, rank] * 1e9)}
                  for step in range(STEPS) for rank in range(RANKS)],
        "collectives": [place[rank] | {"step": step, "sequence": step, "communicator": "dp", "operation": "all_reduce",
                        "nranks": RANKS, "timing": "kernel_gpu", "duration_ns": int((wait[step, rank] + 0.004) * 1e9)}
                        for step in range(STEPS) for rank in range(RANKS)],
        "device_samples": [{"gpu_uuid": f"GPU-{rank}", "job": "train", "time_ns": second * 10**9, "power_watts": WATTS}
                           for second in range(10) for rank in range(RANKS)],
    }  # fmt: skip


def test_waiting_is_charged_to_the_rank_that_is_waited_for(reader_of: ReaderOf) -> None:
    (finding,) = straggler.detect(reader_of(tables())).findings
    assert finding.subject.rank == 2
    assert finding.cost.joules == pytest.approx(0.05 * STEPS * (RANKS - 1) * WATTS, rel=0.05)


def test_without_the_power_of_everyone_who_waits_nothing_is_charged(reader_of: ReaderOf) -> None:
    given = tables()
    given["device_samples"] = [row for row in given["device_samples"] if row["gpu_uuid"] != "GPU-0"]
    (finding,) = straggler.detect(reader_of(given)).findings
    assert finding.cost.joules is None
    (alone,) = straggler.detect(reader_of(tables() | {"collectives": []})).findings
    assert alone.cost.joules is None
