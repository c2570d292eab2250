"""Windows of steps under several conditions, in turn, so that drift falls on all of them alike; and what follows of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpu_job import Job
from gpu_setup import Setup, median_interval

ROUNDS: Final = 30
WINDOW_SECONDS: Final = 0.4
CALIBRATE_STEPS: Final = 5
STEPS_MAX: Final = 5_000
WARM_STEPS: Final = 2
"""At the start of each window, before the time is taken."""


@dataclass
class Condition:
    """A process and what it captures in its windows; None leaves it alone. Filled in: ns of a step by round, records, steps."""

    job: Job
    what: int | None = None
    step_ns: list[float] = field(default_factory=list)
    records: int = 0
    steps: int = 0

    def window(self, workload: str, steps: int) -> None:
        """One window."""
        before = self.job.records() if self.what else 0
        if self.what is not None:
            self.job.capture(self.what)
        took = self.job.ask("window", workload=workload, steps=steps, warm=WARM_STEPS)["ns"]
        if self.what:
            self.job.capture(0)  # which flushes
            self.records += self.job.records() - before
        self.step_ns.append(took / steps)
        self.steps += steps + WARM_STEPS


def interleave(
    setup: Setup, workload: str, conditions: Mapping[str, Condition], rounds: int, seconds: float = WINDOW_SECONDS
) -> int:
    """Windows of each condition once a round, in an order that turns; how many rounds there was time for."""
    first = next(iter(conditions.values()))
    took = first.job.ask("window", workload=workload, steps=CALIBRATE_STEPS, warm=WARM_STEPS)["ns"] / CALIBRATE_STEPS
    wanted = setup.pick(seconds, 0.01) * 1e9 / max(1.0, took)
    steps = int(min(STEPS_MAX, max(3.0, wanted)))
    listed: list[Condition] = list(conditions.values())
    for number in range(rounds):
        if setup.left() < 30:
            setup.note(f"{workload}: only {number} of {rounds} rounds, there was no more time")
            return number
        turned = listed[number % len(listed) :] + listed[: number % len(listed)]
        for condition in turned if number % 2 else reversed(turned):
            condition.window(workload, steps)
    setup.say(f"{workload}: {rounds} rounds of {steps} steps of {took / 1e6:.2f} ms")
    return rounds


def beside(condition: Condition, base: Condition) -> dict[str, Any]:
    """What a step costs more than under the base condition of the same round: percent, with its 95 % interval."""
    pairs = zip(condition.step_ns, base.step_ns, strict=True)
    middle, low, high = median_interval([100 * (ours / theirs - 1) for ours, theirs in pairs])
    told: dict[str, Any] = {
        "step_ms": round(median_interval(condition.step_ns)[0] / 1e6, 4),
        "overhead_percent": round(middle, 3),
        "interval_percent": [round(low, 3), round(high, 3)],
        "rounds": len(condition.step_ns),
    }
    if condition.what and condition.steps:
        told["records_per_step"] = round(condition.records / condition.steps, 1)
        told["records_per_second"] = round(told["records_per_step"] / max(1e-9, told["step_ms"] / 1e3))
    return told


def interval_text(told: Mapping[str, Any]) -> str:
    """`+0.31 (0.12 to 0.50)`."""
    low, high = told["interval_percent"]
    return f"{told['overhead_percent']:+.2f} ({low:+.2f} to {high:+.2f})"
