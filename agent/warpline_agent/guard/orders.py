"""The guard's side of the process that sets clocks: orders out, answers in, never waited for, killed where it is silent."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..child import Child
from ..nvml.device import GONE

COMMAND: Final = (sys.executable, "-m", "warpline_agent.guard.hand")
START_SECONDS: Final = 15.0
"""For the process to begin: NVML needs seconds to initialise on a large node."""
HUNG: Final = -3
"""Code of an answer: the call did not come back in time, so that nobody knows whether it was done."""
ENDED: Final = -4
"""Code of an answer: the process ended before it answered; nobody knows either."""
UNKNOWN: Final = frozenset({HUNG, ENDED})
NOT_FOUND: Final = 6
ABSENT: Final = frozenset({NOT_FOUND, *GONE})
"""NVML's codes for a GPU that is not there: what brings it back unlocks its clocks."""


@dataclass(frozen=True)
class Answer:
    """What became of an order: `code` 0 is done; what a look found is in `found`."""

    order: str
    gpu_uuid: str
    code: int
    reason: str = ""
    touched: bool = False
    call_ns: int = 0
    found: Mapping[str, Any] | None = None


@dataclass
class _Asked:
    order: str
    gpu_uuid: str
    since: float


class Hand:
    """At most one process that is listened to; one that hangs is killed and, where it does not die, left behind.

    Locks on the GPUs keep those left behind from getting in the way of a later one.
    """

    def __init__(
        self,
        directory: Path,
        library_directory: str = "",
        call_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._library_directory = library_directory
        self._call_seconds = call_seconds
        self._clock = clock
        self._child: Child | None = None
        self._started = 0.0
        self._ready_at: float | None = None
        self._asked: dict[int, _Asked] = {}
        self._failed: list[Answer] = []
        self._number = 0
        self.gpus: list[str] = []
        """All GPUs of the node, once it is ready."""
        self.verdict = ""
        """Why NVML cannot be used, where the process has said so."""

    @property
    def ready(self) -> bool:
        """Whether it has begun to work."""
        return self._ready_at is not None

    def start(self) -> None:
        """Begin, if it has not; OSError if no process can be started."""
        if self._child is None:
            command = (*COMMAND, str(self._directory), str(self._call_seconds / 2))
            self._child = Child(command, _environment(self._library_directory))
            self._started, self._ready_at = self._clock(), None

    def ask(self, order: str, gpu_uuid: str, memory: bool) -> None:
        """Give one order; not a second one for a GPU before the first is answered."""
        self._number += 1
        try:
            self.start()
        except OSError as error:
            reason = f"the process that sets clocks cannot be started: {error.strerror}"
            self._failed.append(Answer(order, gpu_uuid, ENDED, reason))
            return
        assert self._child is not None
        self._asked[self._number] = _Asked(order, gpu_uuid, self._clock())
        plain = {"number": self._number, "do": order, "gpu_uuid": gpu_uuid, "memory": memory}
        self._child.say(json.dumps(plain).encode() + b"\n")

    def answers(self) -> list[Answer]:
        """What has come since the last time; returns at once."""
        answers, self._failed = self._failed, []
        if self._child is None:
            return answers
        ended = self._child.exit_code is not None
        for line in self._child.lines():
            self._hear(json.loads(line), answers)
        if ended:
            complaint = self._child.complaint
            self._child.close()
            answers += self._all(ENDED, self.verdict or f"the process that sets clocks ended: {complaint}")
        elif overdue := self._overdue():
            self._child.kill()
            self._child.close()
            hung = frozenset(each.gpu_uuid for each in overdue)
            answers += self._all(ENDED, "the process that sets clocks was killed", hung)
        return answers

    def close(self) -> None:
        """Let it end, else kill it."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _hear(self, message: Mapping[str, Any], answers: list[Answer]) -> None:
        if message["kind"] == "ready":
            self._ready_at, self.gpus = self._clock(), message["gpus"]
        elif message["kind"] == "verdict":
            self.verdict = message["reason"]
        elif message["kind"] == "answer" and (asked := self._asked.pop(message["number"], None)):
            told = {name: message[name] for name in ("code", "reason", "touched", "call_ns")}
            answers.append(Answer(asked.order, asked.gpu_uuid, **told, found=message))

    def _overdue(self) -> list[_Asked]:
        """Orders that were not answered in time, all of them where the process has not even begun."""
        now = self._clock()
        if self._ready_at is None:
            return list(self._asked.values()) if now - self._started > START_SECONDS else []
        ready_at = self._ready_at
        return [each for each in self._asked.values() if now - max(ready_at, each.since) > self._call_seconds]

    def _all(self, code: int, reason: str, hung: frozenset[str] = frozenset()) -> list[Answer]:
        """Answers in place of those that do not come any more."""
        self._child, self._ready_at = None, None
        asked, self._asked = self._asked, {}
        return [
            Answer(each.order, each.gpu_uuid, HUNG, "the call did not come back")
            if each.gpu_uuid in hung
            else Answer(each.order, each.gpu_uuid, code, reason)
            for each in asked.values()
        ]


def _environment(library_directory: str) -> dict[str, str]:
    known = os.environ.get("LD_LIBRARY_PATH", "")
    path = os.pathsep.join(filter(None, (library_directory, known)))
    return {**os.environ, **({"LD_LIBRARY_PATH": path} if path else {})}
