"""The native library of this installation: where it lies, how a command gets it, and what Python tells it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARY: Final = "libwarpline_hook.so"
INJECTION: Final = "CUDA_INJECTION64_PATH"
"""Read by the CUDA driver when a process initialises it; there is room for one library."""
PLUGIN: Final = "NCCL_PROFILER_PLUGIN"
"""Read by NCCL 2.23 and later; one as well."""
CHAIN: Final = "WARPLINE_CHAIN_INJECTION"
"""An injection of another tool, which this library loads in its own place and leaves CUPTI to."""
HOLD: Final = "WARPLINE_HOLD_CUPTI"
"""Where it is 1 the library keeps CUPTI's one place for a subscriber, which PyTorch from HOLD_FROM on leaves free where it is
asked to."""
HOLD_FROM: Final = (2, 7)


def library() -> Path | None:
    """The library that CUDA and NCCL are to load; None where it was not compiled."""
    found = Path(__file__).with_name(LIBRARY)
    return found if found.is_file() else None


def capture_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a command needs in its environment, beside what it has, to be captured.

    A tool that has taken one of the places keeps it, and a place set to nothing stays empty.
    """
    found = library()
    if found is None:
        return {}
    wanted = {INJECTION: str(found), PLUGIN: str(found)}
    if environment.get(CHAIN) and environment.get(CHAIN) == environment.get(INJECTION):
        return {INJECTION: str(found)} | {name: value for name, value in wanted.items() if name not in environment}
    if INJECTION not in environment:
        # PyTorch must not take CUPTI down after a profile while others use it.
        wanted["TEARDOWN_CUPTI"] = "0"
        if _torch_version() >= HOLD_FROM:
            wanted |= {"KINETO_USE_DAEMON": "1", HOLD: "1"}
    return {name: value for name, value in wanted.items() if name not in environment}


def places_taken(environment: Mapping[str, str]) -> dict[str, str]:
    """Places for a library that the given environment gives to other tools, and what is not captured for it."""
    found = {INJECTION: "kernels", PLUGIN: "collective operations"}
    own = library()
    taken = {name: what for name, what in found.items() if environment.get(name, "") not in ("", str(own))}
    if environment.get(INJECTION) == environment.get(CHAIN):
        taken.pop(INJECTION, None)
    return taken


def _torch_version() -> tuple[int, ...]:
    """Of the PyTorch beside this package; () where there is none."""
    from importlib.metadata import PackageNotFoundError, version  # heavy, and only a launcher asks

    try:
        return tuple(int(part) for part in version("torch").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()


class Loaded:
    """The library in this process, once CUDA or NCCL has loaded it; every call but the last returns at once."""

    def __init__(self, calls: ctypes.PyDLL, waiting: ctypes.CDLL) -> None:
        """The same library twice: as called with the interpreter's lock held, and without."""
        self._step = calls.warpline_step
        self._step.argtypes, self._step.restype = [ctypes.c_uint64], None
        self._profiler = calls.warpline_profiler
        self._profiler.argtypes, self._profiler.restype = [ctypes.c_int], None

        self._end = waiting.warpline_end
        self._end.argtypes, self._end.restype = [], None

    def step(self, number: int) -> None:
        """Step `number` begins."""
        self._step(number)

    def profiler(self, running: bool) -> None:
        """The user's own profiler is about to begin, or has ended."""
        self._profiler(int(running))

    def end(self) -> None:
        """The interpreter is about to end: the last records are taken now, while nothing of it is gone (2 s at most)."""
        self._end()


def loaded() -> Loaded | None:
    """The library if this process has it; never loads it."""
    path = library()
    try:
        mode = os.RTLD_NOLOAD | os.RTLD_NOW
        return None if path is None else Loaded(ctypes.PyDLL(str(path), mode=mode), ctypes.CDLL(str(path), mode=mode))
    except (OSError, AttributeError):  # the one that is loaded is of another version
        return None
