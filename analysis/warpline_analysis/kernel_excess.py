"""By how much single kernels of a suspect take longer than its peers', and whether it is the backward pass alone that does.

A slow GPU slows forward and backward kernels alike. Which pass a kernel belongs to is known by its name, where that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .kernel_families import ARITHMETIC, MEMORY

BACKWARD: Final = re.compile(r"backward|bwd|dgrad|wgrad|(?<![a-z])bw(?![a-z])", re.IGNORECASE)
FORWARD: Final = re.compile(r"forward|fwd|fprop|(?<![a-z])fw(?![a-z])", re.IGNORECASE)
"""Names of kernels of either pass: PyTorch, FBGEMM and inductor write it out, FlashAttention and cuDNN abbreviate it."""
FORWARD_SHARE: Final = 0.4
"""Forward kernels take longer certainly by less than this part of what backward kernels do, or it is no matter of one pass."""
SLOW_SHARE: Final = 0.5
"""Part of the time in backward kernels that slow ones make up at least."""
SEEN_SHARE: Final = 0.1
"""Forward kernels speak for their pass when they take at least this part of what the backward kernels take."""
SIGMAS: Final = 2.0
ERROR_FLOOR: Final = 0.01
"""No kernel's excess counts as known better than this: chips differ, and one kernel does not stand for a whole pass."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of the suspects beside its peers'.

    `excess` is of the mean per launch, `error` its standard error as the scatter over steps tells (NaN in fewer than three),
    `ratio` the Wasserstein distance over the peers' median, `tail_share` the part of it in the slowest tenth of launches,
    `seconds` what the peers spend in it in a step, `lost` what the suspects spend more.
    """

    name: str
    family: str
    excess: float
    error: float
    ratio: float
    tail_share: float
    seconds: float
    lost: float


def backward_alone(kernels: Sequence[Kernel], slow: Sequence[Kernel]) -> bool:
    """Whether backward kernels are slow while forward kernels that the same thing bounds are certainly not, or hardly.

    False where names do not tell the passes apart, or only for kernels of different bounds (memory, arithmetic).
    """
    passes = [
        [each for each in kernels if _only(each.name, *words)] for words in ((BACKWARD, FORWARD), (FORWARD, BACKWARD))
    ]
    shared = set.intersection(*({_bound(each) for each in one} for one in passes))
    back, ahead = ([each for each in one if _bound(each) in shared] for one in passes)
    whole = _seconds(back)
    if not whole or _seconds(ahead) < SEEN_SHARE * whole:
        return False
    if _seconds([each for each in back if each in slow]) < SLOW_SHARE * _seconds(passes[0]):
        return False
    longer, (even, error) = _pooled(back)[0], _pooled(ahead)
    return even + SIGMAS * error <= FORWARD_SHARE * longer


def _only(name: str, words: re.Pattern[str], others: re.Pattern[str]) -> bool:
    return bool(words.search(name)) and not others.search(name)


def _bound(kernel: Kernel) -> str:
    """What limits its speed, as far as its family tells."""
    known = (("arithmetic", ARITHMETIC), ("memory", MEMORY))
    return next((bound for bound, families in known if kernel.family in families), kernel.family)


def _seconds(kernels: Sequence[Kernel]) -> float:
    return sum(each.seconds for each in kernels)


def _pooled(kernels: Sequence[Kernel]) -> tuple[float, float]:
    """Excess of all together, the surest counting most, and its standard error; infinite where nothing is known."""
    weighted = [(each.excess, 1 / (each.error**2 + ERROR_FLOOR**2)) for each in kernels if not math.isnan(each.error)]
    total = sum(weight for _, weight in weighted)
    if not total:
        return 0.0, math.inf
    return sum(excess * weight for excess, weight in weighted) / total, math.sqrt(1 / total)
