"""Worker: runs one call at a time in a thread of its own, so that a source that hangs holds up nobody else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

Result = TypeVar("Result")


class Worker(Protocol[Result]):
    """`submit` only while `idle`; `take` gives the result once, None until it is there. The call must not raise."""

    @property
    def idle(self) -> bool: ...

    def submit(self, call: Callable[[], Result]) -> None: ...

    def take(self) -> Result | None: ...


class ThreadWorker(Generic[Result]):
    """A daemon thread: one that hangs for ever ends with the process."""

    def __init__(self, name: str, done: threading.Event) -> None:
        self._calls: queue.Queue[Callable[[], Result]] = queue.Queue(maxsize=1)
        self._results: queue.Queue[Result] = queue.Queue(maxsize=1)
        self._done = done
        self._busy = False
        threading.Thread(target=self._run, name=f"source {name}", daemon=True).start()

    @property
    def idle(self) -> bool:
        """Nothing runs and no result waits."""
        return not self._busy

    def submit(self, call: Callable[[], Result]) -> None:
        """Run `call`; queue.Full if one is still waiting to run."""
        self._busy = True
        self._calls.put_nowait(call)

    def take(self) -> Result | None:
        """The result of the last call, once."""
        try:
            result = self._results.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        return result

    def _run(self) -> None:
        while True:
            self._results.put(self._calls.get()())
            self._done.set()
