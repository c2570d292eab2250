"""One pass over the store after another, in a thread of its own, until told to stop: also in the midst of a question."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

STOP_SECONDS: Final = 5.0
"""A pass that does not end within so long is left to the end of the process."""
_LOG = logging.getLogger(__name__)


class Passes:
    """`start` and `close`. `stop` is set once no further pass is wanted.

    `interrupt` ends the question it is at; `rest_seconds` is told how long a pass took.
    """

    def __init__(
        self,
        name: str,
        one_pass: Callable[[], None],
        interrupt: Callable[[], None],
        rest_seconds: Callable[[float], float],
    ) -> None:
        self.stop = threading.Event()
        self._one_pass = one_pass
        self._interrupt = interrupt
        self._rest_seconds = rest_seconds
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        """Begin with the first pass."""
        self._thread.start()

    def close(self) -> None:
        """Stop the pass that runs, and let the thread end."""
        self.stop.set()
        end = time.monotonic() + STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < end:
            self._interrupt()  # again and again: the pass may be between looking up and asking
            self._thread.join(STOP_SECONDS / 100)

    def _loop(self) -> None:
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                self._one_pass()
            except Exception:  # a fault of our own in one pass must not end all that would follow, nor be silent
                _LOG.exception("a pass of %s failed, and the next is tried", self._thread.name)
            self.stop.wait(self._rest_seconds(time.monotonic() - begun))
