"""The heap of this process: freed memory is kept for the next round, so that each one does not fault its pages in anew.

A step of kernels is worked on in some hundred arrays of half a megabyte. Given back to the system each time, their pages cost
half as much again as the work itself.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Freed bytes that stay with each thread's heap, and the largest piece that comes from it: twice what a 10 MB step takes."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed(kept_bytes: int = KEPT_BYTES, library: ctypes.CDLL | None = None) -> bool:
    """Whether the C library could be told; only GNU's knows of it, with any other things stay as they are."""
    try:
        tell = (library or ctypes.CDLL(None)).mallopt
    except AttributeError:
        return False
    return bool(tell(_M_TRIM_THRESHOLD, kept_bytes)) and bool(tell(_M_MMAP_THRESHOLD, kept_bytes))
