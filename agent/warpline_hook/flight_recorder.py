"""The variables by which PyTorch's flight recorder is told to keep the newest collectives, and how to be asked for them.

Without the buffer there is no pipe. Which of two names a PyTorch knows depends on its version: both are set, and one that knows
both says once that the older is out of use.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module typing is not loaded where it is not needed
    from collections.abc import Mapping
    from typing import Final

BUFFERS: Final = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
"""Collectives that are kept; the second name is that of PyTorch before 2.9."""
FILES: Final = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
"""What the path of a dump begins with, to which the rank is added."""
PIPE: Final = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
"""What the path of the pipe begins with, to which the rank and .pipe are added."""
DUMPS: Final = "TORCH_NCCL_DUMP_ON_TIMEOUT"
PREFIX: Final = "warpline-flight-"
"""What the names of these files begin with where we gave them."""
ENTRIES: Final = 2000


def flight_recorder_variables(environment: Mapping[str, str], folder: str, run: str) -> dict[str, str]:
    """What a command needs in its environment, beside what it has, so that each rank can be asked for a dump.

    Pipes of `run` lie in `folder`, dumps where temporary files do. What the user has set stays, under either name.
    """
    name = PREFIX + run.replace("/", "-")
    dumps = f"{environment.get('TMPDIR') or '/tmp'}/{name}-dump_"
    wanted = {DUMPS: "1", PIPE: f"{folder}/{name}-"}
    for names, value in ((BUFFERS, str(ENTRIES)), (FILES, dumps)):
        if not any(each in environment for each in names):
            wanted |= dict.fromkeys(names, value)
    return {each: value for each, value in wanted.items() if each not in environment}
