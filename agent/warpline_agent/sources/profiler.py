"""Traces by the profiler library in training processes themselves (Kineto, in PyTorch), for a closer look that asks for one.

The agent stands where that library looks for the daemon of its node, and hands over what to trace when a process next asks. All
ranks are given the same time to trace, so that they trace the same steps. The user's own profiler always wins: a process in which
one runs is not asked, and one that begins meanwhile ends what was asked for.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.capture import DENIED, DONE, TRACE, Capture
from warpline_proto.errors import Denied, Refused

from ..capturing import answer
from ..hook_processes import Training, steps_within, training_processes
from ..hook_search import Search
from ..identity import stamp
from ..kineto_daemon import Client, KinetoDaemon, Offer
from ..kineto_reading import reading_of, trace_of
from ..kineto_wire import POLL_SECONDS, WARM_UP_SECONDS, configuration
from ..source import LATER, Delivered, Health, Rows
from ..trace_folder import PREFIX, TraceFolder
from ..traced import Traced

LEAD_SECONDS: Final = WARM_UP_SECONDS + 2.0
"""A process must have been told so long before the trace begins: Kineto looks once a second, and then prepares itself."""
AHEAD_SECONDS_MAX: Final = 120.0
"""A trace begins no later than this after it was asked for."""
PROCESSES_MAX: Final = 64
"""Training processes of a node that are looked at."""
KNOWN_AFTER_SECONDS: Final = 2 * POLL_SECONDS
"""Having listened for so long, the daemon knows every process that asks."""
_NO_CLIENT: Final = "its PyTorch does not ask this agent for work"
_HINT: Final = (
    "start it by `warpline run`, or with KINETO_USE_DAEMON=1; PyTorch 2.7 or later, in the agent's network namespace"
)
_OWN_PROFILER: Final = "a profiler of its own runs in the process, and it wins"


@dataclass(frozen=True)
class ProfilerConfig:
    """Settings. `directory` is where training processes write their traces: one that they and the agent see, on a disk.

    A trace lasts `seconds_max` at most, a process is asked again `rest_seconds` after the last one ended. Its file is waited for
    `file_seconds` after the end and read up to `file_bytes_max`; the newest `kept_files_max` files, of `kept_bytes_max` together,
    are kept for the user. `directories` and `containers` are where processes with a hook are looked for, as in [sources.hook].
    """

    period_seconds: float = 1.0
    directory: str = "/tmp"
    seconds_max: float = 30.0
    rest_seconds: float = 60.0
    file_seconds: float = 60.0
    file_bytes_max: int = 256 * 1024 * 1024
    kept_files_max: int = 16
    kept_bytes_max: int = 1024 * 1024 * 1024
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True

    def __post_init__(self) -> None:
        if min(self.period_seconds, self.seconds_max, self.file_seconds) <= 0 or self.rest_seconds < 0:
            raise ValueError(
                "period_seconds, seconds_max and file_seconds must be above 0, and rest_seconds not below it"
            )
        if min(self.file_bytes_max, self.kept_files_max, self.kept_bytes_max) < 1:
            raise ValueError("file_bytes_max, kept_files_max and kept_bytes_max must be above 0")
        if not self.directory.startswith("/") or not self.directory.isascii() or not self.directory.isprintable():
            raise ValueError("directory must be an absolute path in ASCII")


DEFAULTS: Final = ProfilerConfig()


@dataclass
class _Asked:
    """One trace that is under way. `client` is the process as it asked last."""

    capture: Capture
    pid: int
    stem: str
    folder: TraceFolder
    offer: Offer
    client: Client | None

    @property
    def end_ns(self) -> int:
        return self.capture.start_ns + self.capture.duration_ns

    @property
    def file_name(self) -> str | None:
        """As Kineto names it: with the pid by which the process knows itself."""
        return None if self.client is None else f"{self.stem}_{self.client.own_pid}.json"


class Profiler:
    """One trace of a process at a time; each ends as a row of `captures`, with the rows that its file gives or with a reason."""

    name = "profiler"
    Config = ProfilerConfig
    captures = frozenset({TRACE})

    def __init__(
        self,
        config: ProfilerConfig = DEFAULTS,
        daemon: KinetoDaemon | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
        proc: str = "/proc",
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._daemon = daemon or KinetoDaemon(clock_ns=clock_ns)
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._proc = proc
        self._search = Search(config.directories, config.containers, proc)
        self._traced = Traced()
        self._asked: dict[int, _Asked] = {}
        self._ended: dict[int, float] = {}
        self._kept_beyond: Health | None = None

    def tell_traced(self, traced: Traced) -> None:
        """Tell there which processes are traced."""
        self._traced = traced

    def open(self) -> None:
        """Take the place of the node's daemon; Busy where another has it."""
        self._daemon.open()

    def capture(self, request: Capture) -> Iterable[Rows | Delivered]:
        """Ask for a trace of a time that is to come; Denied where it cannot be had, with the reason."""
        self._check_time(request)
        training = self._process(request)
        client = self._free(training.pid)
        folder = TraceFolder(self._config.directory, training.pid, self._proc)
        if folder.free_bytes() < 2 * self._config.file_bytes_max:
            folder.close()
            raise Denied(f"there is not enough room in {self._config.directory} for a trace of up to "
                         f"{self._config.file_bytes_max:,} bytes, twice", "set directory in [sources.profiler]")  # fmt: skip
        stem = PREFIX + secrets.token_hex(8)
        text = configuration(folder.shown(f"{stem}.json"), request.start_ns, request.duration_ns)
        offer = Offer(text, request.start_ns - int(LEAD_SECONDS * 1e9))
        asked = _Asked(request, training.pid, stem, folder, offer, client)
        self._asked[training.pid] = asked
        self._traced.begin(training.pid, asked.end_ns + int(self._config.file_seconds * 1e9))
        self._daemon.offer(training.pid, offer)
        return [LATER]

    def read(self) -> Iterable[Rows]:
        """Answers of the traces that have come or are given up."""
        now = self._monotonic()
        self._ended = {pid: end for pid, end in self._ended.items() if now - end < self._config.rest_seconds}
        for asked in list(self._asked.values()):
            yield from self._look(asked)

    def health(self) -> Iterable[Health]:
        """What came that no profiler sends, and traces that are not ours to take away."""
        yield from self._daemon.health()
        if self._kept_beyond is not None:
            yield self._kept_beyond

    def close(self) -> None:
        """Give the place back; traces that are under way are written, and not read."""
        for asked in list(self._asked.values()):
            self._over(asked)
        self._daemon.close()

    def _check_time(self, request: Capture) -> None:
        ahead_seconds = (request.start_ns - self._clock_ns()) / 1e9
        if not 0 < request.duration_ns <= self._config.seconds_max * 1e9:
            raise Denied(f"a trace lasts {self._config.seconds_max:g} s at most", "seconds_max in [sources.profiler]")
        if not LEAD_SECONDS < ahead_seconds <= AHEAD_SECONDS_MAX:
            words = f"{LEAD_SECONDS + POLL_SECONDS:g} to {AHEAD_SECONDS_MAX:g} s before it begins"
            raise Denied(f"a trace is to be asked for {words}, this one comes {ahead_seconds:.1f} s before")

    def _process(self, request: Capture) -> Training:
        folders, _ = self._search.everywhere(self._clock_ns())
        wanted = (request.job, request.rank)
        found = zip(training_processes(self._search, folders), range(PROCESSES_MAX), strict=False)
        training = next((each for each, _ in found if (each.identity.job, each.identity.rank) == wanted), None)
        if training is None:
            raise Denied(f"no process on this node records steps as rank {request.rank} of job {request.job}")
        return training

    def _free(self, pid: int) -> Client | None:
        """The process as it asked last; Denied where it cannot take a trace now."""
        if pid in self._asked:
            raise Denied("another trace of this process is under way")
        if pid in self._ended:
            rest = self._config.rest_seconds - (self._monotonic() - self._ended[pid])
            raise Denied(f"its last trace ended just now: it rests for {rest:.0f} s more")
        client = self._daemon.client(pid)
        if client is None and self._daemon.up_seconds > KNOWN_AFTER_SECONDS:
            raise Denied(_NO_CLIENT, _HINT)
        if client is not None and not client.idle:
            raise Denied(_OWN_PROFILER)
        return client

    def _look(self, asked: _Asked) -> Iterator[Rows]:
        """How far a trace has come."""
        asked.client = self._daemon.client(asked.pid) or asked.client
        now_ns = self._clock_ns()
        if not asked.offer.told:
            if asked.client is not None and not asked.client.idle:
                yield self._denied(asked, _OWN_PROFILER)
            elif now_ns > asked.offer.latest_ns:
                yield self._denied(asked, f"{_NO_CLIENT} in time" if asked.client else f"{_NO_CLIENT} ({_HINT})")
            return
        name = asked.file_name
        if name is not None and asked.folder.holds(name):
            yield from self._whole(asked, name, asked.client)
        elif now_ns > asked.end_ns + self._config.file_seconds * 1e9:
            yield self._denied(
                asked,
                f"no trace was to be seen in {self._config.directory}: a profiler of the process's own began, "
                "or it ended, or it writes where this agent does not see it",
            )

    def _whole(self, asked: _Asked, name: str, client: Client | None) -> Iterator[Rows]:
        """The rows of a trace whose file has come, and the answer."""
        try:
            rows, delivered = self._read(asked, name, -1 if client is None else client.user)
        except Refused as error:
            yield self._denied(asked, str(error))
            return
        yield from rows
        told = sum(each.batch.num_rows for each in rows)
        beyond = asked.folder.keep(self._config.kept_files_max, self._config.kept_bytes_max)
        words = f"{beyond} traces beyond the bound are not this agent's to take away"
        self._kept_beyond = Health(self._config.directory, "denied", words) if beyond else None
        self._over(asked)
        yield self._answer(asked, DONE, f"{self.name}: {told} rows", delivered)

    def _read(self, asked: _Asked, name: str, user: int) -> tuple[list[Rows], Delivered]:
        found, descriptor = asked.folder.take(name, user, self._config.file_bytes_max)
        try:
            trace = trace_of(found)
            reading = reading_of(trace, name)
            rows = [*reading.rows, *(each for part in reading.raw for each in part())]
        finally:
            os.close(descriptor)
        place = {"job": asked.capture.job, "rank": asked.capture.rank, "capture_id": asked.capture.id}
        owned = [each._replace(batch=stamp(each.batch, **place)) for each in rows]
        start_ns, length_ns = trace.whole or (asked.capture.start_ns, 0)
        covered_ns = min(start_ns + length_ns, asked.end_ns) - max(start_ns, asked.capture.start_ns)
        missing_ns = max(asked.capture.duration_ns - max(covered_ns, 0), 0)
        note = f"{self._steps(asked)}; {trace.events} events, kept in {asked.folder.shown(name)}"
        return owned, Delivered(len(trace.kernels), start_ns, start_ns + length_ns, missing_ns, note)

    def _steps(self, asked: _Asked) -> str:
        """Which steps of the process lie in the time that was traced."""
        folders, _ = self._search.everywhere(self._clock_ns())
        steps = steps_within(self._search, folders, asked.pid, asked.capture.start_ns, asked.end_ns)
        if not steps:
            return "no whole step lies in it"
        return (
            f"step {steps[0]} is whole in it" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]} are whole in it"
        )

    def _denied(self, asked: _Asked, why: str) -> Rows:
        if asked.file_name is not None and asked.offer.told:
            asked.folder.remove(asked.file_name)
        self._over(asked)
        return self._answer(asked, DENIED, f"{self.name}: {why}")

    def _answer(self, asked: _Asked, state: str, detail: str, delivered: Delivered | None = None) -> Rows:
        rows = answer(asked.capture, state, detail, delivered)
        return rows._replace(batch=stamp(rows.batch, updated_ns=self._clock_ns()))

    def _over(self, asked: _Asked) -> None:
        asked.folder.close()
        self._daemon.withdraw(asked.pid)
        self._traced.end(asked.pid)
        self._asked.pop(asked.pid, None)
        if asked.offer.told:
            self._ended[asked.pid] = self._monotonic()
