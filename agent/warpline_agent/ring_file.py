"""Reads the ring file of one training process: a file that the process, or anybody with its rights, may have made up.

It is read with `pread`, never mapped: a file that is cut short under a mapping ends the reader. Sizes are taken once, checked
against the file, and bound every later read; what a record or a text claims is bounded too. Nothing is lost by a restart of
the agent: `tail` lies in the file, and moves only when `release` says that what was read is safe.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from warpline_hook import ring
from warpline_hook.process import Process
from warpline_proto.errors import Denied, Refused

RECORD: Final = np.dtype(
    {
        "names": [name for name, _, _ in ring.RECORD],
        "formats": [kind for _, kind, _ in ring.RECORD],
        "offsets": [at for _, _, at in ring.RECORD],
        "itemsize": ring.RECORD_BYTES,
    }
)
Records = npt.NDArray[np.void]
RECORDS_MAX: Final = 2**53
"""No process ever writes so many records."""
FILE_BYTES_MAX: Final = 128 * 1024 * 1024
"""The largest ring a process makes holds 2**20 records, 64 MiB."""
READ_RECORDS_MAX: Final = 65_536
"""Records that one read takes of one lane, 4 MiB."""
TEXTS_BYTES_MAX: Final = 8 * 1024 * 1024
"""All texts of one process; it makes room for one MiB."""
TEXT_READ_BYTES_MAX: Final = 256 * 1024
"""Bytes of new texts that one read takes."""
STUCK_READS: Final = 50
"""A record that was begun and is still not whole after so many reads is given up: its thread was ended in the midst of it."""
_WORD: Final = 8
_NOWHERE: Final = -1
"""Released up to here, where what the file says makes no sense."""


class Text(NamedTuple):
    """One text of the heap; `kind` is NAME, COMMUNICATOR or ENVIRONMENT."""

    kind: int
    content: bytes


class Lane(NamedTuple):
    """Where the records of a lane lie; `number` is its place in ring.LANES."""

    number: int
    offset: int
    capacity: int


@dataclass(frozen=True)
class Standing:
    """What the header says now: counters by name, records dropped by lane, channels with state and reason, and the pulse.

    `heartbeat_ns` is CLOCK_MONOTONIC, `step` -1 where none was told, `capturing` a mask of KERNELS, COPIES, SETS and GRAPHS.
    """

    counters: Mapping[str, int]
    dropped: Mapping[str, int]
    channels: Mapping[str, tuple[str, int]]
    heartbeat_ns: int
    capturing: int
    step: int
    last_record_ns: int
    cupti_version: int
    nccl_version: int
    control: int


@dataclass
class _Place:
    """How far one lane has been read (`taken`) and given back (`released`), and since how many reads it does not move."""

    taken: int
    released: int
    stuck: int = 0


@dataclass
class RingFile:
    """One open ring. `owner` is the user the file belongs to; `process` and `created_ns` are what the file says of itself.

    `lost` counts records that were claimed and never became whole, or that a damaged header made unreadable. Texts stay in
    `texts` by their number.
    """

    path: Path
    owner: int
    process: Process
    created_ns: int
    texts: dict[int, Text] = field(default_factory=dict)
    lost: int = 0
    _descriptor: int = -1
    _lanes: tuple[Lane, ...] = ()
    _texts: tuple[int, int] = (0, 0)
    _texts_at: int = _WORD
    _places: list[_Place] = field(default_factory=list)
    _told: tuple[int, tuple[int, ...]] = (0, (0,) * len(ring.LANES))
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def read(self, lane: str, *, final: bool = False) -> Records:
        """Records of a lane that are new and whole, oldest first, at most READ_RECORDS_MAX; with `final` past any hole.

        Say `final` once the process is gone. Call `release` when they are safe.
        """
        here = self._lanes[ring.LANES.index(lane)]
        place = self._places[here.number]
        waiting = min(self._waiting(here, place), READ_RECORDS_MAX)
        if not waiting:
            return np.empty(0, RECORD)
        expected = _commits(place.taken, waiting)
        whole = self._fetch(here, place.taken, waiting)["commit"] == expected
        ready = int(whole.size if whole.all() else whole.argmin())
        place.stuck = 0 if ready else place.stuck + 1
        if not final and place.stuck < STUCK_READS:
            # A commit word seen whole says that what is read from now on is whole, not what was read beside it.
            records = self._fetch(here, place.taken, ready)
        else:
            ready = waiting if final else int(whole.argmax()) or waiting
            records = self._fetch(here, place.taken, ready)
            records = records[records["commit"] == expected[:ready]]
            self.lost += ready - len(records)
            place.stuck = 0
        place.taken += ready
        return self._untold(here, records)

    def leave_out(self, told_ns: int, read: tuple[int, ...]) -> None:
        """Pass over what an agent before this one has told: of the first `read` records of each lane those before `told_ns`."""
        self._told = told_ns, read

    def waiting(self, lane: str) -> Records:
        """Records that an agent before this one has read, not told, and left in the ring."""
        here = self._lanes[ring.LANES.index(lane)]
        place = self._places[here.number]
        count = min(self._told[1][here.number] - place.taken, here.capacity)
        if count <= 0:
            return np.empty(0, RECORD)
        records = self._fetch(here, place.taken, count)
        return self._untold(here, records[records["commit"] == _commits(place.taken, count)])

    @property
    def taken(self) -> tuple[int, ...]:
        """Records read of each lane since ever."""
        return tuple(place.taken for place in self._places)

    @property
    def is_done(self) -> bool:
        """Whether all there is has been read and released."""
        pairs = zip(self._lanes, self._places, strict=True)
        return all(place.released == place.taken and not self._waiting(lane, place) for lane, place in pairs)

    def _untold(self, lane: Lane, records: Records) -> Records:
        told_ns, read = self._told[0], self._told[1][lane.number]
        if self._places[lane.number].taken - lane.capacity >= read:
            return records
        behind = (records["commit"] - np.uint32(read + 1 & 0xFFFFFFFF)).astype(np.int32) >= 0
        chosen: Records = records[behind | (records["start_ns"] >= told_ns)]
        return chosen

    def read_texts(self) -> dict[int, Text]:
        """Texts that are new since the last call; they are in `texts` too."""
        offset, size = self._texts
        head = min(self.number(ring.TEXTS_HEAD_AT), size)
        wanted = min(head - self._texts_at, TEXT_READ_BYTES_MAX)
        if wanted <= 0:
            return {}
        whole = _entries(self.peek(offset + self._texts_at, wanted))
        # Their words have been seen, so that what is read from now on is whole.
        block = self.peek(offset + self._texts_at, wanted)
        found = {
            (self._texts_at + at) // _WORD: Text(kind, block[at + _WORD : at + _WORD + length])
            for at, length, kind in whole
        }
        if whole:
            self._texts_at += whole[-1][0] + _room(whole[-1][1])
        self.texts.update(found)
        return found

    @property
    def text_numbers(self) -> int:
        """Numbers of texts are below this."""
        return self._texts[1] // _WORD + 1

    def text(self, number: int) -> str | None:
        """A name or reason; None where none is given or it is not known."""
        found = self.texts.get(number)
        return None if found is None or found.kind != ring.NAME else found.content.decode("utf-8", "replace")

    def standing(self) -> Standing:
        """What the header says now."""
        header = self.peek(0, ring.HEADER_BYTES).ljust(ring.HEADER_BYTES, b"\0")
        words = np.frombuffer(header, "<u8")
        heartbeat, capturing, step, last, cupti, nccl = map(int, words[ring.PULSE_AT // 8 :][:6])
        counters = map(int, words[ring.COUNTERS_AT // 8 :])
        channels = map(int, words[ring.CHANNELS_AT // 8 :])
        dropped = (int(words[(ring.LANES_AT + lane.number * ring.LANE_BYTES) // 8 + 9]) for lane in self._lanes)
        return Standing(
            counters=dict(zip(ring.COUNTERS, counters, strict=False)),
            dropped=dict(zip(ring.LANES, dropped, strict=True)),
            channels={
                name: (_state(word & 0xFFFFFFFF), word >> 32)
                for name, word in zip(ring.CHANNELS, channels, strict=False)
            },
            heartbeat_ns=heartbeat,
            capturing=capturing,
            step=step - 1,
            last_record_ns=last,
            cupti_version=cupti,
            nccl_version=nccl,
            control=int(words[ring.CONTROL_AT // 8]),
        )

    def release(self) -> None:
        """What was read is safe: its room may be used again."""
        for lane, place in zip(ring.LANES, self._places, strict=True):
            self.release_to(lane, place.taken)

    def release_to(self, lane: str, position: int) -> None:
        """What lies before this position needs no room any more."""
        number = ring.LANES.index(lane)
        place = self._places[number]
        with self._writing:
            if place.released < position <= place.taken:
                self._write(ring.LANES_AT + number * ring.LANE_BYTES + ring.TAIL_AT, position)
                place.released = position

    def make_room(self) -> None:
        """Release the oldest of what was read where the process would have less than half of a lane to write to."""
        for name, lane, place in zip(ring.LANES, self._lanes, self._places, strict=True):
            self.release_to(name, place.taken - lane.capacity // 2)

    def say(self, now_monotonic_ns: int, control: int | None = None, nccl_control: int | None = None) -> None:
        """Tell the process that it is read, and what is wanted of it."""
        self._write(ring.READER_SEEN_AT, now_monotonic_ns)
        if control is not None:
            self._write(ring.CONTROL_AT, control)
        if nccl_control is not None:
            self._write(ring.NCCL_CONTROL_AT, nccl_control)

    def close(self) -> None:
        """Give the file back; may be called twice."""
        with self._writing:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def _waiting(self, lane: Lane, place: _Place) -> int:
        """Records claimed and not taken; a head that cannot be is waited out, and then what lies before it is given up."""
        head = self.number(ring.LANES_AT + lane.number * ring.LANE_BYTES + 64)
        if head > RECORDS_MAX:
            return 0
        if 0 <= head - place.taken <= lane.capacity:
            return head - place.taken
        place.stuck += 1
        if place.stuck >= STUCK_READS:
            self.lost += 1
            place.stuck, place.taken, place.released = 0, head, _NOWHERE
        return 0

    def _fetch(self, lane: Lane, position: int, count: int) -> Records:
        """`count` records from a position on, as they lie there; zeros where the file has been cut."""
        records = np.zeros(count, RECORD)
        if not count:
            return records
        view = records.view(np.uint8).data
        first = position % lane.capacity
        split = min(count, lane.capacity - first) * ring.RECORD_BYTES
        os.preadv(self._descriptor, [view[:split]], lane.offset + first * ring.RECORD_BYTES)
        if split < len(view):
            os.preadv(self._descriptor, [view[split:]], lane.offset)
        return records

    def peek(self, at: int, count: int) -> bytes:
        """So many bytes of the file; fewer where it has been cut."""
        return os.pread(self._descriptor, count, at)

    def number(self, at: int) -> int:
        """The word there; 0 once the file is given back."""
        with self._writing:
            return 0 if self._descriptor < 0 else int.from_bytes(self.peek(at, _WORD), "little")

    def write(self, at: int, block: bytes) -> None:
        """Write within a page; nothing once the file is given back."""
        with self._writing:
            self._put(at, block)

    def _write(self, at: int, number: int) -> None:
        self._put(at, (number & (1 << 64) - 1).to_bytes(_WORD, "little"))

    def _put(self, at: int, block: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._descriptor >= 0:
                os.pwrite(self._descriptor, block, at)


def open_ring(path: Path, folder: int | None = None) -> RingFile | None:
    """The ring of one process, in an open folder where one is given; None while it is being made or where it has gone.

    Raises Denied where this user may not read it, Refused where it is no ring or of another version.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "run the agent as root or as the user of the job, or set WARPLINE_GROUP for the job"
        raise Denied(f"the ring {path.name} cannot be opened: {error.strerror}", hint) from None
    opened = None
    try:
        opened = _opened(path, descriptor)
    finally:
        if opened is None:
            os.close(descriptor)
    return opened


