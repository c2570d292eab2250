"""Child processes of one command: started together, watched, and gone when the command is gone, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from warpline_proto.errors import ConfigError, WarplineError

STOP_SECONDS: Final = 4.0
"""How long children may take to end after SIGTERM; then they are killed."""
LOG_LINES_SHOWN: Final = 8
PORTS: Final = range(20_000, 30_000)
"""Where a port is looked for: none of those that the kernel gives to whoever asks for any, so that nobody else is given it before
it is listened on."""
PORTS_TRIED_MAX: Final = 100
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class ChildEnded(WarplineError):
    """A child ended although nobody told it to."""


class Processes:
    """Use as a context manager. Each child writes what it says to `<folder>/<name>.log`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start `warpline` with these arguments, in a session of its own so that Ctrl-C reaches only this process."""
        with (self._folder / f"{name}.log").open("wb") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "warpline_cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def check(self) -> None:
        """ChildEnded, with its last words, if one is gone."""
        for name, child in self._children.items():
            if child.poll() is not None:
                words = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
                raise ChildEnded(f"{name} ended with exit code {child.returncode}: " + " | ".join(words))

    def stop(self) -> None:
        """End all of them, the last started first; a signal meanwhile does not cut it short. Safe to call twice."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
        try:
            self._end(list(reversed(self._children.values())))
        finally:
            for number, answer in before.items():
                signal.signal(number, answer)

    def _end(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP_SECONDS
        for child in children:
            try:
                child.wait(max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def end_with_parent() -> None:
    """In the child: the kernel sends SIGTERM when the parent is gone, also where it was killed and could end nobody."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def free_address() -> str:
    """An address on loopback that nobody listens on now; ConfigError where none is found."""
    for port in random.sample(PORTS, PORTS_TRIED_MAX):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"
    raise ConfigError(f"no port of loopback from {PORTS.start} to {PORTS.stop - 1} is free", "what holds them all?")
