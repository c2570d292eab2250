"""The energy that others spend on waiting is charged to the rank they wait for, where their power is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from warpline_analysis.detector import Reader
from warpline_analysis.detectors import host_straggler, straggler

ReaderOf = Callable[[Mapping[str, Any]], Reader]
BEGIN_NS = 1_700_000_400_000_000_000
STEP_NS = 160_000_000
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
                        "nranks": RANKS, "timing": "kernel_gpu", "duration_ns": int((wait[step, rank] + 0.004) * 1e9),
                        "start_ns": BEGIN_NS + step * STEP_NS}
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


def interval(
    rank: int, joules: float | None, state: str = "busy_wait", updated_ns: int = 1, at_ns: int = BEGIN_NS
) -> Any:
    """What the energy account says of a GPU in the time of all steps, or from another moment on."""
    place = {"node": "n0", "gpu_uuid": f"GPU-{rank}", "start_ns": at_ns, "end_ns": at_ns + STEPS * STEP_NS}
    return {**place, "state": state, "joules": joules, "window_ns": BEGIN_NS, "updated_ns": updated_ns}


def claimed(reader_of: ReaderOf, *account: Any) -> float:
    """Joules of the finding, of a whole that is 1 for each rank that waits."""
    (finding,) = straggler.detect(reader_of(tables() | {"energy_intervals": list(account)})).findings
    assert finding.cost.joules is not None
    return finding.cost.joules / (0.05 * STEPS * WATTS)


def test_of_a_gpu_that_was_seen_to_wait_no_more_is_claimed_than_it_drew_then(reader_of: ReaderOf) -> None:
    whole = 0.05 * STEPS * WATTS
    assert claimed(reader_of, interval(0, whole / 2)) == pytest.approx(2.5, rel=0.05)
    assert claimed(reader_of, *(interval(rank, whole / 10) for rank in range(RANKS))) == pytest.approx(0.3, rel=0.05)
    assert claimed(reader_of, interval(0, whole * 9)) == pytest.approx(3.0, rel=0.05), "the smaller of both"


def test_only_the_newest_account_of_waiting_in_that_time_counts(reader_of: ReaderOf) -> None:
    whole = 0.05 * STEPS * WATTS
    later = BEGIN_NS + STEPS * STEP_NS // 2
    assert claimed(reader_of, interval(0, 0.0), interval(0, whole, "active", 2)) == pytest.approx(3.0, rel=0.05)
    assert claimed(reader_of, interval(0, 9.0, "active")) == pytest.approx(3.0, rel=0.05), "too short to be seen"
    assert claimed(reader_of, interval(0, 1.0, at_ns=BEGIN_NS + 10**12)) == pytest.approx(3.0, rel=0.05)
    assert claimed(reader_of, interval(0, whole, at_ns=later)) == pytest.approx(2.5, rel=0.05), (
        "half of it is in that time"
    )


def test_waiting_for_a_late_host_is_charged_to_it(reader_of: ReaderOf, train: Callable[..., dict[str, Any]]) -> None:
    compute = 0.1 * np.exp(np.random.default_rng(3).normal(0, 0.005, (100, 8)))
    gaps = np.full((100, 8), 0.005)
    gaps[:, 5] += 0.03
    given = train(compute, gap=gaps)
    uuids = {rank: f"GPU-{rank}" for rank in range(8)}
    placed = given["communicators"].to_pylist() if "communicators" in given else []
    placed = placed or [{"job": given["steps"]["job"][0].as_py(), "rank": rank} for rank in uuids]
    given["communicators"] = [{**row, "gpu_uuid": uuids[row["rank"]]} for row in placed]
    given["device_samples"] = [{"gpu_uuid": uuid, "time_ns": 1, "power_watts": WATTS} for uuid in uuids.values()]
    (finding,) = host_straggler.detect(reader_of(given)).findings
    assert finding.subject.rank == 5
    assert finding.cost.joules == pytest.approx(0.03 * 100 * 7 * WATTS, rel=0.15)
