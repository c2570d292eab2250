"""torch.profiler of the user while warpline holds CUPTI: does the user get kernels, do we stand back, do we come again?

    python tests/gpu/user_profiler.py [--dry] [--out FOLDER]

With KINETO_USE_DAEMON and the subscriber's place held, as `warpline run` sets it for PyTorch from 2.7 on, and without either; the
profile begun while kernels are captured, and before they ever were. Each case is a process of its own and profiles twice. At most
three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from gpu_job import KERNELS, Job, jobs, machine, until
from gpu_setup import Figures, Missing, Setup, main, rows

HELD: Final = {"KINETO_USE_DAEMON": "1", "WARPLINE_HOLD_CUPTI": "1"}
CASES: Final[Mapping[str, tuple[dict[str, str], bool]]] = {
    "held, capture first": (HELD, True),
    "held, profiler first": (HELD, False),
    "not held, capture first": ({}, True),
    "not held, profiler first": ({}, False),
}
PROFILES: Final = 2
STEPS: Final = 10
PAUSE_SECONDS: Final = 3.0
"""The library's own thread sees the profile at its next turn."""
BACK_SECONDS: Final = 12.0
"""The library stays away for 5 seconds after a profile."""


def back(setup: Setup, job: Job) -> float | None:
    """Seconds until records of steps come again; None where they do not."""
    begun = time.monotonic()
    while time.monotonic() - begun < BACK_SECONDS:
        before = job.records()
        job.ask("window", workload="launches", steps=3)
        if until(lambda before=before: job.records() > before, 0.5):  # type: ignore[misc]
            return round(time.monotonic() - begun, 1)
    return None


def profiled(setup: Setup, job: Job) -> dict[str, Any]:
    """One profile: kernels that its user got, and what became of us."""
    steps = int(setup.pick(STEPS, 2))
    before = job.records()
    kernels = job.ask("profile", workload="launches", steps=steps)["kernels"]
    until(lambda: job.standing().channels["kernels"][0] != "ok", PAUSE_SECONDS)  # it stays so for 5 seconds
    during = job.why()
    return {"user_kernels": kernels, "ours_meanwhile": job.records() - before, "channel": during}


def case(setup: Setup, job: Job, capture_first: bool) -> dict[str, Any]:
    """One process."""
    found: dict[str, Any] = {}
    job.ask("make", workload="launches")
    if capture_first:
        job.capture(KERNELS)
        job.ask("window", workload="launches", steps=3)
        until(lambda: job.records() > 0, 2)
        found["records_before"] = job.records()
    found["profiles"] = []
    for _ in range(int(setup.pick(PROFILES, 1))):
        told = profiled(setup, job)
        try:
            if not capture_first:
                until(lambda: job.standing().channels["kernels"][0] == "ok", BACK_SECONDS)
                job.capture(KERNELS)
            told["back_after_seconds"] = back(setup, job)
        except Missing as missing:
            told |= {"back_after_seconds": None, "why": str(missing)}
        found["profiles"].append(told)
    found["channel_at_end"] = job.why()
    return found


def measure(setup: Setup) -> Figures:
    """By case; one that fails does not keep the others."""
    figures: Figures = {"machine": machine(setup), "cases": {}}
    listed = list(CASES.items())[: int(setup.pick(len(CASES), 1))]
    for number, (name, (environment, capture_first)) in enumerate(listed):
        with jobs(setup, **{f"profiled{number}": environment}) as running:
            (job,) = running.values()
            found = setup.attempt(name, lambda job=job, first=capture_first: case(setup, job, first))  # type: ignore[misc]
        if found:
            figures["cases"][name] = found
        setup.say(f"{name}: done")
    setup.demand(figures["cases"])
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """One line a profile."""
    listed = [
        (
            name,
            number + 1,
            told["user_kernels"],
            told["ours_meanwhile"],
            told["back_after_seconds"] or "never",
            told["channel"],
        )
        for name, found in figures["cases"].items()
        for number, told in enumerate(found["profiles"])
    ]
    return rows(
        ("case", "profile", "kernels of the user", "ours meanwhile", "ours again after, s", "our channel"), listed
    )


if __name__ == "__main__":
    main(__doc__, "user_profiler", measure, table)
