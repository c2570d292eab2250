"""Waiting for what others do: another thread, another process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS_MAX = 60.0


def until(condition: Callable[[], bool], meaning: str = "what was waited for") -> None:
    """Wait until that holds; an assertion that says what it means after SECONDS_MAX."""
    pause, end = threading.Event(), time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"never: {meaning}"
        pause.wait(0.02)
