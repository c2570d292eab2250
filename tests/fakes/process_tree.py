"""A made-up /proc: processes with all that is read of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

INITIAL = "pid:[4026531836]"


class ProcessTree:
    """Below `folder`: `proc` as text, and `pods`, which is not made."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "proc"
        self.proc = str(self._root)
        self.pods = folder / "pods"
        self.namespace(INITIAL)

    def namespace(self, name: str) -> None:
        """The pid namespace of who looks."""
        link = self._root / "self" / "ns" / "pid"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(name)

    def add(
        self,
        pid: int,
        ticks: int = 100,
        uid: int = 0,
        name: str = "python3",
        cgroup: str = "0::/init.scope",
        environment: Mapping[str, str] | None = None,
        files: Sequence[str] = (),
        keep: bool = False,
    ) -> None:
        """Begin a process; with `keep` its environment stays as it was written."""
        self.write(pid, "stat", f"{pid} ({name}) S 1 {' '.join(['0'] * 17)} {ticks} 0 0 0 0 0".encode())
        self.write(pid, "status", f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n".encode())
        self.write(pid, "cgroup", cgroup.encode() + b"\n")
        if not keep:
            given = [f"{key}={value}" for key, value in (environment or {}).items()]
            self.write(pid, "environ", "\0".join(given).encode() + b"\0")
        for number, target in enumerate(files):
            link = self._root / str(pid) / "fd" / str(number)
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(target)

    def write(self, pid: int, name: str, content: bytes) -> None:
        """One file of a process."""
        path = self._root / str(pid) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def close_environment(self, pid: int) -> None:
        """It cannot be read any more, not by root either."""
        path = self._root / str(pid) / "environ"
        path.unlink()
        path.mkdir()

    def end(self, pid: int) -> None:
        """The process is gone."""
        shutil.rmtree(self._root / str(pid))
