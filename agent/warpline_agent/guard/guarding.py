"""The power guard itself: reads the GPUs of this node, orders what is to be set, and ends with all restored."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from warpline_proto.errors import Denied, SourceError
from warpline_proto.tables import DEVICE_SAMPLES

from ..nvml.counters import COUNTERS
from ..nvml.plan import Counter
from ..sources.nvml import Nvml
from .activity import RESIDENCY_ROUNDS, RESIDENT, SIGNALS
from .gpu import DOUBTFUL, LOW, UP, Gpu
from .journal import Journal
from .orders import Answer, Hand
from .record import GUARD, Entry, Record, guard_lock
from .restoring import Restoring
from .rows import LOWER, Row
from .settings import GuardConfig
from .watched_by import Watchdog

EVERY_ROUND: Final = frozenset({*SIGNALS, "power_watts", "sm_clock_mhz"})
LOOKS_A_PERIOD: Final = 10
"""How often it looks for a sample within the time of one."""
END_SECONDS: Final = 15.0
"""At the end, for all GPUs together; what is left then stays in the record, for the watchdog and whoever comes next."""
GPUS_MAX: Final = 64


def counters() -> tuple[Counter, ...]:
    """What the guard reads: the signals each round, programs more rarely."""
    read = [replace(each, period_seconds=1) for each in COUNTERS if each.column in EVERY_ROUND]
    return (*read, *(replace(each, period_seconds=RESIDENCY_ROUNDS) for each in COUNTERS if each.column == RESIDENT))


class Guard:
    """One guard of one node. `live` sets clocks; else the same is decided and told, and nothing set."""

    def __init__(
        self,
        config: GuardConfig,
        directory: Path,
        source: Nvml,
        library_directory: str,
        live: bool,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._directory = directory
        self._source = source
        self._library_directory = library_directory
        self._live = live
        self._say = say
        self._clock = clock
        self._pause = pause
        self._hand = Hand(directory, library_directory, config.call_seconds)
        self._record = Record(directory)
        self._journal = Journal(directory)
        self._watchdog: Watchdog | None = None
        self._gpus: dict[str, Gpu] = {}

    def run(self, stopped: Callable[[], bool]) -> None:
        """Guard until `stopped`, or until it must not go on: Busy, Denied or SourceError with the reason, clocks restored."""
        lock = guard_lock(self._directory, GUARD, self._pause)
        try:
            if self._live:
                self._recover()
            self._source.open()
            if self._live:
                silent_seconds = self._config.silent_seconds
                self._watchdog = Watchdog(self._directory, self._library_directory, silent_seconds, self._clock)
            try:
                while not stopped():
                    self._round()
                    self._pause(self._config.period_seconds / LOOKS_A_PERIOD)
            finally:
                self._end()
        finally:
            self._source.close()
            self._hand.close()
            if self._watchdog is not None:
                self._watchdog.let_go()
            lock.give_back()

    def _recover(self) -> None:
        """Restore what a guard before left; without that none begins."""
        restoring = Restoring(self._directory, self._hand, "the guard that came next")
        restoring.recorded()
        for uuid in restoring.restored:
            self._say(f"{uuid}: clocks restored, a guard before had left them low")
        if restoring.left:
            raise SourceError(
                f"clocks of a guard before are not restored: {_told(restoring.left)}", "see the driver's log"
            )

    def _round(self) -> None:
        self._look_at_watchdog()
        self._read()
        self._order()
        self._hear()
        denied = next((gpu.denied for gpu in self._gpus.values() if gpu.denied), "")
        if denied:
            raise Denied(f"clocks may not be set: {denied}")

    def _look_at_watchdog(self) -> None:
        if self._watchdog is not None and (wrong := self._watchdog.gone()):
            raise SourceError(wrong, "all clocks are restored, and the guard ends")

    def _read(self) -> None:
        now, rows = self._clock(), {}
        for table, batch, _ in self._source.read():
            if table == DEVICE_SAMPLES.name:
                rows.update(_by_gpu(batch))
        for uuid, listed in rows.items():
            if uuid not in self._gpus and len(self._gpus) < GPUS_MAX:
                self._gpus[uuid] = self._new(uuid, listed[0]["gpu_index"])
            if uuid in self._gpus:
                self._gpus[uuid].sample(listed, now)
        for uuid, gpu in self._gpus.items():
            if uuid not in rows:
                gpu.unseen(now, time.time_ns())
            self._tell(gpu)

    def _new(self, uuid: str, index: int) -> Gpu:
        listed = uuid in self._config.locked_gpus or str(index) in self._config.locked_gpus
        return Gpu(uuid, index, self._config.rule(), self._config.memory, listed)

    def _order(self) -> None:
        """Give the orders that are due."""
        for gpu in self._gpus.values():
            order = gpu.order(self._clock())
            if order == LOWER and self._live and not self._write_down(gpu):
                continue
            if order is None:
                continue
            gpu.ask()
            if order == "look" or self._live:
                self._give(gpu, order)
            else:
                self._settle(Answer(order, gpu.uuid, 0))

    def _give(self, gpu: Gpu, order: str) -> None:
        entry = self._record.entries.get(gpu.uuid)
        if order == "restore" and entry is not None:
            self._record.restoring(gpu.uuid)
        self._hand.ask(order, gpu.uuid, gpu.memory if entry is None else entry.memory_clock_mhz is not None)

    def _write_down(self, gpu: Gpu) -> bool:
        """Record that this GPU is about to be lowered; whether that is on disk."""
        assert gpu.lowest is not None
        try:
            self._record.lower(Entry(gpu.uuid, gpu.index, gpu.lowest[0], gpu.lowest[1], time.time_ns()))
        except OSError as error:
            gpu.not_written(f"the record cannot be written: {error.strerror}", time.time_ns())
            return False
        return True

    def _hear(self) -> None:
        for answer in self._hand.answers():
            self._settle(answer)

    def _settle(self, answer: Answer) -> None:
        """Take an answer, and bring the record in line with it."""
        gpu = self._gpus[answer.gpu_uuid]
        gpu.take(answer, self._clock(), time.time_ns())
        if gpu.state == UP and gpu.uuid in self._record.entries:
            self._record.restored(gpu.uuid)
        elif gpu.state == DOUBTFUL and gpu.uuid in self._record.entries:
            self._record.restoring(gpu.uuid)
        self._tell(gpu)

    def _tell(self, gpu: Gpu) -> None:
        rows, gpu.rows = gpu.rows, []
        for row in rows:
            self._journal.write(self._row(row))
            self._say(f"GPU {gpu.index}: {'would ' if not self._live else ''}{row['action']}: {row['reason']}")

    def _row(self, row: Row) -> Row:
        """A row as it is stored: of a dry run nothing was saved or paid."""
        nothing: Mapping[str, Any] = {} if self._live else {"call_ns": None, "saved_joules": None, "latency_ns": None}
        return {**row, "dry_run": not self._live, **nothing}

    def _end(self) -> None:
        """Restore all that is low."""
        end = self._clock() + END_SECONDS
        for gpu in self._gpus.values():
            gpu.end("the guard ends")
        while self._left() and self._clock() < end:
            self._order()
            self._hear()
            self._pause(self._config.period_seconds / LOOKS_A_PERIOD)
        if left := self._left():
            self._say(f"not restored: {_told(left)}; the watchdog goes on, or: warpline power restore")

    def _left(self) -> dict[str, str]:
        """GPUs that are not restored, or about which an order is out that could still lower them."""
        asked = {gpu.uuid: gpu.state for gpu in self._gpus.values() if gpu.uuid in self._record.entries}
        dry = {gpu.uuid: gpu.state for gpu in self._gpus.values() if not self._live and gpu.state == LOW}
        return asked | dry


def _by_gpu(batch: pa.RecordBatch) -> dict[str, list[dict[str, Any]]]:
    """Rows of each GPU, oldest first; without those that do not say of which, and those of a visit at which no signal was due."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in batch.to_pylist():
        if row["gpu_uuid"] is not None and any(row[name] is not None for name in EVERY_ROUND):
            found.setdefault(row["gpu_uuid"], []).append(row)
    return found


def _told(left: Mapping[str, str]) -> str:
    return ", ".join(f"{uuid} ({why})" for uuid, why in left.items())
