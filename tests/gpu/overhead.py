"""What capture costs a training step: nothing loaded, the hook, the library at rest, kernels, copies and sets too, whole graphs.

    python tests/gpu/overhead.py [--dry] [--out FOLDER]

Four processes hold the same model; windows of about 0.4 s of steps are run in turn, 30 rounds each, in an eager training step
with long kernels, one with short kernels, and a CUDA graph of a forward pass. Overhead is the median over rounds of the window
beside the one of the same round with nothing loaded, with its 95 % interval. Graphs are made while capture is on, as in a job
that is captured from its start. CUPTI is flushed ten times a second, five times as often as by default. At most six minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpu_job import COPIES, GRAPHS, KERNELS, Job, jobs, machine
from gpu_setup import Figures, Setup, main, rows
from gpu_windows import ROUNDS, Condition, beside, interleave, interval_text

WORKLOADS: Final = ("eager", "launches", "decode")
ALLOWED_PERCENT: Final = (0.5, 1.0)
"""Slow-down that the recommended rates stay below."""
RATE_MAX: Final = 10_000_000
"""A threshold above this is no threshold."""
PROCESSES: Final[Mapping[str, dict[str, Any]]] = {
    "plain": {"injected": False, "hook": False},
    "hook": {"injected": False},
    "captured": {},
    "graphs": {},  # choosing whole graphs is for ever, so in a process of its own
}


def conditions(running: Mapping[str, Job], graphs: bool) -> dict[str, Condition]:
    """By name, the base first; whole graphs where this CUPTI knows them."""
    found = {
        "plain": Condition(running["plain"]),
        "hook": Condition(running["hook"]),
        "library at rest": Condition(running["captured"], 0),
        "kernels": Condition(running["captured"], KERNELS),
        "kernels, copies, sets": Condition(running["captured"], COPIES),
    }
    return found | ({"whole graphs": Condition(running["graphs"], GRAPHS)} if graphs else {})


def make(setup: Setup, running: Mapping[str, Job], workload: str) -> bool:
    """The workload in every process, captured where it will be; whether whole graphs can be."""
    running["captured"].capture(KERNELS)
    graphs = setup.attempt("whole graphs", lambda: running["graphs"].capture(GRAPHS)) is not None
    for job in running.values():
        job.send("make", workload=workload)
    for job in running.values():
        job.answer()
    for name in ("captured", "graphs"):
        running[name].capture(0)
    return graphs


def rates(told: Mapping[str, Any], plain_ms: float) -> dict[str, Any]:
    """Nanoseconds that a record costs the step, at the median and at the upper end, and rates that keep it within bounds."""
    records = told.get("records_per_step")
    if not records:
        return {}
    middle, high = (
        plain_ms * 1e6 * percent / 100 / records for percent in (told["overhead_percent"], told["interval_percent"][1])
    )
    found: dict[str, Any] = {"ns_per_record": round(middle, 1), "ns_per_record_at_most": round(high, 1)}
    for percent in ALLOWED_PERCENT:
        rate = percent / 100 * 1e9 / high if high > 0 else RATE_MAX
        found[f"records_per_second_for_{percent}_percent"] = round(min(RATE_MAX, rate))
    return found


def compare(setup: Setup, running: Mapping[str, Job], workload: str) -> dict[str, dict[str, Any]]:
    """All conditions of one workload beside the first."""
    listed = conditions(running, make(setup, running, workload))
    interleave(setup, workload, listed, int(setup.pick(ROUNDS, 2)))
    return {name: beside(each, listed["plain"]) for name, each in listed.items()}


def measure(setup: Setup) -> Figures:
    """By workload and condition."""
    figures: Figures = {"machine": machine(setup), "workloads": {}}
    with jobs(setup, **PROCESSES) as running:
        for workload in WORKLOADS:
            told = setup.attempt(workload, lambda workload=workload: compare(setup, running, workload))  # type: ignore[misc]
            if told:
                found = rates(told["kernels"], told["plain"]["step_ms"])
                figures["workloads"][workload] = {"conditions": told, "kernels": found}
        setup.demand(figures["workloads"])
        standing = running["captured"].standing()
        figures["counters"] = dict(standing.counters)
        figures["dropped"] = dict(standing.dropped)
    known = [each["kernels"] for each in figures["workloads"].values() if each["kernels"]]
    for percent in ALLOWED_PERCENT:
        key = f"records_per_second_for_{percent}_percent"
        figures[f"recommended_{key}"] = min((each[key] for each in known), default=None)
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """One line a workload and condition."""
    listed = [
        (name, condition, told.get("step_ms", ""), told.get("records_per_second", ""), interval_text(told))
        for name, workload in figures["workloads"].items()
        for condition, told in workload["conditions"].items()
    ]
    text = rows(("workload", "condition", "step, ms", "records/s", "overhead %, 95 % interval"), listed)
    for percent in ALLOWED_PERCENT:
        rate = figures[f"recommended_records_per_second_for_{percent}_percent"]
        allowed = f"up to {rate:,} records a second" if rate else "not known"
        text += f"\n\nSlow-down below {percent} % by the upper end of every interval: {allowed}."
    return text


if __name__ == "__main__":
    main(__doc__, "overhead", measure, table)
