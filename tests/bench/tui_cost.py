"""What running programs cost, from a moment on."""

from __future__ import annotations

import time

import psutil


class Cost:
    """CPU time of a process (and of all below it, for a `tree`) since this was made; memory when it is asked for."""

    def __init__(self, pid: int, *, tree: bool = False) -> None:
        top = psutil.Process(pid)
        self._processes = [top, *(top.children(recursive=True) if tree else [])]
        self._begun, self._before = time.monotonic(), self._cpu_seconds()

    def core_percent(self) -> float:
        """Of one core."""
        return 100 * (self._cpu_seconds() - self._before) / (time.monotonic() - self._begun)

    def figures(self) -> dict[str, float]:
        """CPU time, resident memory (shared pages whole), and proportional memory."""
        percent = self.core_percent()
        told = [each.memory_full_info() for each in self._processes]
        return {
            "core_percent": round(percent, 1),
            "rss_mb": round(sum(each.rss for each in told) / 1e6, 1),
            "pss_mb": round(sum(each.pss for each in told) / 1e6, 1),
        }

    def _cpu_seconds(self) -> float:
        times = [each.cpu_times() for each in self._processes]
        return sum(each.user + each.system for each in times)
