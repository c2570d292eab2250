"""NCCL's debug logs, tailed where jobs write them or read whole: communicators, operations, warnings, network errors.

Files are named as in NCCL_DEBUG_FILE: `%h` is this host, `%p` any process. A recorded log may be a job's whole output, with
nccl-tests tables, `all_reduce_bench` blocks and Megatron's iteration lines in it.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, Final

from warpline_proto.defaults import STATE_DIRECTORY
from warpline_proto.errors import Refused, SourceError, Unsupported

from ..identity import stamp
from ..parsers.nccl_log_parser import Live, NcclLogParser
from ..parsers.values import whole
from ..positions import Positions, WasPut
from ..recordings.describe import holds_verdicts
from ..source import LINE_CHARS_MAX, Health, Input, Reading, Rows, Settlement
from ..tail import Position, Tail

FILES_MAX: Final = 256
"""Files followed at once, the newest; the others are told in health."""

POSITIONS_MAX: Final = 4096
POSITIONS_BYTES_MAX: Final = 8 * 1024 * 1024
"""Size of the file of positions beyond which it is not believed."""

REPLAY_BYTES_MAX: Final = 1024 * 1024
"""Beginning of a file that is read again after a restart, for who is who; its rows were sent before."""

REPLAY_ROUND_BYTES_MAX: Final = 2 * 1024 * 1024
"""Such bytes in one round; files beyond them are followed from a later round on."""

RECENT_SECONDS: Final = 3600.0
"""A file found at the very first start that was not written for so long is not read: its times would be wrong."""

IDLE_SECONDS: Final = 3600.0
"""A file that did not grow for so long is closed; its position is kept."""

_STRONG: Final = re.compile(
    rb"N?R?CCL (?:INFO|WARN|CALL|VERSION) |NCCL version \d|#\s+nThread \d|# Out of bounds values|busbw: \d"
)
_WEAK: Final = re.compile(rb"\bnccl\b", re.IGNORECASE)
_LOG_NAMES: Final = (".log", ".out", ".err", ".txt")
_PROSE_NAMES: Final = (".md", ".rst", ".html")
_OTHER_STARTS: Final = (b"{", b"[{", b"<", b"\x80", b"PK", b"PAR1", b"SQLite")


class NcclLog:
    """A recorded log."""

    name = "nccl_log"

    def recognises(self, candidate: Input) -> bool:
        """By NCCL's or nccl-tests' own lines; a log whose head only speaks of NCCL is taken too, for what may follow."""
        head = candidate.head
        if head.lstrip()[:6].startswith(_OTHER_STARTS) or candidate.name.lower().endswith(_PROSE_NAMES):
            return False
        if _STRONG.search(head):
            return True
        named = candidate.name.lower().endswith(_LOG_NAMES)
        return named and _WEAK.search(head) is not None and not holds_verdicts(candidate)

    def read(self, candidate: Input) -> Reading:
        """Lines -> communicators, collectives, log_events, steps and jobs."""
        parser = NcclLogParser(candidate.name)
        for line in _lines(candidate):
            parser.feed(line)
        if not parser.read_anything:
            raise Refused(
                "a log that holds no line of NCCL, nccl-tests, all_reduce_bench or Megatron's iterations",
                "run the job with NCCL_DEBUG=INFO",
            )
        rows = parser.rows()
        notes = parser.notes()
        lost = sum(item.dropped for item in rows)
        if lost:
            notes.append(f"{lost} rows found no place and were left out")
        return Reading(rows, parser.facts(), parser.origin(), notes)


def _lines(candidate: Input) -> Iterator[str]:
    """Lines end at line feeds only: progress bars return to the start of theirs without ending it."""
    with candidate.open() as stream:
        while line := stream.readline(LINE_CHARS_MAX):
            yield line.decode("utf-8", "replace").rstrip("\r\n")


@dataclass(frozen=True)
class NcclLogConfig:
    """Settings: `files` are named as in NCCL_DEBUG_FILE; `positions` remembers over restarts how far each was read.

    `job` names the job that writes them; empty, the rows belong to no job, because a log alone does not tell.
    """

    period_seconds: float = 1.0
    files: tuple[str, ...] = ()
    job: str = ""
    positions: str = f"{STATE_DIRECTORY}/nccl_log.json"
    read_bytes_max: int = 256 * 1024

    def __post_init__(self) -> None:
        if self.period_seconds <= 0 or self.read_bytes_max < 1:
            raise ValueError("period_seconds and read_bytes_max must be above 0")


DEFAULTS: Final = NcclLogConfig()


@dataclass
class _Followed:
    tail: Tail
    parser: NcclLogParser
    grown: float


class NcclLogSource:
    """Tails the files that match; at most `read_bytes_max` bytes a round over all of them, the next round goes on."""

    name = "nccl_log"
    Config = NcclLogConfig

    def __init__(
        self,
        config: NcclLogConfig = DEFAULTS,
        host: str | None = None,
        now: Callable[[], int] = time.time_ns,
        zone: tzinfo | None = None,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._host = (host or platform.node()).split(".", 1)[0]
        self._now = now
        self._zone = zone or datetime.now().astimezone().tzinfo or UTC
        self._followed: dict[str, _Followed] = {}
        self._book = Positions(config.positions, POSITIONS_BYTES_MAX)
        self._positions: dict[str, Position] | None = None
        self._health: list[Health] = []
        self._turn = 0
        self._left = 0
        self._since = 0.0

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Let no position hold before the rows of its lines are on disk."""
        self._book.keep_until_settled(was_put)

    def so_far(self) -> Settlement:
        """How far files are read."""
        return self._book.so_far(self._read_to)

    def open(self) -> None:
        """Unsupported where no file is configured."""
        if not self._config.files:
            raise Unsupported("no NCCL log is configured", "set [sources.nccl_log] files, as in NCCL_DEBUG_FILE")
        self._since = self._seconds()

    def read(self) -> Iterable[Rows]:
        """New lines of all files, as rows."""
        self._health = []
        self._book.begins(self._read_to)
        if self._book.trouble is not None:
            self._health.append(Health("positions", "denied", self._book.trouble))
        self._find()
        read = [rows for path in self._in_turn() for rows in self._read_one(path)]
        rows = [each._replace(batch=stamp(each.batch, job=self._config.job or None)) for each in read]
        self._forget()
        return rows

    def health(self) -> Iterable[Health]:
        """Files that could not be read or not be read whole in the last round."""
        return tuple(self._health)

    def close(self) -> None:
        """Remember how far was read and give the files back."""
        self._book.begins(self._read_to)
        for followed in self._followed.values():
            followed.tail.close()
        self._followed = {}

    def _seconds(self) -> float:
        return self._now() / 1e9

    def _find(self) -> None:
        """Follow new files, the newest first."""
        found: dict[str, float] = {}
        for pattern in self._config.files:
            for path in glob.iglob(_glob(pattern, self._host)):
                if _of_process(pattern, self._host, path) and path not in self._followed:
                    found[path] = _modified(path)
        fresh = [path for path in sorted(found, key=lambda each: -found[each]) if self._unread(path)]
        room = FILES_MAX - len(self._followed)
        replayed = 0
        for path in fresh[:room]:
            if replayed < REPLAY_ROUND_BYTES_MAX:
                replayed += self._follow(path, found[path])
        if len(fresh) > room:
            more = len(fresh) - room
            self._health.append(Health("files", "dropped", f"{more} more files than the {FILES_MAX} that are followed"))

    def _unread(self, path: str) -> bool:
        """Whether a file that is not followed holds anything new."""
        position = self._read_to.get(path)
        if position is None:
            return True
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_ino, status.st_size) != (position.inode, position.offset)

    def _follow(self, path: str, modified: float) -> int:
        """Begin with one file; how many bytes of it were read again."""
        position = self._read_to.get(path)
        try:
            tail = Tail(Path(path), position)
        except SourceError as error:
            self._health.append(Health(path, type(error).__name__.lower(), error.message))
            return 0
        if position is None and modified < self._since - RECENT_SECONDS:
            tail.skip_to_end()
            self._read_to[path] = tail.position
            tail.close()
            return 0
        parser = NcclLogParser(Path(path).name, self._zone, Live(self._host, self._now))
        beginning = tail.beginning(REPLAY_BYTES_MAX)
        for line in beginning:
            parser.feed(line)
        parser.rows()
        self._followed[path] = _Followed(tail, parser, self._seconds())
        return sum(map(len, beginning))

    def _in_turn(self) -> list[str]:
        """Every round begins with another file, so that a busy one does not starve the rest."""
        paths = list(self._followed)
        self._turn = (self._turn + 1) % max(1, len(paths))
        self._left = self._config.read_bytes_max
        return paths[self._turn :] + paths[: self._turn]

    def _read_one(self, path: str) -> Iterable[Rows]:
        followed = self._followed[path]
        if self._left <= 0:
            return []
        before = followed.tail.position
        try:
            lines = followed.tail.read(self._left)
        except SourceError as error:
            self._health.append(Health(path, "denied", error.message))
            followed.tail.close()
            del self._followed[path]
            return []
        self._left -= sum(len(line) + 1 for line in lines)
        for line in lines:
            followed.parser.feed(line)
        skipped = followed.tail.skipped()
        if skipped.bytes:
            self._health.append(Health(path, "dropped", f"{skipped.bytes} bytes were not read"))
        if followed.tail.position != before:
            followed.grown = self._seconds()
        self._read_to[path] = followed.tail.position
        return followed.parser.rows() if lines else []

    def _forget(self) -> None:
        """Close files that rest, and drop the oldest positions beyond POSITIONS_MAX."""
        now = self._seconds()
        for path, followed in list(self._followed.items()):
            if now - followed.grown > IDLE_SECONDS:
                followed.tail.close()
                del self._followed[path]
        for path in list(self._read_to)[: max(0, len(self._read_to) - POSITIONS_MAX)]:
            del self._read_to[path]

    @property
    def _read_to(self) -> dict[str, Position]:
        """Positions by file, at first as an agent before this one left them."""
        if self._positions is None:
            self._positions = _believed(self._book.found())
        return self._positions


