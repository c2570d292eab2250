"""How much of each training process is captured: all the time, in windows of steps, whole graphs only, or nothing.

It falls where kernels come too fast or CUDA graphs prevail, and where the job's own steps say that capture costs more than it
may; it rises again by trying, ever more rarely. Windows begin at the same steps on all ranks. Their periods are primes: what a
program does every 10 or 100 steps then falls into steps with capture as often as into those without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np

from warpline_hook import ring
from warpline_proto.capture_tables import CAPTURE_OVERHEAD

from .hook_rows import Identity
from .kernels import StepSpan
from .ring_file import Records, Standing
from .source import Health, Rows
from .step_overhead import BLOCKS_MAX, ON, CaptureTimes, Estimate, Steps, estimate

ALL: Final = ring.KERNELS | ring.COPIES | ring.SETS
GRAPHS: Final = ring.GRAPHS | ring.COPIES | ring.SETS
RATE_MAX: Final = 20_000
"""Kernels a second beyond which a process is captured in windows; below half of it, all the time again."""
RATE_NS: Final = 5_000_000_000
"""Over so much time with capture it is judged, in windows over a fifth of it."""
GRAPH_SHARE_MAX: Final = 0.5
"""Share of kernels launched by CUDA graphs beyond which a process is captured in windows: on some drivers their records come
damaged after so many, and device memory goes with them."""
GRAPH_SHARE_USED: Final = 0.05
"""From this share on a program uses graphs, so that they can be captured in place of their kernels."""
GRAPH_KERNELS: Final = (1_000, 200_000)
"""Kernels that the share is judged over, at least; beyond the second older ones count half."""
EPOCH_STEPS: Final = 8_192
"""Where capture is on all the time, some steps of each so many are used to measure what it costs: CALIBRATION_STEPS of them after
the first FIRST_STEPS. Of these a little under half run without capture, which is 3 % of all steps."""
EARLY_EPOCH_STEPS: Final = 1_024
"""The same until it can be told on which side of the budget the cost lies, or BLOCKS_MAX blocks have been measured in vain."""
FIRST_STEPS: Final = 64
CALIBRATION_STEPS: Final = 512
CALIBRATION: Final = (12, 23)
RETRY_EPOCHS_MAX: Final = 32
"""What was found too dear is tried again after 1, 2, 4, ... epochs, at most so many."""
UNCLEAR: Final = "cannot tell yet"
ROW_BLOCKS: Final = 16
"""A row at least every so many blocks."""
JOBS_MAX: Final = 1_024


class Level(IntEnum):
    """From the most to nothing."""

    FULL = 0
    WINDOWS = 1
    SHORT_WINDOWS = 2
    GRAPHS = 3
    OFF = 4


class Plan(NamedTuple):
    """What a level captures: the mask, windows in steps and, where none are told, in WINDOW_UNIT_SECONDS; in words."""

    what: int
    steps: tuple[int, int]
    units: tuple[int, int]
    words: str

    @property
    def share(self) -> float:
        """Of all steps, those that are captured whole."""
        return (self.steps[0] - 1) / self.steps[1] if self.steps[1] else 1.0

    @property
    def turns(self) -> float:
        """Windows a step."""
        return 1 / self.steps[1] if self.steps[1] else CALIBRATION_STEPS / CALIBRATION[1] / EPOCH_STEPS


PLANS: Final = {
    Level.FULL: Plan(ALL, (0, 0), (0, 0), "all the time"),
    Level.WINDOWS: Plan(ALL, (3, 53), (20, 200), "in 3 steps of 53"),
    Level.SHORT_WINDOWS: Plan(ALL, (2, 211), (5, 500), "in 2 steps of 211"),
    Level.GRAPHS: Plan(GRAPHS, (3, 53), (20, 200), "as whole graphs, in 3 steps of 53"),
    Level.OFF: Plan(ALL, (0, 0), (0, 0), "not at all"),
}
MODES: Final[Mapping[str, Level | None]] = {
    "auto": None,
    "full": Level.FULL,
    "windows": Level.WINDOWS,
    "off": Level.OFF,
}


def word(level: Level, step: int, *, calibrate: bool) -> int:
    """The control word of a level; `step` is the one that runs, -1 where none is told."""
    plan = PLANS[level]
    if level == Level.OFF:
        return ring.control(ring.OFF, plan.what)
    if level == Level.FULL and not (calibrate and step >= 0):
        return ring.control(ring.FULL, plan.what)
    mode, windows = (ring.STEPS, plan.steps) if step >= 0 else (ring.TIME, plan.units)
    window, period = CALIBRATION if level == Level.FULL else windows
    return ring.control(mode, plan.what, window=window, period=period)


def level_of(control: int) -> Level:
    """The level that an agent before this one left in a ring; FULL where there was none."""
    known = {word(level, step, calibrate=False): level for level in Level for step in (0, -1)}
    return known.get(control, Level.FULL)


@dataclass
class _Job:
    """One job on this node. `fell` is what made it fall, at `fell_at`; `fallen` how often; `again` the epoch in which more is
    tried; `windowed` the processes whose kernels are too many, or those of graphs."""

    level: Level = Level.FULL
    fell_at: Level = Level.FULL
    fell: Estimate | None = None
    fallen: int = 0
    again: int = 0
    windowed: set[str] = field(default_factory=set)


@dataclass
class _Process:
    """`found` is the level it was found at; `rate` the time with capture and the records by then; `kernels` and `graphs` how many
    came, and by CUDA graphs."""

    job: str
    found: Level = Level.FULL
    identity: Identity = field(default_factory=Identity)
    times: CaptureTimes = field(default_factory=CaptureTimes)
    steps: Steps = field(default_factory=Steps)
    what: int = 0
    step: int = -1
    fast: bool = False
    rate: tuple[int, int] = (0, 0)
    kernels: int = 0
    graphs: int = 0
    judged: int = 0
    verdict: str = UNCLEAR
    told: tuple[int, str] = (0, "")

    def graph_share(self) -> float:
        """Of the kernels, those launched by CUDA graphs."""
        return self.graphs / self.kernels if self.kernels >= GRAPH_KERNELS[0] else 0.0

    def count(self, records: Records) -> None:
        """See how many of the new records come from graphs."""
        if not len(records):
            return
        kernels = records["kind"] == ring.KERNEL
        self.kernels += int(np.count_nonzero(kernels))
        self.graphs += int(np.count_nonzero(kernels & (records["extra"] != 0)))
        if self.kernels > GRAPH_KERNELS[1]:
            self.kernels, self.graphs = self.kernels // 2, self.graphs // 2

    def weigh(self, standing: Standing, now_ns: int) -> None:
        """Whether kernels come too fast."""
        if not self.times.changes and standing.capturing & ON:  # begun before this agent did
            self.times.begin(now_ns, standing.capturing)
            self.rate = (0, standing.counters["records"])
        on_ns, records = self.times.on_ns(now_ns), standing.counters["records"]
        if on_ns - self.rate[0] >= (RATE_NS // 5 if self.fast else RATE_NS):
            rate = (records - self.rate[1]) * 1e9 / (on_ns - self.rate[0])
            self.fast = rate > RATE_MAX / (2 if self.fast else 1)
            self.rate = (on_ns, records)

    def take(self, over: Iterable[StepSpan]) -> None:
        """Steps that are over."""
        for span in over:
            mask = self.times.mask(span)
            if mask is not None and mask > 0 and mask & ON != self.what:
                self.what = mask & ON
                self.steps.clear()
            self.steps.take(span, mask)
            self.step = span.step


class CaptureDuty:
    """Decides for all processes of a node, from one thread."""

    def __init__(self, mode: str = "auto", percent_max: float = 1.0) -> None:
        """`mode` is one of MODES, `percent_max` what capture may add to the time of a step."""
        self._fixed = MODES[mode]
        self._percent_max = percent_max
        self._processes: dict[str, _Process] = {}
        self._jobs: OrderedDict[str, _Job] = OrderedDict()

    def control(self, key: str, identity: Identity, standing: Standing, now_ns: int) -> int:
        """What process `key` is asked to capture."""
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = _Process(identity.job or key, level_of(standing.control))
            self._resume(process, standing)
        if process.identity != identity:
            self._identify(process, key, identity, standing)
        process.weigh(standing, now_ns)
        windowed = self._job(process).windowed
        (windowed.add if process.fast or process.graph_share() > GRAPH_SHARE_MAX else windowed.discard)(key)
        level = self._level(process)
        return word(level, standing.step, calibrate=self._fixed is None and _calibrates(process, standing.step))

    def take(
        self, key: str, events: Records, records: Records, over: Iterable[StepSpan], now_ns: int
    ) -> Iterator[Rows]:
        """What a process has told, with its steps that are over; rows of what capture costs."""
        process = self._processes.get(key)
        if process is None:
            return
        process.times.take(events)
        process.count(records)
        process.take(over)
        if self._fixed is None and (row := self._try_again(process)):
            yield _rows(process, row, now_ns)
        if process.steps.made != process.judged:
            process.judged = process.steps.made
            if row := self._judge(process):
                yield _rows(process, row, now_ns)

    def forget(self, key: str) -> None:
        """A process has ended."""
        process = self._processes.pop(key, None)
        if process is not None:
            self._job(process).windowed.discard(key)

    def health(self) -> Iterator[Health]:
        """Jobs of which less is captured because it costs too much."""
        for name in sorted({each.job for each in self._processes.values()}):
            job = self._jobs.get(name)
            if job is not None and job.fell is not None and job.level > Level.FULL:
                yield Health(
                    f"capture of {name}",
                    "busy",
                    f"kernels are captured {PLANS[job.level].words}: {PLANS[job.fell_at].words} it made the job slower by "
                    f"{_words(job.fell)}, more than {self._percent_max:g} % (overhead_percent_max in [sources.kernels])",
                )

    def _job(self, process: _Process) -> _Job:
        job = self._jobs.setdefault(process.job, _Job())
        self._jobs.move_to_end(process.job)
        if len(self._jobs) > JOBS_MAX:
            self._jobs.popitem(last=False)
        return job

    def _identify(self, process: _Process, key: str, identity: Identity, standing: Standing) -> None:
        """Who a process is becomes known a little after it is found."""
        self._job(process).windowed.discard(key)
        unknown = process.job == key
        process.identity, process.job = identity, identity.job or key
        if unknown:
            self._resume(process, standing)

    def _resume(self, process: _Process, standing: Standing) -> None:
        """Go on as an agent before this one had decided."""
        job, level = self._job(process), process.found
        if level > job.level and standing.step >= 0:
            job.level, job.fell_at = level, Level(level - 1)
            job.again = standing.step // EPOCH_STEPS + 1

    def _level(self, process: _Process) -> Level:
        if self._fixed is not None:
            return self._fixed
        job = self._job(process)
        return max(job.level, Level.WINDOWS if job.windowed else Level.FULL)

    def _judge(self, process: _Process) -> dict[str, Any] | None:
        """A new block has been made: whether capture costs too much, and a row where that is news."""
        level = self._level(process)
        found = estimate(process.steps.blocks, PLANS[level].share, PLANS[level].turns)
        process.verdict = verdict = _verdict(found, self._percent_max)
        row = self._row(process, level, found, verdict)
        if verdict == "over" and self._fixed is None and found is not None:
            row["action"] = self._fall(process, level, found)
        elif verdict == process.told[1] and process.steps.made < process.told[0] + ROW_BLOCKS:
            return None
        process.told = (process.steps.made, verdict)
        return row

    def _fall(self, process: _Process, level: Level, found: Estimate) -> str:
        """To the next level that costs less than it may, as far as that is known."""
        job = self._job(process)
        job.fell_at, job.fell = level, found
        job.fallen += 1
        job.again = process.step // EPOCH_STEPS + _wait(job.fallen)
        while level < Level.OFF:
            level = _below(level, process.graph_share() > GRAPH_SHARE_USED)
            cost = estimate(process.steps.blocks, PLANS[level].share, PLANS[level].turns)
            if level >= Level.GRAPHS or cost is None or cost.low <= self._percent_max:
                break
        job.level = level
        if level >= Level.GRAPHS:
            self._measure_anew(process.job)
        return f"captured {PLANS[level].words} from now on"

    def _try_again(self, process: _Process) -> dict[str, Any] | None:
        """Whether the time has come to capture more again; the row that tells of it."""
        job = self._jobs.get(process.job)
        if job is None or job.level in (Level.FULL, Level.GRAPHS) or process.step // EPOCH_STEPS < job.again:
            return None  # once whole graphs were captured their kernels cannot be had again in the same process
        level = Level(job.level - 1)
        if job.level == Level.OFF and job.fell_at != Level.GRAPHS:
            level = Level.SHORT_WINDOWS
        cost = estimate(process.steps.blocks, PLANS[level].share, PLANS[level].turns)
        if cost is not None and cost.low > self._percent_max:
            job.again = process.step // EPOCH_STEPS + 1  # its windows say that it would cost too much still
            return None
        job.level = level
        job.again = process.step // EPOCH_STEPS + _wait(job.fallen + 1)
        self._measure_anew(process.job)
        return self._row(process, level, None, UNCLEAR) | {"action": f"tried again: captured {PLANS[level].words}"}

    def _measure_anew(self, job: str) -> None:
        for process in self._processes.values():
            if process.job == job:
                process.steps.clear()
                process.verdict = UNCLEAR

    def _row(self, process: _Process, level: Level, found: Estimate | None, verdict: str) -> dict[str, Any]:
        blocks = process.steps.blocks
        while_on = estimate(blocks, 1.0, 0.0)
        return {
            "step": process.step,
            "mode": level.name.lower(),
            "blocks": len(blocks),
            "on_steps": sum(each.on_steps for each in blocks),
            "off_steps": sum(each.off_steps for each in blocks),
            "on_percent": while_on and while_on.percent,
            "overhead_percent": found and found.percent,
            "low_percent": found and found.low,
            "high_percent": found and found.high,
            "budget_percent": self._percent_max,
            "verdict": verdict,
        }


def _calibrates(process: _Process, step: int) -> bool:
    """Whether capture is turned off and on now to measure it."""
    measured = process.verdict != UNCLEAR or len(process.steps.blocks) == BLOCKS_MAX
    epoch = EPOCH_STEPS if measured else EARLY_EPOCH_STEPS
    return FIRST_STEPS <= step % epoch < FIRST_STEPS + CALIBRATION_STEPS


def _below(level: Level, graphs: bool) -> Level:
    return Level.OFF if level == Level.SHORT_WINDOWS and not graphs else Level(level + 1)


def _wait(fallen: int) -> int:
    """Epochs."""
    return min(1 << min(fallen - 1, 30), RETRY_EPOCHS_MAX)


def _verdict(found: Estimate | None, percent_max: float) -> str:
    if found is None or found.low <= percent_max < found.high:
        return UNCLEAR
    return "over" if found.low > percent_max else "within"


def _words(found: Estimate) -> str:
    return f"{found.percent:.1f} % ({found.low:.1f} to {found.high:.1f})"


def _rows(process: _Process, row: dict[str, Any], now_ns: int) -> Rows:
    own = {name: value for name, value in process.identity.columns.items() if name in _COLUMNS}
    return Rows(CAPTURE_OVERHEAD.name, CAPTURE_OVERHEAD.from_rows([own | {"time_ns": now_ns} | row]))


_COLUMNS: Final = frozenset(column.name for column in CAPTURE_OVERHEAD.columns)
