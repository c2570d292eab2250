"""Segments: blocks of raw records one behind the other in bounded files, the oldest file falling off first.

Nothing is synced: what a machine that loses power had not written is lost, and a segment is read up to the first damaged
block and no further. A start never writes on in a segment of an earlier one. What falls off is counted in `state.json` before
its file goes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

from . import raw_block
from .raw_block import Damaged, Told

PIECES: Final = 16
"""The ring falls off in about so many pieces."""
BLOCKS_MAX: Final = 50_000
"""Blocks known of; with more the oldest segment falls off."""
MARKS_MAX: Final = 10_000
"""Marks remembered of blocks that fell off."""
_STATE: Final = "state.json"
_LOCK: Final = "lock"


@dataclass(frozen=True)
class Block:
    """Where a block lies and what it says of itself."""

    path: Path
    offset: int
    size: int
    told: Told

    def read(self) -> bytes:
        """Its bytes, as far as they are there; OSError where the file is not."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass
class _Segment:
    path: Path
    begun_ns: int
    written_ns: int
    size: int = 0
    damaged_bytes: int = 0
    blocks: list[Block] = field(default_factory=list)

    @property
    def records(self) -> int:
        return sum(block.told.records for block in self.blocks)


class Segments:
    """`take` the directory, `put` blocks, go through `blocks`. BlockingIOError where another agent has it, OSError on trouble.

    `dropped` counts the records that fell off since the directory was made.
    """

    def __init__(self, directory: Path, bytes_max: int, age_seconds_max: float, clock_ns: Callable[[], int]) -> None:
        self.directory = directory
        self.dropped = 0
        self._bytes_max = bytes_max
        self._age_ns = int(age_seconds_max * 1e9)
        self._clock_ns = clock_ns
        self._segments: list[_Segment] = []
        self._stream: FileIO | None = None
        self._lock: int | None = None
        self._sequence = 0
        self._marks: set[str] = set()
        self._gone: OrderedDict[str, None] = OrderedDict()

    def take(self) -> None:
        """Take the directory and what it holds, unless that was done."""
        if self._lock is not None and (self.directory / _LOCK).exists():
            return
        self.close()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        self._load()

    def put(self, told: Told, data: bytes) -> None:
        """Append a block; one that was not written whole is cut off again."""
        self.take()
        self.make_room(len(data))
        segment = self._newest()
        stream = self._stream
        assert stream is not None, "the newest segment is open"
        try:
            if stream.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                stream.truncate(segment.size)
            self._end_segment()
            raise
        self._add(segment, Block(segment.path, segment.size, len(data), told))
        segment.written_ns = self._clock_ns()

    def make_room(self, size: int) -> None:
        """Let the oldest segments go until so many bytes fit, and those that are too old."""
        oldest_ns = self._clock_ns() - self._age_ns
        held = sum(segment.size for segment in self._segments)
        blocks = sum(len(segment.blocks) for segment in self._segments)
        while self._segments and (
            held + size > self._bytes_max or blocks >= BLOCKS_MAX or self._segments[0].written_ns < oldest_ns
        ):
            gone = self._segments[0]
            held -= gone.size
            blocks -= len(gone.blocks)
            self._drop(gone)

    def known(self, mark: str) -> bool:
        """Whether a block of this mark is here, or was."""
        return mark in self._marks or mark in self._gone

    def blocks(self) -> Iterator[Block]:
        """All blocks, in the order in which they were written."""
        for segment in self._segments:
            yield from segment.blocks

    @property
    def damaged_bytes(self) -> int:
        """What could not be read of the segments that are here."""
        return sum(segment.damaged_bytes for segment in self._segments)

    def close(self) -> None:
        """Give the directory back; what it holds stays. Safe to call twice."""
        self._end_segment()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _newest(self) -> _Segment:
        """The segment that is written: a new one where the last is full, old or gone."""
        now_ns = self._clock_ns()
        last = self._segments[-1] if self._segments and self._stream is not None else None
        full = last is None or last.size >= self._bytes_max // PIECES
        if last is not None and not full and now_ns - last.begun_ns < self._age_ns // PIECES and last.path.exists():
            return last
        self._end_segment()
        self._sequence += 1
        path = self.directory / f"{self._sequence:012d}.raw"
        self._stream = FileIO(path, "x")
        self._segments.append(_Segment(path, now_ns, now_ns))
        return self._segments[-1]

    def _end_segment(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _add(self, segment: _Segment, block: Block) -> None:
        segment.blocks.append(block)
        segment.size = block.offset + block.size
        if block.told.mark:
            self._marks.add(block.told.mark)

    def _drop(self, segment: _Segment) -> None:
        if segment is self._segments[-1]:
            self._end_segment()
        self.dropped += segment.records
        marks = [block.told.mark for block in segment.blocks if block.told.mark]
        self._marks.difference_update(marks)
        self._gone.update(dict.fromkeys(marks))
        while len(self._gone) > MARKS_MAX:
            self._gone.popitem(last=False)
        self._segments.remove(segment)
        with contextlib.suppress(OSError):  # on a disk that cannot be written, dropping must go on
            temporary = self.directory / f"{_STATE}.tmp"
            through = int(segment.path.stem)
            temporary.write_text(json.dumps({"dropped": self.dropped, "through": through, "gone": list(self._gone)}))
            temporary.replace(self.directory / _STATE)
        with contextlib.suppress(OSError):
            segment.path.unlink(missing_ok=True)

    def _load(self) -> None:
        """Everything that is here now. Records that were known and are not there any more have fallen off."""
        known = sum(segment.records for segment in self._segments)
        dropped, through = self._load_state()
        self._segments, self._marks = [], set()
        for path in sorted(self.directory.glob("*.raw")):
            if path.stem.isdigit() and int(path.stem) > through:
                self._load_segment(path)
            else:
                path.unlink(missing_ok=True)
        missing = known - sum(segment.records for segment in self._segments)
        self.dropped = max(self.dropped, dropped) + max(missing, 0)
        self._sequence = max([self._sequence, through, *(int(each.path.stem) for each in self._segments)])

    def _load_state(self) -> tuple[int, int]:
        try:
            state = json.loads((self.directory / _STATE).read_text())
            self._gone = OrderedDict.fromkeys(str(mark) for mark in state["gone"][-MARKS_MAX:])
            return int(state["dropped"]), int(state["through"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0

    def _load_segment(self, path: Path) -> None:
        status = path.stat()
        segment = _Segment(path, status.st_mtime_ns, status.st_mtime_ns)
        with path.open("rb") as stream:
            while head := stream.read(raw_block.HEADER.size):
                try:
                    size = raw_block.length(head)
                    if segment.size + size > status.st_size:
                        raise Damaged
                    told = raw_block.describe(head + stream.read(size - len(head)))
                except Damaged:
                    break
                self._add(segment, Block(path, segment.size, size, told))
        segment.damaged_bytes = status.st_size - segment.size
        segment.size = status.st_size
        self._segments.append(segment)
