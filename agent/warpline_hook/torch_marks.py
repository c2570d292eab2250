"""Marks of a PyTorch program: its optimizers by torch's own hooks, its backward passes and data loaders by a wrapper each.

torch is never imported here: `attach` is handed its modules when the program has imported them. What it does not find there is
left out. Where a program is compiled the marks are not in it: the compiler follows every call that it meets, and a mark would
break its graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, Final

from . import profiler_marks
from .recorder import Recorder

Current = Callable[[], Recorder]
"""The recorder of the calling process: a fork has another one."""
Compiling = Callable[[], bool]
"""Whether the compiler is following the call."""
TORCH: Final = "torch"
DATA_LOADER: Final = "torch.utils.data.dataloader"


def attach(module: ModuleType, current: Current) -> None:
    """Set marks in PyTorch once all of it is there, and in its data loaders, which may come later."""
    torch = sys.modules[TORCH]
    if module is not torch and getattr(torch.__spec__, "_initializing", False):
        return  # it is looked at again with the whole
    current()
    compiling: Compiling = getattr(getattr(torch, "compiler", None), "is_compiling", _never)
    loader = sys.modules.get(DATA_LOADER)
    if module is torch:
        _optimizers(sys.modules["torch.optim.optimizer"], current, compiling)
        _backward_passes(sys.modules["torch.autograd"], current, compiling)
        profiler_marks.attach(sys.modules.get(profiler_marks.MODULE))
    if loader is not None:
        _data_loaders(loader, current, compiling)


def _never() -> bool:
    return False


def _optimizers(module: ModuleType, current: Current, compiling: Compiling) -> None:
    """Every optimizer of the process, by the global hooks of torch 2.0 and later."""

    def begins(optimizer: Any, given: Any, named: Any) -> None:
        if not compiling():
            current().optimizer_enter()

    def ended(optimizer: Any, given: Any, named: Any) -> None:
        if not compiling():
            current().optimizer_leave(id(optimizer), lambda: computes_on_cpu(optimizer))

    module.register_optimizer_step_pre_hook(begins)
    module.register_optimizer_step_post_hook(ended)


def _backward_passes(module: ModuleType, current: Current, compiling: Compiling) -> None:
    """`torch.autograd.backward`, to which every `Tensor.backward` comes."""
    original = module.backward

    @wraps(original)
    def backward(*given: Any, **named: Any) -> Any:
        if compiling():
            return original(*given, **named)
        recorder = current()
        recorder.backward_enter()
        try:
            return original(*given, **named)
        finally:
            recorder.backward_leave()

    module.backward = backward  # type: ignore[attr-defined]


def _data_loaders(module: ModuleType, current: Current, compiling: Compiling) -> None:
    """The iterators of `DataLoader`, in the process that trains; worker processes do not pass here."""
    original = module._BaseDataLoaderIter.__next__

    @wraps(original)
    def following(iterator: Any) -> Any:
        if compiling():
            return original(iterator)
        recorder = current()
        recorder.data_enter()
        try:
            return original(iterator)
        finally:
            recorder.data_leave()

    module._BaseDataLoaderIter.__next__ = following


def computes_on_cpu(optimizer: Any) -> bool:
    """Whether the parameters lie on the CPU, in a process that has no GPU open (else they were moved off one)."""
    first = next((each for group in optimizer.param_groups for each in group["params"]), None)
    if first is None or first.device.type != "cpu":
        return False
    gpu = sys.modules.get("torch.cuda")
    return gpu is None or not gpu.is_initialized()
