"""The record of GPUs whose clocks are low: written to disk before they are lowered, read by whoever restores them.

One JSON file, replaced as a whole. An entry says `low` from before the call that lowers until `restore`, from before the call
that restores until it is gone. The process that makes the calls lowers only what the record calls low, while it holds the lock
of that GPU: a call that comes late, after its guard has died and another has begun to restore, finds that and does nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from warpline_proto.errors import Busy, ConfigError, SourceError

from .locks import Lock

RECORD: Final = "lowered.json"
GUARD_LOCK: Final = "guard.lock"
"""Held by the guard while it runs, and by whoever restores after it: only its holder writes the record."""
GUARD: Final = "guard"
"""How a guard calls itself as holder of the lock; its process follows."""
DYING_SECONDS: Final = 2.0
"""A guard that was just killed holds its lock so long at most."""
RESTORING_SECONDS: Final = 25.0
WAIT_SECONDS: Final = 0.1
RECORD_BYTES_MAX: Final = 1024 * 1024
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
LOW: Final = "low"
RESTORE: Final = "restore"


@dataclass(frozen=True)
class Entry:
    """One GPU: what was set (NULL memory: left alone), since when (wall clock), and whether to lower or to restore."""

    gpu_uuid: str
    gpu_index: int
    sm_clock_mhz: int
    memory_clock_mhz: int | None
    since_ns: int
    phase: str = LOW


class Record:
    """The file in `directory`; locks do not outlive the machine's start, so entries of another `boot_id` are passed over."""

    def __init__(self, directory: Path, boot_id: Callable[[], str] = lambda: Path(BOOT_ID).read_text().strip()) -> None:
        self._path = directory / RECORD
        self._directory = directory
        self._boot = boot_id()
        self.entries: dict[str, Entry] = {}

    def load(self) -> None:
        """Read what is there; SourceError where it is damaged, which no crash brings about."""
        self.entries = {}
        try:
            with self._path.open("rb") as stream:
                plain = json.loads(stream.read(RECORD_BYTES_MAX))
            listed = [Entry(**each) for each in plain["gpus"]] if plain["boot_id"] == self._boot else []
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            hint = "restore every GPU with `warpline power restore --all`"
            raise SourceError(f"the record {self._path} cannot be read: {error}", hint) from error
        self.entries = {each.gpu_uuid: each for each in listed}

    def lower(self, entry: Entry) -> None:
        """Note on disk that this GPU is about to be lowered; OSError if that cannot be."""
        self.entries[entry.gpu_uuid] = entry
        try:
            self._write(durably=True)
        except OSError:
            del self.entries[entry.gpu_uuid]
            raise

    def restoring(self, gpu_uuid: str) -> None:
        """Note that this GPU is about to be restored; no call that lowers it begins after this."""
        self.entries[gpu_uuid] = replace(self.entries[gpu_uuid], phase=RESTORE)
        self._write_if_possible()

    def restored(self, gpu_uuid: str) -> None:
        """This GPU is as it was."""
        del self.entries[gpu_uuid]
        self._write_if_possible()

    def clear(self) -> None:
        """All are as they were."""
        self.entries = {}
        self._write_if_possible()

    def _write_if_possible(self) -> None:
        """A full disk keeps nobody from restoring; an entry that stays too long is restored once more, that is all."""
        with contextlib.suppress(OSError):
            self._write()

    def _write(self, durably: bool = False) -> None:
        """Whole or not at all. Other processes see it at once; only what is about to be lowered must survive the machine."""
        plain = {"boot_id": self._boot, "gpus": [asdict(each) for each in self.entries.values()]}
        passing = self._path.with_name(f".{RECORD}.new")
        with passing.open("w", encoding="utf-8") as stream:
            json.dump(plain, stream)
            stream.flush()
            if durably:
                os.fsync(stream.fileno())
        passing.replace(self._path)
        if durably:
            _sync(self._directory)


def guard_lock(directory: Path, name: str, pause: Callable[[float], None] = time.sleep) -> Lock:
    """The guard's lock, taken as `name`: waits for those who restore, and little for a guard; Busy where it stays held."""
    lock, waited = Lock(directory / GUARD_LOCK), 0.0
    while not lock.take(f"{name} {os.getpid()}"):
        holder = lock.holder()
        if waited >= (DYING_SECONDS if holder.startswith(GUARD) else RESTORING_SECONDS):
            raise Busy(f"the clocks of this node are in the hands of {holder}", "end it: it restores them itself")
        pause(WAIT_SECONDS)
        waited += WAIT_SECONDS
    return lock


def gpu_lock(directory: Path, gpu_uuid: str) -> Lock:
    """Held during every call that changes clocks of this GPU, by the process that makes it."""
    safe = "".join(letter if letter.isalnum() or letter == "-" else "_" for letter in gpu_uuid)
    return Lock(directory / f"call-{safe}.lock")


def prepared(directory: Path) -> Path:
    """The state directory, made if need be; ConfigError if it cannot be written to."""
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}", "set [agent.guard] state_directory") from error
    if not os.access(directory, os.W_OK):
        raise ConfigError(f"{directory} may not be written to", "set [agent.guard] state_directory, or run as root")
    return directory


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
