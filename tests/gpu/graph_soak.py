"""Thirty million kernels replayed by a CUDA graph under capture: are their times sound, and does CUPTI give its memory back?

    python tests/gpu/graph_soak.py [--dry] [--out FOLDER]

Once with kernels alone and once with copies and sets too, in a process each, with the pool limit of 16 device buffers that the
library sets. Seen elsewhere on CUDA 13.0: times were damaged after 0.9 million records at a limit of 8 (after 25 million without
one), and a gigabyte of GPU memory was taken. Each at most four minutes; where damage makes the library give kernels up, it ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from gpu_job import COPIES, KERNELS, Job, jobs, machine, until
from gpu_setup import Figures, Setup, main, rows, used_bytes

RECORDS: Final = 30_000_000
DRY_RECORDS: Final = 20_000
SECONDS: Final = 220
WINDOW_STEPS: Final = 300
"""Replays of 500 kernels between two looks."""
KINDS: Final = {"kernels": KERNELS, "kernels, copies, sets": COPIES}
SETTLE_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 3.0
"""The library switches off and on again where it sees damage, before it gives kernels up."""
MEBIBYTE: Final = 2**20


def look(job: Job) -> dict[str, int]:
    """Counters and memory now."""
    standing = job.standing()
    names = ("records", "invalid", "dropped_cupti", "dropped_pool", "spilled")
    told = {name: standing.counters[name] for name in names}
    memory = used_bytes()
    used = memory if memory is not None else int(job.ask("memory")["used_bytes"])
    return told | {"dropped_ring": standing.dropped["kernels"], "used_bytes": used}


def soak(setup: Setup, job: Job, what: int) -> dict[str, Any]:
    """Until there are enough records, they end, or the time does."""
    goal, steps = int(setup.pick(RECORDS, DRY_RECORDS)), int(setup.pick(WINDOW_STEPS, 20))
    before = look(job)["used_bytes"]
    job.capture(what)
    job.ask("make", workload="graph")
    begun = time.monotonic()
    looks = [{"seconds": 0.0, **look(job)}]
    while looks[-1]["records"] < goal and time.monotonic() - begun < setup.pick(SECONDS, 30):
        job.ask("window", workload="graph", steps=steps, warm=0)
        looks.append({"seconds": round(time.monotonic() - begun, 1), **look(job)})
        if len(looks) % 20 == 0:
            setup.say(f"{job.name}: {looks[-1]['records']:,} records, {looks[-1]['invalid']:,} invalid")
        if not until(lambda: job.standing().capturing == what, PATIENCE_SECONDS):
            setup.note(f"{job.name}: the library stopped capturing this: {job.why()}")
            break
    took = time.monotonic() - begun
    kept = job.standing().capturing
    job.capture(0)
    time.sleep(setup.pick(SETTLE_SECONDS, 0))
    after = look(job)
    until(
        lambda: sum(job.taken.values()) + after["dropped_ring"] >= after["records"] - after["invalid"], setup.pick(5, 1)
    )
    return told(looks, after, before, took, kept == what) | {"read": dict(job.taken)}


def told(
    looks: list[dict[str, Any]], after: dict[str, int], before: int, seconds: float, to_the_end: bool
) -> dict[str, Any]:
    """What the looks say; memory in MiB beside that before capture began, the workload's own included."""
    damaged = next((each["records"] for each in looks if each["invalid"] > each["records"] // 100), None)
    first, last = looks[min(1, len(looks) - 1)], looks[-1]
    return {
        "records": after["records"],
        "records_per_second": round(last["records"] / max(seconds, 1e-9)),
        "invalid": after["invalid"],
        "over_1_percent_invalid_from_record": damaged,
        "captured_to_the_end": to_the_end,
        "dropped": {name: after[name] for name in ("dropped_cupti", "dropped_pool", "dropped_ring", "spilled")},
        "memory_mib_first": (first["used_bytes"] - before) // MEBIBYTE,
        "memory_mib_last": (last["used_bytes"] - before) // MEBIBYTE,
        "memory_mib_after": (after["used_bytes"] - before) // MEBIBYTE,
        "looks": looks[:: max(1, len(looks) // 50)],
    }


def one(setup: Setup, process: str, what: int) -> dict[str, Any]:
    """One run in a process of its own."""
    with jobs(setup, **{process: {}}) as running:
        return soak(setup, running[process], what)


def measure(setup: Setup) -> Figures:
    """By what was captured."""
    figures: Figures = {"machine": machine(setup), "runs": {}}
    for number, (name, what) in enumerate(KINDS.items()):
        found = setup.attempt(name, lambda number=number, what=what: one(setup, f"soak{number}", what))  # type: ignore[misc]
        if found:
            figures["runs"][name] = found
    setup.demand(figures["runs"])
    return figures


def table(figures: Mapping[str, Any]) -> str:
    """One line a run."""
    listed = [
        (
            *(name, f"{run['records']:,}", f"{run['records_per_second']:,}", f"{run['invalid']:,}"),
            run["over_1_percent_invalid_from_record"] or "never",
            *(run["memory_mib_first"], run["memory_mib_last"], run["memory_mib_after"]),
        )
        for name, run in figures["runs"].items()
    ]
    header = (
        "captured",
        "records",
        "a second",
        "invalid",
        "over 1 % invalid from record",
        "GPU MiB at first",
        "last",
        "off again",
    )
    return rows(header, listed)


if __name__ == "__main__":
    main(__doc__, "graph_soak", measure, table)
