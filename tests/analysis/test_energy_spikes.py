"""Spike profiles of power: the histogram, distances, joins and classes against plain counts."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest

from warpline_analysis.energy import spikes
from warpline_analysis.energy.signals import load

BEGIN = 1_700_000_000_000_000_000


def rows(watts: list[float], counter: bool = True, limit: float = 500.0) -> list[dict[str, Any]]:
    """One sample a second; the counter grows by the watts up to each sample, the power reads 7 W more."""
    joules, made = 1e6, []
    for second, each in enumerate(watts):
        joules += each
        made.append(
            {
                "node": "n", "source": "nvml", "gpu_uuid": "G", "gpu_index": 0, "time_ns": BEGIN + second * 10**9,
                "power_watts": each + 7.0, "energy_joules": joules if counter else None,
                "power_limit_watts": limit if second == 0 else None,
            }
        )  # fmt: skip
    return made


def test_power_is_the_counters_growth_and_readings_only_without_one(reader_of: Any) -> None:
    draw = random.Random(1)
    series = [draw.uniform(300, 480) for _ in range(60)]
    for counter, expected in ((True, [series[0] + 7.0, *series[1:]]), (False, [each + 7.0 for each in series])):
        found, counted = spikes.watts(load(reader_of({"device_samples": rows(series, counter)})))
        assert found == pytest.approx(expected) and counted.sum() == (59 if counter else 0)


def test_the_histogram_is_of_smoothed_power_over_the_limit_from_a_half_to_twice(reader_of: Any) -> None:
    draw = random.Random(2)
    series = [draw.choice((100.0, 420.0, 480.0, 900.0)) for _ in range(400)]
    found = spikes.profile(load(reader_of({"device_samples": rows(series, counter=False)})))
    before, counts, below = 0.0, [0] * 30, 0
    for at, each in enumerate(series):
        before = each + 7.0 if at == 0 else 0.5 * before + 0.5 * (each + 7.0)
        ratio = before / 500.0
        below += ratio < 0.5
        if 0.5 <= ratio < 2.0:
            counts[math.floor((ratio - 0.5) / 0.05)] += 1
    assert (found.kept, found.below) == (sum(counts), below)
    assert found.histogram == pytest.approx([each / sum(counts) for each in counts])


def test_classes_by_how_long_power_is_near_the_limit() -> None:
    ratios = {"high-spike": [0.95] * 90 + [0.6] * 10, "low-spike": [0.6] * 90 + [0.95] * 10, "hybrid": [0.6, 0.95] * 50}
    assert {name: spikes.of_ratios(np.array(each)).kind for name, each in ratios.items()} == {
        name: name for name in ratios
    }
    assert spikes.of_ratios(np.full(29, 0.9)).kind is None
    assert spikes.of_ratios(np.full(400, 0.2)).kind is None


def test_a_new_workload_is_near_those_it_is_like() -> None:
    known = {f"w{at}": spikes.of_ratios(np.full(40, 0.6 + 0.1 * at)) for at in range(4)}
    known["few"] = spikes.of_ratios(np.full(3, 0.7))
    mixed = spikes.of_ratios(np.array([0.7] * 30 + [0.8] * 20))
    (first, near), (second, far) = spikes.nearest(mixed, known)
    assert (first, second) == ("w1", "w2") and near < far
    assert near == pytest.approx(1 - 30 / math.hypot(30, 20))


@pytest.mark.parametrize("seed", range(5))
def test_joins_are_wards(seed: int) -> None:
    """On Euclidean distances each join costs what it adds to the sum of squares, which brute force finds too."""
    points = np.random.default_rng(seed).normal(size=(12, 3))
    apart = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    members = {at: [at] for at in range(12)}
    for step, (one, other, cost, size) in enumerate(spikes.ward(apart)):
        costs = {pair: _cost(points, members[pair[0]], members[pair[1]]) for pair in itertools.combinations(members, 2)}
        assert cost == pytest.approx(min(costs.values())) == pytest.approx(costs[one, other])
        members[12 + step] = members.pop(one) + members.pop(other)
        assert size == len(members[12 + step])


def _cost(points: Any, one: list[int], other: list[int]) -> float:
    gap = points[one].mean(axis=0) - points[other].mean(axis=0)
    return math.sqrt(2 * len(one) * len(other) / (len(one) + len(other)) * float(gap @ gap))


def test_workloads_that_are_alike_are_one_cluster() -> None:
    draw = np.random.default_rng(3)
    made = [spikes.of_ratios(draw.normal(centre, 0.03, 500)).histogram for centre in (0.6, 0.6, 0.95, 0.6, 0.95, 1.3)]
    assert spikes.clusters(spikes.distances(np.vstack(made))).tolist() == [0, 0, 1, 0, 1, 2]
    assert spikes.clusters(np.zeros((1, 1))).tolist() == [0]
    with pytest.raises(ValueError, match="at most"):
        spikes.ward(np.zeros((513, 513)))
