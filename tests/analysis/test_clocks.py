"""How far clocks are apart is found to within the stated bound, and "cannot tell" is said where the bound does not allow more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from warpline_agent.offline import read_paths
from warpline_analysis.clocks import Offset, arrivals, estimate, load_offsets
from warpline_analysis.detector import Reader

ReaderOf = Callable[[Mapping[str, Any]], Reader]
START = 1_700_000_000_000_000_000
MILLISECOND = 1_000_000


def operations(
    offsets_ns: Mapping[int, float],
    seed: int = 0,
    count: int = 120,
    drift: float = 0.0,
    noise_ns: float = 20_000.0,
    communicator: str = "world",
    late: int | None = None,
    outliers: int = 0,
) -> list[dict[str, Any]]:
    """All-reduces every 200 ms of two ranks on each host; ends differ truly by up to a tenth of the transfer."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        true_ns = START + number * 200 * MILLISECOND
        transfer = float(random.choice([150_000, 5_000_000])) * float(np.exp(random.normal(0, 0.05)))
        arrive = random.uniform(0, 3 * MILLISECOND, 2 * len(offsets_ns))
        if late is not None:
            arrive[late] += 30 * MILLISECOND
        end = arrive.max() + transfer + random.uniform(-0.1, 0, len(arrive)) * transfer
        for place, host in enumerate(host for host in offsets_ns for _ in range(2)):
            skew = offsets_ns[host] + drift * host * (true_ns - START) + random.normal(0, noise_ns)
            skew += 50 * MILLISECOND if number < outliers and host else 0.0
            rows.append(
                {"job": "train", "rank": 2 * host + place % 2, "communicator": communicator, "operation": "all_reduce",
                 "sequence": number, "nranks": 2 * len(offsets_ns), "timing": "kernel_gpu", "clock": f"realtime@node{host}",
                 "start_ns": true_ns + int(arrive[place] + skew), "duration_ns": int(end[place] - arrive[place])}
            )  # fmt: skip
    return rows


def offsets_of(reader_of: ReaderOf, rows: list[dict[str, Any]]) -> Mapping[str, Offset]:
    return load_offsets(reader_of({"collectives": rows}), "train")


@pytest.mark.parametrize("offset_ms", [0.0, 0.1, 1.0, 10.0, -10.0])
@pytest.mark.parametrize("drift", [0.0, 20e-6])
def test_offsets_and_drift_are_found_within_the_stated_bound(
    reader_of: ReaderOf, offset_ms: float, drift: float
) -> None:
    for seed in range(5):
        truth = {0: 0.0, 1: offset_ms * MILLISECOND, 2: -offset_ms * MILLISECOND / 2}
        found = offsets_of(reader_of, operations(truth, seed, drift=drift))
        assert sorted(found) == [f"realtime@node{host}" for host in truth]
        for host, offset_ns in truth.items():
            clock = found[f"realtime@node{host}"]
            assert clock.bound_ns < MILLISECOND / 2
            for after_s in (0.0, 12.0, 24.0):
                real = offset_ns + drift * host * after_s * 1e9
                assert abs(clock.at(START + after_s * 1e9) - real) <= clock.bound_ns, (seed, host, after_s)


def test_wild_values_and_a_late_rank_do_not_move_it(reader_of: ReaderOf) -> None:
    found = offsets_of(reader_of, operations({0: 0.0, 1: 1e6}, 3, late=1, outliers=20))
    clock = found["realtime@node1"]
    assert abs(clock.at(START + 12e9) - 1e6) <= clock.bound_ns < MILLISECOND / 2


def test_hosts_that_never_meet_are_joined_through_a_third(reader_of: ReaderOf) -> None:
    rows = operations({0: 0.0, 1: 2e6}, 4, communicator="a") + operations({1: 2e6, 2: 5e6}, 5, communicator="b")
    found = offsets_of(reader_of, rows)
    third = found["realtime@node2"]
    assert abs(third.at(START + 12e9) - 5e6) <= third.bound_ns
    assert third.bound_ns > found["realtime@node1"].bound_ns
    apart = offsets_of(
        reader_of, operations({0: 0.0, 1: 2e6}, 4) + operations({5: 0.0, 6: 1e6, 7: 0.0}, 5, communicator="b")
    )
    assert sorted(apart) == ["realtime@node5", "realtime@node6", "realtime@node7"]


def test_too_few_operations_one_host_or_no_ends_say_nothing(reader_of: ReaderOf) -> None:
    assert offsets_of(reader_of, operations({0: 0.0, 1: 1e6}, count=10)) == {}
    assert offsets_of(reader_of, operations({0: 0.0})) == {}
    assert offsets_of(reader_of, [row | {"clock": None} for row in operations({0: 0.0, 1: 1e6})]) == {}
    assert offsets_of(reader_of, [row | {"operation": "broadcast"} for row in operations({0: 0.0, 1: 1e6})]) == {}
    assert estimate("clock", np.zeros(5), np.zeros(5), np.ones(5)) is None


@pytest.mark.parametrize("offset_ms", [0.0, 0.1, 1.0, 10.0])
def test_the_last_to_arrive_is_told_only_where_the_bound_allows(reader_of: ReaderOf, offset_ms: float) -> None:
    rows = operations({0: 0.0, 1: offset_ms * MILLISECOND}, 6, late=0)
    offsets = offsets_of(reader_of, rows)
    told = [row for row in rows if row["sequence"] == 100]
    found = arrivals([row["start_ns"] for row in told], [row["clock"] for row in told], offsets)
    assert found is not None and found.last == 0
    waits = np.array([row["duration_ns"] for row in told]) / 1e9
    assert np.abs(found.waits - (waits - waits.min())).max() <= found.bound_seconds + 5e-4
    close = arrivals(
        [START, START + int(offset_ms * MILLISECOND) + 1_000], ["realtime@node0", "realtime@node1"], offsets
    )
    assert close is not None and close.last is None
    same = arrivals([START, START + 1_000], ["realtime@node1", "realtime@node1"], offsets)
    assert same is not None and same.last == 1
    assert arrivals([START], ["realtime@elsewhere"], offsets) is None


@pytest.mark.data
def test_eight_ranks_of_one_machine_end_together(data: Path, reader_of: ReaderOf) -> None:
    batches = read_paths([data / "A-kineto/param/dlrm_8rank_v100.tar.gz"]).batches
    rows = pa.Table.from_batches([batch.rows for batch in batches if batch.table == "collectives"])
    job = next(name for name in rows.column("job").to_pylist() if name)
    assert load_offsets(reader_of({"collectives": rows}), job) == {}
