"""Fuzzing by hypothesis: inputs drawn by the grammar of the target, and what breaks something made smaller before it is kept."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Final

from fuzz_engine import Broken, Runner, Target, changed
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

ROUND_EXAMPLES: Final = 200
_CHECKS: Final = list(HealthCheck)


def run(target: Target, runner: Runner, random: Random, seconds: float, state: Path) -> None:
    """Rounds of examples, each with a seed of its own, until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _round(target, runner, random.getrandbits(48), end)


def _round(target: Target, runner: Runner, its_seed: int, end: float) -> None:
    @seed(its_seed)
    @settings(
        max_examples=ROUND_EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=_CHECKS,
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.randoms(use_true_random=False), st.integers(0, 3))
    def reads(random: Random, times: int) -> None:
        if time.monotonic() >= end:
            return
        data = target.draw(random)
        for _ in range(times):
            data = target.mutate(data, random) if random.random() < 0.7 else changed(data, random)
        if runner.one(data) == "broken":
            raise Broken("see the findings")

    try:
        reads()
    except (Broken, Flaky):  # examples that the end of the time cut short are flaky
        return
