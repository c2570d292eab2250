"""Stacks of training processes by py-spy: rarely at all times, all of a node's ranks once when one ends no more steps, often
when a closer look asks for a rank. Of those that hang every thread is told with what it waits in, be py-spy permitted or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.capture import STACKS, Capture
from warpline_proto.errors import Denied, Refused, SourceError
from warpline_proto.tables import STACKS as TABLE

from ..detail import STACKS as DUMPS
from ..detail import Detail
from ..hook_processes import Training, training_processes
from ..hook_search import Search
from ..parsers.py_spy import counted, stacks
from ..process_states import ThreadState, thread_states
from ..py_spy import dump, found
from ..source import Delivered, Health, Rows

PROCESSES_MAX: Final = 64
"""Training processes of a node that are looked at."""
BURST_SECONDS_MAX: Final = 10.0
BURST_PERIOD_SECONDS: Final = 0.1
"""A closer look takes a dump this often, for so long at most."""
SILENT_STEPS: Final = 10.0
SILENT_SECONDS_MIN: Final = 30.0
"""A process that has ended no step for so many of its usual ones, and for so long, hangs as far as can be seen from here."""

Dump = Callable[[str, int, float], bytes]


@dataclass(frozen=True)
class StacksConfig:
    """Settings: each process is dumped every `every_seconds`; `deadline_seconds` bounds one dump.

    `directories` and `containers` are where processes with a hook are looked for, as in [sources.hook].
    """

    period_seconds: float = 2.0
    every_seconds: float = 30.0
    deadline_seconds: float = 2.0
    py_spy: str = "py-spy"
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True

    def __post_init__(self) -> None:
        if min(self.period_seconds, self.every_seconds, self.deadline_seconds) <= 0:
            raise ValueError("period_seconds, every_seconds and deadline_seconds must be above 0")


DEFAULTS: Final = StacksConfig()


class Stacks:
    """At most one process a round, but for a hang; a process that cannot be dumped is told, and tried again in its turn."""

    name = "stacks"
    Config = StacksConfig
    captures = frozenset({STACKS})

    def __init__(
        self,
        config: StacksConfig = DEFAULTS,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        take: Dump = dump,
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._pause = pause
        self._take = take
        self._search = Search(config.directories, config.containers)
        self._command = ""
        self._due: dict[int, float] = {}
        self._seen_hanging: dict[int, int] = {}
        self._failed: dict[int, Health] = {}
        self._detail = Detail()

    def heed(self, detail: Detail) -> None:
        """Dump as often as it has where nothing hangs."""
        self._detail = detail

    def open(self) -> None:
        """Look whether there is a py-spy."""
        self._command = found(self._config.py_spy)

    def read(self) -> Iterable[Rows]:
        """Stacks of the process whose turn it is; of all where one newly hangs."""
        now = self._monotonic()
        known = self._processes()
        self._due = {each.pid: self._due.get(each.pid, now) for each in known}
        self._failed = {pid: health for pid, health in self._failed.items() if pid in self._due}
        self._seen_hanging = {pid: end for pid, end in self._seen_hanging.items() if pid in self._due}
        hanging = [each for each in known if self._newly_hanging(each)]
        turn = known
        if not hanging:
            turn = sorted((each for each in known if self._due[each.pid] <= now), key=lambda each: self._due[each.pid])[
                :1
            ]
        rows: list[dict[str, Any]] = []
        for each in turn:
            self._due[each.pid] = now + self._config.every_seconds
            if not hanging and self._detail.skips(DUMPS):
                continue
            rows += self._with_threads(each, self._one(each)) if hanging else self._one(each)
        return [Rows(TABLE.name, TABLE.from_rows(rows))] if rows else []

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """Stacks of one rank, ten times a second; Denied where it is not here, or cannot be dumped."""
        wanted = (request.job, request.rank)
        training = next((each for each in self._processes() if (each.identity.job, each.identity.rank) == wanted), None)
        if training is None:
            raise Denied(f"no process on this node records steps as rank {request.rank} of job {request.job}")
        end = self._monotonic() + min(request.duration_ns / 1e9, BURST_SECONDS_MAX)
        rows = self._dumped(training)
        while self._monotonic() + BURST_PERIOD_SECONDS <= end:
            self._pause(BURST_PERIOD_SECONDS)
            rows += self._dumped(training)
        return [Rows(TABLE.name, TABLE.from_rows(counted(rows)))]

    def health(self) -> Iterable[Health]:
        """Processes that could not be dumped, and why."""
        return tuple(self._failed.values())

    def close(self) -> None:
        """Nothing is held between dumps."""
        self._due = {}

    def _processes(self) -> list[Training]:
        folders, _ = self._search.everywhere(self._clock_ns())
        every: Iterator[Training] = training_processes(self._search, folders)
        return [training for training, _ in zip(every, range(PROCESSES_MAX), strict=False)]

    def _newly_hanging(self, training: Training) -> bool:
        """Whether it has ended no step for long, and this is the first look since."""
        end, usual = training.step_end_ns, training.usual_step_ns
        if end is None or usual is None:
            return False
        silent_ns = self._clock_ns() - end
        if (
            silent_ns < max(SILENT_STEPS * usual, SILENT_SECONDS_MIN * 1e9)
            or self._seen_hanging.get(training.pid) == end
        ):
            return False
        self._seen_hanging[training.pid] = end
        return True

    def _one(self, training: Training) -> list[dict[str, Any]]:
        try:
            rows = self._dumped(training)
        except SourceError as error:
            self._failed[training.pid] = Health(f"pid {training.pid}", _state(error), str(error))
            return []
        except Refused as error:
            self._failed[training.pid] = Health(f"pid {training.pid}", "refused", str(error))
            return []
        self._failed.pop(training.pid, None)
        return rows

    def _with_threads(self, training: Training, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The stacks of a process with what the operating system says of its threads, of those that run no Python too."""
        by_thread = {row["thread"]: row for row in rows}
        at_ns = self._clock_ns()
        for each in thread_states(training.pid):
            row = by_thread.get(each.thread)
            if row is None:
                row = {
                    "time_ns": at_ns,
                    "pid": training.pid,
                    "thread": each.thread,
                    "thread_name": each.name,
                    "count": 1,
                }
                rows.append(row | training.identity.columns | _waits(each))
            else:
                row |= _waits(each)
        return rows

    def _dumped(self, training: Training) -> list[dict[str, Any]]:
        at_ns = self._clock_ns()
        text = self._take(self._command, training.pid, self._config.deadline_seconds)
        return [row | training.identity.columns | {"pid": training.pid} for row in stacks(text, at_ns)]


def _waits(thread: ThreadState) -> dict[str, Any]:
    return {"os_state": thread.os_state, "waits_in": thread.waits_in, "kernel_frames": thread.kernel_frames}


def _state(error: SourceError) -> str:
    return type(error).__name__.lower()
