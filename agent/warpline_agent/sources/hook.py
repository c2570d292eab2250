"""Steps and phases as the hook in each training process records them: found, read, and taken away once their process is gone."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from warpline_hook import layout
from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.defaults import STATE_DIRECTORY
from warpline_proto.errors import Refused, SourceError, Unsupported
from warpline_proto.tables import STEPS

from ..hook_file import HookFile, Taken, open_file
from ..hook_rows import Identity, identity_of, job_rows, step_rows
from ..hook_search import FILES_MAX, Found, Search, key_of, opened, take_away
from ..parsers.values import whole
from ..positions import Positions, WasPut
from ..process_identity import user_name
from ..source import Health, Rows, Settlement

ROUND_RECORDS_MAX: Final = 20_000
"""Records of one round over all files; what is left follows in the next."""
TOLD_SECONDS: Final = 60.0
"""A process that has gone without a word, or a file that is of no use, is told of for so long."""
TOLD_MAX: Final = 256
"""Files of which something is told at once."""
JOBS_MAX: Final = 256
POSITIONS_MAX: Final = 4096
POSITIONS_BYTES_MAX: Final = 1024 * 1024
"""Size of the file of positions beyond which it is not believed."""

PLACES: Final = {"CUDA_INJECTION64_PATH": "kernels", "NCCL_PROFILER_PLUGIN": "nccl"}
"""Variables by which a process gives the one place for a library to another tool, and what is not captured then."""
LIBRARY_CHARS_MAX: Final = 200

Key = str
"""Name and inode of a file."""


@dataclass(frozen=True)
class HookConfig:
    """Settings. `directories` are where WARPLINE_DIRECTORY may point, here and with `containers` in containers too.

    `positions` remembers over restarts how far each file was read.
    """

    period_seconds: float = 1.0
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True
    positions: str = f"{STATE_DIRECTORY}/hook.json"

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")
        if not all(each.startswith("/") for each in self.directories):
            raise ValueError("directories must be absolute paths")


DEFAULTS: Final = HookConfig()


@dataclass
class _Followed:
    file: HookFile
    name: str
    found: Found
    first: bool
    identity: Identity = field(default_factory=Identity)
    step: int | None = None


class Hook:
    """Reads every file of the hook that this agent may read, at most ROUND_RECORDS_MAX records a round."""

    name = "hook"
    Config = HookConfig

    def __init__(
        self,
        config: HookConfig = DEFAULTS,
        clock_ns: Callable[[], int] = time.time_ns,
        proc: str = "/proc",
        node: str | None = None,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock_ns = clock_ns
        self._clock = f"realtime@{node or platform.node()}"
        self._search = Search(config.directories, config.containers, proc)
        self._followed: dict[Key, _Followed] = {}
        self._book = Positions(config.positions, POSITIONS_BYTES_MAX)
        self._positions: dict[Key, int] | None = None
        self._told: dict[Key, tuple[Health, int]] = {}
        self._finished: dict[Key, None] = {}
        self._jobs: dict[str, Identity] = {}

    def keep_until_settled(self, was_put: WasPut) -> None:
        """Let no position hold, and take no file away, before its rows are on disk."""
        self._book.keep_until_settled(was_put)

    def so_far(self) -> Settlement:
        """How far files are read."""
        return self._book.so_far(self._read_to)

    def open(self) -> None:
        """Unsupported where none of the directories is there."""
        if not any(Path(each).is_dir() for each in self._config.directories):
            raise Unsupported(f"there is no {' or '.join(self._config.directories)}", "set [sources.hook] directories")

    def read(self) -> Iterable[Rows]:
        """New steps of all processes."""
        self._begin_round()
        self._find()
        rows: list[Rows] = []
        left = ROUND_RECORDS_MAX
        for key, followed in self._in_turn():
            found, count = self._read_one(key, followed, left)
            left -= count
            rows += found
        return rows

    def health(self) -> Iterable[Health]:
        """Files that cannot be read or give no more, processes that have gone, containers that are closed to this agent."""
        now_ns = self._clock_ns()
        self._told = {key: each for key, each in self._told.items() if now_ns - each[1] < TOLD_SECONDS * 1e9}
        yield from (health for health, _ in self._told.values())
        for followed in self._followed.values():
            yield from _taken(followed.file)
        if self._search.hidden:
            reason = (
                f"{self._search.hidden} processes in containers cannot be looked into: run the agent as root or with "
                "CAP_SYS_PTRACE, or share a directory and name it in WARPLINE_DIRECTORY"
            )
            yield Health("containers", "denied", reason)

    def close(self) -> None:
        """Remember how far was read and give the files back."""
        self._begin_round()
        for followed in self._followed.values():
            followed.file.close()
        self._followed = {}

    def _find(self) -> None:
        everywhere, looked = self._search.everywhere(self._clock_ns())
        seen: set[Key] = set()
        for found in everywhere:
            with opened(found.path) as folder:
                for name in found.names if folder is not None else ():
                    seen.add(self._follow(found, name, folder))
            if found.more:
                reason = f"{found.more} more files than the {FILES_MAX} that are read"
                self._tell(found.path, Health(found.path, "dropped", reason))
        for key, followed in self._followed.items():
            if looked and key not in seen and not followed.found.ours:
                followed.found = replace(followed.found, pids={})  # its container is gone

    def _follow(self, found: Found, name: str, folder: int | None) -> Key:
        """Begin with one file, or see anew who lives beside one that is followed."""
        key = key_of(name, folder)
        if not key:
            return ""
        if key in self._followed:
            self._followed[key].found = found
        elif key not in self._told and key not in self._finished and len(self._followed) < FILES_MAX:
            self._begin(key, found, name, folder)
        return key

    def _begin(self, key: Key, found: Found, name: str, folder: int | None) -> None:
        position = self._read_to.get(key)
        try:
            file = HookFile(open_file(name, folder), position or 0)
        except SourceError as error:
            self._tell(key, Health(f"{found.path}/{name}", "denied", str(error)))
        except Refused as error:
            self._tell(key, Health(f"{found.path}/{name}", "refused", str(error)))
        else:
            self._followed[key] = _Followed(file, name, found, position is None)

    def _in_turn(self) -> Iterator[tuple[Key, _Followed]]:
        """Every round begins with another file, so that no busy one starves the rest."""
        if self._followed:
            first = next(iter(self._followed))
            self._followed[first] = self._followed.pop(first)
        yield from list(self._followed.items())

    def _read_one(self, key: Key, followed: _Followed, records_max: int) -> tuple[list[Rows], int]:
        """Rows of one file, and how many records they come from; one that is done with is closed."""
        gone = self._search.gone(followed.file.process, followed.found)
        try:
            taken = followed.file.take(max(records_max, 0))
        except (Refused, OSError) as error:
            self._done(key, followed, Health(f"{followed.found.path}/{followed.name}", "refused", str(error)))
            return [], 0
        self._read_to[key] = followed.file.position
        rows = self._rows(followed, taken)
        over = followed.file.state != layout.RUNNING or gone
        if over and not taken.records and records_max > 0 and self._book.holds(key, followed.file.position):
            self._remove(key, followed)
            self._done(key, followed, self._last_words(followed))
        return rows, len(taken.records)

    def _rows(self, followed: _Followed, taken: Taken) -> list[Rows]:
        lost = taken.invalid + taken.refused + (0 if followed.first else taken.overwritten)
        followed.first = False
        rows: list[Rows] = []
        if taken.records:
            followed.identity = identity_of(followed.file.identity())
            followed.step = taken.records[-1].step
            rows = [*self._job(followed), *step_rows(followed.identity, taken.records, self._clock)]
        return [*rows, Rows(STEPS.name, STEPS.empty(), lost)] if lost else rows

    def _job(self, followed: _Followed) -> list[Rows]:
        """What is new about its job: once for all its processes on this node."""
        told = followed.identity
        alike = Identity(job=told.job, world_size=told.world_size, framework=told.framework, sizes=told.sizes)
        if told.job is None or self._jobs.get(told.job) == alike:
            return []
        if len(self._jobs) >= JOBS_MAX:
            self._jobs.clear()
        self._jobs[told.job] = alike
        return [job_rows(told, user_name(followed.file.owner), self._clock_ns())]

    def _last_words(self, followed: _Followed) -> Health | None:
        state = followed.file.state
        if state == layout.ENDED:
            return None
        who = followed.identity
        process = f"pid {followed.file.process.pid}, rank {_or_unknown(who.rank)} of job {_or_unknown(who.job)}"
        if state == layout.GIVEN_UP:
            return Health(process, "dead", f"the hook gave up: {followed.file.reason}")
        return Health(process, "dead", f"it ended without a word after step {_or_unknown(followed.step)}")

    def _done(self, key: Key, followed: _Followed, health: Health | None) -> None:
        """Nothing more will come."""
        followed.file.close()
        del self._followed[key]
        self._finished[key] = None
        for oldest in list(self._finished)[: max(0, len(self._finished) - POSITIONS_MAX)]:
            del self._finished[oldest]
        if health is not None:
            self._tell(key, health)

    def _remove(self, key: Key, followed: _Followed) -> None:
        """Take a file away that was read to its end, where that is ours to do."""
        if take_away(followed.name, followed.found, followed.file.owner):
            del self._read_to[key]

    def _tell(self, key: Key, health: Health) -> None:
        if len(self._told) < TOLD_MAX or key in self._told:
            self._told[key] = (health, self._clock_ns())

    @property
    def _read_to(self) -> dict[Key, int]:
        """Records read by file, at first as an agent before this one left them."""
        if self._positions is None:
            self._positions = _believed(self._book.found())
        return self._positions

    def _begin_round(self) -> None:
        for oldest in list(self._read_to)[: max(0, len(self._read_to) - POSITIONS_MAX)]:
            del self._read_to[oldest]
        self._book.begins(self._read_to)
        if self._book.trouble is not None:
            self._tell("positions", Health("positions", "denied", self._book.trouble))


def _taken(file: HookFile) -> Iterator[Health]:
    """Places for a library that the process gave to other tools."""
    try:
        identity = file.identity()
    except Refused:  # the next round says why
        return
    taken = identity.get("taken")
    for name, what in PLACES.items():
        library = taken.get(name) if isinstance(taken, dict) else None
        if isinstance(library, str):
            reason = f"{name} names {library[:LIBRARY_CHARS_MAX]}, and there is room for one library"
            yield Health(f"{what} of pid {file.process.pid}", "busy", reason)


def _believed(stored: Mapping[str, Any]) -> dict[Key, int]:
    """Positions as they were written, as far as they are numbers of records."""
    known = {str(key): whole(value) for key, value in list(stored.items())[:POSITIONS_MAX]}
    return {key: value for key, value in known.items() if value is not None and value >= 0}


def _or_unknown(value: int | str | None) -> str:
    return "unknown" if value is None else str(value)
