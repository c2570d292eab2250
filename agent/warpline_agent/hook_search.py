"""Finds the files of the hook: in this machine's folders, and in those of containers, through a process that lives in each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warpline_hook.layout import PREFIX, SUFFIX
from warpline_hook.process import Process, start_ticks

FILES_MAX: Final = 256
"""Files of one folder, the newest; the others are counted."""
PROCESSES_MAX: Final = 16_384
"""Processes that are looked at for containers."""
CONTAINERS_MAX: Final = 64
CONTAINERS_SECONDS: Final = 10.0
"""How often it is looked for containers."""
CGROUP_BYTES: Final = 4096
_CONTAINER: Final = re.compile(rb"docker|containerd|kubepods|crio|libpod|lxc|garden")
Folder = tuple[int, int]
"""Device and inode: the same for all processes of a container."""


@dataclass(frozen=True)
class Found:
    """One folder with files: how to open it, the newest names in it, and how many more there are.

    `pids` are the processes that live in a container: pid there -> pid here; None for a folder of this machine.
    """

    path: str
    names: tuple[str, ...]
    more: int = 0
    pids: Mapping[int, int] | None = None

    @property
    def ours(self) -> bool:
        """Whether it is a folder of this machine, and no container's."""
        return self.pids is None


class Search:
    """`folders` are paths as this process sees them; containers are looked into at the same paths. `suffix` is what the names
    of the files end in, or several of it."""

    def __init__(
        self, folders: Sequence[str], containers: bool, proc: str = "/proc", suffix: str | tuple[str, ...] = SUFFIX
    ) -> None:
        self._folders = tuple(folders)
        self._containers = containers
        self._proc = proc
        self._suffix = suffix
        self.hidden = 0
        """Processes in containers that may not be looked into."""
        self._namespace = _pid_namespace(proc)
        self._elsewhere: dict[tuple[int, int], int] | None = None
        self._looks = 0
        self._asked: dict[Process, int] = {}
        self._known: list[Found] = []
        self._looked_ns = 0

    def pid_of(self, process: Process, found: Found) -> int | None:
        """The pid by which this agent knows a process whose file was found there; None where it is gone, or not to be seen."""
        if process.namespace == self._namespace:
            return process.pid if self._lives(process.pid, process.start_ticks) else None
        if found.pids is not None:
            return found.pids.get(process.pid)
        return (self._elsewhere or {}).get((process.namespace, process.pid))

    def gone(self, process: Process, found: Found) -> bool:
        """Whether a process is surely gone.

        Of one of another pid namespace that is known only by a look at all processes, and by one since it was first asked for.
        """
        if process.namespace == self._namespace:
            return self.pid_of(process, found) is None
        if len(self._asked) >= PROCESSES_MAX:
            self._asked.clear()
        if self._asked.setdefault(process, self._looks) == self._looks:
            return False
        known = found.pids is not None or self._elsewhere is not None
        return known and self.pid_of(process, found) is None

    def everywhere(self, now_ns: int) -> tuple[list[Found], bool]:
        """Folders with files, those of containers as of the last look; whether that look was this one."""
        looked = now_ns - self._looked_ns >= CONTAINERS_SECONDS * 1e9
        if looked:
            self._looked_ns = now_ns
            self._known = self.in_containers()
        return [*self.here(), *self._known], looked

    def here(self) -> Iterator[Found]:
        """The folders of this machine that hold files."""
        for path in self._folders:
            with opened(path) as folder:
                names = _names(folder, self._suffix)
            if names:
                yield Found(path, tuple(names[:FILES_MAX]), max(len(names) - FILES_MAX, 0))

    def in_containers(self) -> list[Found]:
        """Those of containers; costs one look at every process, so it is asked seldom."""
        self.hidden = 0
        if not self._containers:
            return []
        self._elsewhere = {}
        self._looks += 1
        seen = {each for path in self._folders if (each := _identity_of(path)) is not None}
        found: dict[Folder, list[int]] = {}
        paths: dict[Folder, str] = {}
        for pid in self._pids():
            self._look_at_namespace(pid)
            for path in self._folders:
                inner = f"{self._proc}/{pid}/root{path}"
                folder = self._folder(pid, inner)
                if folder is not None and folder not in seen and (folder in found or len(found) < CONTAINERS_MAX):
                    paths.setdefault(folder, inner)
                    found.setdefault(folder, []).append(pid)
        contained = (self._contained(paths[folder], pids) for folder, pids in found.items())
        return [each for each in contained if each is not None]

    def _lives(self, pid: int, ticks: int) -> bool:
        try:
            return start_ticks(pid, self._proc) == ticks
        except (OSError, ValueError, IndexError):
            return False

    def _look_at_namespace(self, pid: int) -> None:
        """Note a process of another pid namespace; one whose namespace is hidden makes all of them uncertain."""
        if self._elsewhere is None:
            return
        try:
            namespace = os.stat(f"{self._proc}/{pid}/ns/pid").st_ino
        except PermissionError:
            self._elsewhere = None
            return
        except OSError:
            return
        inner = self._pid_within(pid) if namespace != self._namespace else None
        if inner is not None:
            self._elsewhere[namespace, inner] = pid

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdigit()][:PROCESSES_MAX]

    def _folder(self, pid: int, path: str) -> Folder | None:
        try:
            status = os.stat(path, follow_symlinks=False)
        except PermissionError:
            self.hidden += self._contains(pid)
            return None
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _contains(self, pid: int) -> bool:
        """Whether a process says that it is in a container."""
        try:
            with open(f"{self._proc}/{pid}/cgroup", "rb") as stream:
                return _CONTAINER.search(stream.read(CGROUP_BYTES)) is not None
        except OSError:
            return False

    def _contained(self, path: str, pids: Sequence[int]) -> Found | None:
        with opened(path) as folder:
            names = _names(folder, self._suffix)
        if not names:
            return None
        known = {inner: pid for pid in pids if (inner := self._pid_within(pid)) is not None}
        return Found(path, tuple(names[:FILES_MAX]), max(len(names) - FILES_MAX, 0), known)

    def _pid_within(self, pid: int) -> int | None:
        """The pid of a process as its own namespace has it."""
        try:
            status = Path(f"{self._proc}/{pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        line = next((each for each in status.splitlines() if each.startswith("NSpid:")), "")
        last = line.split()[-1:]
        return int(last[0]) if last and last[0].isdigit() else None


def _pid_namespace(proc: str = "/proc") -> int:
    """The pid namespace of the agent, 0 where it is not known."""
    try:
        return os.stat(f"{proc}/self/ns/pid").st_ino
    except OSError:
        return 0


@contextmanager
def opened(path: str) -> Iterator[int | None]:
    """A descriptor of a folder, None where it cannot be opened; in a container no link on the way is followed out of it."""
    descriptor = None
    try:
        descriptor = _open(path)
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def key_of(name: str, folder: int | None) -> str:
    """Name and inode of a file, by which it is known as long as it is there; empty where it is gone."""
    try:
        return f"{name}:{os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino}"
    except OSError:
        return ""


def take_away(name: str, found: Found, owner: int) -> bool:
    """Remove a file that nobody writes any more, where that is ours to do; whether it is removed."""
    if not found.ours or os.geteuid() not in (0, owner):
        return False
    with opened(found.path) as folder, suppress(OSError):
        os.unlink(name, dir_fd=folder)
        return True
    return False


def _open(path: str) -> int | None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    root, within, rest = path.partition("/root/")
    try:
        if not within or not root.rpartition("/")[2].isdigit():
            return os.open(path, flags)
        descriptor = os.open(root + "/root", flags)
        for part in Path(rest).parts:
            inner = _step_into(descriptor, part, flags)
            descriptor = inner
    except OSError:
        return None
    return descriptor


def _step_into(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)


def _identity_of(path: str) -> Folder | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _names(folder: int | None, suffix: str | tuple[str, ...]) -> list[str]:
    """Names of files of the hook, the newest first."""
    if folder is None:
        return []
    try:
        names = [name for name in os.listdir(folder) if _is_ours(name, suffix)]
    except OSError:
        return []
    return names if len(names) <= FILES_MAX else sorted(names, key=lambda name: -_made(name, folder))


def _is_ours(name: str, suffix: str | tuple[str, ...]) -> bool:
    """Whether a hook could have given a file this name; one that others made up may hold anything, also what no row can."""
    return name.startswith(PREFIX) and name.endswith(suffix) and name.isascii() and name.isprintable()


def _made(name: str, folder: int) -> float:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime
    except OSError:
        return 0.0
