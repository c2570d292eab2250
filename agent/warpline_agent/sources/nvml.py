"""NVIDIA GPUs through NVML: power, energy, clocks, utilisation, memory, links, ECC, Xid events, and GPM where offered.

NVML may block for ever when a GPU falls off the bus. So one child process makes the calls (`warpline_agent.nvml.child`); this
side never waits for it, says "driver unresponsive" after `soft_seconds` of silence and kills it after `hard_seconds`. The GPU
that hung is left out of the next child for a while. A child that does not die is left, and no second one is started on it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_hook.environment import DIRECTORY_DEFAULT
from warpline_proto.errors import Denied, SourceError, Unsupported
from warpline_proto.tables import DEVICE_SAMPLES

from ..child import Child
from ..gpu_activity import GpuActivity
from ..gpu_processes import GpuProcesses
from ..hook_processes import Training, training_processes
from ..hook_search import Search
from ..nvml.counters import COUNTERS
from ..nvml.messages import Inbox
from ..nvml.plan import Counter, Plan
from ..process_identity import Identities
from ..source import Health, Rows

RESTART_SECONDS_MAX: Final = 60.0
AVOID_SECONDS: Final = 300.0
"""A GPU on which a call hung is left out this long; twice as long each time it happens again, up to AVOID_SECONDS_MAX."""
AVOID_SECONDS_MAX: Final = 3600.0
DRIVER: Final = "driver"
"""What health calls the driver and the process that speaks to it."""
COMMAND: Final = (sys.executable, "-m", "warpline_agent.nvml.child")


@dataclass(frozen=True)
class NvmlConfig:
    """Settings. `library_directory` is searched for libnvidia-ml.so.1 before the system's own places.

    `directories` and `containers` are where processes with a hook are looked for, as in [sources.hook].
    """

    period_seconds: float = 1.0
    library_directory: str = ""
    open_seconds: float = 3.0
    soft_seconds: float = 3.0
    hard_seconds: float = 10.0
    restart_seconds: float = 1.0
    directories: tuple[str, ...] = (DIRECTORY_DEFAULT,)
    containers: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.soft_seconds < self.hard_seconds:
            raise ValueError("soft_seconds must lie between 0 and hard_seconds")
        if self.period_seconds <= 0:
            raise ValueError("period_seconds must be above 0")


DEFAULTS: Final = NvmlConfig()


class Nvml:
    """The parent's side: keeps one child, listens without waiting, and judges its silence by `clock` (monotonic seconds)."""

    name = "nvml"
    Config = NvmlConfig

    def __init__(
        self,
        config: NvmlConfig = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] = COMMAND,
        counters: tuple[Counter, ...] = COUNTERS,
        clock_ns: Callable[[], int] = time.time_ns,
        proc: str = "/proc",
    ) -> None:
        self.period_seconds = config.period_seconds
        self._config = config
        self._clock = clock
        self._command = command
        self._counters = counters
        self._child: Child | None = None
        self._inbox = Inbox()
        self._heard = 0.0
        self._killed = False
        self._start_at = 0.0
        self._pause = config.restart_seconds
        self._avoid: dict[int, tuple[float, float]] = {}
        self._left_out: tuple[int, ...] = ()
        self._trouble: Health | None = None
        self._activity = GpuActivity()
        self._clock_ns = clock_ns
        self._search = Search(config.directories, config.containers, proc)
        self._processes = GpuProcesses(Identities(proc), self._trainings)

    def tell_activity(self, activity: GpuActivity) -> None:
        """Tell there how busy GPUs are."""
        self._activity = activity

    @property
    def child_pid(self) -> int | None:
        """Process id of the child, where there is one."""
        return self._child.pid if self._child else None

    def open(self) -> None:
        """Start the child and give it `open_seconds` to say whether there is anything to read."""
        self.close()
        if self._child is None:
            self._start()
        deadline = time.monotonic() + self._config.open_seconds
        while self._child and not self._inbox.settled and (left := deadline - time.monotonic()) > 0:
            self._child.wait(left)
            ended = self._child.exit_code is not None
            self._listen()
            if ended:
                break
        if self._inbox.verdict:
            self.close()
            raise _no(*self._inbox.verdict)

    def read(self) -> Iterable[Rows]:
        """What the child has said since the last time; returns at once. Unsupported or Denied if NVML does not work any more."""
        if self._child is None and self._clock() >= self._start_at:
            self._start()
        self._listen()
        self._judge()
        now_ns = self._clock_ns()
        told = [*self._processes.hear(self._inbox.take_resident(), now_ns), *self._processes.look(now_ns)]
        taken = self._inbox.take(self._processes.jobs())
        for rows in taken:
            if rows.table == DEVICE_SAMPLES.name:
                self._activity.tell_samples(rows.batch)
        return [*taken, *told]

    def health(self) -> Iterable[Health]:
        """The driver's silence, GPUs that are gone or left out, counters that a GPU does not offer, and NVML's own time."""
        if self._trouble:
            yield self._trouble
        for index in self._left_out:
            subject = self._inbox.subject(index)
            yield Health(subject, "dead", "driver unresponsive: a call on this GPU hung, it is left out for now")
        yield from self._inbox.health()
        yield from self._processes.health()

    def close(self) -> None:
        """End the child; one that does not die is kept in mind, so that no second one is started on it."""
        self._processes.forget()
        if self._child:
            self._child.close()
            self._killed = self._child.exit_code is None
            self._child = self._child if self._killed else None

    def _trainings(self, containers: bool) -> Mapping[int, Training]:
        """Processes with a hook, by pid; in containers too where asked for."""
        folders = self._search.everywhere(self._clock_ns())[0] if containers else self._search.here()
        return {each.pid: each for each in training_processes(self._search, folders)}

    def _start(self) -> None:
        now = self._clock()
        self._left_out = tuple(index for index, (until, _) in self._avoid.items() if until > now)
        directory = self._config.library_directory
        known = os.environ.get("LD_LIBRARY_PATH", "")
        path = {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, (directory, known)))} if directory else {}
        plan = Plan(self._counters, self._config.period_seconds, self._left_out)
        self._inbox.begin()
        try:
            self._child = Child(self._command, {**os.environ, **path}, plan.to_line())
        except OSError as error:
            self._rest(Health(DRIVER, "dead", f"the NVML process cannot be started: {error.strerror or error}"))
            return
        self._heard = now
        self._killed = False

    def _listen(self) -> None:
        if self._child is None:
            return
        lines = self._child.lines()
        for line in lines:
            self._inbox.put(_message(line))
        if lines:
            self._heard = self._clock()
            self._trouble = None
        if self._inbox.samples_since_start:
            self._pause = self._config.restart_seconds

    def _judge(self) -> None:
        """What the child's silence or end means."""
        if self._child is None:
            return
        code, silent = self._child.exit_code, self._clock() - self._heard
        if code is not None:
            self._ended(code)
        elif self._killed:
            reason = f"driver unresponsive: process {self._child.pid} does not die, no second one is started"
            self._trouble = Health(DRIVER, "dead", reason)
        elif silent >= self._config.hard_seconds:
            self._give_up(silent)
        elif silent >= self._config.soft_seconds:
            self._trouble = Health(DRIVER, "stale", f"driver unresponsive: silent for {silent:.1f} s{self._where()}")
        elif any(self._avoid[index][0] <= self._clock() for index in self._left_out):
            self.close()
            self._start_at = self._clock()

    def _ended(self, code: int) -> None:
        """The child has ended: by a verdict, by our signal, or by itself."""
        complaint = self._child.complaint if self._child else ""
        if self._child:
            self._child.close()
        if self._inbox.verdict:
            self._child = None
            raise _no(*self._inbox.verdict)
        if self._killed:
            self._rest(Health(DRIVER, "stale", "driver unresponsive: the NVML process was killed and is started again"))
        else:
            why = f": {complaint}" if complaint else ""
            self._rest(Health(DRIVER, "dead", f"the NVML process ended with code {code}{why}, it is started again"))

    def _rest(self, trouble: Health) -> None:
        """No child for a while."""
        self._child = None
        self._killed = False
        self._trouble = trouble
        self._start_at = self._clock() + self._pause
        self._pause = min(RESTART_SECONDS_MAX, 2 * self._pause)

    def _give_up(self, silent: float) -> None:
        """Kill a child that has been silent too long and leave out the GPU on which it hung."""
        assert self._child is not None
        index = self._inbox.at
        if index is not None:
            length = min(AVOID_SECONDS_MAX, 2 * self._avoid[index][1]) if index in self._avoid else AVOID_SECONDS
            self._avoid[index] = (self._clock() + length, length)
        self._trouble = Health(DRIVER, "dead", f"driver unresponsive: silent for {silent:.1f} s{self._where()}, killed")
        self._child.kill()
        self._killed = True

    def _where(self) -> str:
        return "" if self._inbox.at is None else f" in a call on {self._inbox.subject(self._inbox.at)}"


def _no(state: str, reason: str) -> SourceError:
    return (Denied if state == "denied" else Unsupported)(reason, "the GPUs of this node are not watched through NVML")


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
