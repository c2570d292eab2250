"""What the operating system says of a process from outside: whether it is there, runs, sleeps or is stopped, its CPU and files.

Nothing is attached to it and nothing of its memory is read. What this user may not see is None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

THREADS_MAX: Final = 1024
"""Threads of one process that are looked at; NCCL and data loaders make hundreds."""
CHILDREN_MAX: Final = 64
"""Children whose CPU time counts with that of their parent: data loaders and writers of checkpoints."""
FILE_BYTES_MAX: Final = 16 * 1024
KERNEL_FRAMES_MAX: Final = 32
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
NAMES: Final = {
    "R": "running",
    "S": "sleeping",
    "D": "disk",
    "T": "stopped",
    "t": "stopped",
    "Z": "zombie",
    "X": "dead",
    "I": "idle",
}
"""States of a thread."""


@dataclass(frozen=True)
class ProcessState:
    """One look: `os_state` is that of its first thread, `cpu_ns` counts with its children, `io_bytes` what it read and wrote."""

    os_state: str
    cpu_ns: int
    io_bytes: int | None
    waits_in: str | None


@dataclass(frozen=True)
class ThreadState:
    """One thread; `waits_in` and `kernel_frames` are functions of the kernel, None where they are not to be seen."""

    thread: int
    name: str | None
    os_state: str | None
    waits_in: str | None
    kernel_frames: list[str] | None


def process_state(pid: int, proc: str = "/proc") -> ProcessState | None:
    """How a process stands; None where there is none of that number."""
    folder = Path(proc, str(pid))
    fields = _stat(folder)
    if fields is None:
        return None
    return ProcessState(NAMES.get(fields[0], "unknown"), _cpu_ns(fields) + _children_cpu_ns(folder, proc),
                        _io_bytes(folder), _waits_in(folder))  # fmt: skip


def thread_states(pid: int, proc: str = "/proc") -> Iterator[ThreadState]:
    """All threads of a process, at most THREADS_MAX; none where it is gone."""
    tasks = Path(proc, str(pid), "task")
    try:
        names = sorted((name for name in os.listdir(tasks) if name.isdecimal()), key=int)[:THREADS_MAX]
    except OSError:
        return
    for name in names:
        folder = tasks / name
        fields = _stat(folder)
        if fields is not None:
            state = NAMES.get(fields[0])
            yield ThreadState(int(name), _line(folder / "comm"), state, _waits_in(folder), _kernel_frames(folder))


def _stat(folder: Path) -> list[str] | None:
    """Fields of `stat` from the state on, which follow the name in brackets."""
    text = _text(folder / "stat")
    fields = (text or "").rpartition(")")[2].split()
    return fields if len(fields) > 14 else None


def _cpu_ns(fields: list[str]) -> int:
    """CPU time of all its threads, and of children that it has waited for."""
    ticks = sum(int(each) for each in fields[11:15] if each.isdecimal())
    return ticks * 10**9 // TICKS_PER_SECOND


def _children_cpu_ns(folder: Path, proc: str) -> int:
    """CPU time of the children of its first thread that live."""
    children = (_text(folder / "task" / folder.name / "children") or "").split()[:CHILDREN_MAX]
    stats = (_stat(Path(proc, child)) for child in children if child.isdecimal())
    return sum(_cpu_ns(fields) for fields in stats if fields is not None)


def _io_bytes(folder: Path) -> int | None:
    lines = (line.split() for line in (_text(folder / "io") or "").splitlines())
    found = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    if "rchar:" not in found or "wchar:" not in found:
        return None
    return found["rchar:"] + found["wchar:"]


def _waits_in(folder: Path) -> str | None:
    """The kernel's function; a zero is said of a thread that runs, and where it is not ours to know."""
    name = _line(folder / "wchan")
    return None if name in (None, "0") else name


def _kernel_frames(folder: Path) -> list[str] | None:
    """`[<0>] futex_wait_queue+0x61/0x90` -> the function; root alone may read it."""
    text = _text(folder / "stack")
    if not text:
        return None
    named = (line.split("] ", 1)[-1].split("+")[0].strip() for line in text.splitlines()[:KERNEL_FRAMES_MAX])
    return [name[:128] for name in named if name] or None


def _line(path: Path) -> str | None:
    text = (_text(path) or "").strip()
    return "".join(each if each.isprintable() else "?" for each in text)[:64] or None


def _text(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return stream.read(FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return None
