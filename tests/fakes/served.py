"""A collector in a thread of the test's own process, with every door that its settings open."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from warpline_analysis.detector import Detector
from warpline_analysis.detectors import DETECTORS
from warpline_collector.config import Settings
from warpline_collector.service import serve


@contextmanager
def served(
    settings: Settings,
    detectors: Mapping[str, Detector] = DETECTORS,
    clock: Callable[[], int] = time.time_ns,
    wait_seconds: float = 60,
) -> Iterator[Sequence[str]]:
    """Gives its address, and that of its metrics where it has one; what ends the collector is raised."""
    told: list[str] = []
    started, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()
    failures: list[BaseException] = []

    def ready(address: str) -> None:
        told.insert(0, address)
        started.set()

    def work() -> None:
        try:
            loop.run_until_complete(serve(settings, ready, stop, clock, detectors, watched=told.append))
        except BaseException as error:
            failures.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(wait_seconds)
        if failures:
            raise failures[0]
        yield told
    finally:
        if not failures:
            loop.call_soon_threadsafe(stop.set)
        thread.join(wait_seconds)
    assert not thread.is_alive()
    if failures:
        raise failures[0]
