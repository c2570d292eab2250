"""The seams: Source reads a live machine again and again, Format reads one recorded file once.

Both give rows: a table name and a batch of that table without place or job, which whoever drives them stamps in. A live
source that cannot work raises Unsupported, Denied or Busy and becomes a row of source_health; a file that cannot be read
raises Refused with a reason that names what is missing. Nothing that a file holds may raise anything else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, runtime_checkable

import pyarrow as pa

from warpline_proto.capture import Capture
from warpline_proto.errors import Refused


class Delivered(NamedTuple):
    """What of a time range a closer look could give: columns of `captures`, and in `note` what is missing and why.

    `later` says that nothing is told yet: the answer is a row of `captures` that the source gives in one of its next rounds.
    """

    records: int
    start_ns: int
    end_ns: int
    missing_ns: int
    note: str
    later: bool = False


LATER: Final = Delivered(0, 0, 0, 0, "", later=True)
"""A closer look has begun, and goes on while the source is read."""


class Rows(NamedTuple):
    """Rows of one table as a source read them. `dropped` counts rows of it that were lost on the way."""

    table: str
    batch: pa.RecordBatch
    dropped: int = 0


class Health(NamedTuple):
    """State of a part of a source (a GPU, a port, a field) that differs from the source's own.

    `duration_ns` is the time the part itself took, where it is known apart from the round.
    """

    subject: str
    state: str
    reason: str
    duration_ns: int | None = None


class Source(Protocol):
    """Something that can be read again and again on a live machine.

    `open` takes what it needs (raises Unsupported, Denied or Busy if it cannot have it), `read` gives what is new since the
    last call (nothing new is no error) and returns at once, `health` tells the parts that are not fresh, `close` gives
    everything back and may be called twice or without `open`.
    """

    name: str
    period_seconds: float

    def open(self) -> None: ...

    def read(self) -> Iterable[Rows]: ...

    def health(self) -> Iterable[Health]: ...

    def close(self) -> None: ...


@runtime_checkable
class Capturing(Protocol):
    """A Source that can also look closer on request.

    `captures` names what it can take (kernels, stacks, flight_recorder, trace). `capture` is called between two reads of an open
    source, gives the rows of the rank and the time asked for (and may say what of that time was delivered), and raises
    Unsupported, Denied or Busy with the reason where it cannot; until it returns the source is not read.
    """

    captures: frozenset[str]

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]: ...


class Settlement(Protocol):
    """What a source gave up to the end of one round; `intend` and `settle` may be called from another thread."""

    def intend(self, frame: bytes) -> None:
        """The last frame with rows of it, by its name of 16 bytes, is about to be written to disk."""

    def settle(self) -> None:
        """That frame is on disk, or there were no rows."""


@runtime_checkable
class Settling(Protocol):
    """A Source that can give again what did not come to be on disk, so that a restart neither loses nor repeats it.

    `keep_until_settled` is called before it is opened for the first time, with a function that says whether a frame was written
    before this agent began; `so_far` between two reads.
    """

    def keep_until_settled(self, was_put: Callable[[bytes], bool]) -> None: ...

    def so_far(self) -> Settlement: ...


@dataclass(frozen=True)
class Input:
    """One file (or one member of an archive) to be read offline.

    `path` is what the user is shown, `name` the last part of it without .gz, `head` the first HEAD_BYTES after unpacking,
    `size` its length in bytes where known. `opener` gives the unpacked bytes from the start; they are bounded, and reading
    past the bound or through damage raises Refused.
    """

    path: str
    name: str
    head: bytes
    size: int | None
    opener: Callable[[], BinaryIO]

    def open(self) -> BinaryIO:
        """The unpacked bytes, from the start."""
        return self.opener()

    def read_bytes(self, bytes_max: int) -> bytes:
        """All of it; Refused where it holds more than `bytes_max` bytes, which is told from that many."""
        with self.opener() as stream:
            content = stream.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise Refused(f"holds more than {bytes_max:,} bytes, the most that is read of this format")
        return content

    def lines(self) -> Iterable[str]:
        """Its lines as text without line ends; bytes that are not UTF-8 are replaced, lines are cut at LINE_CHARS_MAX."""
        with self.opener() as stream, io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as text:
            while line := text.readline(LINE_CHARS_MAX):
                yield line.rstrip("\r\n")


HEAD_BYTES = 64 * 1024
LINE_CHARS_MAX = 64 * 1024


def memory_input(path: str, data: bytes) -> Input:
    """An input from bytes at hand."""
    name = path.rsplit("/", 1)[-1].removesuffix(".gz")
    return Input(path, name, data[:HEAD_BYTES], len(data), lambda: io.BytesIO(data))


@dataclass(frozen=True)
class Tree:
    """A folder, or an unpacked archive, that one format reads as a whole (a sysfs tree)."""

    path: str
    root: Path
    names: frozenset[str]


@dataclass(frozen=True)
class Origin:
    """What a file says about where it comes from; the only ground on which files are given to one job.

    `run_id` is an identifier the launcher or publisher gave, `communicators` maps a communicator to its global ranks,
    `content` is a digest of the measured data alone (same data in another wrapping gives the same digest), `sibling` names
    files that a tool writes together (the stem they share).
    """

    run_id: str | None = None
    rank: int | None = None
    world_size: int | None = None
    communicators: tuple[tuple[str, tuple[int, ...]], ...] = ()
    node: str | None = None
    content: str | None = None
    sibling: str | None = None


@dataclass
class Reading:
    """What one file gave: rows, facts worth showing (counts, times, versions), where it comes from, what was left out.

    `raw` makes the rows of single records, which are many: it is called only where they are to be kept.
    """

    rows: list[Rows] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    origin: Origin = Origin()
    notes: list[str] = field(default_factory=list)
    raw: list[Callable[[], Iterable[Rows]]] = field(default_factory=list)


class Format(Protocol):
    """One recorded format. `recognises` looks at name and head only and never raises; `read` may raise Refused."""

    name: str

    def recognises(self, candidate: Input) -> bool: ...

    def read(self, candidate: Input) -> Reading: ...


class TreeFormat(Protocol):
    """A format made of many small files below one root."""

    name: str

    def recognises_tree(self, candidate: Tree) -> bool: ...

    def read_tree(self, candidate: Tree) -> Reading: ...
