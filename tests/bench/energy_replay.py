"""The bursty-serving replay: one GPU that answers requests, with and without the guard's down-clock algorithm.

Built to the description of "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026), section 5, and fixed before
it was first run:

* One GPU, 1,175 s, 20 seeds. Gaps between requests have a median of 6 s, the middle of the paper's 4 to 8, and are lognormal
  with sigma 1 (burstier than Poisson, which is run beside it). Requests are batched: they do not slow each other.
* The work of a request at full clock is lognormal with sigma 0.35, scaled until, without the guard, no request is there for
  76 % of the time, the paper's share for Azure Code.
* Power: 105 W idle with a program, 61 W with a low SM clock, 35 W with both low. Busy 184 W: what the paper's mean of 123.9 W
  leaves for the other 24 % of the time. At low clocks work draws what it draws above idle, times its speed.
* Low clocks: SM 210 of 2,520 MHz, work goes on at 1/12 of its speed; memory 405 of 9,001 MHz, at 1/22.
* The guard is the agent's own algorithm, stepped by samples once a second; one shows low activity where less than 5 % of its
  second had work. Clocks change `delay` after it says so. No GPU that lets clocks be set is at hand: delays of 1, 50, 100 and
  500 ms are run, the range that the paper quotes, and 100 ms is the one that is reported.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from warpline_agent.guard.down_clock import Activity, Decision, DownClock, Rule

SECONDS: Final = 1175.0
SEEDS: Final = 20
IDLE_SHARE: Final = 0.76
SIGMA_WORK: Final = 0.35
DELAYS: Final = (0.001, 0.05, 0.1, 0.5)
REPORTED_DELAY: Final = 0.1
PAPER: Final = {"sm": {"saving": 22.0, "p95": 29.0}, "sm_memory": {"saving": 34.0, "p95": 160.0}}
PLAIN_RULE: Final = Rule(wakes_per_minute_max=math.inf)
"""As the paper prints it: no backing off where wake-ups are frequent."""


@dataclass(frozen=True)
class World:
    """Watts, gaps and pace of one replay. `gaps` is lognormal or poisson."""

    idle_watts: float = 105.0
    sm_watts: float = 61.0
    sm_memory_watts: float = 35.0
    busy_watts: float = 184.0
    sm_speed: float = 210 / 2520
    sm_memory_speed: float = 405 / 9001
    median_gap: float = 6.0
    gaps: str = "lognormal"
    period: float = 1.0

    def low(self, clocks: str) -> tuple[float, float]:
        """Idle watts and speed with low clocks."""
        if clocks == "sm":
            return self.sm_watts, self.sm_speed
        return self.sm_memory_watts, self.sm_memory_speed


@dataclass(frozen=True)
class Request:
    """When it comes, and its work in seconds at full clock."""

    at: float
    work: float


@dataclass
class Outcome:
    """Of one run, or the sum of several."""

    joules: float
    seconds: float
    idle_seconds: float
    idle_joules: float
    low_seconds: float
    wakes: int
    back_offs: int
    latencies: list[float]

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def p95(self) -> float:
        """Seconds; nearest rank."""
        return sorted(self.latencies)[math.ceil(0.95 * len(self.latencies)) - 1]


def requests(world: World, seed: int, work: float) -> list[Request]:
    """Requests of one run with a median work of `work`."""
    draw = random.Random(seed)
    at = 0.0
    made: list[Request] = []
    while True:
        normal, uniform = draw.gauss(0, 1), draw.random()
        scale = world.median_gap
        at += scale * math.exp(normal) if world.gaps == "lognormal" else -math.log(1 - uniform) * scale / math.log(2)
        size = work * math.exp(SIGMA_WORK * draw.gauss(0, 1))
        if at >= SECONDS:
            return made
        made.append(Request(at, size))


def work_of(world: World, seeds: Sequence[int]) -> float:
    """The median work at which no request is there for IDLE_SHARE of the time, without a guard."""
    low, high = 0.01, 60.0
    for _ in range(30):
        middle = (low + high) / 2
        idle = sum(SECONDS - _covered(requests(world, seed, middle)) for seed in seeds) / (SECONDS * len(seeds))
        low, high = (middle, high) if idle > IDLE_SHARE else (low, middle)
    return (low + high) / 2


def _covered(listed: Sequence[Request]) -> float:
    total, until = 0.0, 0.0
    for each in listed:
        begin, end = max(each.at, until), min(each.at + each.work, SECONDS)
        total += max(0.0, end - begin)
        until = max(until, end)
    return total


class Gpu:
    """One run. Work is served by speed: `_served` is the work that each request present has had since the beginning."""

    def __init__(self, world: World, clocks: str | None, rule: Rule, delay: float) -> None:
        self._world, self._clocks, self._delay = world, clocks, delay
        self._guard = DownClock(rule)
        self._served = 0.0
        self._present: list[tuple[float, float]] = []
        self._low, self._switch = False, (math.inf, False)
        self._busy_in_period = 0.0
        self.found = Outcome(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, [])

    def run(self, listed: Sequence[Request]) -> Outcome:
        """To the end of the time; requests that are not done then have no latency."""
        coming, now, tick = list(reversed(listed)), 0.0, self._world.period
        while now < SECONDS:
            done = now + (self._present[0][0] - self._served) / self._speed if self._present else math.inf
            arrival = coming[-1].at if coming else math.inf
            then = min(done, arrival, self._switch[0], tick, SECONDS)
            self._pass(then - now)
            now = then
            if self._present and then == done:
                self.found.latencies.append(now - heapq.heappop(self._present)[1])
            if then == arrival:
                request = coming.pop()
                heapq.heappush(self._present, (self._served + request.work, request.at))
            if then == self._switch[0]:
                self._low, self._switch = self._switch[1], (math.inf, False)
            if then == tick:
                self._sample(now)
                tick += self._world.period
        return self.found

    @property
    def _speed(self) -> float:
        return self._world.low(self._clocks)[1] if self._low and self._clocks else 1.0

    def _pass(self, seconds: float) -> None:
        world, found = self._world, self.found
        idle = world.low(self._clocks)[0] if self._low and self._clocks else world.idle_watts
        watts = idle + ((world.busy_watts - world.idle_watts) * self._speed if self._present else 0.0)
        found.joules += watts * seconds
        found.seconds += seconds
        found.low_seconds += seconds if self._low else 0.0
        if self._present:
            self._served += seconds * self._speed
            self._busy_in_period += seconds
        else:
            found.idle_seconds += seconds
            found.idle_joules += watts * seconds

    def _sample(self, now: float) -> None:
        idle, self._busy_in_period = self._busy_in_period < 0.05 * self._world.period, 0.0
        if self._clocks is None:
            return
        decision = self._guard.step(now, Activity(idle, "replay"))
        if decision is Decision.NONE:
            return
        self._switch = now + self._delay, decision is Decision.LOWER
        self.found.wakes += decision is not Decision.LOWER
        self.found.back_offs += decision is Decision.BACK_OFF


def replay(world: World, seeds: Sequence[int], work: float, clocks: str | None, rule: Rule, delay: float) -> Outcome:
    """All seeds together."""
    first, *others = (Gpu(world, clocks, rule, delay).run(requests(world, seed, work)) for seed in seeds)
    return sum(others, first)


def compare(world: World, seeds: Sequence[int], rule: Rule, delays: Sequence[float]) -> dict[str, Any]:
    """Saving and p95 of both guards against none, by delay."""
    work = work_of(world, seeds)
    plain = replay(world, seeds, work, None, rule, 0.0)
    told: dict[str, Any] = {
        "idle_time_percent": 100 * plain.idle_seconds / plain.seconds,
        "idle_energy_percent": 100 * plain.idle_joules / plain.joules,
        "mean_watts": plain.joules / plain.seconds,
        "p95_seconds": plain.p95,
        "requests": len(plain.latencies),
    }
    for clocks in ("sm", "sm_memory"):
        for delay in delays:
            found = replay(world, seeds, work, clocks, rule, delay)
            told[f"{clocks}_{delay * 1e3:.0f}ms"] = {
                "saving_percent": 100 * (1 - found.joules / plain.joules),
                "mean_watts": found.joules / found.seconds,
                "p95_seconds": found.p95,
                "p95_percent": 100 * (found.p95 / plain.p95 - 1),
                "low_percent_of_idle": 100 * found.low_seconds / found.idle_seconds,
                "wakes_per_hour": 3600 * found.wakes / found.seconds,
                "back_offs": found.back_offs,
            }
    return told


def changes(world: World) -> dict[str, World]:
    """One thing changed at a time, by 30 % where it is a number."""
    varied = {"poisson gaps": replace(world, gaps="poisson"), "sampled ten times a second": replace(world, period=0.1)}
    for name in ("idle_watts", "sm_watts", "sm_memory_watts", "busy_watts", "median_gap"):
        for factor, sign in ((0.7, "-30 %"), (1.3, "+30 %")):
            varied[f"{name} {sign}"] = replace(world, **{name: factor * getattr(world, name)})
    return varied


def figures(quick: bool) -> dict[str, Any]:
    """The replay, by rule and delay, and how it moves with its assumptions."""
    seeds = range(4 if quick else SEEDS)
    world = World()
    base = compare(world, seeds, Rule(), DELAYS)
    reported = f"{REPORTED_DELAY * 1e3:.0f}ms"
    return {
        "guard_saving_percent": base[f"sm_{reported}"]["saving_percent"],
        "guard_latency_p95_percent": base[f"sm_{reported}"]["p95_percent"],
        "paper": PAPER,
        "base": base,
        "as_printed": compare(world, seeds, PLAIN_RULE, (REPORTED_DELAY,)),
        "sensitivity": {
            name: compare(changed, seeds, Rule(), (REPORTED_DELAY,)) for name, changed in changes(world).items()
        },
    }
