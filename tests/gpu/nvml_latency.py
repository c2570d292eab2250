"""How long NVML's calls take on a real driver, idle and under load, and whether asking disturbs the steps.

    python tests/gpu/nvml_latency.py [--dry] [--out FOLDER]

One GPU is read as the agent's child reads it (all counters at once: one batch of fields, GPM, processes, the single calls),
four times a second, beside an idle GPU, an eager training step and replays of a CUDA graph. Then windows of steps with and
without such reading once a second. At most four minutes.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Final

from gpu_job import Job, jobs, machine
from gpu_setup import Figures, Setup, main, nvml, quantile, rows
from gpu_windows import Condition, beside, interleave, interval_text

from warpline_agent.nvml.counters import COUNTERS
from warpline_agent.nvml.device import Device

VISITS: Final = 100
VISIT_SECONDS: Final = 0.25
POLL_SECONDS: Final = 1.0
LOADS: Final = ("eager", "decode")
ROUNDS: Final = 15
CALLS_TOLD: Final = 12
"""The slowest, in the table."""


class Timed:
    """pynvml whose calls are timed, by name, in microseconds."""

    def __init__(self, pynvml: Any) -> None:
        self._pynvml = pynvml
        self.calls: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._pynvml, name)
        if not name.startswith("nvml") or not callable(found):
            return found

        def timed(*given: Any) -> Any:
            begun = time.perf_counter_ns()
            try:
                return found(*given)
            finally:
                self.calls[name].append((time.perf_counter_ns() - begun) / 1e3)

        return timed


def reader(timed: Timed, handle: Any) -> Callable[[], int]:
    """Reads every counter that the device offers; how many it gave."""
    device = Device(timed, handle, COUNTERS, stretch=0)  # everything is due at each visit
    return lambda: len(device.visit(time.monotonic()).values)


def spread(values: list[float]) -> dict[str, float]:
    """Of microseconds."""
    told = {"median": quantile(values, 0.5), "p95": quantile(values, 0.95), "worst": max(values)}
    return {name: round(value, 1) for name, value in told.items()} | {"calls": len(values)}


def visits(setup: Setup) -> dict[str, Any]:
    """So many visits: the whole of each, and every call, the slowest first."""
    pynvml, handle = nvml()
    timed = Timed(pynvml)
    read = reader(timed, handle)
    read()  # which learns what the device offers
    timed.calls.clear()
    whole, values = [], 0
    for _ in range(int(setup.pick(VISITS, 5))):
        begun = time.perf_counter_ns()
        values = read()
        whole.append((time.perf_counter_ns() - begun) / 1e3)
        time.sleep(setup.pick(VISIT_SECONDS, 0))
    slowest = sorted(timed.calls.items(), key=lambda each: -quantile(each[1], 0.5))
    return {"values": values, "whole_us": spread(whole), "calls_us": {name: spread(took) for name, took in slowest}}


class Polling:
    """Reads once a second on a thread while it is entered."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            self._read()


class Polled(Condition):
    """Windows during which somebody reads."""

    read: Callable[[], int]

    def window(self, workload: str, steps: int, number: int) -> None:
        with Polling(self.read):
            super().window(workload, steps, number)


def disturbance(setup: Setup, job: Job, read: Callable[[], int]) -> dict[str, Any]:
    """Steps read once a second beside steps in peace; windows of two seconds, so that each is read once at least."""
    found = {}
    for workload in LOADS:
        polled = Polled(job)
        polled.read = read
        listed = {"peace": Condition(job), "read": polled}
        interleave(setup, workload, listed, int(setup.pick(ROUNDS, 2)), setup.pick(2.0, 0.01))
        found[workload] = beside(polled, listed["peace"])
    return found


def measure(setup: Setup) -> Figures:
    """Idle, under load, and what it does to the load."""
    pynvml, handle = nvml()
    figures: Figures = {"driver": pynvml.nvmlSystemGetDriverVersion(), "loads": {"no context": visits(setup)}}
    figures["machine"] = machine(setup)
    with jobs(setup, load={"injected": False, "hook": False}) as running:
        job = running["load"]
        figures["loads"]["context, idle"] = visits(setup)
        for workload in LOADS:
            job.ask("make", workload=workload)
            figures["loads"][workload] = under(setup, job, workload)
        figures["disturbance"] = disturbance(setup, job, reader(Timed(pynvml), handle))
    return figures


def under(setup: Setup, job: Job, workload: str) -> dict[str, Any]:
    """Visits while the workload runs; it is asked for as many steps as they last, about."""
    timing = job.ask("window", workload=workload, steps=5)["ns"] / 5
    seconds = setup.pick(VISITS * VISIT_SECONDS * 1.1, 0.05)
    job.send("window", workload=workload, steps=max(1, int(seconds * 1e9 / timing)))
    found = visits(setup)
    job.answer()
    return found


def table(figures: Mapping[str, Any]) -> str:
    """Whole visits by load, the slowest calls under the first load, and the disturbance."""
    listed = [
        (name, told["values"], *(told["whole_us"][each] for each in ("median", "p95", "worst")))
        for name, told in figures["loads"].items()
    ]
    text = rows(("beside", "values", "one GPU, all at once: median, µs", "p95", "worst"), listed)
    slow = [
        (name, *(took[each] for each in ("median", "p95", "worst")))
        for name, took in list(figures["loads"][LOADS[0]]["calls_us"].items())[:CALLS_TOLD]
    ]
    text += f"\n\nUnder `{LOADS[0]}`:\n\n" + rows(("call", "median, µs", "p95", "worst"), slow)
    for workload, told in figures["disturbance"].items():
        text += f"\n\nRead once a second, steps of `{workload}` take {interval_text(told)} % longer."
    return text


if __name__ == "__main__":
    main(__doc__, "nvml_latency", measure, table)
