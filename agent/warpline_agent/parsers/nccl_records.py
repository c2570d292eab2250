"""Finds NCCL's records in the lines of a log that other programs write into as well (NCCL 2.7 to 2.30).

A record is `[time] host:pid:thread [device] file.cc:line NCCL LEVEL text`, of which only `NCCL LEVEL text` is always there. Two
processes that share one file tear each other's lines, so a record may start anywhere in a line and end where the next starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, tzinfo
from typing import Final, NamedTuple

from .values import epoch_ns, whole

HOSTS_MAX: Final = 4096
"""Host names kept to recognise a torn line by; more are read as they stand."""

TEXT_CHARS_MAX: Final = 4096
"""NCCL writes at most 1 KB a line; what is longer is torn, and cut here."""

_HEADER_CHARS_MAX: Final = 400
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]{0,200}\x07")
_LEVEL: Final = re.compile(r"NCCL (INFO|WARN|CALL|TRACE|ABORT|ERROR) ")
_HEADER: Final = re.compile(
    r"(?:\[(?P<time>\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?\] ?)?"
    r"(?:(?P<host>[\w.-]{1,253}):(?P<pid>\d{1,10}):(?P<thread>\d{1,10}) )?"
    r"(?:\[(?P<device>-?\d{1,4})\] )?"
    r"(?:(?P<place>[\w./-]{1,120}\.(?:cc|cu|c|h|cpp|hpp):\d{1,6}) )?$"
)
_LAUNCHER: Final = re.compile(r"\s*(?:(?:\[[^\]]{1,80}\]:?|\([^)]{1,80}\):?|[\w.-]{1,80}:)\s*){0,3}$")
_PREFIX_RANK: Final = re.compile(r"\s*\[rank ?(\d{1,6})\]:")
_LAUNCHER_BEFORE_TEXT: Final = re.compile(r"\s*(?:\[[^\]]{1,80}\]:?|\([^)]{1,80}\):?|[\w.-]{1,80}:)\s+(?=\S)")


class Record(NamedTuple):
    """One record; what the line does not tell is None. `time_ns` counts from the Unix epoch."""

    level: str
    text: str
    host: str | None = None
    pid: int | None = None
    device: int | None = None
    time_ns: int | None = None
    rank: int | None = None


class RecordReader:
    """Takes lines apart. Remembers host names, by which it finds where a torn line goes on as another process's."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._hosts: dict[str, None] = {}

    def records(self, line: str) -> tuple[str, list[Record]]:
        """The text before the first record (all of the line where there is none), and the records."""
        levels = list(_LEVEL.finditer(line))
        if not levels:
            return line, []
        headers = [self._header(line, previous, level) for previous, level in _with_previous(levels)]
        found = _PREFIX_RANK.match(line)
        rank = int(found[1]) if found else None
        ends = [start for start, _ in headers[1:]] + [len(line)]
        records = [
            record._replace(text=line[level.end() : min(end, level.end() + TEXT_CHARS_MAX)].rstrip(), rank=rank)
            for (_, record), level, end in zip(headers, levels, ends, strict=True)
        ]
        return line[: headers[0][0]], records

    def _header(self, line: str, floor: int, level: re.Match[str]) -> tuple[int, Record]:
        """Where the record starts, and what its header says."""
        base = max(floor, level.start() - _HEADER_CHARS_MAX)
        found = _HEADER.search(line[base : level.start()])
        if found is None:
            return level.start(), Record(level[1], "")
        start = base + found.start()
        host = found["host"]
        if host is not None:
            clean = floor == 0 and _LAUNCHER.fullmatch(line[:start]) is not None
            whole = self._host(host, clean)
            start += len(host) - len(whole) if found["time"] is None else 0
            host = whole
        return start, Record(
            level[1],
            "",
            host,
            _integer(found["pid"]),
            _integer(found["device"]),
            self._time(found["time"], found["fraction"]),
        )

    def _host(self, text: str, clean: bool) -> str:
        """The host in a name to whose front the torn end of another line may stick.

        At the start of a line only the beginning of a known name is taken for such an end.
        """
        if text in self._hosts:
            return text
        known = [
            host for host in self._hosts if text.endswith(host) and (not clean or host.startswith(text[: -len(host)]))
        ]
        if known:
            return max(known, key=len)
        if clean and len(self._hosts) < HOSTS_MAX:
            self._hosts[text] = None
        return text

    def _time(self, text: str | None, fraction: str | None) -> int | None:
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text).replace(tzinfo=self._zone)
            seconds = epoch_ns(moment)
            return None if seconds is None else whole(seconds + int((fraction or "").ljust(9, "0")))
        except (ValueError, OverflowError):
            return None


def plain(line: str) -> str:
    """The line without terminal escapes."""
    return _ESCAPES.sub("", line) if "\x1b" in line else line


def without_launcher(line: str) -> str:
    """The line without the `[rank3]:`, `3: ` or `node: ` that a launcher wrote in front of it."""
    found = _LAUNCHER_BEFORE_TEXT.match(line)
    return line[found.end() :] if found else line


def _with_previous(levels: list[re.Match[str]]) -> Iterator[tuple[int, re.Match[str]]]:
    previous = 0
    for level in levels:
        yield previous, level
        previous = level.end()


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)
