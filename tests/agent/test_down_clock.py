"""When clocks are lowered and restored: each boundary of the paper's algorithm, and the back-off on top of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from warpline_agent.guard.down_clock import (
    BACK_OFF_SECONDS,
    BACK_OFF_SECONDS_MAX,
    WAKES_SECONDS,
    Activity,
    Decision,
    DownClock,
    Rule,
)

IDLE = Activity(True, "idle")
WORK = Activity(False, "work", work=True)


def paper(times: Iterable[float], low: Iterable[bool], step: float) -> list[tuple[float, str]]:
    """Algorithm 1 of the paper, as it is printed: X = 3 s, Y = 5 s."""
    counted, cool, down, done = 0.0, 0.0, False, []
    for time, is_low in zip(times, low, strict=True):
        if is_low:
            counted += step
        else:
            counted = 0.0
            if down:
                done.append((time, "restore"))
                down, cool = False, time + 5
        if counted > 3 and time >= cool and not down:
            done.append((time, "lower"))
            down = True
    return done


def decided(times: Iterable[float], low: Iterable[bool], rule: Rule = Rule()) -> list[tuple[float, str]]:  # noqa: B008
    clock = DownClock(rule)
    steps = [(time, clock.step(time, IDLE if each else WORK)) for time, each in zip(times, low, strict=True)]
    return [(time, decision.value) for time, decision in steps if decision is not Decision.NONE]


@pytest.mark.parametrize("step", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_decides_as_the_paper_prints_it(step: float, seed: int) -> None:
    import random

    drawn = random.Random(seed)
    low = [False]
    while len(low) < 2000:
        low += [drawn.random() < 0.8] * drawn.randrange(1, 30)
    times = [step * at for at in range(len(low))]
    assert decided(times, low, Rule(wakes_per_minute_max=1000)) == paper(times, low, step)


def test_it_lowers_after_more_than_three_seconds_and_not_at_three() -> None:
    assert decided([0, 1, 2, 3], [False, True, True, True]) == []
    assert decided([0, 1, 2, 3, 4], [False, True, True, True, True]) == [(4, "lower")]


def test_it_restores_at_the_first_sample_with_work_and_cools_down_for_five_seconds() -> None:
    low = [False, *[True] * 4, False, *[True] * 6]
    assert decided(range(12), low) == [(4, "lower"), (5, "restore"), (10, "lower")]


def test_time_without_samples_is_not_idle_time() -> None:
    assert decided([0, 1, 2, 20, 21, 22, 23], [True] * 7) == []
    assert decided([0, 1, 2, 20, 21, 22, 23, 24], [True] * 8) == [(24, "lower")]


def test_a_clock_that_is_set_back_begins_the_count_anew_and_does_not_prolong_the_cooldown() -> None:
    times = [1000, 1001, 1002, 1003, 1004, 1005, 5, 6, 7, 8, 9, 10, 11]
    low = [False, *[True] * 4, False, *[True] * 7]
    assert decided(times, low) == [(1004, "lower"), (1005, "restore"), (10, "lower")]


def test_frequent_wake_ups_make_it_leave_the_gpu_alone_longer_each_time_up_to_a_bound() -> None:
    clock, now = DownClock(Rule()), 0.0
    pauses: list[float] = []
    while len(pauses) < 9:
        decision = clock.step(now, WORK if clock.down else IDLE)
        if decision is Decision.BACK_OFF:
            pauses.append(clock.back_off_seconds)
            quiet_until = now + clock.back_off_seconds
        elif decision is Decision.LOWER and pauses:
            assert now >= quiet_until
        now += 1
    assert pauses[:4] == [BACK_OFF_SECONDS, 2 * BACK_OFF_SECONDS, 4 * BACK_OFF_SECONDS, 8 * BACK_OFF_SECONDS]
    assert pauses[-1] == BACK_OFF_SECONDS_MAX


def test_six_wake_ups_a_minute_are_not_yet_frequent() -> None:
    low = [at % 10 != 9 for at in range(3000)]
    told = [name for _, name in decided(range(3000), low)]
    assert set(told) == {"lower", "restore"}


def test_after_a_long_quiet_time_it_backs_off_for_a_short_time_again() -> None:
    clock, now = DownClock(Rule()), 0.0
    pauses: list[float] = []
    while len(pauses) < 3:
        if clock.step(now, WORK if clock.down else IDLE) is Decision.BACK_OFF:
            pauses.append(clock.back_off_seconds)
            if len(pauses) == 2:
                now += clock.back_off_seconds + 3 * WAKES_SECONDS
        now += 1
    assert pauses == [BACK_OFF_SECONDS, 2 * BACK_OFF_SECONDS, BACK_OFF_SECONDS]