def _opened(path: Path, descriptor: int) -> RingFile | None:
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_size > FILE_BYTES_MAX:
        raise Refused(f"{path.name} is no ring file")
    header = os.pread(descriptor, ring.HEADER_BYTES, 0)
    if header[:8].ljust(8, b"\0") == bytes(8):
        return None
    if len(header) < ring.HEADER_BYTES or not header.startswith(ring.MAGIC):
        raise Refused(f"{path.name} is no ring file")
    found = ring.IDENTITY.unpack_from(header)
    _, version, _, _, texts_at, texts_bytes, record_bytes, lanes, pid, _, ticks, namespace, created = found
    if version != ring.VERSION or record_bytes != ring.RECORD_BYTES or lanes != len(ring.LANES):
        raise Refused(f"{path.name} is a ring of version {version}, this agent reads {ring.VERSION}")
    places = [ring.LANE.unpack_from(header, ring.LANES_AT + each * ring.LANE_BYTES) for each in range(lanes)]
    for offset, capacity, head, _, _ in places:
        if capacity & (capacity - 1) or head > RECORDS_MAX or offset + capacity * ring.RECORD_BYTES > about.st_size:
            raise Refused(f"{path.name} claims more records than it holds")
    if texts_bytes > TEXTS_BYTES_MAX or texts_at + texts_bytes > about.st_size:
        raise Refused(f"{path.name} claims more texts than it holds")
    return RingFile(
        path,
        about.st_uid,
        Process(pid, ticks, namespace),
        created,
        _descriptor=descriptor,
        _lanes=tuple(Lane(number, offset, capacity) for number, (offset, capacity, *_) in enumerate(places)),
        _texts=(texts_at, texts_bytes),
        _places=[_first_place(capacity, head, tail) for _, capacity, head, _, tail in places],
    )


