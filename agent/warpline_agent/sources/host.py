"""The host through psutil: CPU, memory, swap, disks, network, context switches, processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from warpline_proto.errors import Unsupported
from warpline_proto.tables import HOST_SAMPLES

from ..source import Health, Rows

CpuTimes = dict[str, float]
_NOT_WORKING: Final = ("idle", "iowait", "steal")
_COUNTED_ELSEWHERE: Final = ("guest", "guest_nice")
"""Guest time is part of user time."""


@dataclass(frozen=True)
class HostConfig:
    """Settings. `proc` is where the proc file system is mounted; another one when the agent runs in a container."""

    period_seconds: float = 1.0
    proc: str = "/proc"

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = HostConfig()


class Host:
    """One row a round. CPU shares are those of the time since the round before, so the first row has none."""

    name = "host"
    Config = HostConfig

    def __init__(self, config: HostConfig = DEFAULTS, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.period_seconds = config.period_seconds
        self._proc = config.proc
        self._clock_ns = clock_ns
        self._psutil: Any = None
        self._before: CpuTimes = {}

    def open(self) -> None:
        """Load psutil and look whether there is a proc file system to read."""
        try:
            import psutil
        except ImportError as error:
            raise Unsupported("the library psutil is not installed", "pip install 'warpline[agent]'") from error
        if not Path(self._proc, "stat").is_file():
            raise Unsupported(f"{self._proc} is no proc file system", "set `proc` to where it is mounted")
        psutil.PROCFS_PATH = self._proc
        self._psutil = psutil

    def read(self) -> Iterable[Rows]:
        """One row; what the host does not tell is NULL."""
        row = {"time_ns": self._clock_ns(), "cpu_count": self._psutil.cpu_count()}
        for part in (self._cpu, self._memory, self._disks, self._network, self._load):
            row.update(part())
        return [Rows("host_samples", HOST_SAMPLES.from_rows([row]))]

    def health(self) -> Iterable[Health]:
        """Nothing: a part that cannot be read is NULL."""
        return ()

    def close(self) -> None:
        """Forget the last reading."""
        self._before = {}

    def _cpu(self) -> dict[str, Any]:
        now = {name: float(value) for name, value in self._psutil.cpu_times()._asdict().items()}
        shares = cpu_shares(self._before, now)
        self._before = now
        return {**shares, "context_switches": self._psutil.cpu_stats().ctx_switches}

    def _memory(self) -> dict[str, Any]:
        memory = self._psutil.virtual_memory()
        kibibytes = meminfo(Path(self._proc, "meminfo").read_text())
        known = "SwapTotal" in kibibytes and "SwapFree" in kibibytes
        swap = (kibibytes["SwapTotal"] - kibibytes["SwapFree"]) * 1024 if known else None
        total = int(memory.total)
        return {
            "memory_used_bytes": total - int(memory.available),
            "memory_total_bytes": total,
            "swap_used_bytes": swap,
        }

    def _disks(self) -> dict[str, Any]:
        try:
            disks = self._psutil.disk_io_counters()
        except (OSError, NotImplementedError):
            disks = None
        return {"disk_read_bytes": disks.read_bytes, "disk_write_bytes": disks.write_bytes} if disks else {}

    def _network(self) -> dict[str, Any]:
        try:
            cards = self._psutil.net_io_counters(pernic=True)
        except OSError:
            return {}
        outside = [card for name, card in cards.items() if name != "lo"]
        if not outside:
            return {}
        return {
            "network_rx_bytes": sum(card.bytes_recv for card in outside),
            "network_tx_bytes": sum(card.bytes_sent for card in outside),
        }

    def _load(self) -> dict[str, Any]:
        load = Path(self._proc, "loadavg").read_text().split()
        processes = sum(name.isdigit() for name in os.listdir(self._proc))
        boot_ns = round(self._psutil.boot_time() * 1e9)
        return {"load_1m": float(load[0]) if load else None, "processes": processes, "boot_ns": boot_ns}


def cpu_shares(before: CpuTimes, now: CpuTimes) -> dict[str, float | None]:
    """CPU seconds of two readings -> percent of the time between them; none where no time has passed."""
    spent = {
        name: max(0.0, value - before.get(name, value)) for name, value in now.items() if name not in _COUNTED_ELSEWHERE
    }
    total = sum(spent.values())
    if total <= 0:
        return {}
    working = total - sum(spent.get(name, 0.0) for name in _NOT_WORKING)
    return {
        "cpu_percent": 100 * working / total,
        "cpu_iowait_percent": 100 * spent["iowait"] / total if "iowait" in spent else None,
        "cpu_steal_percent": 100 * spent["steal"] / total if "steal" in spent else None,
    }


def meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo -> KiB by name; lines that are not of its form are passed over."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        number = value.split()[:1]
        if number and number[0].isdigit():
            found[name] = int(number[0])
    return found
