"""Restores what the record says is low, for who comes after a guard: its watchdog, `warpline power restore`, the next guard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from warpline_proto.errors import SourceError

from .journal import Journal
from .orders import ABSENT, Answer, Hand
from .record import Entry, Record
from .rows import restored_after

PATIENCE_SECONDS: Final = 20.0
"""For all GPUs together; what is left then stays in the record."""
AGAIN_SECONDS: Final = 0.5
"""Between two tries at one GPU."""
LISTEN_SECONDS: Final = 0.02


class Restoring:
    """One pass over the record; its caller holds the guard's lock. `left` names GPUs that are not restored, and why."""

    def __init__(
        self,
        directory: Path,
        hand: Hand,
        by: str,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._record = Record(directory)
        self._journal = Journal(directory)
        self._hand = hand
        self._by = by
        self._clock = clock
        self._pause = pause
        self.restored: list[str] = []
        self.left: dict[str, str] = {}

    def recorded(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Restore every GPU of the record; SourceError where that cannot be read."""
        self._record.load()
        for uuid in tuple(self._record.entries):
            self._record.restoring(uuid)
        self._work(self._record.entries, patience_seconds)

    def everything(self, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Unlock the clocks of every GPU of this node, whoever locked them; SourceError where NVML cannot be used."""
        self._hand.start()
        end = self._clock() + patience_seconds
        while not self._hand.ready and not self._hand.verdict and self._clock() < end:
            self._hand.answers()
            self._pause(LISTEN_SECONDS)
        if not self._hand.ready:
            raise SourceError(self._hand.verdict or "the process that sets clocks does not begin")
        self._work(self._hand.gpus, patience_seconds, memory=True)
        if not self.left:
            self._record.clear()

    def _work(self, wanted: Iterable[str], patience_seconds: float, memory: bool = False) -> None:
        end = self._clock() + patience_seconds
        due = dict.fromkeys(wanted, self._clock())
        self.left = dict.fromkeys(due, "no answer in time")
        asked: set[str] = set()
        while self.left and self._clock() < end:
            for uuid in [each for each in self.left if each not in asked and due[each] <= self._clock()]:
                entry = self._record.entries.get(uuid)
                self._hand.ask("restore", uuid, memory or (entry is not None and entry.memory_clock_mhz is not None))
                asked.add(uuid)
            for answer in self._hand.answers():
                asked.discard(answer.gpu_uuid)
                due[answer.gpu_uuid] = self._clock() + AGAIN_SECONDS
                self._take(answer)
            if self.left:
                self._pause(LISTEN_SECONDS)

    def _take(self, answer: Answer) -> None:
        uuid = answer.gpu_uuid
        if answer.code and answer.code not in ABSENT:
            self.left[uuid] = answer.reason
            return
        del self.left[uuid]
        self.restored.append(uuid)
        entry = self._record.entries.get(uuid)
        if entry is not None:
            self._record.restored(uuid)
            self._journal.write(restored_after(entry, time.time_ns(), self._reason(answer, entry), answer.call_ns))

    def _reason(self, answer: Answer, entry: Entry) -> str:
        gone = f"; the GPU is not there ({answer.reason})" if answer.code else ""
        return f"the guard ended with clocks at {entry.sm_clock_mhz} MHz; restored by {self._by}{gone}"
