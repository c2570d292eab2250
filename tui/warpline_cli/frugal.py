"""Keeps the memory of a screen that is open all day small: what was freed goes back to the system; and keys from waiting while
Python looks for garbage in all that was ever loaded."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import Final

ARENAS_MAX: Final = 2
"""Heaps of the C library; by default it has eight for each core, and what a thread freed stays in its own."""
MAPPED_BYTES: Final = 128 * 1024
"""From this size on memory is asked of the system by itself, and given back when it is freed."""
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def undisturbed() -> None:
    """Look for no garbage before `begun`: next to nothing that is loaded at the start is."""
    gc.disable()


def begun() -> None:
    """What is there now stays: it is looked through this once, and later only what came since. With 10,000 GPUs in front looking
    through all of it takes 60 to 80 ms, in which no key is answered."""
    gc.collect()
    gc.freeze()
    gc.enable()


def ended() -> None:
    """Let Python clear away everything when it ends: libraries complain of what is left."""
    gc.enable()
    gc.unfreeze()


def spare() -> None:
    """Settle it, before the first rows are read; where the C library is another one it stays as it is."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