def _first_place(capacity: int, head: int, tail: int) -> _Place:
    """Where an earlier reader stopped; the oldest that can still be there if that makes no sense."""
    taken = tail if 0 <= head - tail <= capacity else max(0, head - capacity)
    return _Place(taken, tail if taken == tail else _NOWHERE)


def _commits(position: int, count: int) -> npt.NDArray[np.uint32]:
    """What so many records carry from a position on, once they are whole."""
    numbers: npt.NDArray[np.uint64] = np.arange(count, dtype=np.uint64) + (position + 1 & 0xFFFFFFFF)
    return numbers.astype(np.uint32)


def _room(length: int) -> int:
    return _WORD + (length + 7) // 8 * 8


def _entries(block: bytes) -> list[tuple[int, int, int]]:
    """Offset, length and kind of the texts at the start of a block that are whole."""
    entries = []
    at = 0
    while at + _WORD <= len(block):
        word = int.from_bytes(block[at : at + _WORD], "little")
        length = (word & 0xFFFFFFFF) - 1
        if not 0 <= length <= ring.TEXT_BYTES_MAX or at + _room(length) > len(block):
            break
        entries.append((at, length, word >> 32 & 0xFFFF))
        at += _room(length)
    return entries


def _state(number: int) -> str:
    return ring.STATES[number] if number < len(ring.STATES) else f"state {number}"
