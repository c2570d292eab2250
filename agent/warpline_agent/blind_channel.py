"""Tells a channel of kernels that has died from a GPU that runs none: no records while the GPU is busy.

A kernel is recorded once it has ended. So a busy GPU without records may also be at one kernel that does not end: that is said
apart where the process itself stands still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from warpline_hook import ring

from .gpu_activity import GpuActivity
from .ring_file import Standing
from .source import Health

BUSY_PERCENT: Final = 20.0
"""From here on kernels run on the GPU. A monitor or a display on it stays below."""
BLIND_NS: Final = 30_000_000_000
"""Busy for so long in all, with capture on and not one record: longer than training goes without a kernel that ends."""
WENT_ON_NS: Final = BLIND_NS // 2
"""A process that went on so far into its silence, in steps or NCCL operations, runs kernels that end."""
LOOK_NS_MAX: Final = 2_000_000_000
"""What counts of the time between two looks, at most: of a longer one nobody knows."""
CAPTURED: Final = ring.KERNELS | ring.GRAPHS


@dataclass
class _Silence:
    """Since the newest record: how long the GPU was busy, from when on, and how long of that when the process last went on."""

    records: int
    looked_ns: int
    progress: tuple[int, int]
    busy_ns: int = 0
    since_ns: int = 0
    went_on_ns: int = 0


class BlindChannels:
    """One for a source; `look` at each process in each round."""

    def __init__(self) -> None:
        self._activity = GpuActivity()
        self._silences: dict[str, _Silence] = {}

    def see(self, activity: GpuActivity) -> None:
        """How busy the GPUs are is told there."""
        self._activity = activity

    def look(self, key: str, name: str, gpu_uuid: str | None, standing: Standing, now_ns: int) -> Iterator[Health]:
        """What is wrong with the channel of process `name`, if anything is."""
        if standing.control & 0xFF in (ring.OFF, ring.AWAY) or standing.channels["kernels"][0] != "ok":
            self.forget(key)  # why nothing comes is known
            return
        records = standing.counters["records"]
        progress = (standing.step, standing.counters["nccl_operations"])
        silence = self._silences.get(key)
        if silence is None or records != silence.records:
            self._silences[key] = _Silence(records, now_ns, progress)
            return
        took_ns, silence.looked_ns = now_ns - silence.looked_ns, now_ns
        percent = self._activity.percent(gpu_uuid, now_ns)
        if standing.capturing & CAPTURED and percent is not None and percent >= BUSY_PERCENT:
            silence.since_ns = silence.since_ns or now_ns
            silence.busy_ns += min(max(took_ns, 0), LOOK_NS_MAX)
        if progress != silence.progress:
            silence.progress, silence.went_on_ns = progress, silence.busy_ns
        if silence.busy_ns >= BLIND_NS:
            yield _told(name, silence)

    def forget(self, key: str) -> None:
        """The process is gone, or nothing is expected of it."""
        self._silences.pop(key, None)


def _told(name: str, silence: _Silence) -> Health:
    since = datetime.fromtimestamp(silence.since_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    words = f"no kernel has been recorded since {since} although the GPU is busy"
    step, operations = silence.progress
    if (step >= 0 or operations) and silence.went_on_ns < WENT_ON_NS:
        return Health(
            f"kernels of {name}", "stale", f"{words}, and the process stands still: a kernel that does not end"
        )
    return Health(f"kernels of {name}", "dead", f"{words}: the channel is dead, not the GPU")
