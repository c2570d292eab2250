"""Tells the native library when the user's own profiler begins and ends: it has CUPTI for itself, always."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from .library import loaded

MODULE: Final = "torch.autograd.profiler"


def attach(module: Any) -> None:
    """Set marks where a profile is prepared (which is when it takes CUPTI), begun and ended; what is not there is left out."""
    _mark(getattr(module, "profile", None), "_prepare_trace", _begins)
    _mark(module, "_run_on_profiler_start", _begins)
    _mark(module, "_run_on_profiler_stop", _ended)


def _mark(owner: Any, name: str, tell: Callable[[], None]) -> None:
    original = getattr(owner, name, None)
    if original is None:
        return

    @wraps(original)
    def marked(*given: Any, **named: Any) -> Any:
        tell()
        return original(*given, **named)

    setattr(owner, name, marked)


def _begins() -> None:
    if library := loaded():
        library.profiler(True)


def _ended() -> None:
    if library := loaded():
        library.profiler(False)
