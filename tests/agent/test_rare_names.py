"""How much steps without a hook may cost: few kernels are looked at, whatever a job runs."""

from __future__ import annotations

import numpy as np
import pytest

from warpline_agent.inferred_steps import InferredSteps
from warpline_agent.kernels import NO_STEP, Kernels
from warpline_agent.rare_names import FORGOTTEN_SECONDS, LOOKED_AT_MAX, SETTLED_SECONDS, RareNames

SECOND = 1_000_000_000


def looked_at(rates: list[float], seconds: int, first: list[int] | None = None) -> np.ndarray:
    """Kernels of each name that are looked at in the last second, when so many of each come a second."""
    rare, chosen = RareNames(), np.zeros(len(rates), dtype=np.bool_)
    chosen[first or []] = True
    some = np.random.default_rng(0)
    found = np.zeros(len(rates), dtype=np.int64)
    for second in range(seconds):
        name_id = np.repeat(np.arange(len(rates)), some.poisson(rates)).astype(np.int32)
        places = rare.among(name_id, second * SECOND + 1, (second + 1) * SECOND, chosen)
        found = np.bincount(name_id[places], minlength=len(rates))
    return found


def test_rare_names_are_looked_at_and_frequent_ones_are_not() -> None:
    assert (looked_at([20.0, 30.0, 5_000.0, 40_000.0], 30) > 0).tolist() == [True, True, False, False]


def test_thousands_of_names_that_are_each_rare_stay_within_the_budget() -> None:
    assert looked_at([25.0] * 2_000, 60).sum() <= 1.1 * LOOKED_AT_MAX


def test_the_first_round_of_a_busy_process_is_within_the_budget() -> None:
    assert looked_at([300.0] * 2_000, 1).sum() <= LOOKED_AT_MAX * SETTLED_SECONDS


def test_an_optimizer_is_looked_at_before_all_others() -> None:
    assert (looked_at([600.0, 100.0, 700.0], 60, first=[0]) > 0).tolist() == [True, True, False]


def test_a_burst_once_in_a_while_is_rare() -> None:
    """Five hundred kernels of an optimizer, in a step of ten seconds."""
    rare, found, none = RareNames(), 0, np.zeros(2, dtype=np.bool_)
    for step in range(20):
        at_ns = step * 10 * SECOND + 1
        found += rare.among(np.zeros(500, dtype=np.int32), at_ns, at_ns + SECOND // 100, none).size
        for second in range(10):
            rare.among(np.ones(9, dtype=np.int32), at_ns + second * SECOND, at_ns + (second + 1) * SECOND - 1, none)
    assert found == 20 * 500


@pytest.mark.parametrize("end_ns", [2**61, 0, 1])
def test_times_that_were_made_up_do_not_lift_the_budget(end_ns: int) -> None:
    rare, found = RareNames(), 0
    for _ in range(400):
        found = rare.among(np.arange(1_000, dtype=np.int32), 1, max(end_ns, 1), np.zeros(1_000, np.bool_)).size
    assert found <= LOOKED_AT_MAX * FORGOTTEN_SECONDS / 400 + 1


def test_what_is_passed_over_is_counted_and_told_where_it_hides_the_optimizer() -> None:
    inferred, names = InferredSteps(), ("gemm", "multi_tensor_apply_kernel<FusedAdam>")
    for second in range(30):
        start = np.arange(4_000) * 250_000 + second * SECOND
        none = np.zeros(4_000, np.int64)
        kernels = Kernels(start, none + 200_000, np.tile(np.array([0, 1], np.int32), 2_000), none.astype(np.uint8),
                          none.astype(np.int32), none, none + NO_STEP, names)  # fmt: skip
        inferred.take_kernels(kernels)
    assert "kernels of the optimizer come too often" in inferred.account()
    assert inferred.boundary is None


def test_without_an_optimizer_no_kernel_is_looked_at() -> None:
    inferred, none = InferredSteps(), np.zeros(100, np.int64)
    start = np.arange(100) * 1_000_000
    kernels = Kernels(
        start, none + 1, none.astype(np.int32), none.astype(np.uint8), none.astype(np.int32), none, none, ("gemm",)
    )
    assert inferred.take_kernels(kernels) == []
    assert inferred.account() == ""
