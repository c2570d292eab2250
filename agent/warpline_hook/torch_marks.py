"""Marks of a PyTorch program: its optimizers by torch's own hooks, its backward passes and data loaders by a wrapper each.

torch is never imported here: `attach` is handed its modules when the program has imported them. What it does not find there is
left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from .recorder import Recorder

Current = Callable[[], Recorder]
"""The recorder of the calling process: a fork has another one."""


def attach(module: ModuleType, current: Current) -> None:
    """Set marks in one of the modules of PyTorch that `start` waits for."""
    current()
    {
        "torch.optim.optimizer": _optimizers,
        "torch.autograd": _backward_passes,
        "torch.utils.data.dataloader": _data_loaders,
    }[module.__name__](module, current)


def _optimizers(module: ModuleType, current: Current) -> None:
    """Every optimizer of the process, by the global hooks of torch 2.0 and later."""

    def begins(optimizer: Any, given: Any, named: Any) -> None:
        current().optimizer_enter()

    def ended(optimizer: Any, given: Any, named: Any) -> None:
        current().optimizer_leave(id(optimizer), lambda: computes_on_cpu(optimizer))

    module.register_optimizer_step_pre_hook(begins)
    module.register_optimizer_step_post_hook(ended)


def _backward_passes(module: ModuleType, current: Current) -> None:
    """`torch.autograd.backward`, to which every `Tensor.backward` comes."""
    original = module.backward

    @wraps(original)
    def backward(*given: Any, **named: Any) -> Any:
        recorder = current()
        recorder.backward_enter()
        try:
            return original(*given, **named)
        finally:
            recorder.backward_leave()

    module.backward = backward  # type: ignore[attr-defined]


def _data_loaders(module: ModuleType, current: Current) -> None:
    """The iterators of `DataLoader`, in the process that trains; worker processes do not pass here."""
    original = module._BaseDataLoaderIter.__next__

    @wraps(original)
    def following(iterator: Any) -> Any:
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
