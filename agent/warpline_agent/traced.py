"""Training processes that are traced on request: capture of their kernels pauses, since of two that ask CUPTI for records one
would take them from the other."""

from __future__ import annotations

import threading
from typing import Protocol, runtime_checkable


@runtime_checkable
class GivesWay(Protocol):
    """A Source that has captured something of a process, and stops while it is traced on request."""

    def give_way_to(self, traced: Traced) -> None: ...


@runtime_checkable
class Traces(Protocol):
    """A Source that traces processes on request, and tells which."""

    def tell_traced(self, traced: Traced) -> None: ...


class Traced:
    """One for an agent, shared by its sources; pids are as the agent sees them, times ns since the Unix epoch."""

    def __init__(self) -> None:
        self._until: dict[int, int] = {}
        self._lock = threading.Lock()

    def begin(self, pid: int, until_ns: int) -> None:
        """It is traced from now on, and surely no longer than that."""
        with self._lock:
            self._until[pid] = until_ns

    def end(self, pid: int) -> None:
        """It is over."""
        with self._lock:
            self._until.pop(pid, None)

    def now(self, pid: int | None, now_ns: int) -> bool:
        """Whether a process is being traced."""
        with self._lock:
            return pid is not None and self._until.get(pid, 0) > now_ns
