"""The guard's watchdog: a process that restores clocks when the guard is gone, killed for certain, or silent.

Its standard input is a pipe that only the guard holds open, on which the guard says every round that it goes on. Signals that are
sent to the whole group do not end it: it ends when the guard has, and everything is restored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Final

from warpline_proto.errors import Busy, SourceError

from .locks import Lock
from .orders import Hand
from .record import GUARD, GUARD_LOCK, guard_lock
from .restoring import Restoring

READY: Final = b"ready\n"
ALIVE: Final = b"alive\n"
"""The answer to what the guard says, so that it knows of a watchdog that is stopped."""
AGAIN_SECONDS: Final = 1.0
"""Before what could not be restored is tried again; twice as long each time, up to AGAIN_SECONDS_MAX."""
AGAIN_SECONDS_MAX: Final = 60.0
TRIES_SECONDS_MAX: Final = 3600.0
"""It gives up after this; the record stays for `warpline power restore` and the next guard."""


def wait_for_end(guard: int, silent_seconds: float) -> None:
    """Return once the guard has let go of the pipe; one that is silent for too long is killed."""
    while True:
        if not select.select([sys.stdin], [], [], silent_seconds)[0]:
            if os.getppid() == guard:
                os.kill(guard, signal.SIGKILL)
            return
        if not os.read(sys.stdin.fileno(), 4096):
            return
        with contextlib.suppress(OSError):  # a guard that has just died is told of by the next read
            os.write(sys.stdout.fileno(), ALIVE)


def restore(directory: Path, library_directory: str) -> bool:
    """One try; whether nothing is left to be done here."""
    try:
        lock = guard_lock(directory, "watchdog")
    except Busy:  # the next guard restores before it begins
        return Lock(directory / GUARD_LOCK).holder().startswith(GUARD)
    except OSError:
        return False
    hand = Hand(directory, library_directory)
    try:
        restoring = Restoring(directory, hand, "its watchdog")
        restoring.recorded()
    except (SourceError, OSError):
        return False
    finally:
        hand.close()
        lock.give_back()
    return not restoring.left


def main() -> None:
    """Arguments: state directory, directory of the NVML library (may be empty), the guard's process, seconds of silence."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    directory, library_directory = Path(sys.argv[1]), sys.argv[2]
    os.write(sys.stdout.fileno(), READY)
    wait_for_end(int(sys.argv[3]), float(sys.argv[4]))
    end, pause = time.monotonic() + TRIES_SECONDS_MAX, AGAIN_SECONDS
    while not restore(directory, library_directory) and time.monotonic() < end:
        time.sleep(pause)
        pause = min(AGAIN_SECONDS_MAX, 2 * pause)


if __name__ == "__main__":
    main()
