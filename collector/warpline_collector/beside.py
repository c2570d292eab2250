"""A process of the collector's own beside it, with a socket between the two: it ends when its end of that is closed."""

from __future__ import annotations

import socket
import subprocess
import sys


def start(
    module: str, *arguments: str, stderr: int | None = subprocess.DEVNULL
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process of `python -m MODULE FD ARGUMENTS...`, and the other end of the socket FD; OSError if there can be none."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments]
    try:
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
    except BaseException:
        ours.close()
        raise
    return process, ours
