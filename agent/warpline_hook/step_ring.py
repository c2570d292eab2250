"""Writes the file of `layout`: made whole before anything is recorded, then stored to as memory; never waits for anybody."""

from __future__ import annotations

import contextlib
import errno
import grp
import json
import mmap
import os
from _thread import allocate_lock
from typing import Any, Final

from . import layout
from .process import Process, start_ticks, this_process

ATTEMPTS_MAX: Final = 8
"""Names that are tried where an earlier program of the same process has left a file."""
STALE_SECONDS: Final = 600
"""A file whose process is gone and that no agent has taken away for so long is removed."""
DEAD_FILES_MAX: Final = 32
"""Of those that have been gone for less, so many are left: 10 MB of a memory that others need as well."""
FREE_SHARE: Final = 16
"""A file takes no more than this part of the file system's free space: NCCL and data loaders live there too."""
_NO_TIMES: Final = (layout.UNKNOWN,) * (len(layout.TIMES) - 2 + len(layout.STARTS))


class StepRing:
    """One open file. Only the first of two threads that write at once is heard, the other is counted as refused."""

    def __init__(self, path: str, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self._lock = allocate_lock()
        self._written = self._refused = 0
        self._state = layout.RUNNING
        self._generation = self._identity_bytes = 0
        self._names: dict[tuple[str, str], int] = {}

    def step(self, step: int, flags: int, times: tuple[int, ...]) -> None:
        """One step; `times` are TIMES and STARTS of the layout."""
        self._write(layout.STEP, flags, 0, step, times)

    def phase(self, name: str, kind: str, step: int, start_ns: int, duration_ns: int) -> None:
        """One phase that somebody named; refused where there are too many names."""
        place = self._name(name, kind)
        if place is None:
            self.refuse()
        else:
            self._write(layout.PHASE, 0, place, step, (start_ns, duration_ns, *_NO_TIMES))

    def refuse(self) -> None:
        """Count a record that is not written."""
        self._refused += 1
        self._count()

    def identify(self, identity: dict[str, Any]) -> None:
        """Who this process is; an identity that is too long is left out."""
        text = json.dumps(identity).encode()
        if len(text) > layout.IDENTITY_BYTES:
            return
        self._generation += 1
        self._count()
        self._memory[layout.IDENTITY_AT : layout.IDENTITY_AT + len(text)] = text
        self._identity_bytes = len(text)
        self._generation += 1
        self._count()

    def end(self, state: int, reason: str = "") -> None:
        """Nothing more will come."""
        text = reason.encode()[: layout.REASON_BYTES - 1]
        self._memory[layout.REASON_AT : layout.REASON_AT + len(text)] = text
        self._state = state
        self._count()

    def _write(self, kind: int, flags: int, name: int, step: int, times: tuple[int, ...]) -> None:
        if not self._lock.acquire(False):
            self._refused += 1
            return
        try:
            number = self._written + 1
            slot = layout.RECORDS_AT + self._written % layout.CAPACITY * layout.RECORD.size
            layout.RECORD.pack_into(self._memory, slot, number, kind, flags, name, step, *times, number)
            layout.WRITTEN.pack_into(self._memory, layout.COUNTERS_AT, number)
            self._written = number
        finally:
            self._lock.release()

    def _count(self) -> None:
        layout.COUNTERS.pack_into(
            self._memory,
            layout.COUNTERS_AT,
            self._written,
            self._refused,
            self._state,
            self._generation,
            self._identity_bytes,
            len(self._names),
        )

    def _name(self, name: str, kind: str) -> int | None:
        key = (name, kind)
        place = self._names.get(key)
        if place is None and len(self._names) < layout.NAMES_MAX:
            place = len(self._names)
            number = layout.KINDS.index(kind) if kind in layout.KINDS else 0
            text = name.encode("utf-8", "replace")[: layout.NAME.size - 1]
            layout.NAME.pack_into(self._memory, layout.NAMES_AT + place * layout.NAME.size, number, text)
            self._names[key] = place
        return place


def create(directory: str, group: str | None, now_ns: int) -> StepRing:
    """A new file for this process; OSError where there is no room for it or no such directory."""
    process = this_process()
    _remove_stale(directory, process, now_ns)
    _check_room(directory)
    path, descriptor = _new_file(directory, process)
    try:
        _share(descriptor, group)
        os.posix_fallocate(descriptor, 0, layout.FILE_BYTES)  # else a full file system is a SIGBUS in training
        memory = mmap.mmap(descriptor, layout.FILE_BYTES)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    ring = StepRing(path, memory)
    ring.end(layout.RUNNING)
    sizes = (layout.VERSION, layout.RECORD.size, layout.CAPACITY, 0)
    who = (process.pid, process.start_ticks, process.namespace, now_ns)
    layout.HEADER.pack_into(memory, 0, bytes(len(layout.MAGIC)), *sizes, *who)
    memory[: len(layout.MAGIC)] = layout.MAGIC
    return ring


def _new_file(directory: str, process: Process) -> tuple[str, int]:
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    for attempt in range(ATTEMPTS_MAX):
        name = layout.file_name(process.namespace, process.pid, process.start_ticks, attempt)
        path = os.path.join(directory, name)
        with contextlib.suppress(FileExistsError):
            return path, os.open(path, flags, 0o600)
    raise FileExistsError(f"{directory} has {ATTEMPTS_MAX} files of this process")


def _share(descriptor: int, group: str | None) -> None:
    """Let one group read; a group that is not known or not ours is passed over, and the owner and root read as ever."""
    if not group:
        return
    with contextlib.suppress(KeyError, PermissionError):
        os.fchown(descriptor, -1, grp.getgrnam(group).gr_gid)
        os.fchmod(descriptor, 0o640)


def _remove_stale(directory: str, process: Process, now_ns: int) -> None:
    """Take away what processes of this pid namespace and user left that are gone: memory is scarce."""
    own = f"{layout.PREFIX}{process.namespace}-"
    dead: list[tuple[float, str]] = []
    for name in os.listdir(directory):
        if name.startswith(own) and name.endswith(layout.SUFFIX):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError, ValueError):
                pid, ticks = map(int, name[len(own) : -len(layout.SUFFIX)].split(".")[0].split("-"))
                if not _lives(pid, ticks):
                    dead.append((os.stat(path, follow_symlinks=False).st_mtime, path))
    dead.sort()
    for place, (modified, path) in enumerate(dead):
        if place < len(dead) - DEAD_FILES_MAX or now_ns / 1e9 - modified > STALE_SECONDS:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _check_room(directory: str) -> None:
    space = os.statvfs(directory)
    if space.f_bavail * space.f_frsize < FREE_SHARE * layout.FILE_BYTES:
        raise OSError(errno.ENOSPC, f"{directory} has less than {FREE_SHARE} times the room that is needed")


def _lives(pid: int, ticks: int) -> bool:
    try:
        return start_ticks(pid) == ticks
    except FileNotFoundError:
        return False
