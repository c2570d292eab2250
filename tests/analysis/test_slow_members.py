"""An excess is believed from the scatter of the data itself: small ones where all is even, late ones soon, and none by chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from warpline_analysis.evenness import evenness, merged
from warpline_analysis.robust import slow_members
from warpline_analysis.self_time import Member, PeerGroup, SelfTime

Times = npt.NDArray[np.float64]
STEPS_MIN = 5


def times(seed: int, steps: int = 100, members: int = 8, jitter: float = 0.01, chips: float = 0.005) -> Times:
    """(steps, members) seconds that vary from step to step for all alike, by member for good, and by themselves."""
    random = np.random.default_rng(seed)
    work = random.lognormal(0, 0.2, (steps, 1)) * random.lognormal(0, chips, (1, members))
    result: Times = work * random.lognormal(0, jitter, (steps, members))
    return result


def found(values: Times) -> tuple[int, ...]:
    slow = slow_members(values, STEPS_MIN, STEPS_MIN)
    return slow.members if slow else ()


@pytest.mark.parametrize("members", [4, 8, 64])
def test_eight_percent_is_found_where_all_others_are_even(members: int) -> None:
    for seed in range(20):
        values = times(seed, members=members)
        values[:, 3] *= 1.08
        assert found(values) == (3,), seed


def test_as_much_is_nothing_where_members_differ_for_good() -> None:
    for seed in range(20):
        assert found(times(seed, members=8) * np.linspace(0.93, 1.07, 8)) == (), seed


@pytest.mark.parametrize("members", [2, 8, 128])
def test_nobody_is_slow_in_healthy_groups_whatever_the_window(members: int) -> None:
    for seed in range(60):
        values = times(seed, steps=60, members=members, jitter=0.017, chips=0.007)
        assert all(found(values[:steps]) == () for steps in (8, 25, 60)), seed


@pytest.mark.parametrize("members", [4, 8, 32])
def test_a_fifth_is_found_five_steps_after_its_onset_and_not_on_four(members: int) -> None:
    for seed in range(20):
        values = times(seed, members=members, jitter=0.017)
        values[90:, 1] *= 1.2
        assert found(values[:95]) == (1,), seed
        assert found(values[:94]) == (), seed


def test_of_two_members_one_is_named_only_once_turns_can_be_ruled_out() -> None:
    for seed in range(20):
        values = times(seed, members=2)
        values[80:, 1] *= 1.2
        assert (found(values[:86]), found(values[:98])) == ((), (1,)), seed


def test_half_of_a_group_is_slow_together() -> None:
    for seed in range(20):
        values = times(seed, members=32, jitter=0.017)
        values[60:, ::2] *= 1.12
        assert found(values) == tuple(range(0, 32, 2)), seed
        assert found(values[:66]) == tuple(range(0, 32, 2)), seed


def test_another_half_each_time_is_nobody() -> None:
    for seed in range(20):
        values = times(seed, members=8)
        random = np.random.default_rng(seed)
        for row in values:
            row[random.permutation(8)[:4]] *= 1.2
        assert found(values) == (), seed


def test_a_member_that_is_slow_by_spells_is_found_while_it_is_fast_too() -> None:
    values = times(5, steps=200)
    for start in (100, 140):
        values[start : start + 20, 6] *= 1.2
    slow = slow_members(values, STEPS_MIN, STEPS_MIN)
    assert slow is not None and slow.members == (6,) and abs(slow.start - 100) <= 1
    assert slow.excess == pytest.approx(0.2, abs=0.03) and 0.3 <= slow.share <= 0.6


@pytest.mark.parametrize("chips", [0.005, 0.015])
def test_two_spells_of_a_member_are_found_whatever_the_chips_of_the_others(chips: float) -> None:
    """Chips that are a little slower for good are not "slow as often"."""
    for seed in range(20):
        values = times(seed, steps=200, members=16, chips=chips)
        for start in (95, 168):
            values[start : start + 16, 6] *= 1.5
        slow = slow_members(values, STEPS_MIN, STEPS_MIN)
        assert slow is not None and slow.members == (6,) and abs(slow.start - 95) <= 1, seed


@pytest.mark.parametrize("members", [2, 8])
def test_spells_that_are_less_than_the_scatter_of_single_rows_are_found_by_blocks_of_rows(members: int) -> None:
    seen = []
    for seed in range(20):
        values = times(seed, steps=200, members=members, jitter=0.025)
        for start in (60, 130):
            values[start : start + 30, 1] *= 1.12
        slow = slow_members(values, STEPS_MIN, STEPS_MIN)
        seen.append(slow is not None and slow.members == (1,) and abs(slow.start - 60) <= 8)
    assert sum(seen) >= 18


@pytest.mark.parametrize("members", [2, 8, 64])
def test_restless_members_have_no_spells(members: int) -> None:
    for seed in range(40):
        values = times(seed, steps=200, members=members, jitter=0.04, chips=0.01)
        assert all(found(values[:steps]) == () for steps in (40, 100, 200)), seed


def test_spells_that_go_round_are_nobody() -> None:
    for seed in range(10):
        values = times(seed, steps=200, members=8)
        for at in range(16):
            values[10 * at : 10 * at + 10, (at * 3) % 8] *= 1.15
        assert found(values) == (), seed


def test_two_that_take_turns_step_by_step_have_no_spells() -> None:
    for seed in range(40):
        values = times(seed, steps=200, members=2, jitter=0.015)
        unlucky = np.random.default_rng(seed).integers(2, size=100)
        values[50 + np.arange(100), unlucky] *= 1.11
        assert found(values) == (), seed


def test_rare_single_stalls_are_no_spells() -> None:
    values = times(6, steps=200)
    values[::25, 6] *= 3
    assert found(values) == ()


@pytest.mark.parametrize("members", [2, 8, 128])
def test_uneven_work_of_a_tenth_that_goes_round_is_seen_and_scatter_is_not(members: int) -> None:
    away = []
    for seed in range(20):
        values = times(seed, steps=200, members=members, jitter=0.015)
        assert not evenness(values, STEPS_MIN).uneven, seed
        unlucky = np.random.default_rng(seed).integers(members, size=100)
        values[100 + np.arange(100), unlucky] *= 1.11
        uneven = evenness(values, STEPS_MIN)
        assert uneven.uneven and found(values) == (), seed
        away.append(abs(uneven.start - 100))
    assert members > 8 or sorted(away)[10] <= 8


def test_work_that_became_uneven_is_dated_though_members_never_were_quite_even() -> None:
    """Chips that differ for good may not hide since when work is uneven, nor who was slowest before stand for who is now."""
    for seed in range(20):
        values = times(seed, steps=200, members=16, jitter=0.015) * np.linspace(0.97, 1.03, 16)
        unlucky = np.random.default_rng(seed).integers(16, size=100)
        values[100 + np.arange(100), unlucky] *= 1.1
        uneven = evenness(values, 10)
        assert uneven.uneven and uneven.round and uneven.share < 0.4, seed
        assert abs(uneven.start - 100) <= 2 and uneven.excess > 0.08, seed


def test_a_tenth_more_than_before_is_no_rise_of_unevenness() -> None:
    for seed in range(20):
        values = times(seed, steps=200, members=16, jitter=0.015)
        middle = values.mean(axis=1, keepdims=True)
        values[100:] = middle[100:] + 1.1 * (values - middle)[100:]
        even = evenness(values, 10)
        assert (even.uneven, even.start) == (False, 0), seed


def test_what_some_members_take_in_turns_does_not_go_round() -> None:
    """Half of a group that is slow, and one member that is slow by spells, are a matter of these and not of the work."""
    for seed in range(20):
        half, spells = (times(seed, steps=60, members=8, jitter=0.02) for _ in range(2))
        half[:, 4:] *= 1.2
        spells[np.arange(60) % 20 < 9, 3] *= 1.4
        assert not evenness(half, 10).round and not evenness(spells, 10).round, seed


def test_few_rows_of_wild_members_are_not_called_uneven_by_less_than_a_tenth() -> None:
    for seed in range(20):
        assert not evenness(times(seed, steps=30, members=8, jitter=0.04), STEPS_MIN).uneven, seed


def test_uneven_replicas_are_seen_among_all_experts_where_each_expert_has_two() -> None:
    """Experts differ for good, which is no unevenness."""
    for seed in range(10):
        values = times(seed, steps=100, members=16) * np.repeat(np.linspace(0.8, 1.2, 8), 2)
        calm, uneven = values.copy(), values.copy()
        uneven[np.arange(100), np.random.default_rng(seed).integers(16, size=100)] *= 1.15
        for seconds, expected in ((calm, False), (uneven, True)):
            groups = tuple(
                PeerGroup(
                    0, 0, ep, (member(2 * ep), member(2 * ep + 1)), np.arange(100), seconds[:, 2 * ep : 2 * ep + 2]
                )
                for ep in range(8)
            )
            (whole,) = merged(SelfTime("train", "steps", 100, groups, False))
            assert len(whole.members) == 16 and evenness(whole.seconds, 10).uneven == expected, seed


def member(rank: int) -> Member:
    return Member(rank, rank, 0, 0, rank // 2, None, None)
