"""What is left of CUPTI's cost once it captures nothing again, how long switching takes, and whether memory comes back.

    python tests/gpu/toggling.py [--dry] [--out FOLDER]

Three processes: nothing loaded; the library loaded and never asked for anything; kernels captured for a while and switched off.
Their windows are run in turn as in overhead.py. Then capture is switched on and off twenty times while steps run, and GPU memory
is read over five cycles. At most five minutes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from gpu_job import KERNELS, Job, jobs, machine
from gpu_setup import Figures, Setup, main, quantile, rows, used_bytes
from gpu_windows import ROUNDS, Condition, beside, interleave, interval_text

WORKLOADS: Final = ("launches", "decode")
PROCESSES: Final[Mapping[str, dict[str, Any]]] = {
    "plain": {"injected": False, "hook": False},
    "never": {"hook": False},
    "off": {"hook": False},
}
TOGGLES: Final = 20
PAUSE_SECONDS: Final = 0.2
FLUSH_MS: Final = 20
"""The library looks at what is asked at least so often here: what is beyond that is CUPTI's own."""
CYCLES: Final = 5
CYCLE_STEPS: Final = 1_000
MEBIBYTE: Final = 2**20


def residue(setup: Setup, running: Mapping[str, Job]) -> dict[str, Any]:
    """Steps of the three beside each other."""
    found = {}
    for workload in WORKLOADS:
        listed = {name: Condition(job) for name, job in running.items()}
        interleave(setup, workload, listed, int(setup.pick(ROUNDS, 2)))
        found[workload] = {name: beside(each, listed["plain"]) for name, each in listed.items()}
    return found


def latency(setup: Setup, job: Job) -> dict[str, Any]:
    """Milliseconds until the library has done what was asked, and steps meanwhile beside steps in peace."""
    steps = int(setup.pick(400, 20))
    quiet = job.ask("window", workload="launches", steps=steps, each=True)["each_ns"]
    on, off, disturbed = [], [], []
    job.flush_ms = FLUSH_MS
    for what in (KERNELS, 0):  # the library heeds the new period only after the old one
        job.capture(what)
    for _ in range(int(setup.pick(TOGGLES, 2))):
        job.send("window", workload="launches", steps=steps, each=True)
        time.sleep(setup.pick(PAUSE_SECONDS, 0))
        on.append(job.capture(KERNELS) * 1e3)
        time.sleep(setup.pick(PAUSE_SECONDS, 0))
        off.append(job.capture(0) * 1e3)
        disturbed += job.answer()["each_ns"]
    return {
        "on_ms": {"median": round(quantile(on, 0.5), 2), "worst": round(max(on), 2)},
        "off_ms": {"median": round(quantile(off, 0.5), 2), "worst": round(max(off), 2)},
        "step_ms_in_peace": {"median": round(quantile(quiet, 0.5) / 1e6, 3), "worst": round(max(quiet) / 1e6, 3)},
        "step_ms_meanwhile": {
            "median": round(quantile(disturbed, 0.5) / 1e6, 3),
            "worst": round(max(disturbed) / 1e6, 3),
        },
    }


def memory(setup: Setup, job: Job) -> list[dict[str, Any]]:
    """GPU memory in MiB beside that at the start: after capture, and after switching off, cycle by cycle."""
    start = used_bytes()
    if start is None:
        setup.note("GPU memory is not known: NVML does not tell")
        return []
    found = []
    for _ in range(CYCLES):
        job.capture(KERNELS)
        job.ask("window", workload="launches", steps=int(setup.pick(CYCLE_STEPS, 20)))
        on = used_bytes() or start
        job.capture(0)
        time.sleep(setup.pick(1.0, 0))
        found.append({"on_mib": (on - start) / MEBIBYTE, "off_mib": ((used_bytes() or start) - start) / MEBIBYTE})
    return found


def measure(setup: Setup) -> Figures:
    """All three questions."""
    figures: Figures = {"machine": machine(setup)}
    with jobs(setup, **PROCESSES) as running:
        for workload in WORKLOADS:
            for job in running.values():
                job.ask("make", workload=workload)
        used = running["off"]
        used.capture(KERNELS)
        used.ask("window", workload="launches", steps=int(setup.pick(CYCLE_STEPS, 20)))
        used.capture(0)
        figures["captured_before"] = used.records()
        figures["residue"] = setup.attempt("residue", lambda: residue(setup, running))
        figures["latency"] = setup.attempt("latency", lambda: latency(setup, used))
        figures["memory"] = setup.attempt("memory", lambda: memory(setup, used))
        setup.demand(figures["residue"])
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """Residue, then latency and memory as sentences."""
    listed = [
        (workload, name, told.get("step_ms", ""), interval_text(told))
        for workload, conditions in (figures["residue"] or {}).items()
        for name, told in conditions.items()
    ]
    text = rows(("workload", "library", "step, ms", "overhead %, 95 % interval"), listed)
    for name, took in (figures["latency"] or {}).items():
        text += f"\n\n{name}: median {took['median']}, worst {took['worst']}"
    return (
        text
        + "\n\nGPU MiB after each on and off: "
        + ", ".join(f"{each['on_mib']:.0f} / {each['off_mib']:.0f}" for each in figures["memory"] or ())
    )


if __name__ == "__main__":
    main(__doc__, "toggling", measure, table)
