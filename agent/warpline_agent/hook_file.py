"""Reads the file in which the hook of one training process records its steps; trusts nothing that it says.

Any process of that user can write what it likes there. The file is read with `pread` alone, so that one that is cut short gives
fewer bytes and never a fault; every size, number and text is checked, and what does not fit is counted as lost.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from warpline_hook import layout
from warpline_hook.process import Process
from warpline_proto.errors import Denied, Refused

DURATION_NS_MAX: Final = 7 * 24 * 3600 * 10**9
"""No step takes a week."""
STEP_MAX: Final = 2**53
TIME_NS_MAX: Final = 2**62
AHEAD: Final = 8
"""The writer may be at so many records while the reader copies: those that it would meet next are not read."""


class Recorded(NamedTuple):
    """One record. `phase` and `kind` are set where it is a phase with a name; a time that is not known is None."""

    step: int
    on_cpu: bool
    times: Mapping[str, int | None]
    starts: Mapping[str, int | None]
    phase: str | None = None
    kind: str = "host"


@dataclass(frozen=True)
class Taken:
    """What a round gave: records in order, and how many were overwritten before, made no sense, or were refused by the hook."""

    records: tuple[Recorded, ...]
    overwritten: int = 0
    invalid: int = 0
    refused: int = 0


class HookFile:
    """One open file; `position` counts its records that were taken over, and is where a later reader goes on."""

    def __init__(self, descriptor: int, position: int = 0) -> None:
        """Takes the descriptor over; Refused where the file is not what it should be."""
        self._descriptor = descriptor
        self.position = position
        self._refused = 0
        self._generation = -1
        self._identity: Mapping[str, Any] = {}
        self._names: dict[int, tuple[str, str]] = {}
        self.state = layout.RUNNING
        try:
            self._status = os.fstat(descriptor)
            self.process = self._header()
            self._counters()
        except BaseException:
            self.close()
            raise

    @property
    def owner(self) -> int:
        """User id of whoever made it."""
        return self._status.st_uid

    @property
    def inode(self) -> int:
        """By which it is known again."""
        return self._status.st_ino

    @property
    def reason(self) -> str:
        """Why the hook gave up."""
        return _text(self._bytes(layout.REASON_AT, layout.REASON_BYTES))

    def take(self, records_max: int = layout.CAPACITY) -> Taken:
        """The records that are new, at most so many; Refused where the counters make no sense."""
        written, refused = self._counters()
        newly_refused = max(refused - self._refused, 0)
        self._refused = refused
        if written < self.position:
            raise Refused(
                f"it holds {written} records, and held {self.position} before: it was written by something else"
            )
        behind = written - self.position
        overwritten = max(behind - layout.CAPACITY + AHEAD, 0) if behind > layout.CAPACITY - AHEAD else 0
        self.position += overwritten
        found: list[Recorded] = []
        invalid = 0
        for data in self._slots(self.position, min(written, self.position + records_max)):
            record, number = self._record(data, self.position + 1)
            if number <= self.position and self.position >= written - AHEAD:
                break  # told of, and not there yet as this processor sees it
            if number > self.position + 1:
                overwritten += 1
            elif record is None:
                invalid += 1
            else:
                found.append(record)
            self.position += 1
        return Taken(tuple(found), overwritten, invalid, newly_refused)

    def newest(self, count: int) -> list[Recorded]:
        """The last so many records that make sense, without taking them over."""
        written, _ = self._counters()
        first = max(written - count, 0)
        read = [self._record(data, first + place + 1)[0] for place, data in enumerate(self._slots(first, written))]
        return [record for record in read if record is not None]

    def identity(self) -> Mapping[str, Any]:
        """The newest whole identity; the one before where it is being written, or is no JSON object."""
        counters = self._unpack()
        generation, length = counters[3], min(counters[4], layout.IDENTITY_BYTES)
        if generation % 2 or generation == self._generation:
            return self._identity
        text = self._bytes(layout.IDENTITY_AT, length)
        if self._unpack()[3] == generation:
            self._generation = generation
            self._identity = _object(text)
        return self._identity

    def close(self) -> None:
        """Give the descriptor back; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _header(self) -> Process:
        if not stat.S_ISREG(self._status.st_mode):
            raise Refused("it is no regular file")
        data = self._bytes(0, layout.HEADER.size)
        if len(data) < layout.HEADER.size or data[: len(layout.MAGIC)] != layout.MAGIC:
            raise Refused("it does not begin as a file of the hook does")
        _, version, record_bytes, capacity, _, pid, ticks, namespace, _ = layout.HEADER.unpack(data)
        if version != layout.VERSION:
            raise Refused(f"it is of version {version}, this agent reads {layout.VERSION}")
        if (record_bytes, capacity, self._status.st_size) != (layout.RECORD.size, layout.CAPACITY, layout.FILE_BYTES):
            raise Refused("its sizes are not those of its version")
        return Process(pid, ticks, namespace)

    def _unpack(self) -> tuple[int, ...]:
        data = self._bytes(layout.COUNTERS_AT, layout.COUNTERS.size)
        if len(data) < layout.COUNTERS.size:
            raise Refused("it was cut short")
        return layout.COUNTERS.unpack(data)

    def _counters(self) -> tuple[int, int]:
        written, refused, self.state, _, _, _ = self._unpack()
        if max(written, refused) > STEP_MAX:
            raise Refused("its counters make no sense")
        return written, refused

    def _slots(self, first: int, written: int) -> list[bytes]:
        """The bytes of records `first` to `written`, in at most two reads; fewer where the file was cut short."""
        size, found = layout.RECORD.size, []
        while first < written:
            slot = first % layout.CAPACITY
            count = min(written - first, layout.CAPACITY - slot)
            data = self._bytes(layout.RECORDS_AT + slot * size, count * size)
            if len(data) < count * size:
                raise Refused("it was cut short")
            found += [data[at : at + size] for at in range(0, len(data), size)]
            first += count
        return found

    def _record(self, data: bytes, expected: int) -> tuple[Recorded | None, int]:
        """The record, None where it makes no sense, and its number: a later one was written over it."""
        number, kind, flags, name, step, *values, again = layout.RECORD.unpack(data)
        if number != expected or again != expected:
            return None, max(number, again)
        times = dict(zip(layout.TIMES, values, strict=False))
        starts = dict(zip(layout.STARTS, values[len(layout.TIMES) :], strict=True))
        durations = [value for key, value in times.items() if key != "start"]
        if (
            not 0 <= step <= STEP_MAX
            or not 0 < times["start"] < TIME_NS_MAX
            or not all(layout.UNKNOWN <= value <= DURATION_NS_MAX for value in (*durations, *starts.values()))
            or times["duration"] < 0
        ):
            return None, number
        known = Recorded(step, bool(flags & layout.ON_CPU), _known(times), _known(starts))
        if kind == layout.STEP:
            return known, number
        named = self._name(name) if kind == layout.PHASE else None
        return (known._replace(phase=named[0], kind=named[1]) if named else None), number

    def _name(self, place: int) -> tuple[str, str] | None:
        if place >= layout.NAMES_MAX:
            return None
        if place not in self._names:
            kind, text = layout.NAME.unpack(self._bytes(layout.NAMES_AT + place * layout.NAME.size, layout.NAME.size))
            name = _text(text)
            if not name or kind >= len(layout.KINDS):
                return None
            self._names[place] = (name, layout.KINDS[kind])
        return self._names[place]

    def _bytes(self, at: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, at)


def open_file(name: str, directory: int | None) -> int:
    """A descriptor of a file in an open directory; Denied or Refused where it cannot be had. Links are not followed."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError as error:
        hint = "run the agent as root or as the user of the job, or set WARPLINE_GROUP for the job"
        raise Denied("it belongs to another user", hint) from error
    except OSError as error:
        raise Refused(error.strerror or str(error)) from error


def _known(values: Mapping[str, int]) -> dict[str, int | None]:
    return {key: None if value < 0 else value for key, value in values.items()}


def _text(data: bytes) -> str:
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(each if each.isprintable() else "?" for each in text)


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
