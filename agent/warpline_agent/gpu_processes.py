"""The processes that hold the GPUs of this node, and whose they are: rows when one begins, changes and is gone.

A process is its pid and the time it was started: a pid that is used again is another one. One that began after the driver had
listed its pid is not the one that was listed. That one has ended shows in /proc at once, else at the driver's next list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from warpline_proto.power_tables import GPU_PROCESSES

from .hook_processes import Training
from .nvml.messages import Resident
from .process_identity import UNREADABLE, Identities, ProcessIdentity
from .process_states import TICKS_PER_SECOND
from .source import Health, Rows

TOLD_SECONDS: Final = 300.0
"""A process that does not change is told this often."""
SLACK_SECONDS: Final = 20.0
"""Lists come every 30 s: one that is nearly due is told with this one."""
MEMORY_SHARE: Final = 0.1
"""Memory that grows or shrinks by so much of it is a change ..."""
MEMORY_BYTES_MIN: Final = 2**28
"""... and by so much at least."""
LOOKED_AT_MAX: Final = 64
"""Processes of one round that are looked at for whether they are still there."""
_PEOPLE: Final = ("process", "user", "job", "rank", "account", "pod", "container", "scheduler", "evidence")
Key = tuple[int, int | None]
"""pid and start ticks."""
Trainings = Callable[[bool], Mapping[int, Training]]
"""Processes with a hook by pid, those in containers too where asked for."""


@dataclass
class _Held:
    """One process on one GPU, as it was last told."""

    gpu: int
    gpu_uuid: str | None
    identity: ProcessIdentity
    memory_bytes: int | None
    told_ns: int


class GpuProcesses:
    """Hears the driver's lists and looks into /proc. `since_boot_ns` is the clock in which processes are started."""

    def __init__(
        self,
        identities: Identities,
        trainings: Trainings,
        since_boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._identities = identities
        self._trainings = trainings
        self._since_boot_ns = since_boot_ns
        self._held: dict[int, dict[Key, _Held]] = {}
        self._more: dict[int, int] = {}
        self._turn = 0

    def hear(self, readings: Iterable[Resident], now_ns: int) -> list[Rows]:
        """What the driver's lists say that is new; `now_ns` is the clock in which they are timed."""
        listed = list(readings)
        if not listed:
            return []
        trainings = self._trained(listed)
        rows: list[dict[str, Any]] = []
        for reading in listed:
            rows += self._one(reading, now_ns, trainings)
        dropped = sum(reading.more for reading in listed)
        return [Rows(GPU_PROCESSES.name, GPU_PROCESSES.from_rows(rows), dropped)] if rows or dropped else []

    def look(self, now_ns: int) -> list[Rows]:
        """Which processes are gone since; at most LOOKED_AT_MAX are looked at, in turn."""
        known = [(gpu, key) for gpu, held in self._held.items() for key in held if key[1] is not None]
        start = self._turn % len(known) if known else 0
        self._turn = start + LOOKED_AT_MAX
        rows = []
        for gpu, key in (known[start:] + known[:start])[:LOOKED_AT_MAX]:
            if self._identities.ticks(key[0]) != key[1]:
                rows.append(_row(key, self._held[gpu].pop(key), now_ns, "gone"))
        return [Rows(GPU_PROCESSES.name, GPU_PROCESSES.from_rows(rows))] if rows else []

    def jobs(self) -> dict[int, str]:
        """By GPU the job whose processes, and nobody else's, are resident."""
        found = {}
        for gpu, held in self._held.items():
            names = {each.identity.job for each in held.values()}
            only = names.pop() if len(names) == 1 else None
            if only is not None and not self._more.get(gpu):
                found[gpu] = only
        return found

    def health(self) -> Iterator[Health]:
        """Processes whose environment may not be read, and those that are not seen at all."""
        known = {key: each.identity for held in self._held.values() for key, each in held.items()}
        hidden = sum(not each.readable for each in known.values())
        if hidden:
            reason = f"{hidden} processes: {UNREADABLE}, so that their job is known by their control group alone"
            yield Health(
                "environment of GPU processes", "denied", f"{reason}; CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH would do"
            )
        unseen = [each.evidence for each in known.values() if each.start_ticks is None]
        if unseen:
            yield Health("identity of GPU processes", "denied", f"{len(unseen)} processes: {unseen[0]}")

    def forget(self) -> None:
        """All are told anew when they are heard of again."""
        self._held.clear()
        self._more.clear()

    def _trained(self, listed: Iterable[Resident]) -> Mapping[int, Training]:
        if not any(reading.processes for reading in listed):
            return {}
        contained = (each.identity.container for held in self._held.values() for each in held.values())
        return self._trainings(any(contained))

    def _one(self, reading: Resident, now_ns: int, trainings: Mapping[int, Training]) -> Iterator[dict[str, Any]]:
        before = self._held.get(reading.gpu, {})
        now: dict[Key, _Held] = {}
        self._more[reading.gpu] = reading.more
        for pid, memory in _by_pid(reading.processes).items():
            ticks = self._identities.ticks(pid)
            held = before.get((pid, ticks))
            identity = held.identity if held and not _due(held, reading) else self._identities.identity(pid)
            if self._began_later(identity, reading, now_ns):
                identity = ProcessIdentity("another process has this pid by now")
            identity = _with_hook(identity, trainings.get(pid))
            key = (pid, identity.start_ticks)
            known = before.get(key)
            now[key] = _Held(reading.gpu, reading.gpu_uuid, identity, memory, reading.time_ns)
            if known is None or _due(known, reading) or _changed(known, identity, memory):
                yield _row(key, now[key], reading.time_ns, "resident")
            else:
                now[key] = known
        yield from (_row(key, held, reading.time_ns, "gone") for key, held in before.items() if key not in now)
        self._held[reading.gpu] = now

    def _began_later(self, identity: ProcessIdentity, reading: Resident, now_ns: int) -> bool:
        if identity.start_ticks is None:
            return False
        age_ns = self._since_boot_ns() - identity.start_ticks * 10**9 // TICKS_PER_SECOND
        return age_ns < now_ns - reading.time_ns


def _by_pid(processes: Iterable[tuple[int, int | None]]) -> dict[int, int | None]:
    """Memory by pid; a process may be in several instances of a GPU."""
    found: dict[int, int | None] = {}
    for pid, memory in processes:
        before = found.get(pid)
        found[pid] = memory if before is None else before + (memory or 0)
    return found


def _with_hook(identity: ProcessIdentity, training: Training | None) -> ProcessIdentity:
    """The name its hook gives to the job and to its rows, where nothing speaks against it."""
    told = training.identity if training is not None else None
    if told is None or told.job is None or identity.claims_other or identity.start_ticks is None:
        return identity
    rank = identity.rank if told.rank is None else told.rank
    cgroup = "; cgroup" if "cgroup" in identity.evidence else ""
    scheduler = "launcher" if identity.scheduler == "none" else identity.scheduler
    evidence = f"its hook, by {told.evidence}{cgroup}"
    return replace(identity, job=told.job, rank=rank, scheduler=scheduler, evidence=evidence)


def _due(held: _Held, reading: Resident) -> bool:
    return reading.time_ns - held.told_ns >= (TOLD_SECONDS - SLACK_SECONDS) * 1e9


def _changed(held: _Held, identity: ProcessIdentity, memory: int | None) -> bool:
    if held.identity != identity:
        return True
    if held.memory_bytes is None or memory is None:
        return held.memory_bytes is not memory
    return abs(memory - held.memory_bytes) >= max(MEMORY_BYTES_MIN, MEMORY_SHARE * held.memory_bytes)


def _row(key: Key, held: _Held, time_ns: int, state: str) -> dict[str, Any]:
    place = {"gpu_uuid": held.gpu_uuid, "gpu_index": held.gpu, "time_ns": time_ns, "state": state}
    what = {"pid": key[0], "start_ticks": key[1], "memory_bytes": held.memory_bytes}
    return place | what | {name: getattr(held.identity, name) for name in _PEOPLE}
