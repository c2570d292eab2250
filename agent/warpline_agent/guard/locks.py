"""Locks between processes: files that the kernel unlocks when their holder is gone, calls that hang included."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_SECONDS: Final = 0.02
"""How often a lock that is held is tried again."""
HOLDER_BYTES_MAX: Final = 64


class Lock:
    """An exclusive lock on a file, which tells who holds it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self, holder: str, wait_seconds: float = 0.0, pause: Callable[[float], None] = time.sleep) -> bool:
        """Take it within `wait_seconds`; whether that was possible. `holder` is what others are told; OSError without a file."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        end = time.monotonic() + wait_seconds
        while not _locked(descriptor):
            if time.monotonic() >= end:
                os.close(descriptor)
                return False
            pause(LOOK_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode()[:HOLDER_BYTES_MAX], 0)
        self._descriptor = descriptor
        return True

    def holder(self) -> str:
        """What the last one to take it said of itself."""
        try:
            with self._path.open("rb") as stream:
                return stream.read(HOLDER_BYTES_MAX).decode("utf-8", "replace")
        except OSError:
            return ""

    def give_back(self) -> None:
        """Unlock; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
