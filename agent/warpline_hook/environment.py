"""The environment variables by which the hook is asked for and told what it cannot see; `warpline run` sets them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module typing is not loaded at the start of every process
    from collections.abc import Mapping, MutableMapping
    from typing import Final

HOOK: Final = "WARPLINE_HOOK"
"""1 switches the hook on; absent, empty or 0 leave it off."""
JOB: Final = "WARPLINE_JOB"
"""Name of the job, where the launcher's own is not wanted; the same on all ranks, another one for each launch."""
RUN: Final = "WARPLINE_RUN"
"""One launch on one node; the outermost process sets it for all it starts."""
DIRECTORY: Final = "WARPLINE_DIRECTORY"
"""Where the files lie through which the agent reads, on memory."""
GROUP: Final = "WARPLINE_GROUP"
"""Group that may read them, where the agent runs neither as root nor as the same user."""
DIRECTORY_DEFAULT: Final = "/dev/shm"


def switched_on(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for the hook."""
    return environment.get(HOOK, "") not in ("", "0")


def directory(environment: Mapping[str, str]) -> str:
    """Where this process writes."""
    return environment.get(DIRECTORY) or DIRECTORY_DEFAULT


def name_run(environment: MutableMapping[str, str], now_ns: int) -> None:
    """Give the launch a name that its processes share, unless an outer process has."""
    if not environment.get(RUN):
        environment[RUN] = f"{os.uname().nodename}-{os.getpid()}-{now_ns // 1_000_000_000:x}"
