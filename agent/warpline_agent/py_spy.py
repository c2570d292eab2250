"""Runs py-spy on one process: a child with a deadline, which reads the memory of the other and never stops it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from warpline_proto.errors import Busy, Denied, Unsupported

from .child import Child

DUMP_BYTES_MAX: Final = 4 * 1024 * 1024
"""A longer dump is given up."""
QUIET: Final = {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0"}
"""py-spy then ends its words with the reason."""


def found(name: str) -> str:
    """Where py-spy is; Unsupported where it is not."""
    path = shutil.which(name)
    if path is None:
        raise Unsupported(f"there is no {name}", "pip install py-spy, or set [sources.stacks] py_spy to where it is")
    return path


def dump(
    command: str, pid: int, seconds: float, clock: Callable[[], float] = time.monotonic, proc: str = "/proc"
) -> bytes:
    """What py-spy prints of one process. Denied, Busy or Unsupported with the reason where it prints nothing of use."""
    end = clock() + seconds
    child = Child([command, "dump", "--json", "--nonblocking", "--pid", str(pid)], {**os.environ, **QUIET})
    try:
        lines: list[bytes] = []
        while child.exit_code is None:
            left = end - clock()
            if left <= 0:
                raise Busy(f"py-spy gave no answer within {seconds:g} s")
            child.wait(min(left, 0.05))
            lines += child.lines()
            if sum(map(len, lines)) > DUMP_BYTES_MAX:
                raise Unsupported(f"its stacks take more than {DUMP_BYTES_MAX:,} bytes")
        lines += child.lines()
        if child.exit_code == 0:
            return b"\n".join(lines)
        raise _refusal(child.complaint, proc)
    finally:
        child.close(grace_seconds=0.1)


def _refusal(complaint: str, proc: str) -> Denied | Unsupported:
    """What py-spy said -> why, and what to do."""
    if "permission denied" not in complaint.lower() and "not permitted" not in complaint.lower():
        return Unsupported(f"py-spy: {complaint or 'it said nothing'}")
    scope = _ptrace_scope(proc)
    because = "" if scope is None else f", kernel.yama.ptrace_scope={scope}"
    hint = "run the agent as root or with CAP_SYS_PTRACE (deploy/systemd/warpline-agent-training.conf)"
    return Denied(f"reading another process's memory is not permitted (uid {os.geteuid()}{because})", hint)


def _ptrace_scope(proc: str) -> str | None:
    try:
        return Path(proc, "sys/kernel/yama/ptrace_scope").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
