"""Since when a port shows what it shows: longer back than the window in which ports are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .detector import Reader
from .ports import PORTS, READINGS

HISTORY_SECONDS: Final = 24 * 3600
"""So far back it is looked at; ports are compared over a much shorter window."""
BEGUN_MIN: Final = 0.05
"""A counter began to grow within its history when at its knee it lies this part of its whole growth below an even one."""


def began(reader: Reader, place: str, counters: Sequence[str]) -> int | None:
    """When the first of these counters of one port (an SQL condition) became what it is; None where it was so all along.

    Codes and rates: since their last change. Counters: since the knee of their growth.
    """
    names = ", ".join(f"'{name}'" for name in counters)
    rows = reader.query(
        f"SELECT counter, time_ns, max(value) AS value {PORTS} AND {place} AND counter IN ({names}) AND time_ns >= (SELECT "
        f"max(time_ns) FROM link_counters WHERE {place}) - {HISTORY_SECONDS * 10**9} GROUP BY ALL ORDER BY counter, time_ns"
    )
    counter = np.array(rows.column("counter").to_pylist())
    times = rows.column("time_ns").to_numpy()
    values = rows.column("value").to_numpy().astype(np.float64)
    found = [
        int(times[mine][at])
        for name in counters
        if (mine := counter == name).any()
        and (at := (_last_change if name in READINGS else _knee)(times[mine], values[mine]))
    ]
    return min(found, default=None)


def _last_change(times: Any, values: Any) -> int:
    """Index of the first reading with the newest value; 0 where it never was another."""
    changes = np.flatnonzero(np.diff(values))
    return int(changes[-1]) + 1 if len(changes) else 0


def _knee(times: Any, values: Any) -> int:
    """Index of the first reading after the one that lies farthest below even growth from the first to the last (a cumulative sum
    against its mean: Page 1954); 0 where growth is even. What a counter shows after a reset counts from zero."""
    steps = np.diff(values)
    grown = np.concatenate([[0.0], np.cumsum(np.where(steps < 0, values[1:], steps))])
    if len(times) < 2 or grown[-1] <= 0:
        return 0
    even = grown[-1] * (times - times[0]) / (times[-1] - times[0])
    lowest = int(np.argmin(grown - even))
    return lowest + 1 if even[lowest] - grown[lowest] >= BEGUN_MIN * grown[-1] else 0
