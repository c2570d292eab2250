"""What an operator relies on where a collector takes too little: less is told before anything falls off, and it is counted."""

from __future__ import annotations

import numpy as np
import pytest

from warpline_agent import detail as details
from warpline_agent.detail import LOOKS, STACKS, Detail, Level
from warpline_agent.kernel_budget import KernelBudget
from warpline_agent.kernels import NO_STEP, KernelLog, Kernels
from warpline_agent.waiting import Limits, Standing


def kernels(steps: range, each: int = 7) -> Kernels:
    log = KernelLog()
    names = [log.name_id(name, 0) for name in ("k", "l")]
    for step in steps:
        for at in range(each):
            log.append(1_000 * (step + 1) + at, 5 + at, names[at % 2], 0, 1)
    return log.finish().with_steps(np.repeat(np.array(list(steps), np.int64), each))


def test_a_fuller_spool_means_less_detail_and_it_comes_back_one_level_at_a_time() -> None:
    """At once down, whatever the level before; up only after a minute in which little waited, and never to and fro."""
    detail = Detail()
    assert [detail.look(Standing(fill, 1, 1.0), 0.0, at) for at, fill in enumerate((0.24, 0.25, 0.8))] == [0, 1, 3]
    assert "the spool is 80 % full" in detail.health().reason
    assert detail.look(Standing(0.46, 1, 600.0), 0.0, 100.0) is Level.ESSENTIAL
    levels = [detail.look(Standing(0.1, 1, 1.0), 0.0, 100.0 + at) for at in range(200)]
    assert [levels.count(Level(level)) for level in (3, 2, 1, 0)] == [60, 60, 60, 20]
    assert detail.health().state == "fresh"


def test_the_level_holds_while_old_frames_wait() -> None:
    detail = Detail()
    detail.look(Standing(0.3, 1, 1.0), 0.0, 0.0)
    assert {detail.look(Standing(0.0, 1, 6.0), 0.0, float(at)) for at in range(500)} == {Level.COARSE}


@pytest.mark.parametrize(("grows", "starves", "waited", "level"), [
    (1, 0.9, 60.0, Level.ESSENTIAL), (0, 0.9, 60.0, Level.FULL), (-1, 0.9, 60.0, Level.FULL), (1, 0.2, 60.0, Level.FULL),
    (1, 0.9, 2.0, Level.FULL),
])  # fmt: skip
def test_a_collector_that_gives_too_little_credit_is_told_less(
    grows: int, starves: float, waited: float, level: Level
) -> None:
    """Not while a backlog is being sent, nor while it is just away: then the spool takes what comes."""
    detail = Detail()
    for second in range(60):
        detail.look(Standing(0.01, 10_000 + grows * second, waited), starves * second, float(second))
    assert detail.level is level


def test_one_level_is_tried_before_the_next() -> None:
    detail = Detail()
    reached = [detail.look(Standing(0.01, second, 60.0), float(second), float(second)) for second in range(40)]
    assert [reached.index(Level(level)) for level in (1, 2, 3)] == [10, 21, 32]


def test_what_waits_is_set_against_every_bound() -> None:
    limits = Limits(bytes_max=100, memory_bytes_max=10, age_seconds_max=50.0, frames_max=1_000)
    assert limits.standing(20, 0, 10, 0, 10 * 10**9) == Standing(0.2, 20, 10.0)
    assert limits.standing(20, 9, 10, 0, 10 * 10**9).fill == 0.9
    assert limits.standing(20, 0, 990, None, 10**9).fill == 0.99
    assert limits.standing(20, 0, 1, 0, 45 * 10**9).fill == 0.9


def at_level(level: Level) -> Detail:
    detail = Detail()
    detail.look(Standing(details.FILL.get(level, 0.0), 1, 1.0), 0.0, 0.0)
    assert detail.level is level
    return detail


@pytest.mark.parametrize(("level", "left"), [(0, 0), (1, 0), (2, 14 * 7), (3, 16 * 7)])
def test_kernels_that_are_not_told_are_counted_one_by_one(level: int, left: int) -> None:
    """What is told and what was left out are together what there was; steps that are told are the same on all ranks."""
    detail = at_level(Level(level))
    budget = KernelBudget(detail=detail)
    told = budget.compress(kernels(range(16)), rank=0).rows
    assert sum(told.column("count").to_pylist()) + detail.left_out()["kernels"] == 16 * 7
    assert detail.left_out()["kernels"] == left
    assert set(told.column("step").to_pylist()) == {0: set(range(16)), 1: set(range(16)), 2: {0, 8}, 3: set()}[level]
    assert len(set(told.column("grade").to_pylist())) <= 1


def test_kernels_of_no_step_are_told_up_to_the_last_level() -> None:
    assert len(at_level(Level.SPARSE).chosen(kernels(range(NO_STEP, NO_STEP + 1)))) == 7
    assert len(at_level(Level.ESSENTIAL).chosen(kernels(range(NO_STEP, NO_STEP + 1)))) == 0


def test_rounds_dumps_and_looks_are_left_out_by_level_and_counted() -> None:
    for level, rounds, dumps, looks in ((0, 0, 0, 0), (1, 20, 30, 40), (2, 30, 38, 40), (3, 35, 40, 40)):
        detail = at_level(Level(level))
        for what, wanted in (("host", rounds), (STACKS, dumps), (LOOKS, looks)):
            assert sum(detail.skips(what) for _ in range(40)) == wanted == detail.left_out()[what]
    assert np.all(np.diff([plan.grade for plan in details.PLANS.values()]) >= 0)
