"""At the start of an interpreter whose environment asks for it: waits for torch, and makes the recorder of the process."""

from __future__ import annotations

import os
import time

from .environment import name_run, switched_on
from .on_import import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing more than is needed is loaded at the start of every process
    from types import ModuleType

    from .recorder import Recorder

WAITED_FOR = ("torch", "torch.utils.data.dataloader")
"""Modules that are given marks once the program has imported them."""
_active = False
_current: Recorder | None = None


def activate() -> None:
    """Begin, once, where the environment asks for it; called by `warpline_hook.pth`, or by the first use of the package."""
    global _active
    if _active or not switched_on(os.environ):
        return
    _active = True
    name_run(os.environ, time.time_ns())
    when_imported(WAITED_FOR, _attach)
    os.register_at_fork(after_in_child=_anew)


def recorder() -> Recorder | None:
    """That of this process; None where the environment does not ask for one."""
    activate()
    return _running() if _active else None


def _attach(module: ModuleType) -> None:
    from .torch_marks import attach

    attach(module, _running)


def _running() -> Recorder:
    global _current
    if _current is None:
        from .recorder import Recorder

        _current = Recorder()
    return _current


def _anew() -> None:
    global _current
    if _current is not None:
        _current.leave_to_parent()
        _current = type(_current)()
