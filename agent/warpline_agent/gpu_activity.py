"""How busy each GPU of this node is: from the source that reads GPUs to those that must tell an idle one from a blind spot."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

GPUS_MAX: Final = 64
COLUMNS: Final = ["gpu_uuid", "time_ns", "gpu_utilization_percent", "sm_active_percent", "resident_processes"]
"""What of a sample is looked at."""
FRESH_NS: Final = 10_000_000_000
"""An older reading says nothing of now: GPM is read each five seconds."""


@runtime_checkable
class TellsActivity(Protocol):
    """A Source that reads GPUs, and tells how busy they are as it reads them."""

    def tell_activity(self, activity: GpuActivity) -> None: ...


@runtime_checkable
class SeesActivity(Protocol):
    """A Source that asks how busy a GPU is."""

    def see_activity(self, activity: GpuActivity) -> None: ...


class _Reading(NamedTuple):
    at_ns: int
    percent: float
    processes: int | None


class GpuActivity:
    """One for an agent, shared by its sources; the newest reading of each GPU by its UUID."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Reading] = OrderedDict()
        self._lock = threading.Lock()

    def tell_samples(self, samples: pa.RecordBatch) -> None:
        """Rows of `device_samples`, oldest first."""
        for row in samples.select(COLUMNS).to_pylist():
            percents = (row["gpu_utilization_percent"], row["sm_active_percent"])
            self.tell(row["gpu_uuid"], row["time_ns"], *percents, processes=row["resident_processes"])

    def tell(self, gpu_uuid: str | None, at_ns: int, *percents: float | None, processes: int | None = None) -> None:
        """A reading: of several ways to measure the one that says most; and how many processes use the GPU, where known."""
        told = [each for each in percents if each is not None]
        if gpu_uuid is None or not told:
            return
        with self._lock:
            before = self._known.get(gpu_uuid)
            if processes is None and before is not None:
                processes = before.processes
            self._known[gpu_uuid] = _Reading(at_ns, max(told), processes)
            self._known.move_to_end(gpu_uuid)
            if len(self._known) > GPUS_MAX:
                self._known.popitem(last=False)

    def percent(self, gpu_uuid: str | None, now_ns: int) -> float | None:
        """How busy one process keeps its GPU now, None where that is not known or several share the GPU; without a UUID it is the
        only GPU of the node."""
        with self._lock:
            if gpu_uuid is None and len(self._known) == 1:
                gpu_uuid = next(iter(self._known))
            found = self._known.get(gpu_uuid) if gpu_uuid is not None else None
        if found is None or (found.processes or 1) > 1 or abs(now_ns - found.at_ns) > FRESH_NS:
            return None
        return found.percent
