"""The heap of this process: what one thread gives back another can have, so that hours of work take no more room than minutes.

Left to itself the C library keeps a heap for each of up to sixteen threads and Arrow one of its own beside them; each stays as
large as it ever was.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Final

import pyarrow as pa

HEAPS_MAX: Final = 4
TRIM_BYTES: Final = 16 * 1024 * 1024
"""So much freed memory at its end a heap keeps."""
MMAP_BYTES: Final = 1024 * 1024
"""A piece of this size or more is had from the system and given back to it."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def share(library: ctypes.CDLL | None = None) -> bool:
    """Whether the C library could be told; only GNU's knows of it, with any other its heaps stay as they are."""
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        tell = (library or ctypes.CDLL(None)).mallopt
    except AttributeError:
        return False
    settings = {_M_ARENA_MAX: HEAPS_MAX, _M_TRIM_THRESHOLD: TRIM_BYTES, _M_MMAP_THRESHOLD: MMAP_BYTES}
    return all(tell(name, value) for name, value in settings.items())


def give_way(score: int) -> None:
    """Let the kernel end this process before those with a lesser score, where memory is short."""
    with contextlib.suppress(OSError):  # where there is none of Linux's it is not needed either
        Path("/proc/self/oom_score_adj").write_text(str(score))
