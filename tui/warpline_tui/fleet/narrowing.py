"""Which GPUs are left after a search: words that stand in their names, and conditions such as `power>500` or `state:idle`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from warpline_proto.config import nearest
from warpline_proto.errors import ConfigError

from ..views.fleet import Fleet
from .measures import STATES, states

Kept = npt.NDArray[np.bool_]
NUMBERS: Final = {
    "power": "power_watts",
    "activity": "busy_percent",
    "temp": "temperature_celsius",
    "clock": "clock_mhz",
    "link": "link_bytes",
    "gpu": "gpu",
}
TEXTS: Final = {"node": "node", "job": "job", "uuid": "gpu_uuid", "model": "gpu_name"}
HINT: Final = (
    "words of node, job, GPU or model; power>500, activity<5, temp>=80, gpu=3; job:NAME, state:idle, is:accused"
)
_CONDITION: Final = re.compile(r"([a-z]+)(>=|<=|>|<|=|:)(.+)")
_COMPARE: Final[dict[str, Callable[[Any, float], Kept]]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq, ":": operator.eq,
}  # fmt: skip


def narrowed(fleet: Fleet, words: str) -> Kept:
    """Which GPUs every word of `words` holds for; ConfigError where one cannot be understood."""
    kept: Kept = np.ones(len(fleet.gpus), np.bool_)
    for word in words.lower().split():
        found = _CONDITION.fullmatch(word)
        kept &= _named(fleet, word) if found is None else _holds(fleet, *found.groups())
    return kept


def _holds(fleet: Fleet, name: str, sign: str, wanted: str) -> Kept:
    if name in NUMBERS:
        return _COMPARE[sign](fleet.gpus.numbers(NUMBERS[name]), _number(name, wanted))
    if name in TEXTS:
        return _contains(fleet, TEXTS[name], wanted)
    if name == "state":
        numbers = [at for at, state in enumerate(STATES) if wanted in state]
        return np.isin(states(fleet), numbers)
    if name == "is" and "accused".startswith(wanted):
        accused: Kept = fleet.gpus.accused >= 0
        return accused
    raise ConfigError(f"{name}{sign}{wanted}: there is no {name!r}", nearest(name, [*NUMBERS, *TEXTS, "state", "is"]))


def _number(name: str, words: str) -> float:
    try:
        return float(words)
    except ValueError as error:
        raise ConfigError(f"{name}: {words!r} is no number") from error


def _named(fleet: Fleet, word: str) -> Kept:
    kept: Kept = np.zeros(len(fleet.gpus), np.bool_)
    for column in TEXTS.values():
        kept |= _contains(fleet, column, word)
    return kept


def _contains(fleet: Fleet, column: str, word: str) -> Kept:
    listed = fleet.gpus.texts(column)
    holds = {each: each is not None and word in each.lower() for each in set(listed)}
    return np.fromiter(map(holds.__getitem__, listed), np.bool_, len(listed))
