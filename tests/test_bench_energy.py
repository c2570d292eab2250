"""The energy benchmark's own parts: its telemetry has the flaws it speaks of, and its replay is what a plain clock gives."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import energy_replay
import energy_truth

from warpline_agent.guard.down_clock import Rule


def test_account_and_plain_loops_agree_on_flawed_telemetry() -> None:
    """To the microjoule, a seed that the benchmark does not run; states that the flaws lead to are all there."""
    rows, _ = energy_truth.telemetry(1_000)
    account, plain = energy_truth.accounted(rows), energy_truth.counted(rows)
    assert account.keys() == plain.keys()
    assert {state for _, state in account} == {
        "active",
        "execution_idle",
        "deep_idle",
        "low_unknown",
        "blind",
        "unobserved",
    }
    for key, (seconds, joules) in plain.items():
        assert list(account[key]) == pytest.approx([seconds, joules], abs=1e-6)


@pytest.mark.parametrize(("clocks", "delay"), [(None, 0.0), ("sm", 0.1), ("sm_memory", 0.5)])
def test_the_replay_is_what_stepping_by_ten_milliseconds_gives(clocks: str | None, delay: float) -> None:
    world, seed = energy_replay.World(), 77
    work = energy_replay.work_of(world, [seed])
    listed = energy_replay.requests(world, seed, work)
    found = energy_replay.replay(world, [seed], work, clocks, Rule(), delay)
    joules, latencies = _stepped(world, listed, clocks, delay)
    assert found.seconds == energy_replay.SECONDS
    assert found.joules == pytest.approx(joules, rel=0.005)
    assert found.p95 == pytest.approx(sorted(latencies)[math.ceil(0.95 * len(latencies)) - 1], abs=0.1)
    assert clocks is not None or found.idle_seconds / found.seconds == pytest.approx(energy_replay.IDLE_SHARE, abs=1e-6)


def _stepped(
    world: energy_replay.World, listed: list[energy_replay.Request], clocks: str | None, delay: float
) -> tuple[float, list[float]]:
    """The paper's algorithm written out, a sample every hundred steps; backing off never happens at this pace of requests."""
    step, joules, latencies = 0.01, 0.0, []
    left = {at: each.work for at, each in enumerate(listed)}
    low, target, switch_at = False, False, math.inf
    idle_for, cool, busy = 0.0, 0.0, 0
    low_watts, low_speed = world.low(clocks) if clocks else (world.idle_watts, 1.0)
    for tick in range(round(energy_replay.SECONDS / step)):
        now = tick * step
        if now >= switch_at:
            low, switch_at = target, math.inf
        if tick and tick % 100 == 0:
            idle, busy = busy < 5, 0
            idle_for = idle_for + 1.0 if idle and tick > 100 else 0.0
            if clocks and idle and idle_for > 3 and now >= cool and not target:
                target, switch_at = True, now + delay
            elif clocks and not idle and target:
                target, switch_at, cool = False, now + delay, now + 5.0
        present = [at for at in left if listed[at].at <= now]
        speed = low_speed if low else 1.0
        joules += step * (low_watts if low else world.idle_watts)
        if present:
            busy += 1
            joules += step * (world.busy_watts - world.idle_watts) * speed
        for at in present:
            left[at] -= step * speed
            if left[at] <= 0:
                latencies.append(now + step - listed[at].at)
                del left[at]
    return joules, latencies
