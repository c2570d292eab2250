"""The folder that training processes write their traces to, as each of them sees it: room in it, the files in it, and which of
them are taken away."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from warpline_proto.errors import Denied, Refused

from .hook_search import opened
from .recordings.archive import Limits, file_input
from .source import Input

PREFIX: Final = "warpline-trace-"
"""How the names of files that were asked for begin; no other file is ever looked at."""
UNFINISHED: Final = ".tmp"
"""Kineto writes under a name with this at its end, and renames the file once it is whole."""
FILES_LOOKED_AT_MAX: Final = 1_000


class TraceFolder:
    """One folder, held open while a trace is awaited: a container may be gone by the time its file has been read."""

    def __init__(self, directory: str, pid: int, proc: str = "/proc") -> None:
        """Denied where it cannot be opened: neither as process `pid` sees it, nor by the same path here."""
        self._directory = directory
        self._descriptor = _open(f"{proc}/{pid}/root{directory}", directory)

    def free_bytes(self) -> int:
        """Room for anybody."""
        told = os.fstatvfs(self._descriptor)
        return told.f_bavail * told.f_frsize

    def shown(self, name: str) -> str:
        """The path of a file in it, for the user."""
        return f"{self._directory.rstrip('/')}/{name}"

    def holds(self, name: str) -> bool:
        """Whether a file is there, and whole."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def take(self, name: str, user: int, bytes_max: int) -> tuple[Input, int]:
        """A file that `user` has written, and the descriptor that it is read through, to be closed; Refused where it is no such.

        Links are not followed, and nothing that anybody else put there is read.
        """
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptor
            )
        except OSError as error:
            raise Refused(f"{self.shown(name)} cannot be read: {error.strerror}") from error
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != user:
                raise Refused(f"{self.shown(name)} is no file of the process that was asked")
            path = f"/proc/self/fd/{descriptor}"
            return file_input(Path(path), self.shown(name), Limits(file_bytes=bytes_max)), descriptor
        except Refused:
            os.close(descriptor)
            raise

    def remove(self, name: str) -> bool:
        """Take a file away, finished or not; whether one was there and is gone."""
        gone = False
        for each in (name, name + UNFINISHED):
            with suppress(OSError):
                os.unlink(each, dir_fd=self._descriptor)
                gone = True
        return gone

    def keep(self, files_max: int, bytes_max: int) -> int:
        """Take away the oldest traces beyond these bounds; how many that could not be taken away are beyond them."""
        left_over = held_bytes = 0
        for number, (_, size, name) in enumerate(sorted(self._traces(), reverse=True)):
            held_bytes += size
            if (number >= files_max or held_bytes > bytes_max) and not self.remove(name):
                left_over += 1
        return left_over

    def close(self) -> None:
        """Give the folder back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _traces(self) -> list[tuple[int, int, str]]:
        """When it was written, its size and name, of each trace that was asked for."""
        found: list[tuple[int, int, str]] = []
        with suppress(OSError), os.scandir(self._descriptor) as entries:
            for each in entries:
                if each.name.startswith(PREFIX) and len(found) < FILES_LOOKED_AT_MAX:
                    with suppress(OSError):
                        about = each.stat(follow_symlinks=False)
                        if stat.S_ISREG(about.st_mode):
                            found.append((about.st_mtime_ns, about.st_size, each.name))
        return found


def _open(*paths: str) -> int:
    for path in paths:
        with opened(path) as descriptor:
            if descriptor is not None:
                return os.dup(descriptor)
    raise Denied(f"the folder {paths[-1]} cannot be opened", "set directory in [sources.profiler]")
