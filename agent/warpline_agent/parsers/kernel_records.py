"""Lines of a kernel log in any of its dresses -> time and text: /dev/kmsg, dmesg, dmesg -T, --decode with ISO times, the journal.

The fabric manager's own log, which speaks of NVSwitch errors, has a dress of its own and is read the same way.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from ..source import LINE_CHARS_MAX
from .values import epoch_ns, text, whole

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
TEXT_CHARS_MAX: Final = 4000
"""A record is looked at up to here."""

_MONTH = f"({'|'.join(MONTHS)})"
_CLOCK = r"(\d\d):(\d\d):(\d\d)"
_LEVEL = re.compile(
    r"(?:kern|user|mail|daemon|auth|syslog|lpr|news|uucp|cron|authpriv|ftp|local\d)\s*:"
    r"\s*(?:emerg|alert|crit|err|warn|notice|info|debug)\s*:\s?"
)
_SECOND_RECORD = re.compile(
    r"(?<=.)(?=kern\s{0,6}:(?:emerg|alert|crit|err|warn|notice|info|debug)\s{0,6}: (?:\d{4}-|\[))"
)
_KMSG = re.compile(r"(\d{1,3}),(\d{1,18}),(\d{1,18}),[^;]{0,60};(.*)")
_BOOT = re.compile(r"(?:<\d{1,3}>)?\[ {0,12}(\d{1,12})\.(\d{6})\] ?(?:\[ {0,6}[TC]\d+\] )?(.*)")
_HUMAN = re.compile(rf"\[(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} {{1,2}}(\d{{1,2}}) {_CLOCK} (\d{{4}})\] ?(.*)")
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:([.,])(\d{1,9}))?(Z|[+-]\d\d:?\d\d)? (.*)")
_SYSLOG = re.compile(rf"{_MONTH} {{1,2}}(\d{{1,2}}) {_CLOCK} (\S{{1,255}}) (.*)")
_FABRIC = re.compile(rf"\[{_MONTH} (\d{{1,2}}) (\d{{4}}) {_CLOCK}\] (\[[A-Z]+\] \[tid \d+\] .*)")
_HOST_AND_KERNEL = re.compile(r"(\S{1,255}) kernel: (.*)")
_KERNEL_PROGRAM = re.compile(r"kernel: ?(?:\[ {0,12}\d{1,12}\.\d{6}\] ?)?(.*)")


class Record(NamedTuple):
    """One record. `time_ns` since the epoch where the line says it; `boot_ns` since the start of the machine; `shape` the dress.

    `kernel` is False for a line of another program that shares the file.
    """

    text: str
    shape: str
    time_ns: int | None = None
    boot_ns: int | None = None
    sequence: int | None = None
    host: str | None = None
    kernel: bool = True


ZONELESS: Final = frozenset({"human", "fabric"})
"""Dresses whose times have no zone."""


def records(line: str) -> list[Record]:
    """The records of one line: none for a line that continues another, two where a line end was lost between them."""
    if line.startswith("{"):
        found = _journal(line)
        return [found] if found else []
    return [found for part in _SECOND_RECORD.split(line[:LINE_CHARS_MAX]) if (found := _record(part[:TEXT_CHARS_MAX]))]


def _record(line: str) -> Record | None:
    if match := _KMSG.fullmatch(line):
        _, sequence, microseconds, said = match.groups()
        return Record(said, "kmsg", boot_ns=whole(int(microseconds) * 1000), sequence=int(sequence))
    level = _LEVEL.match(line)
    return _dressed(line[level.end() :] if level else line, decoded=bool(level))


def _dressed(line: str, decoded: bool) -> Record | None:
    if match := _BOOT.fullmatch(line):
        seconds, microseconds, said = match.groups()
        return Record(said, "boot", boot_ns=whole((int(seconds) * 1_000_000 + int(microseconds)) * 1000))
    if match := _HUMAN.fullmatch(line):
        month, day, hour, minute, second, year, said = match.groups()
        return Record(said, "human", _moment(year, month, day, hour, minute, second))
    if match := _FABRIC.fullmatch(line):
        month, day, year, hour, minute, second, said = match.groups()
        return Record(said, "fabric", _moment(year, month, day, hour, minute, second))
    if match := _ISO.fullmatch(line):
        return _iso(match, decoded)
    if match := _SYSLOG.fullmatch(line):
        said = _KERNEL_PROGRAM.fullmatch(match[7])
        return Record(said[1] if said else match[7], "syslog", host=match[6], kernel=bool(said))
    return None


def _iso(match: re.Match[str], decoded: bool) -> Record | None:
    """Kernel's own are lines with a level, lines of a host's kernel, and those of `dmesg --time-format iso` (comma and zone)."""
    second, mark, fraction, zone, said = match.groups()
    try:
        moment = datetime.fromisoformat(second + (zone or "+00:00"))
    except ValueError:
        return None
    whole_ns = epoch_ns(moment)
    time_ns = None if whole_ns is None else whole_ns + int((fraction or "0").ljust(9, "0"))
    host = _HOST_AND_KERNEL.fullmatch(said)
    kernel = decoded or bool(host) or (mark == "," and bool(zone))
    return Record(host[2] if host else said, "iso", time_ns, host=host[1] if host else None, kernel=kernel)


def _moment(year: str, month: str, day: str, hour: str, minute: str, second: str) -> int | None:
    """A time without a zone, read as UTC."""
    try:
        moment = datetime(int(year), MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    return epoch_ns(moment)


def _journal(line: str) -> Record | None:
    """A line of `journalctl -o json`."""
    if "__REALTIME_TIMESTAMP" not in line:
        return None
    try:
        entry: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or "__REALTIME_TIMESTAMP" not in entry:
        return None
    microseconds = whole(entry["__REALTIME_TIMESTAMP"])
    said = text(entry.get("MESSAGE"))
    if said is None:
        return None
    time_ns = None if microseconds is None else whole(microseconds * 1000)
    kernel = entry.get("_TRANSPORT", "kernel") == "kernel"
    return Record(said, "journal", time_ns, host=text(entry.get("_HOSTNAME")), kernel=kernel)
