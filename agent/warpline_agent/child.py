"""A child process that can be killed: lines from its output without ever waiting for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO, Final

READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""Taken from a child in one go; the rest waits in the pipe."""
LINE_BYTES_MAX: Final = 64 * 1024
"""A longer line is dropped and counted."""
PIPE_BYTES: Final = 1024 * 1024
"""Room asked for in the pipe, so that a child goes on while nobody reads for a while."""
COMPLAINT_CHARS_MAX: Final = 300
"""Kept of the child's standard error."""


class Child:
    """A running child. Its standard input stays open until `close`: a child that reads end of file there should end."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, first_line: bytes = b""
    ) -> None:
        """Start `command`; OSError if it cannot be. `first_line` is written to its standard input."""
        self._process = subprocess.Popen(
            command,
            env=None if environment is None else dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.dropped = 0
        self._partial = b""
        self._errors = b""
        for stream in (self._output, self._complaints):
            os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.say(first_line)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it lives."""
        return self._process.poll()

    @property
    def complaint(self) -> str:
        """The last line of its standard error so far."""
        text = self._errors.decode("utf-8", "replace").strip()
        return text.splitlines()[-1][-COMPLAINT_CHARS_MAX:] if text else ""

    def lines(self) -> list[bytes]:
        """Whole lines that have come since the last call; returns at once."""
        if self._output.closed:
            return []
        self._errors = (self._errors + _drain(self._complaints))[-4 * COMPLAINT_CHARS_MAX :]
        *whole, self._partial = (self._partial + _drain(self._output)).split(b"\n")
        if len(self._partial) > LINE_BYTES_MAX:
            self._partial = b""
            self.dropped += 1
        return whole

    def wait(self, seconds: float) -> bool:
        """Wait until it has said something or has ended, at most `seconds`; whether it has."""
        return bool(select.select([self._output], [], [], seconds)[0])

    def kill(self) -> None:
        """Send SIGKILL to it and to whatever it started; a process in uninterruptible sleep lives on."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, grace_seconds: float = 0.5) -> None:
        """Let it end, else kill it; give the pipes back. Never waits longer than twice `grace_seconds`."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not self._ended(grace_seconds):
            self.kill()
            self._ended(grace_seconds)
        for stream in (self._output, self._complaints):
            stream.close()

    def leave(self) -> None:
        """Give the pipes back and let it go on by itself: it must end when its standard input does."""
        for stream in (self._process.stdin, self._output, self._complaints):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def say(self, line: bytes) -> None:
        """Write to its standard input, which it reads; to one that has ended nothing is written."""
        if line and self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(line)
                self._process.stdin.flush()

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def _complaints(self) -> IO[bytes]:
        assert self._process.stderr is not None
        return self._process.stderr


def _drain(stream: IO[bytes]) -> bytes:
    taken = bytearray()
    while len(taken) < READ_BYTES_MAX:
        try:
            piece = os.read(stream.fileno(), 64 * 1024)
        except BlockingIOError:
            break
        if not piece:
            break
        taken += piece
    return bytes(taken)
