"""Where the native library of this installation lies, if it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LIBRARY: Final = "libwarpline_hook.so"


def library() -> Path | None:
    """The library that CUDA_INJECTION64_PATH and NCCL_PROFILER_PLUGIN name; None where it was not compiled."""
    found = Path(__file__).with_name(LIBRARY)
    return found if found.is_file() else None
