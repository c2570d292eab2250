"""Spool: frames that wait for their acknowledgement, on bounded disk, or in bounded memory where the disk fails.

One file a frame, `<boot>-<sequence>.frame`, written under another name, synced and renamed; a frame of an earlier start keeps
its own boot and sequence. Frames that belong together are `.part` until the last of them is written, so that a kill leaves all
of them or none. When a bound is reached the oldest frame falls off; the count is written to `<boot>.lost` before the file goes,
so that nothing vanishes uncounted. A frame that falls off while it is on its way may still arrive: `lost` is then one too many,
never one too few.
"""

from __future__ import annotations

import bisect
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from warpline_proto import service_pb2
from warpline_proto.batch import Batch, Frame
from warpline_proto.errors import ConfigError
from warpline_proto.wire import encode

from .clock_offset import steady_ns
from .frame_file import glance, hold, make_directory, name, pack, unpack, write
from .source import Health
from .waiting import LIMITS, Key, Limits, Standing, Waiting, on_disk, words

CORRUPT_FILES_MAX: Final = 8
"""Damaged files kept for a look; older ones are removed."""


class Spool:
    """One thread puts, another takes and acknowledges. ConfigError if another agent holds the directory.

    `clock_ns` dates frames; they grow old by `steady`, which nobody sets.
    """

    def __init__(
        self,
        directory: Path,
        agent: str,
        boot: str,
        clock_ns: Callable[[], int],
        limits: Limits = LIMITS,
        steady: Callable[[], int] = steady_ns,
    ) -> None:
        self.directory = directory
        self.boot = boot
        self.changed = threading.Condition()
        self._agent = agent
        self._clock_ns = clock_ns
        self._steady_ns = steady
        self._limits = limits
        self._sequence = 0
        self._keys: list[Key] = []
        self._waiting: dict[Key, Waiting] = {}
        self._bytes = 0
        self._memory_bytes = 0
        self._lost: Counter[str] = Counter()
        self._through: dict[str, int] = {}
        self._unreported = 0
        self._parts: list[tuple[Key, Waiting]] = []
        self._trouble = ""
        self.put_before: frozenset[bytes] = frozenset()
        """Names of the last frames that agents before this one wrote, as far as they waited when it began."""
        self._lock_file: int | None = None
        try:
            self._acquire()
        except BlockingIOError as error:
            raise ConfigError(
                f"another agent holds the spool {directory}", "give each agent its own spool_directory"
            ) from error
        except OSError as error:
            self._trouble = words(directory, error)

    @property
    def next_name(self) -> bytes:
        """16 bytes that stand for the frame that is put next."""
        return name(self.boot, self._sequence + 1)

    def put(self, batches: Sequence[Batch], written: Callable[[], None] = lambda: None, *, more: bool = False) -> int:
        """Keep one frame, say `written`, then let it be seen; returns its sequence. WireError if it is too large.

        With `more` it is neither said nor seen before the frames after it, which belong to it.
        """
        sequence = self._sequence + 1
        created_ns = self._clock_ns()
        frame = Frame(self._agent, self.boot, sequence, created_ns, tuple(batches), self._lost[self.boot])
        data = pack(encode(frame), created_ns)
        self._sequence = sequence
        if len(data) > self._limits.bytes_max:
            with self.changed:
                self._count(self.boot)
                self._save_lost(self.boot)
        else:
            self._make_room(len(data))
            key = self._key(self.boot, sequence)
            path = self._path(key).with_suffix(".part" if more else ".frame")
            self._parts.append((key, self._keep(path, data)))
        if not more:
            self._complete(written)
        return sequence

    def _complete(self, written: Callable[[], None]) -> None:
        """The last of the frames that belong together is written."""
        parts, self._parts = self._parts, []
        for key, kept in parts[:-1]:
            if kept.data is None:
                self._rename(self._path(key).with_suffix(".part"), self._path(key))
        written()
        for key, kept in parts:
            self._add(key, kept)
        if not self._trouble and any(kept.data is not None for _, kept in parts):
            self._move_to_disk()

    def after(self, key: Key | None) -> tuple[Key, service_pb2.Frame] | None:
        """The oldest frame behind `key` (the oldest of all for None), carrying what its boot has lost up to now."""
        while True:
            with self.changed:
                position = 0 if key is None else bisect.bisect_right(self._keys, key)
                if position >= len(self._keys):
                    return None
                found = self._keys[position]
                held = self._waiting[found].data
            message = self._read(found, held)
            if message is not None:
                message.lost = max(message.lost, self._lost[found.boot])
                return found, message
            key = found

    def waits_after(self, key: Key | None) -> bool:
        """Whether a frame waits behind `key`."""
        return bool(self._keys) and (key is None or self._keys[-1] > key)

    def acknowledge(self, boot: str, sequence: int) -> None:
        """Everything of `boot` up to and including `sequence` is durable elsewhere."""
        with self.changed:
            low = bisect.bisect_left(self._keys, self._key(boot, 0))
            high = bisect.bisect_right(self._keys, self._key(boot, sequence))
            for key in self._keys[low:high]:
                self._remove(key)
            self._forget(boot)
            self.changed.notify_all()

    def lost(self, boot: str) -> int:
        """Frames of `boot` that fell off so far."""
        return self._lost[boot]

    @property
    def waiting_frames(self) -> int:
        """Frames that wait."""
        return len(self._keys)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait."""
        return self._bytes

    def standing(self) -> Standing:
        """What waits, against its bounds."""
        with self.changed:
            oldest_ns = self._waiting[self._keys[0]].since_ns if self._keys else None
            return self._limits.standing(self._bytes, self._memory_bytes, len(self._keys), oldest_ns, self._steady_ns())

    def left(self) -> str:
        """What becomes of the frames that still wait when the agent ends, in words."""
        held = sum(each.data is not None for each in self._waiting.values())
        kept = len(self._keys) - held
        waits = f"frames that wait in {self.directory} for the next start: {kept}" if kept else ""
        lost = f"frames lost: {held}, {self._trouble}" if held else ""
        return "; ".join(filter(None, (waits, lost)))

    def take_losses(self) -> int:
        """Frames that fell off since the last call."""
        with self.changed:
            count, self._unreported = self._unreported, 0
        return count

    def health(self) -> Health:
        """Fresh, or in words why frames are held in memory."""
        if self._trouble:
            return Health("spool", "stale", f"{self._trouble}: frames are held in memory and die with the agent")
        return Health("spool", "fresh", "")

    def close(self) -> None:
        """Give the directory back; what waits on disk stays there. Safe to call twice."""
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _acquire(self) -> None:
        """Take the directory and what waits there; BlockingIOError if another agent has it, OSError if it cannot be used."""
        make_directory(self.directory, 0o700)
        self._lock_file = hold(self.directory / "lock")
        self._load()

    def _load(self) -> None:
        for path in sorted(self.directory.iterdir()):
            if path.suffix == ".tmp":
                self._unlink(path)
            elif path.suffix == ".lost":
                self._load_lost(path)
        found: dict[Key, tuple[int | None, int]] = {}
        for path in self.directory.glob("*.frame"):
            self._load_frame(path, found)
        for path in self.directory.glob("*.part"):
            self._load_part(path, found)
        for key, waiting in on_disk(found, self._clock_ns(), self._steady_ns()):
            self._add(key, waiting)
        for boot in list(self._lost):
            self._forget(boot)
        newest = {key.boot: key.sequence for key in self._keys}
        self.put_before = frozenset(name(boot, sequence) for boot, sequence in newest.items())

    def _load_lost(self, path: Path) -> None:
        try:
            state = json.loads(path.read_text())
            self._lost[path.stem], self._through[path.stem] = int(state["lost"]), int(state["through"])
        except (OSError, ValueError, KeyError, TypeError):
            self._unlink(path)

    def _load_frame(self, path: Path, found: dict[Key, tuple[int | None, int]]) -> None:
        boot, _, number = path.stem.rpartition("-")
        if not boot or not number.isdigit():
            return
        if int(number) <= self._through.get(boot, 0):
            self._unlink(path)
            return
        found[self._key(boot, int(number))] = glance(path)

    def _load_part(self, path: Path, found: dict[Key, tuple[int | None, int]]) -> None:
        """A frame counts where one after it does; else its rows are read again."""
        boot, _, number = path.stem.rpartition("-")
        if number.isdigit() and any(key.boot == boot and key.sequence > int(number) for key in found):
            self._rename(path, path.with_suffix(".frame"))
            self._load_frame(path.with_suffix(".frame"), found)
        else:
            self._unlink(path)

    def _rename(self, path: Path, target: Path) -> None:
        try:
            path.rename(target)
        except OSError as error:
            self._trouble = words(self.directory, error)

    def _keep(self, path: Path, data: bytes) -> Waiting:
        since_ns = self._steady_ns()
        try:
            self._write(path, data)
        except OSError as error:
            self._trouble = words(self.directory, error)
            return Waiting(since_ns, len(data), data)
        if self._trouble:
            self._move_to_disk()
        return Waiting(since_ns, len(data), None)

    def _move_to_disk(self) -> None:
        """The directory can be written again: what was held in memory follows."""
        with self.changed:
            held = [(key, each) for key, each in self._waiting.items() if each.data is not None]
        for key, waiting in held:
            try:
                self._write(self._path(key), waiting.data or b"")
            except OSError as error:
                self._trouble = words(self.directory, error)
                return
            with self.changed:
                if key in self._waiting:
                    self._waiting[key] = Waiting(waiting.since_ns, waiting.size, None)
                    self._memory_bytes -= waiting.size
                else:
                    self._unlink(self._path(key))
        self._trouble = ""

    def _write(self, path: Path, data: bytes) -> None:
        if self._lock_file is None:
            self._acquire()
        make_directory(self.directory, 0o700)
        write(path, data)

    def _make_room(self, size: int) -> None:
        oldest_ns = self._steady_ns() - int(self._limits.age_seconds_max * 1e9)
        with self.changed:
            falling: list[Key] = []
            left_bytes = self._bytes + size
            for key in self._keys:
                many = len(self._keys) - len(falling) >= self._limits.frames_max
                if left_bytes <= self._limits.bytes_max and not many and self._waiting[key].since_ns >= oldest_ns:
                    break
                falling.append(key)
                left_bytes -= self._waiting[key].size
            self._drop(falling)

    def _add(self, key: Key, waiting: Waiting) -> None:
        with self.changed:
            bisect.insort(self._keys, key)
            self._waiting[key] = waiting
            self._bytes += waiting.size
            if waiting.data is not None:
                self._memory_bytes += waiting.size
                self._bound_memory()
            self.changed.notify_all()

    def _bound_memory(self) -> None:
        for key in [each for each in self._keys if self._waiting[each].data is not None]:
            if self._memory_bytes <= self._limits.memory_bytes_max:
                return
            self._drop([key])

    def _drop(self, keys: Sequence[Key]) -> None:
        """Let frames fall off, counted on disk once a boot before the first file goes."""
        boots = dict.fromkeys(key.boot for key in keys)
        for key in keys:
            # Files fall off in order, so everything of the boot up to this one is gone; what is in memory may be newer.
            self._count(key.boot, through=key.sequence if self._waiting[key].data is None else 0)
        unsaved = [boot for boot in boots if not self._save_lost(boot)]
        for key in keys:
            self._remove(key)
        for boot in unsaved:
            self._save_lost(boot)  # a disk that was full has room for it now
        for boot in boots:
            self._forget(boot)

    def _count(self, boot: str, through: int = 0) -> None:
        self._lost[boot] += 1
        self._unreported += 1
        self._through[boot] = max(through, self._through.get(boot, 0))

    def _save_lost(self, boot: str) -> bool:
        state = json.dumps({"lost": self._lost[boot], "through": self._through.get(boot, 0)})
        try:
            write(self.directory / f"{boot}.lost", state.encode())
        except OSError as error:
            self._trouble = words(self.directory, error)
            return False
        return True

    def _remove(self, key: Key) -> None:
        waiting = self._waiting.pop(key)
        del self._keys[bisect.bisect_left(self._keys, key)]
        self._bytes -= waiting.size
        if waiting.data is None:
            self._unlink(self._path(key))
        else:
            self._memory_bytes -= waiting.size

    def _forget(self, boot: str) -> None:
        """An earlier boot of which nothing waits any more needs no count."""
        position = bisect.bisect_left(self._keys, self._key(boot, 0))
        if boot == self.boot or (position < len(self._keys) and self._keys[position].boot == boot):
            return
        self._lost.pop(boot, None)
        self._through.pop(boot, None)
        self._unlink(self.directory / f"{boot}.lost")

    def _read(self, key: Key, held: bytes | None) -> service_pb2.Frame | None:
        """The message of one frame; None if it is gone or damaged (then it is set aside and counted)."""
        try:
            message = unpack(held if held is not None else self._path(key).read_bytes())
        except FileNotFoundError:
            message = None
        except OSError as error:
            self._trouble = words(self.directory, error)
            message = None
        if message is None or (message.boot, message.sequence) != (key.boot, key.sequence):
            self._set_aside(key)
            return None
        return message

    def _set_aside(self, key: Key) -> None:
        with self.changed:
            if key not in self._waiting:
                return
            self._count(key.boot)
            self._save_lost(key.boot)
            path = self._path(key)
            self._rename(path, path.with_suffix(".corrupt"))
            self._remove(key)
            self._forget(key.boot)
        for stale in sorted(self.directory.glob("*.corrupt"))[:-CORRUPT_FILES_MAX]:
            self._unlink(stale)

    def _unlink(self, path: Path) -> None:
        """Remove a file; one that stays is sent again after a restart, which the collector recognises."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._trouble = words(self.directory, error)

    def _key(self, boot: str, sequence: int) -> Key:
        return Key(boot == self.boot, boot, sequence)

    def _path(self, key: Key) -> Path:
        return self.directory / f"{key.boot}-{key.sequence:012d}.frame"
