"""What a user of the cluster codec relies on: time is conserved exactly, and separate modes stay separate."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from warpline_proto.clusters import Cluster, Durations, cluster, quantiles, wasserstein
from warpline_proto.runs import TOLERANCE


def durations(values: list[int]) -> Durations:
    return np.array(values, dtype=np.int64)


@given(st.lists(st.integers(-5, 2**40), max_size=400))
def test_count_sum_and_extremes_are_exact_for_any_durations(values: list[int]) -> None:
    found = cluster(durations(values))
    assert sum(item.count for item in found) == len(values)
    assert sum(item.sum_ns for item in found) == sum(values)
    if values:
        assert (found[0].min_ns, found[-1].max_ns) == (min(values), max(values))
    for item in found:
        assert item.min_ns <= item.p10_ns <= item.p50_ns <= item.p90_ns <= item.p99_ns <= item.max_ns


@given(st.permutations([10_000 + step for step in range(30)] + [900_000 + step for step in range(30)]))
def test_order_does_not_matter_and_two_modes_are_two_clusters(values: list[int]) -> None:
    assert [item.count for item in cluster(durations(values))] == [30, 30]


def test_one_mode_is_one_cluster_in_nearly_all_draws() -> None:
    generator = np.random.default_rng(5)
    split = sum(len(cluster(generator.lognormal(10, 0.1, 200).astype(np.int64))) > 2 for _ in range(200))
    assert split <= 10


def test_a_group_that_never_varies_is_one_cluster() -> None:
    assert [item.count for item in cluster(durations([5_000] * 1000))] == [1000]


def test_the_rebuilt_distribution_is_near_the_real_one() -> None:
    generator = np.random.default_rng(9)
    values = np.concatenate([generator.lognormal(9, 0.05, 400), generator.lognormal(12, 0.2, 300)]).astype(np.int64)
    grid = (np.arange(values.size) + 0.5) / values.size
    error = np.mean(np.abs(quantiles(cluster(values), grid) - np.sort(values)))
    assert error < 0.03 * values.mean()


@given(st.lists(st.integers(1, 2**30) | st.integers(1, 40), min_size=30, max_size=300))
def test_the_distance_to_any_durations_stays_below_the_stated_share_of_their_mean(values: list[int]) -> None:
    """Also where one duration outweighs all others, and where a few values repeat."""
    ordered = np.sort(durations(values)).astype(np.float64)
    read = quantiles(cluster(durations(values)), (np.arange(ordered.size) + 0.5) / ordered.size)
    assert np.abs(read - ordered).mean() <= TOLERANCE * ordered.mean() + 0.5


def test_a_row_written_before_there_were_runs_is_read_by_its_quantiles() -> None:
    old = {"count": 4, "sum_ns": 40, "min_ns": 1, "p10_ns": 1, "p50_ns": 9, "p90_ns": 21, "p99_ns": 21, "max_ns": 21}
    assert quantiles([Cluster.of({**old, "run_counts": None})], np.array([0.0, 0.5, 1.0])).tolist() == [1, 9, 21]


def test_distance_is_zero_to_itself_and_the_shift_to_a_shifted_copy() -> None:
    values = durations(list(range(100_000, 110_000, 50)))
    assert wasserstein(cluster(values), cluster(values)) == 0
    assert abs(wasserstein(cluster(values), cluster(values + 1_000)) - 1_000) < 100
