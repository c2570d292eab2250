"""The guard's side of its watchdog: started first, told every round that the guard goes on, and itself watched."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from warpline_proto.errors import SourceError

from ..child import Child

COMMAND: Final = (sys.executable, "-m", "warpline_agent.guard.watchdog")
START_SECONDS: Final = 30.0
BEAT_SECONDS: Final = 1.0


class Watchdog:
    """One process; without it nothing is lowered."""

    def __init__(
        self,
        directory: Path,
        library_directory: str,
        silent_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start it and wait until it watches; SourceError where it does not."""
        words = (str(directory), library_directory, str(os.getpid()), str(silent_seconds))
        self._child = Child((*COMMAND, *words))
        self._clock = clock
        self._silent_seconds = silent_seconds
        end = clock() + START_SECONDS
        while not self._child.lines():
            if self._child.exit_code is not None or clock() > end:
                complaint = self._child.complaint
                self._child.close()
                raise SourceError(f"the watchdog does not start: {complaint or 'it is silent'}", "nothing was lowered")
            self._child.wait(0.1)
        self._heard = self._beat_at = clock()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid

    def gone(self) -> str:
        """Tell it that the guard goes on, and what is wrong with it; empty if nothing is."""
        now = self._clock()
        if self._child.exit_code is not None:
            return "the watchdog has ended"
        if now >= self._beat_at:
            self._child.say(b".")
            self._beat_at = now + BEAT_SECONDS
        if self._child.lines():
            self._heard = now
        return "the watchdog is silent" if now - self._heard > self._silent_seconds else ""

    def let_go(self) -> None:
        """Let it find the guard's end, without waiting for what it then does."""
        self._child.leave()
