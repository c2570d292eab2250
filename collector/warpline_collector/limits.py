"""What one agent may take of the collector, so that none of them harms the others: streams, bytes and rows a second, new names.

An agent that sends faster than its budget, or begins anew again and again, is read more slowly, and loses nothing by it. Rows are
looked at by sift.py when they are about to be stored. All that is not taken is counted and told, agent by agent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from warpline_proto import service_pb2
from warpline_proto.batch import Frame
from warpline_proto.errors import StoreError
from warpline_proto.wire import NAME_CHARS_MAX

from .ingest import Stream
from .sift import Sieve

BURST_SECONDS: Final = 10.0
"""An agent that was silent may send as much at once as its budget is in this time."""
WAIT_SECONDS_MAX: Final = 30.0
"""However far beyond its budget, an agent is read again after so long."""
HOUR_SECONDS: Final = 3_600.0
BOOTS_KNOWN_MAX: Final = 64
"""Starts of one agent that are remembered."""
FORGET_SECONDS: Final = HOUR_SECONDS
"""An agent without a stream of which nothing came for so long is forgotten: its budgets are as full as those of a new one."""
SWEEP_SECONDS: Final = 60.0
"""How often agents are looked for that can be forgotten."""
JOBS_KNOWN_MAX: Final = 100_000
"""Names of jobs that are remembered, the ones seen last."""
NAMES_MAX: Final = 1_000
"""Agents that one stream may speak for where nothing but frames says whose it is: an agent is one, tests are several."""
SILENT_STREAMS_MAX: Final = 16
"""Streams of one agent with a certificate on which nothing came yet."""
HOST_STREAMS_MAX: Final = 4_096
"""Streams from one address that have not said yet whose they are."""


@dataclass(frozen=True)
class Config:
    """Bounds of one agent, and of all together (`agents_max`).

    `bytes_per_second` are unpacked ones. A row whose times lie more than `ahead_seconds` ahead of the collector's clock is not
    taken: no clock is so wrong, and it would stand at the end of every question for good.
    """

    bytes_per_second: int = 64 * 1024 * 1024
    rows_per_second: int = 250_000
    streams_max: int = 4
    starts_per_hour: int = 120
    jobs_per_hour: int = 240
    agents_max: int = 20_000
    ahead_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        for name, least in (("bytes_per_second", 1024 * 1024), ("rows_per_second", 1_000), ("ahead_seconds", 60)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}")
        if min(self.streams_max, self.starts_per_hour, self.jobs_per_hour, self.agents_max) < 1:
            raise ValueError("streams_max, starts_per_hour, jobs_per_hour and agents_max are at least 1")


class Budget:
    """So much a second, saved up for some time; what is taken beyond it has to be waited for."""

    def __init__(self, per_second: float, saved_max: float, now: float) -> None:
        self._per_second = per_second
        self._saved_max = saved_max
        self._left, self._at = saved_max, now

    def take(self, amount: float, now: float) -> float:
        """Take it now; how many seconds to wait until it is paid for."""
        self._left = min(self._left + (now - self._at) * self._per_second, self._saved_max) - amount
        self._at = now
        return max(-self._left / self._per_second, 0.0)

    def can(self, amount: float, now: float) -> bool:
        """Take it if it is there."""
        if self.take(0, now) > 0 or self._left < amount:
            return False
        self._left -= amount
        return True


@dataclass
class _Agent:
    bytes: Budget
    rows: Budget
    starts: Budget
    jobs: Budget
    heard: float
    streams: list[Stream] = field(default_factory=list)
    boots: OrderedDict[int, None] = field(default_factory=OrderedDict)


class Guest:
    """One stream as the limits see it, from its begin to `close`."""

    def __init__(self, limits: Limits, host: str, stream: Stream, whose: str | None) -> None:
        self._limits = limits
        self._host = host
        self._stream = stream
        self._whose = whose
        self._names: set[str] = set()

    def name(self, message: service_pb2.Frame) -> str:
        """Who is to answer for a frame: whose certificate it came with, else whom it names."""
        return self._whose if self._whose is not None else message.agent[:NAME_CHARS_MAX]

    async def turn(self, message: service_pb2.Frame, size: int) -> None:
        """Return once the budget of its agent allows a frame that takes `size` bytes."""
        name = self.name(message)
        if not self._names:
            self._limits.named(self._host)
        if name not in self._names and len(self._names) >= NAMES_MAX:
            self._stream.fail(StoreError(f"a stream that speaks for more than {NAMES_MAX} agents"))
            return
        self._names.add(name)
        if seconds := self._limits.seconds(name, message, self._stream, size):
            await asyncio.sleep(seconds)

    def close(self) -> None:
        """The stream has ended."""
        if not self._names:
            self._limits.named(self._host)
        for name in self._names:
            self._limits.ended(name, self._stream)


Told = Callable[[str, int, int, str, int], None]
"""Hears of an agent's frames and rows that were not taken, why, and when."""


