"""Words to the service supervisor: ready, alive, stopping (sd_notify(3) over its datagram socket; silent where there is none).

A supervisor that looks instead of listening, as Kubernetes does, finds the same in a file that it has named.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

BEATS_PER_LIMIT: Final = 4
"""A sign of life goes out so many times within the supervisor's limit."""
SAY_SECONDS_MAX: Final = 2.0
"""How long a word that is said only once may wait for a supervisor that is busy; a sign of life waits for nobody."""
ALIVE_FILE: Final = "WARPLINE_ALIVE_FILE"
"""Names a file that is made once the service works, touched while it lives, and gone when it stops."""
ALIVE_SECONDS: Final = 15.0
"""The file is touched so often, so that one that is two minutes old is that of a service that stands still."""


class Supervisor:
    """systemd, or whoever set NOTIFY_SOCKET. Nothing here raises: one that does not listen is its own matter."""

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        monotonic: Callable[[], float] = time.monotonic,
        pid: int | None = None,
    ) -> None:
        self._monotonic = monotonic
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID", str(pid or os.getpid())) == str(pid or os.getpid())
        limit = environment.get("WATCHDOG_USEC", "") if watched else ""
        self._alive = Path(environment[ALIVE_FILE]) if environment.get(ALIVE_FILE) else None
        self._asked = limit.isdecimal() and int(limit) > 0
        periods = [int(limit) / 1e6 / BEATS_PER_LIMIT] if self._asked else []
        self.beat_seconds = min([*periods, ALIVE_SECONDS] if self._alive else periods, default=None)
        """How often to say that this process lives; None where nobody asks."""
        self._beaten: float | None = None

    def ready(self, status: str = "") -> None:
        """The service does its work from now on; `status` is shown by `systemctl status`."""
        if self._alive is not None:
            with contextlib.suppress(OSError):
                self._alive.touch()
        self._say("READY=1", *([f"STATUS={' '.join(status.split())}"] if status else []))

    def beat(self) -> None:
        """This process lives. To be called as often as one likes: it is said only as often as it is asked for."""
        now = self._monotonic()
        if self.beat_seconds is not None and (self._beaten is None or now - self._beaten >= self.beat_seconds):
            self._beaten = now
            if self._alive is not None:
                with contextlib.suppress(OSError):
                    os.utime(self._alive)
            if self._asked:
                self._say("WATCHDOG=1", wait_seconds=0.0)

    def stopping(self) -> None:
        """The service ends by itself or was told to."""
        if self._alive is not None:
            with contextlib.suppress(OSError):
                self._alive.unlink()
        self._say("STOPPING=1")

    def _say(self, *lines: str, wait_seconds: float = SAY_SECONDS_MAX) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.settimeout(wait_seconds)
            link.sendto("\n".join(lines).encode(), self._address)
