"""What a collector costs: CPU time and memory of its whole process tree, sampled while it works."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import psutil

SAMPLE_SECONDS: Final = 1.0


@dataclass
class Tree:
    """One process and all below it. `sample` now and then; processes that ended keep what they had used when last seen."""

    pid: int
    peak_rss_bytes: int = 0
    peak_pss_bytes: int = 0
    _cpu: dict[tuple[int, float], float] = field(default_factory=dict)

    def sample(self) -> float:
        """CPU seconds used so far, user and system."""
        rss = pss = 0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                self._cpu[process.pid, process.create_time()] = times.user + times.system
                memory = process.memory_full_info()
                rss, pss = rss + memory.rss, pss + memory.pss
        self.peak_rss_bytes, self.peak_pss_bytes = max(rss, self.peak_rss_bytes), max(pss, self.peak_pss_bytes)
        return sum(self._cpu.values())

    def _processes(self) -> Iterator[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.pid)
            yield top
            yield from top.children(recursive=True)


class Watch:
    """Samples a tree in a thread of its own between `begin` and `end`."""

    def __init__(self, pid: int) -> None:
        self.tree = Tree(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def begin(self) -> None:
        """From now on CPU time counts."""
        self._begun, self._before = time.monotonic(), self.tree.sample()
        self._thread.start()

    def end(self) -> float:
        """Percent of one core since `begin`."""
        self._stop.set()
        self._thread.join()
        used = self.tree.sample() - self._before
        return 100.0 * used / (time.monotonic() - self._begun)

    def _loop(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.tree.sample()
