"""Standard streams and signals as a command may meet them: closed, full, narrow of alphabet, or gone in the middle."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

from warpline_proto.controls import CONTROLS

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))

_MOVING: Final = {code: "?" for first, last in CONTROLS for code in range(first, last + 1) if chr(code) not in "\t\n"}
"""Characters that a terminal obeys instead of showing them, but for the end of a line and the tabulator."""


def endings() -> list[signal.Signals]:
    """Signals that ask a command to end. SIGHUP is none of them where the caller has it ignored (nohup)."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs within as an exception does, so that everything held is given back."""
    before = {number: signal.signal(number, _leave) for number in endings() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, answer in before.items():
            signal.signal(number, answer)


def prepare() -> None:
    """A closed stream becomes an empty one; a character that the terminal's alphabet lacks is written as an escape.

    gRPC keeps its own log lines to itself unless the environment asks for them: what matters of them comes as an error.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name, mode in _STREAMS:
        stream = getattr(sys, name)
        if stream is None:  # opened in this order, each takes the number that was closed
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # lives as long as the process
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(words: str) -> None:
    """Lines on standard error, which may be full or gone: that stops nothing. What names hold moves nothing on the terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(words.translate(_MOVING), file=sys.stderr, flush=True)


def give_up_output() -> None:
    """What is still to be written goes nowhere: standard output is gone, and the interpreter would stumble over it."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(received: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + received)
