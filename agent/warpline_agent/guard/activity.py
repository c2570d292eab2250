"""Rows of one GPU's samples -> whether it does nothing with a program resident, by the rule of execution-idle.

Compute and device memory below 5 %, PCIe and NVLink below 1 GB/s. A signal that the GPU has never given is dropped from the rule;
one that it gave before and does not give now makes the sample blind, and so does the want of any signal of computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from warpline_proto.execution_idle import BYTES_PER_SECOND_MAX, COMPUTE, LINKS, MEMORY, PERCENT_MAX

from .down_clock import Activity

RESIDENCY_ROUNDS: Final = 5
"""Programs are listed once in so many rounds: the call takes milliseconds."""
RESIDENCY_SECONDS_MAX: Final = 15.0
"""A list of programs says nothing after this time."""
UTILIZATION: Final = "gpu_utilization_percent"
"""A duty cycle: no kernel ran where it is low. It stands in where no compute signal is offered."""
RATES: Final = tuple(f"{link}_bytes_per_second" for link in LINKS)
COUNTED: Final = tuple(f"{link}_bytes" for link in LINKS)
"""Counters of bytes, whose growth is a rate."""
SIGNALS: Final = (*COMPUTE, UTILIZATION, MEMORY, *RATES, *COUNTED)
RESIDENT: Final = "resident_processes"
BLIND: Final = "it gives no signal of computing"
UNKNOWN: Final = "no word on whether a program is resident"
EMPTY: Final = "no program is resident"


class Signals:
    """What one GPU has given so far."""

    def __init__(self) -> None:
        self._offered: set[str] = set()
        self._counted: dict[str, tuple[float, float]] = {}
        self._resident: tuple[float, int] | None = None

    def activity(self, rows: Iterable[Mapping[str, Any]]) -> Activity:
        """Of rows of `device_samples`, oldest first: idle only if all of them are; work counts first."""
        told = [self._of(row) for row in rows]
        busy = [each for each in told if not each.idle]
        return next((each for each in busy if each.work), busy[0] if busy else told[-1])

    def _of(self, row: Mapping[str, Any]) -> Activity:
        now = row["time_ns"] / 1e9
        given = {name: float(row[name]) for name in SIGNALS if row.get(name) is not None}
        missing = self._offered - given.keys()
        self._offered |= given.keys()
        if row.get(RESIDENT) is not None:
            self._resident = (now, row[RESIDENT])
        rates, pending = self._rates(now, given)
        if at_work := _at_work(given, rates):
            return Activity(False, at_work, work=True)
        if missing or pending:
            return Activity(False, f"no value of {', '.join(sorted(missing or pending))} this time")
        if not _compute(given):
            return Activity(False, BLIND)
        return self._residency(now)

    def _residency(self, now: float) -> Activity:
        if self._resident is None or not 0 <= now - self._resident[0] <= RESIDENCY_SECONDS_MAX:
            return Activity(False, UNKNOWN)
        return (
            Activity(True, "every signal is low and a program is resident")
            if self._resident[1]
            else Activity(False, EMPTY)
        )

    def _rates(self, now: float, given: Mapping[str, float]) -> tuple[dict[str, float], set[str]]:
        """Bytes a second by signal, and counters that make none yet."""
        rates = {name: given[name] for name in RATES if name in given}
        pending = set()
        for name in COUNTED:
            if name not in given or f"{name}_per_second" in rates:
                continue
            before, self._counted[name] = self._counted.get(name), (now, given[name])
            if before is None or now <= before[0] or given[name] < before[1]:
                pending.add(name)
            else:
                rates[name] = (given[name] - before[1]) / (now - before[0])
        return rates, pending


def _compute(given: Mapping[str, float]) -> dict[str, float]:
    names = [name for name in COMPUTE if name in given] or [name for name in (UTILIZATION,) if name in given]
    return {name: given[name] for name in names}


def _at_work(given: Mapping[str, float], rates: Mapping[str, float]) -> str:
    """The signal that is not low, in words; empty where all are."""
    percent = _compute(given) | ({MEMORY: given[MEMORY]} if MEMORY in given else {})
    for name, value in percent.items():
        if value >= PERCENT_MAX:
            return f"{name} is {value:.0f}"
    for name, value in rates.items():
        if value >= BYTES_PER_SECOND_MAX:
            return f"{name.partition('_bytes')[0]} carries {value / 1e9:.1f} GB/s"
    return ""
