"""What the NVML child is told to read: plain data that travels as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

ALL_LINKS: Final = 2**32 - 1
"""Scope of a field value: the sum over all NVLinks."""


@dataclass(frozen=True)
class Way:
    """One way to get a value: the sum of field values, a function of pynvml, or a GPM metric; `scale` makes it the column's unit.

    `fields` are (field id, scope) pairs, all read in one batch per device. `part` names the member of what a function
    returns; `processes` says that it returns processes: their number is the value, who they are is told beside it. `also` are
    columns with a fixed text that hold when this way was taken.
    """

    fields: tuple[tuple[int, int], ...] = ()
    call: str = ""
    arguments: tuple[int, ...] = ()
    part: str = ""
    gpm: int = 0
    scale: float = 1
    also: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Counter:
    """One column, how often it is read, and the ways to get it, best first: the first that the device offers is kept.

    A column called `pcie:NAME` becomes the counter NAME of a PCIe link. One that is dear to read may be read `sooner`, once a
    period, when the column of that name has changed by `change` since it was last read.
    """

    column: str
    period_seconds: float
    ways: tuple[Way, ...]
    sooner: str = ""
    change: float = 0


@dataclass(frozen=True)
class Plan:
    """Everything the child needs: its counters, the length of a round, and the GPUs it must not touch."""

    counters: tuple[Counter, ...]
    round_seconds: float
    avoid: tuple[int, ...] = ()

    def to_line(self) -> bytes:
        """The plan as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def plan_from_line(line: bytes) -> Plan:
    """The plan back from its line."""
    plain: dict[str, Any] = json.loads(line)
    counters = tuple(
        Counter(**{**item, "ways": tuple(_way(way) for way in item["ways"])}) for item in plain["counters"]
    )
    return Plan(counters, plain["round_seconds"], tuple(plain["avoid"]))


def field(*ids: int, scale: float = 1, scope: int = 0, **also: str) -> Way:
    """The sum of field values of one scope."""
    return Way(fields=tuple((each, scope) for each in ids), scale=scale, also=tuple(also.items()))


def call(name: str, *arguments: int, part: str = "", scale: float = 1, **also: str) -> Way:
    """What a function of pynvml returns for the device and `arguments`."""
    return Way(call=name, arguments=arguments, part=part, scale=scale, also=tuple(also.items()))


def gpm(metric: int, scale: float = 1) -> Way:
    """A GPM metric: the mean since the last time it was read."""
    return Way(gpm=metric, scale=scale)


def counter(column: str, period_seconds: float, *ways: Way, sooner: str = "", change: float = 0) -> Counter:
    """One line of a table of counters."""
    return Counter(column, period_seconds, ways, sooner, change)


def _way(plain: dict[str, Any]) -> Way:
    pairs = {name: tuple((pair[0], pair[1]) for pair in plain[name]) for name in ("fields", "also")}
    return Way(**{**plain, **pairs, "arguments": tuple(plain["arguments"])})
