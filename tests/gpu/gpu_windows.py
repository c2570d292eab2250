"""Windows of steps under several conditions, in turn, so that drift falls on all of them alike; and what follows of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gpu_job import Job
from gpu_setup import Missing, Setup, median_interval

ROUNDS: Final = 30
WINDOW_SECONDS: Final = 0.4
CALIBRATE_STEPS: Final = 5
STEPS_MAX: Final = 5_000
WARM_STEPS: Final = 2
"""At the start of each window, before the time is taken."""


@dataclass
class Condition:
    """A process and what it captures in its windows; None leaves it alone. Filled in: ns of a step by round, records, steps.

    `missing` says why there are no more windows: CUPTI may refuse, or deliver damage until the library gives up.
    """

    job: Job
    what: int | None = None
    step_ns: dict[int, float] = field(default_factory=dict)
    records: int = 0
    steps: int = 0
    missing: str = ""

    def window(self, workload: str, steps: int, number: int) -> None:
        """The window of round `number`."""
        before = self.job.records() if self.what else 0
        if self.what is not None:
            self.job.capture(self.what)
        took = self.job.ask("window", workload=workload, steps=steps, warm=WARM_STEPS)["ns"]
        if self.what:
            self.job.capture(0)  # which flushes
            self.records += self.job.records() - before
        self.step_ns[number] = took / steps
        self.steps += steps + WARM_STEPS


def interleave(
    setup: Setup, workload: str, conditions: Mapping[str, Condition], rounds: int, seconds: float = WINDOW_SECONDS
) -> int:
    """Windows of each condition once a round, in an order that turns; how many rounds there was time for."""
    first = next(iter(conditions.values()))
    took = first.job.ask("window", workload=workload, steps=CALIBRATE_STEPS, warm=WARM_STEPS)["ns"] / CALIBRATE_STEPS
    wanted = setup.pick(seconds, 0.01) * 1e9 / max(1.0, took)
    steps = int(min(STEPS_MAX, max(3.0, wanted)))
    for number in range(rounds):
        if setup.left() < 30:
            setup.note(f"{workload}: only {number} of {rounds} rounds, there was no more time")
            return number
        listed: list[str] = [name for name, each in conditions.items() if not each.missing]
        turned = listed[number % len(listed) :] + listed[: number % len(listed)]
        for name in turned if number % 2 else reversed(turned):
            try:
                conditions[name].window(workload, steps, number)
            except Missing as missing:
                conditions[name].missing = str(missing)
                setup.note(f"{workload}, {name}: ends in round {number}: {missing}")
        if first.missing:
            return number
    setup.say(f"{workload}: {rounds} rounds of {steps} steps of {took / 1e6:.2f} ms")
    return rounds


def beside(condition: Condition, base: Condition) -> dict[str, Any]:
    """What a step costs more than under the base condition of the same round: percent, with its 95 % interval."""
    both = sorted(condition.step_ns.keys() & base.step_ns.keys())
    if not both:
        return {"missing": condition.missing or "there was no time for it"}
    middle, low, high = median_interval([100 * (condition.step_ns[each] / base.step_ns[each] - 1) for each in both])
    told: dict[str, Any] = {
        "step_ms": round(median_interval([condition.step_ns[each] for each in both])[0] / 1e6, 4),
        "overhead_percent": round(middle, 3),
        "interval_percent": [round(low, 3), round(high, 3)],
        "rounds": len(both),
    }
    if condition.what and condition.steps:
        told["records_per_step"] = round(condition.records / condition.steps, 1)
        told["records_per_second"] = round(told["records_per_step"] / max(1e-9, told["step_ms"] / 1e3))
    return told


def interval_text(told: Mapping[str, Any]) -> str:
    """`+0.31 (+0.12 to +0.50)`, or what is missing."""
    if "missing" in told:
        return str(told["missing"])
    low, high = told["interval_percent"]
    return f"{told['overhead_percent']:+.2f} ({low:+.2f} to {high:+.2f})"
