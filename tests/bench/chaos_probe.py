"""The page that `chaos_shim.c` shares: how far the last write of a process came, and what disk trouble or end is asked of it."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("chaos_shim.c")
PAGE_BYTES: Final = 4096
LOG, DATABASE, SEGMENT, READERS, SPOOL = range(1, 6)
OPEN, WRITE, SYNC, RENAME, UNLINK = range(5)
_FIELDS: Final = (
    "step_class", "step_operation", "step_after", "step_ns", "synced_ns", "told_ns", "killed_ns", "sync_delay_ns",
    "write_delay_ns", "full", "armed", "kill_class", "kill_operation", "kill_after", "kill_countdown", "unsynced",
)  # fmt: skip
JUST_NS: Final = 20_000_000
BEFORE_WRITE: Final = "before write"
AFTER_WRITE: Final = "after write, before fsync"
AFTER_SYNC: Final = "after fsync"
AFTER_COMMIT: Final = "after commit"
AFTER_ACK: Final = "after ack"
SEALING: Final = "while a segment is sealed"
CHECKPOINT: Final = "while the database file is written"
POINTS: Final = (BEFORE_WRITE, AFTER_WRITE, AFTER_SYNC, AFTER_COMMIT, AFTER_ACK, SEALING, CHECKPOINT)


@dataclass(frozen=True)
class Target:
    """An end at the n-th step of one kind: file class, operation, and whether the step is done or only begun."""

    file: int
    operation: int
    after: bool


COLLECTOR_TARGETS: Final = {
    BEFORE_WRITE: Target(LOG, WRITE, False),
    AFTER_WRITE: Target(LOG, SYNC, False),
    AFTER_SYNC: Target(LOG, SYNC, True),
    AFTER_COMMIT: Target(READERS, RENAME, True),
    SEALING: Target(SEGMENT, RENAME, True),
    CHECKPOINT: Target(DATABASE, WRITE, True),
}
AGENT_TARGETS: Final = {
    BEFORE_WRITE: Target(SPOOL, WRITE, False),
    AFTER_WRITE: Target(SPOOL, SYNC, False),
    AFTER_SYNC: Target(SPOOL, RENAME, False),
    AFTER_COMMIT: Target(SPOOL, RENAME, True),
    AFTER_ACK: Target(SPOOL, UNLINK, True),
}


def compile_shim(folder: Path) -> Path:
    """The library, compiled with the system's compiler or PyPI's ziglang."""
    target = folder / "chaos_shim.so"
    system = shutil.which("cc")
    compiler = [system] if system else [sys.executable, "-m", "ziglang", "cc"]
    command = [*compiler, "-O1", "-shared", "-fPIC", "-o", str(target), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


class Page:
    """One process's page; made anew for each start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(bytes(PAGE_BYTES))
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        os.close(descriptor)

    def environment(self, shim: Path) -> dict[str, str]:
        """What a process must be started with to be watched."""
        return {"LD_PRELOAD": str(shim), "WARPLINE_CHAOS_PAGE": str(self._path)}

    def get(self, name: str) -> int:
        """One field."""
        return int(struct.unpack_from("<q", self._map, 8 * _FIELDS.index(name))[0])

    def put(self, name: str, value: int) -> None:
        """Set one field; the process sees it at its next step."""
        struct.pack_into("<q", self._map, 8 * _FIELDS.index(name), value)

    def arm(self, target: Target, count: int) -> None:
        """End the process at its `count`-th such step from now."""
        self.put("kill_countdown", count)
        self.put("kill_class", target.file)
        self.put("kill_operation", target.operation)
        self.put("kill_after", int(target.after))
        self.put("armed", 1)

    def disarm(self) -> None:
        """No end is asked any more."""
        self.put("armed", 0)

    @property
    def last(self) -> Target:
        """The step that was begun or done last."""
        return Target(self.get("step_class"), self.get("step_operation"), bool(self.get("step_after")))


def point_of_collector(page: Page, killed_ns: int, acknowledged_ns: int) -> str:
    """How far the collector was, by its last step and by when its last acknowledgement came over the wire (0: never).

    Frames always wait for their commit: it is before their write once the acknowledgement of those before is JUST_NS ago.
    """
    last = page.last
    if last.file == DATABASE and last.operation != OPEN:
        return CHECKPOINT
    if last.file == SEGMENT and last.operation != UNLINK:
        return SEALING
    if last.file == LOG and last.operation == SYNC:
        return AFTER_SYNC if last.after else AFTER_WRITE
    if last.file == LOG and last.operation == WRITE:
        return AFTER_WRITE if page.get("unsynced") else BEFORE_WRITE
    if not page.get("synced_ns"):
        return BEFORE_WRITE
    if acknowledged_ns <= page.get("told_ns"):
        return AFTER_COMMIT
    return AFTER_ACK if killed_ns - acknowledged_ns <= JUST_NS else BEFORE_WRITE


def point_of_agent(page: Page) -> str:
    """How far the agent was with the frame it last touched: written to the spool, or acknowledged and removed from it."""
    last = page.last
    if last.operation == UNLINK:
        return AFTER_ACK
    if last.operation == RENAME:
        return AFTER_COMMIT if last.after else AFTER_SYNC
    if last.operation == SYNC:
        return AFTER_SYNC if last.after else AFTER_WRITE
    return AFTER_WRITE if last.operation == WRITE and last.after else BEFORE_WRITE