class Limits:
    """A `guest` for each stream and `check` for each frame, in the event loop; `sift` where frames are stored."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        told: Told = lambda agent, frames, rows, reason, now_ns: None,
        monotonic: Callable[[], float] = time.monotonic,
        newest_ns: int = 0,
    ) -> None:
        """`newest_ns` is a time that was before: where the clock is behind it, it is the clock that is wrong, not the rows."""
        self.refused_frames = 0
        self.refused_rows = 0
        """Since the start, over all agents."""
        self._config = config
        self._clock = clock
        self._newest_ns = newest_ns
        self._told = told
        self._monotonic = monotonic
        self._agents: dict[str, _Agent] = {}
        self._swept = monotonic()
        self._unnamed: dict[str, int] = {}
        self._jobs: OrderedDict[str, None] = OrderedDict()
        self._mutex = threading.Lock()

    def guest(self, host: str, stream: Stream, whose: str | None = None) -> Guest | None:
        """A stream from an address that begins; None where too many from there, or of `whose`, have sent nothing yet.

        Whatever its frames say, all of them count for `whose`, where that is known.
        """
        place, most = (host, HOST_STREAMS_MAX) if whose is None else (f"of {whose}", SILENT_STREAMS_MAX)
        if self._unnamed.get(place, 0) >= most:
            return None
        self._unnamed[place] = self._unnamed.get(place, 0) + 1
        return Guest(self, place, stream, whose)

    def check(self, name: str) -> None:
        """StoreError where this is an agent more than the collector takes: its frames wait where they are."""
        if self._agent(name, self._monotonic()) is None:
            said = f"the collector knows {self._config.agents_max} agents, and takes no further one"
            raise StoreError(said, "see agents_max in [collector.limits]")

    def seconds(self, name: str, message: service_pb2.Frame, stream: Stream, size: int) -> float:
        """How long agent `name` has to wait before a frame of `size` bytes is read; its oldest stream gives way to a new one."""
        now = self._monotonic()
        agent = self._agent(name, now)
        if agent is None:
            return 0.0
        if stream not in agent.streams:
            agent.streams.append(stream)
            if len(agent.streams) > self._config.streams_max:
                oldest = agent.streams.pop(0)
                oldest.fail(StoreError(f"agent {name[:100]} has too many streams: this was its oldest"))
        rows = sum(part.rows for part in message.parts)
        seconds = max(agent.bytes.take(size, now), agent.rows.take(min(rows, size), now))
        boot = hash(message.boot)  # it may be as long as a frame
        if boot not in agent.boots:
            seconds = max(seconds, agent.starts.take(1, now))
            if len(agent.boots) >= BOOTS_KNOWN_MAX:
                agent.boots.popitem(last=False)
        agent.boots[boot] = None
        agent.boots.move_to_end(boot)
        return min(seconds, WAIT_SECONDS_MAX)

    def named(self, host: str) -> None:
        """A stream from an address has said whose it is, or ended."""
        left = self._unnamed.pop(host, 1) - 1
        if left > 0:
            self._unnamed[host] = left

    def ended(self, name: str, stream: Stream) -> None:
        """A stream of an agent has ended."""
        agent = self._agents.get(name)
        if agent is not None and stream in agent.streams:
            agent.streams.remove(stream)

    def refuse(self, agent: str, frames: int, rows: int, reason: str) -> None:
        """Count and tell what was not taken of an agent."""
        self.refused_frames += frames
        self.refused_rows += rows
        self._told(agent, frames, rows, reason, self._clock())

    def sift(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """The frames without rows that cannot be so, and without those of too many new jobs."""
        self._newest_ns = max(self._newest_ns, self._clock())
        sieve = Sieve(self._newest_ns + int(self._config.ahead_seconds * 1e9), self._jobs.keys())
        return self._kept(frames, sieve)

    def _kept(self, frames: Sequence[Frame], sieve: Sieve) -> Sequence[Frame]:
        """By halves: to take a frame apart costs as much as to look at sixty, and what is strange is in few of them."""
        if not sieve.strange(frames):
            return frames
        if len(frames) == 1:
            return [self._sifted(frames[0], sieve)]
        middle = len(frames) // 2
        return [*self._kept(frames[:middle], sieve), *self._kept(frames[middle:], sieve)]

    def _sifted(self, frame: Frame, sieve: Sieve) -> Frame:
        kept, reasons = sieve.frame(frame, lambda job: self._new_job(frame.agent, job))
        for reason, rows in reasons.items():
            self.refuse(frame.agent, 0, rows, reason)
        return kept

    def _new_job(self, name: str, job: str) -> bool:
        """Whether a job that was not heard of may begin."""
        now = self._monotonic()
        agent = self._agent(name, now)
        if agent is None or not agent.jobs.can(1, now):
            return False
        self._jobs[job] = None
        if len(self._jobs) > JOBS_KNOWN_MAX:
            self._jobs.popitem(last=False)
        return True

    def _agent(self, name: str, now: float) -> _Agent | None:
        with self._mutex:
            known = self._agents.get(name)
            if known is None:
                self._forget(now)
                if len(self._agents) < self._config.agents_max:
                    known = self._agents[name] = self._new(now)
            if known is not None:
                known.heard = now
            return known

    def _forget(self, now: float) -> None:
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for name in [
            name for name, each in self._agents.items() if not each.streams and now - each.heard > FORGET_SECONDS
        ]:
            del self._agents[name]

    def _new(self, now: float) -> _Agent:
        config = self._config
        return _Agent(
            Budget(config.bytes_per_second, BURST_SECONDS * config.bytes_per_second, now),
            Budget(config.rows_per_second, BURST_SECONDS * config.rows_per_second, now),
            Budget(config.starts_per_hour / HOUR_SECONDS, config.starts_per_hour, now),
            Budget(config.jobs_per_hour / HOUR_SECONDS, config.jobs_per_hour, now),
            now,
        )
