"""Which process this is: its pid, when it was started, and the pid namespace in which that pid holds."""

from __future__ import annotations

import os
from typing import NamedTuple


class Process(NamedTuple):
    """A process of one machine; no two that ever lived on it since it was started are equal."""

    pid: int
    start_ticks: int
    namespace: int


def this_process() -> Process:
    """The calling process; OSError or ValueError where /proc does not tell."""
    return Process(os.getpid(), start_ticks("self"), os.stat("/proc/self/ns/pid").st_ino)


def start_ticks(pid: int | str, proc: str = "/proc") -> int:
    """When a process was started, in clock ticks since boot; OSError where there is no such process."""
    with open(f"{proc}/{pid}/stat", "rb") as stream:
        return int(stream.read(4096).rpartition(b")")[2].split()[19])
