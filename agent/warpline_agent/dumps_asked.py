"""Dumps of the flight recorder that were asked for and have not come: asked once for each process, fetched as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.errors import Refused, SourceError

from .dump_pipe import DumpFiles, ask, dump_files, fetch, take_away
from .hook_rows import Identity
from .identity import stamp
from .parsers.flight_dump import read_dump
from .source import Health, Reading, Rows

COMES_SECONDS: Final = 30.0
"""A dump comes within so long or not at all: the pipe is looked into once a second, and 2,000 entries are soon written."""
AGAIN_SECONDS: Final = 600.0
"""A process is not asked again sooner."""
PROCESSES_MAX: Final = 256


@dataclass
class _Asked:
    identity: Identity
    files: DumpFiles
    before: int | None
    until: float


class Dumps:
    """`ask` processes, `come` for the rows of what has come, `health` for why others have not."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._asked: dict[int, _Asked] = {}
        self._again: dict[int, float] = {}
        self._told: dict[int, Health] = {}

    def ask(self, pid: int, identity: Identity, now: float, *, anew: bool = False) -> None:
        """Have one process write a dump, unless it was asked not long ago."""
        if pid in self._asked or (self._again.get(pid, now) > now and not anew):
            return
        self._again[pid] = now + AGAIN_SECONDS
        try:
            files = dump_files(pid, identity.rank, self._proc)
            self._asked[pid] = _Asked(identity, files, ask(files, self._proc), now + COMES_SECONDS)
        except (SourceError, Refused) as error:
            self._tell(pid, error)
        else:
            self._told.pop(pid, None)

    def come(self, now: float) -> Iterator[Rows]:
        """Rows of the dumps that are there by now."""
        for pid, asked in list(self._asked.items()):
            try:
                reading = self._fetched(asked)
            except (SourceError, Refused) as error:
                self._tell(pid, error)
                reading = None
            if reading is not None:
                del self._asked[pid]
                self._told.pop(pid, None)
                take_away(asked.files, self._proc)
                yield from _stamped(reading, asked.identity, pid)
            elif now >= asked.until:
                del self._asked[pid]
                reason = f"no dump came to {asked.files.dump} within {COMES_SECONDS:g} s of asking through its pipe"
                self._told.setdefault(pid, Health(_subject(pid), "stale", reason))

    def _fetched(self, asked: _Asked) -> Reading | None:
        """The dump; one that makes no sense may be half written, and is looked at again when it has changed."""
        found = fetch(asked.files, asked.before, self._proc)
        if found is None:
            return None
        candidate, asked.before = found
        return read_dump(candidate)

    def refusal(self, pid: int) -> str | None:
        """Why a process gave none."""
        return self._told[pid].reason if pid in self._told else None

    def awaited(self, pid: int) -> bool:
        """Whether the dump of a process has not come yet."""
        return pid in self._asked

    def health(self) -> Iterator[Health]:
        """Processes that gave none, and why."""
        yield from self._told.values()

    def forget(self, pid: int) -> None:
        """A process is gone."""
        self._asked.pop(pid, None)
        self._again.pop(pid, None)
        self._told.pop(pid, None)

    def _tell(self, pid: int, error: SourceError | Refused) -> None:
        state = "refused" if isinstance(error, Refused) else type(error).__name__.lower()
        if len(self._told) < PROCESSES_MAX:
            self._told[pid] = Health(_subject(pid), state, str(error))


def _subject(pid: int) -> str:
    return f"flight recorder of pid {pid}"


def _stamped(reading: Reading, identity: Identity, pid: int) -> Iterator[Rows]:
    place: dict[str, Any] = {**identity.columns, "pid": pid}
    for rows in reading.rows:
        yield Rows(rows.table, stamp(rows.batch, **place), rows.dropped)
