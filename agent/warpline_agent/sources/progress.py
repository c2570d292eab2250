"""Where the training processes of this node stand: they go on, wait in a collective, work, sleep, are stopped, or are gone.

Where one waits, those of its job on this node are asked for what their flight recorders hold, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from warpline_hook import layout, ring
from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.capture import FLIGHT_RECORDER, Capture
from warpline_proto.errors import Busy, Denied, Unsupported
from warpline_proto.progress_table import BLOCKED, IN_COLLECTIVE, PROGRESS, SILENT

from ..dump_pipe import sweep
from ..dumps_asked import COMES_SECONDS, Dumps
from ..hook_search import FILES_MAX, Found, Search, opened
from ..progress import Standing
from ..source import Delivered, Health, Rows
from ..watched import Watched, rows

TELL_SECONDS: Final = 30.0
"""A process that goes on is told of so often, and whenever that changes."""
TELL_QUIET_SECONDS: Final = 10.0
"""One that does not, so often."""
SWEEP_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 0.25
"""Where a dump is waited for, it is looked for so often."""
HUNG: Final = (IN_COLLECTIVE, SILENT, BLOCKED)
"""States in which others may wait for a process, or it for others."""


@dataclass(frozen=True)
class ProgressConfig:
    """Settings. `flight_recorder` false asks for no dumps by itself; a closer look still may.

    `directories` are where WARPLINE_DIRECTORY may point, here and with `containers` in containers too.
    """

    period_seconds: float = 5.0
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True
    flight_recorder: bool = True

    def __post_init__(self) -> None:
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")
        if not all(each.startswith("/") for each in self.directories):
            raise ValueError("directories must be absolute paths")


DEFAULTS: Final = ProgressConfig()


class Progress:
    """Looks at every training process that has a ring or a file of the hook."""

    name = "progress"
    captures = frozenset({FLIGHT_RECORDER})
    Config = ProgressConfig

    def __init__(
        self,
        config: ProgressConfig = DEFAULTS,
        clock_ns: Callable[[], int] = time.time_ns,
        proc: str = "/proc",
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock_ns = clock_ns
        self._proc = proc
        self._pause = pause
        self._search = Search(config.directories, config.containers, proc, (layout.SUFFIX, ring.SUFFIX))
        self._watched: dict[str, Watched] = {}
        self._over: dict[str, None] = {}
        self._dumps = Dumps(proc)
        self._sweep_due_ns = 0

    def open(self) -> None:
        """Unsupported where none of the directories is there."""
        if not any(Path(each).is_dir() for each in self._config.directories):
            raise Unsupported(
                f"there is no {' or '.join(self._config.directories)}", "set [sources.progress] directories"
            )

    def read(self) -> Iterable[Rows]:
        """What is new, or due to be told again, of each process; dumps that have come."""
        now_ns = self._clock_ns()
        self._find(now_ns)
        told: list[Mapping[str, Any]] = []
        for key, watched in list(self._watched.items()):
            told += self._look(key, watched, now_ns)
        if self._config.flight_recorder:
            self._ask(now_ns)
        self._sweep(now_ns)
        found = [Rows(PROGRESS.name, PROGRESS.from_rows(told))] if told else []
        return [*found, *self._dumps.come(now_ns / 1e9)]

    def health(self) -> Iterable[Health]:
        """Flight recorders that gave nothing, and why; containers that are closed to this agent."""
        yield from self._dumps.health()
        if self._search.hidden:
            reason = (
                f"{self._search.hidden} processes in containers cannot be looked into: run the agent as root or with "
                "CAP_SYS_PTRACE"
            )
            yield Health("containers", "denied", reason)

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """What the flight recorder of one rank holds; Denied, Busy or Unsupported with the reason where it gives nothing."""
        wanted = (request.job, request.rank)
        self._find(self._clock_ns())
        for each in self._watched.values():
            each.look(self._search, self._clock_ns(), self._proc)
        found = next((each for each in self._watched.values() if _who(each) == wanted and each.pid is not None), None)
        if found is None or found.pid is None:
            raise Denied(f"no process on this node trains as rank {request.rank} of job {request.job}")
        self._dumps.ask(found.pid, found.identity, self._now(), anew=True)
        end = self._now() + COMES_SECONDS
        read: list[Rows | Delivered] = []
        while self._dumps.awaited(found.pid) and self._now() < end + LOOK_SECONDS:
            self._pause(LOOK_SECONDS)
            read += self._dumps.come(self._now())
        reason = self._dumps.refusal(found.pid)
        if not read:
            raise Busy(reason or "the dump did not come in time")
        return read

    def close(self) -> None:
        """Give the files back."""
        for watched in self._watched.values():
            watched.close()
        self._watched = {}

    def _now(self) -> float:
        return self._clock_ns() / 1e9

    def _find(self, now_ns: int) -> None:
        everywhere, looked = self._search.everywhere(now_ns)
        seen: set[str] = set()
        for found in everywhere:
            seen |= self._open(found)
        self._over = {key: None for key in self._over if key in seen}
        for key, watched in self._watched.items():
            if looked and key not in seen and not watched.found.ours:
                watched.found = replace(watched.found, pids={})  # its container is gone

    def _open(self, found: Found) -> set[str]:
        """Watch the processes of one folder; their keys."""
        files: dict[str, list[str]] = {}
        for name in found.names:
            files.setdefault(name.split(".")[0], []).append(name)
        with opened(found.path) as folder:
            for key, names in files.items() if folder is not None else ():
                watched = self._watched.get(key)
                if watched is None and key not in self._over and len(self._watched) < FILES_MAX:
                    watched = self._watched[key] = Watched(found)
                if watched is not None:
                    watched.found = found
                    watched.open(names, folder)
        return set(files)

    def _look(self, key: str, watched: Watched, now_ns: int) -> Iterator[Mapping[str, Any]]:
        standing = watched.look(self._search, now_ns, self._proc)
        if standing is not None and not standing.goes_on:
            standing = watched.look_back(now_ns)
        if standing is None:
            return
        if _due(watched, standing, now_ns):
            watched.told = (standing.state, now_ns)
            yield from rows(watched, standing, now_ns)
        if standing.over:
            self._end(key, watched)

    def _end(self, key: str, watched: Watched) -> None:
        """Its process is gone; what it says of itself is told once more and no longer."""
        watched.close()
        del self._watched[key]
        self._over[key] = None
        if watched.pid is not None:
            self._dumps.forget(watched.pid)

    def _ask(self, now_ns: int) -> None:
        """Where a process hangs, have all of its job that are here write what they know."""
        hung = {
            each.identity.job
            for each in self._watched.values()
            if each.standing is not None and each.standing.state in HUNG and each.lately.operations
        }
        for each in self._watched.values():
            if each.identity.job in hung and each.pid is not None:
                self._dumps.ask(each.pid, each.identity, now_ns / 1e9)

    def _sweep(self, now_ns: int) -> None:
        if now_ns >= self._sweep_due_ns:
            self._sweep_due_ns = now_ns + int(SWEEP_SECONDS * 1e9)
            for folder in self._config.directories:
                sweep(folder, now_ns)


def _due(watched: Watched, standing: Standing, now_ns: int) -> bool:
    state, told_ns = watched.told
    often = TELL_SECONDS if standing.goes_on else TELL_QUIET_SECONDS
    return state != standing.state or now_ns - told_ns >= often * 1e9


def _who(watched: Watched) -> tuple[str | None, int | None]:
    return watched.identity.job, watched.identity.rank
