"""The one loop of the agent: reads sources when they are due, gathers rows into frames, hands frames to the spool.

Each source runs in a worker of its own. What a source raises is caught here and nowhere else: it becomes a row of
source_health, the source is closed and tried again later.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Final

from warpline_proto.batch import Batch
from warpline_proto.errors import Busy, Denied, Unsupported, WireError
from warpline_proto.tables import SOURCE_HEALTH

from .capture_watch import NOBODY, Requests
from .capturing import Asked, Desk
from .clock_offset import ClockOffset
from .config import AgentConfig
from .detail import LOOKS, RARER, Detail
from .exporter import Exporter
from .gathering import FRAME_MEMORY_BYTES_MAX, Gathering, halves
from .identity import stamp
from .own import NAME as OWN
from .own import rows as own_rows
from .scrub import scrub_rows
from .slot import Round, Slot
from .source import Capturing, Delivered, Rows, Settlement, Settling, Source
from .spool import Spool
from .telling import Say, Telling
from .worker import ThreadWorker, Worker

FRAME_SECONDS: Final = 1.0
"""Rows leave about this often, or earlier when there are many."""
OWN_SECONDS: Final = 10.0
"""How often the agent reports its own cost."""
WAIT_SECONDS_MAX: Final = 0.2
"""Longest sleep of the loop, so that a signal is seen soon."""
PARTS_MAX: Final = 1000
"""Parts of one source (GPUs, ports, fields) whose health is taken in one round."""
REASON_CHARS_MAX: Final = 500
CLOSE_SECONDS: Final = 2.0
"""How long the end waits for sources that are still reading."""
_STATES: Final[Mapping[type[Exception], str]] = {Unsupported: "unsupported", Denied: "denied", Busy: "busy"}

MakeWorker = Callable[[str], Worker[Round]]


@dataclass(frozen=True)
class Clock:
    """`wall_ns` since the Unix epoch, `monotonic` seconds."""

    wall_ns: Callable[[], int] = time.time_ns
    monotonic: Callable[[], float] = time.monotonic


def new_boot(clock_ns: Callable[[], int] = time.time_ns) -> str:
    """A name for one start of the agent: later starts sort later, and no two are equal."""
    return f"{clock_ns():016x}{uuid.uuid4().hex[:8]}"


class Agent:
    """`run` until told to stop; or `tick` again and again, then `close`."""

    def __init__(
        self,
        config: AgentConfig,
        sources: Mapping[str, Source],
        spool: Spool,
        exporter: Exporter,
        clock: Clock = Clock(),
        make_worker: MakeWorker | None = None,
        say: Say = lambda words: None,
        requests: Requests = NOBODY,
        clocks: ClockOffset | None = None,
        detail: Detail | None = None,
    ) -> None:
        """`say` takes sentences for whoever runs the agent on this node: rows about a collector that is away do not arrive.

        `requests` is where a closer look is asked for, `clocks` what the exporter tells of its frames' times, `detail` what
        sources heed.
        """
        self._place = {"cluster": config.cluster or None, "node": config.node}
        self._drain_seconds = config.drain_seconds
        self._spool = spool
        self._exporter = exporter
        self._clock = clock
        self._say = say
        self._telling = Telling(say)
        self._requests = requests
        self._detail = detail or Detail()
        self._clocks = clocks or ClockOffset(clock.wall_ns, lambda: int(clock.monotonic() * 1e9))
        self._desk = Desk(sources)
        self._done = threading.Event()
        self._gathering = Gathering()
        self._settlements: dict[str, Settlement] = {}
        for source in sources.values():
            if isinstance(source, Settling):
                source.keep_until_settled(spool.put_before.__contains__)
        now = clock.monotonic()
        make = make_worker or partial(ThreadWorker[Round], done=self._done)
        self._slots = [
            Slot(name, source, make(name), now + min(source.period_seconds, FRAME_SECONDS) * position / len(sources))
            for position, (name, source) in enumerate(sources.items())
        ]
        self._frame_due = now + FRAME_SECONDS
        self._own_due = now

    def run(self, stopping: Callable[[], bool]) -> bool:
        """Work until `stopping`; False if the exporter ended by itself."""
        self._exporter.start()
        self._requests.start()
        while not stopping() and self._exporter.alive:
            self.tick()
            self._done.wait(WAIT_SECONDS_MAX)
            self._done.clear()
        alive = self._exporter.alive
        self.close()
        return alive

    def tick(self) -> None:
        """Start what is due, take what is done, send what is gathered."""
        now = self._clock.monotonic()
        for request in self._requests.take():
            self._told(OWN, self._desk.put(request))
        for slot in self._slots:
            self._serve(slot, now)
        self._clocks.look()
        self._add(self._clocks.rows(self._place, self._spool.boot))
        if now >= self._own_due:
            self._own_due = now + OWN_SECONDS
            self._add(own_rows(self._place, self._clock.wall_ns(), self._spool, self._exporter, self._detail))
        if now >= self._frame_due or self._gathering.memory_bytes > FRAME_MEMORY_BYTES_MAX:
            self._frame_due = now + FRAME_SECONDS
            self._flush()
            self._detail.look(self._spool.standing(), self._exporter.sent().starved_seconds, now)
            self._telling.look((self._spool.health(), *self._exporter.health(), self._detail.health()), now)

    def close(self) -> None:
        """Take what sources have read, send it, wait for the collector as long as configured, give everything back."""
        end = self._clock.monotonic() + CLOSE_SECONDS
        self._requests.close()
        for slot in self._slots:
            self._settle(slot, end)
        self._add(own_rows(self._place, self._clock.wall_ns(), self._spool, self._exporter, self._detail))
        self._flush()
        for slot in self._slots:
            if slot.worker.idle:
                slot.worker.submit(partial(self._close, slot.source))
        self._exporter.drain(self._drain_seconds)
        for slot in self._slots:
            self._settle(slot, end)
        self._exporter.close()
        self._spool.close()
        if self._spool.waiting_frames:
            self._say(self._spool.left())

    def _serve(self, slot: Slot, now: float) -> None:
        if slot.worker.idle and not self._look_closer(slot) and now >= slot.due and not self._left_out(slot):
            slot.start(now)
            slot.worker.submit(partial(self._round, slot.name, slot.source, slot.opened))
        result = slot.worker.take()
        if result is not None:
            self._take(slot, result)
            self._finished(slot, result, now)
        else:
            self._report(slot, slot.hanging(now))

    def _left_out(self, slot: Slot) -> bool:
        """Whether this round is one of those that the level of detail has not."""
        left_out = slot.opened and slot.name in RARER and self._detail.skips(slot.name)
        if left_out:
            slot.pass_over()
        return left_out

    def _look_closer(self, slot: Slot) -> bool:
        """Whether the source is at a request from now on; one that cannot work denies it with the reason for that."""
        able = slot.opened or slot.refusal is not None
        asked = self._desk.next_for(slot.name, self._clock.wall_ns() - self._ahead_ns()) if able else None
        if asked is None:
            return False
        if not slot.opened:
            self._told(slot.name, self._desk.settle(asked, slot.refusal, 0))
            return False
        if self._detail.skips(LOOKS):
            self._told(slot.name, self._desk.settle(asked, self._detail.health().reason, 0))
            return False
        slot.asked = asked
        slot.worker.submit(partial(self._capture, slot.name, slot.source, asked))
        return True

    def _finished(self, slot: Slot, result: Round, now: float) -> None:
        """A round, or a closer look that came between two rounds."""
        asked, slot.asked = slot.asked, None
        if asked is None:
            self._report(slot, slot.finish(result, now))
            return
        rows = sum(batch.rows.num_rows for batch in result.batches)
        refusal = None if result.state == "fresh" else result.reason
        self._told(slot.name, self._desk.settle(asked, refusal, rows, result.delivered))

    def _told(self, name: str, answers: Iterable[Rows]) -> None:
        """Answers to requests, stamped like the rows of a source."""
        now_ns = self._clock.wall_ns()
        for rows in answers:
            stamped = stamp(scrub_rows(rows.batch), **self._place, source=name, updated_ns=now_ns)
            self._gathering.add(Batch(rows.table, name, stamped))

    def _settle(self, slot: Slot, end: float) -> None:
        """Wait for a source that is still reading, and keep what it read."""
        while not slot.worker.idle:
            result = slot.worker.take()
            if result is not None:
                self._take(slot, result)
            elif self._clock.monotonic() >= end or not self._done.wait(max(end - self._clock.monotonic(), 0.0)):
                return
            self._done.clear()

    def _capture(self, name: str, source: Source, asked: Asked) -> Round:
        """A closer look in the source's worker; whatever it raises is the reason for which it is denied."""
        started = self._clock.monotonic()
        here = replace(asked.capture, start_ns=asked.capture.start_ns + self._ahead_ns())
        batches: list[Batch] = []
        delivered: Delivered | None = None

        def look() -> None:
            nonlocal delivered
            if isinstance(source, Capturing):
                for rows in source.capture(here):
                    if isinstance(rows, Delivered):
                        delivered = rows
                    else:
                        batches.append(self._stamped(name, rows))

        state, reason, _ = _guarded(look)
        took_ns = int((self._clock.monotonic() - started) * 1e9)
        kept = batches if state == "fresh" else []
        return Round(state, reason[:REASON_CHARS_MAX], kept, [], True, took_ns, delivered=delivered)

    def _ahead_ns(self) -> int:
        """This node's clock less the collector's, by which requests are dated; 0 where it is right for all that is known."""
        offset = self._clocks.offset()
        return offset.offset_ns if offset is not None and abs(offset.offset_ns) > offset.error_ns else 0

    def _round(self, name: str, source: Source, opened: bool) -> Round:
        """One round of a source in its worker."""
        started = self._clock.monotonic()
        batches: list[Batch] = []
        parts: list[Any] = []

        def work() -> None:
            if not opened:
                source.open()
            for rows in source.read():
                batches.append(self._stamped(name, rows))
            parts[:] = list(islice(source.health(), PARTS_MAX))

        state, reason, failed = _guarded(work)
        so_far = source.so_far() if isinstance(source, Settling) and state == "fresh" else None
        if state != "fresh":
            self._close(source)
        took_ns = int((self._clock.monotonic() - started) * 1e9)
        return Round(state, reason[:REASON_CHARS_MAX], batches, parts, state == "fresh", took_ns, failed, so_far=so_far)

    def _stamped(self, name: str, rows: Rows) -> Batch:
        return Batch(rows.table, name, stamp(scrub_rows(rows.batch), **self._place, source=name), rows.dropped)

    def _close(self, source: Source) -> Round:
        reason = ""
        try:
            source.close()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        return Round("stale", reason, [], [], False, 0, bool(reason))

    def _report(self, slot: Slot, rows: Iterable[Mapping[str, Any]]) -> None:
        listed = list(rows)
        if listed:
            common = {**self._place, "source": slot.name, "time_ns": self._clock.wall_ns()}
            health = SOURCE_HEALTH.from_rows({**common, **_writable(row)} for row in listed)
            self._gathering.add(Batch("source_health", slot.name, scrub_rows(health)))

    def _take(self, slot: Slot, result: Round) -> None:
        self._add(result.batches)
        if result.so_far is not None:
            self._settlements[slot.name] = result.so_far

    def _add(self, batches: Iterable[Batch]) -> None:
        for batch in batches:
            self._gathering.add(batch)

    def _flush(self) -> None:
        frames = list(self._gathering.take())
        if not frames:
            self._settled()
        while frames:
            batches = frames.pop(0)
            try:
                self._put(batches, more=bool(frames))
            except WireError as error:
                smaller = halves(batches)
                frames = smaller + frames if smaller else [*frames, [self._lost(batches[0], error)]]

    def _put(self, batches: list[Batch], *, more: bool) -> None:
        """One frame; where it is the last of what was gathered, sources hear that all of it is on disk."""
        for each in () if more else self._settlements.values():
            each.intend(self._spool.next_name)
        self._spool.put(batches, self._settled, more=more)

    def _settled(self) -> None:
        for each in self._settlements.values():
            each.settle()
        self._settlements = {}

    def _lost(self, batch: Batch, error: WireError) -> Batch:
        """One row that is too large for the wire."""
        row = {**self._place, "source": OWN, "time_ns": self._clock.wall_ns(), "subject": batch.source}
        lost = {"state": "dropped", "reason": f"a row of {batch.table}: {error}", "dropped": batch.rows.num_rows}
        return Batch("source_health", OWN, SOURCE_HEALTH.from_rows([row | lost]))


def _writable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Words may hold the name of a file, and that any bytes."""
    return {
        name: value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
        for name, value in row.items()
    }


def _guarded(work: Callable[[], None]) -> tuple[str, str, bool]:
    """State, reason, and whether it failed unforeseen: the one place that catches whatever a source's own code raises."""
    try:
        work()
    except (Unsupported, Denied, Busy) as error:
        return _STATES[type(error)], str(error), False
    except Exception as error:
        return "stale", f"{type(error).__name__}: {error}", True
    return "fresh", "", False
