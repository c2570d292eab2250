"""The power guard in a process that kills itself at a named point: `guard_killed.py POINT WITH_WATCHDOG words of the command`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from warpline_agent.guard import guarding, orders, record, watched_by
from warpline_cli.main import main

BEFORE, AFTER = "before", "after"
POINTS: dict[str, tuple[Any, str, str, str | None]] = {
    "before the record": (record.Record, "lower", BEFORE, None),
    "between record and order": (record.Record, "lower", AFTER, None),
    "order given": (orders.Hand, "ask", AFTER, "lower"),
    "clocks set": (guarding.Guard, "_settle", BEFORE, "lower"),
    "told": (guarding.Guard, "_settle", AFTER, "lower"),
    "before the restore": (record.Record, "restoring", BEFORE, None),
    "restore noted": (record.Record, "restoring", AFTER, None),
    "restore ordered": (orders.Hand, "ask", AFTER, "restore"),
    "clocks restored": (guarding.Guard, "_settle", BEFORE, "restore"),
    "record cleared": (record.Record, "restored", AFTER, None),
}
"""Point -> the method at which it is, before or after it, and the order that it must be about."""


def kill_at(point: str, watchdog_too: bool) -> None:
    """Have this process kill itself at the point, its watchdog just before it where that is asked for."""
    owner, name, when, about = POINTS[point]
    watchdogs: list[int] = []
    started = watched_by.Watchdog.__init__

    def remember(self: watched_by.Watchdog, *words: Any) -> None:
        started(self, *words)
        watchdogs.append(self.pid)

    def die() -> None:
        for pid in watchdogs if watchdog_too else ():
            os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    original: Callable[..., Any] = getattr(owner, name)

    def method(self: Any, *words: Any) -> Any:
        hit = about is None or about in (words[0], getattr(words[0], "order", None))
        if hit and when == BEFORE:
            die()
        answer = original(self, *words)
        if hit:
            die()
        return answer

    setattr(watched_by.Watchdog, "__init__", remember)  # noqa: B010  # mypy has no word for it
    setattr(owner, name, method)


if __name__ == "__main__":
    kill_at(sys.argv[1], sys.argv[2] == "yes")
    sys.exit(main(sys.argv[3:]))