def _believed(stored: Mapping[str, Any]) -> dict[str, Position]:
    """Positions as they were written, as far as they are such."""
    known = {}
    for name, value in list(stored.items())[:POSITIONS_MAX]:
        if isinstance(value, list) and len(value) == 3 and isinstance(value[2], str):
            inode, offset = whole(value[0]), whole(value[1])
            if inode is not None and offset is not None and offset >= 0:
                known[name] = Position(inode, offset, value[2])
    return known


def _parts(pattern: str, host: str) -> Iterator[tuple[str, bool]]:
    """The pattern in pieces: text as it stands, or (True) a process id."""
    for piece in re.split(r"(%[hp%])", pattern):
        if piece == "%p":
            yield "", True
        else:
            yield {"%h": host, "%%": "%"}.get(piece, piece), False


def _glob(pattern: str, host: str) -> str:
    return "".join("*" if process else text for text, process in _parts(pattern, host))


def _of_process(pattern: str, host: str, path: str) -> bool:
    """Whether a path that the glob found has a number where the process id stands; shell wildcards match as ever."""
    if "%p" not in pattern:
        return True
    expression = "".join(
        r"\d+" if process else re.escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
        for text, process in _parts(pattern, host)
    )
    return "[" in pattern or re.fullmatch(expression, path) is not None


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
