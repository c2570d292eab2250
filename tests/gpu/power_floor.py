"""The floor of execution-idle: watts of a GPU without a context, with an idle one, busy, and idle again.

    python tests/gpu/power_floor.py [--dry] [--out FOLDER]

Watts are the energy counter over each phase, clocks and utilisation read once a second beside; nothing is set. Other processes on
the GPU spoil it, and are told. At most three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from gpu_job import Job, machine
from gpu_setup import Figures, Missing, Setup, main, nvml, quantile, rows

SETTLE_SECONDS: Final = 5.0
PHASE_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 1.0
SM_CLOCK: Final = 1


def asked(pynvml: Any, call: str, *given: Any) -> Any:
    """What NVML says; None where this device does not tell."""
    try:
        return getattr(pynvml, call)(*given)
    except pynvml.NVMLError:
        return None


def phase(setup: Setup) -> dict[str, Any]:
    """Watts and readings over one phase."""
    pynvml, device = nvml()
    time.sleep(setup.pick(SETTLE_SECONDS, 0))
    begun, before = time.monotonic(), asked(pynvml, "nvmlDeviceGetTotalEnergyConsumption", device)
    clocks, busy, watts, states = [], [], [], []
    while time.monotonic() - begun < setup.pick(PHASE_SECONDS, 0.3):
        time.sleep(setup.pick(LOOK_SECONDS, 0.1))
        clocks.append(asked(pynvml, "nvmlDeviceGetClockInfo", device, SM_CLOCK))
        rates = asked(pynvml, "nvmlDeviceGetUtilizationRates", device)
        busy.append(rates.gpu if rates else None)
        watts.append(asked(pynvml, "nvmlDeviceGetPowerUsage", device))
        states.append(asked(pynvml, "nvmlDeviceGetPerformanceState", device))
    after, took = asked(pynvml, "nvmlDeviceGetTotalEnergyConsumption", device), time.monotonic() - begun
    known = before is not None and after is not None
    return {
        "watts_by_energy": round((after - before) / 1e3 / took, 1) if known else None,
        "watts_median": _median([each / 1e3 for each in watts if each is not None]),
        "sm_clock_mhz": _median([each for each in clocks if each is not None]),
        "gpu_utilization_percent": _median([each for each in busy if each is not None]),
        "performance_state": _median([each for each in states if each is not None]),
    }


def _median(values: list[float]) -> float | None:
    return round(quantile(values, 0.5), 1) if values else None


def measure(setup: Setup) -> Figures:
    """Phase by phase."""
    pynvml, device = nvml()
    others = asked(pynvml, "nvmlDeviceGetComputeRunningProcesses", device) or []
    if others and not setup.dry:
        setup.note(f"{len(others)} other processes hold a context on this GPU: there is no phase without one")
    figures: Figures = {"phases": {"no context": phase(setup)}}
    try:
        figures["machine"] = machine(setup)
    except Missing as missing:
        setup.note(f"no phase with a context: {missing}")
        return figures
    setup.say("no context: done")
    job = Job(setup, "resident", injected=False, hook=False)
    try:
        job.ask("start")
        figures["phases"]["context, idle"] = phase(setup)
        job.ask("make", workload="eager")
        figures["phases"]["model loaded, idle"] = phase(setup)
        took = job.ask("window", workload="eager", steps=3)["ns"] / 3
        seconds = setup.pick(SETTLE_SECONDS + PHASE_SECONDS + 2, 0.3)
        job.send("window", workload="eager", steps=max(1, int(seconds * 1e9 / took)))
        figures["phases"]["busy"] = phase(setup)
        job.answer()
        figures["phases"]["idle after work"] = phase(setup)
    finally:
        job.end()
    figures["phases"]["context gone"] = phase(setup)
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """One line a phase."""
    names = ("watts_by_energy", "watts_median", "sm_clock_mhz", "gpu_utilization_percent", "performance_state")
    listed = [(name, *(told[each] for each in names)) for name, told in figures["phases"].items()]
    header = ("phase", "watts, by energy", "watts, median", "SM clock, MHz", "utilisation, %", "performance state")
    return rows(header, listed)


if __name__ == "__main__":
    main(__doc__, "power_floor", measure, table)
