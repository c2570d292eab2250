"""What a GPU draws with no program on it, learned by model from GPUs that were empty; never typed in.

A context alone raises it: 50 W on an H100 (arXiv 2605.23918), so that only GPUs without a program say anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..detector import Reader
from .runs import Runs
from .signals import Gpu
from .states import State

EMPTY_SECONDS_MIN: Final = 30.0
"""A GPU that was empty for less has not come to rest: clocks and fans take their time."""

STORED_FLOORS: Final = f"""
SELECT gpu_name, median(watts) AS watts, count(*) AS gpus, sum(seconds) AS seconds FROM (
  SELECT gpu_name, node, coalesce(gpu_uuid, gpu_index::VARCHAR) AS gpu, sum(seconds - unmeasured_seconds) AS seconds,
    sum(joules) / nullif(sum(seconds - unmeasured_seconds), 0) AS watts
  FROM energy_intervals WHERE state = 'deep_idle' AND run_seconds >= {EMPTY_SECONDS_MIN} AND joules IS NOT NULL
  GROUP BY gpu_name, node, gpu) WHERE watts IS NOT NULL GROUP BY gpu_name"""


@dataclass(frozen=True)
class Floor:
    """Watts of an empty GPU of one model: median over GPUs, and how many GPUs and seconds tell it."""

    watts: float
    gpus: int
    seconds: float


def floors(gpus: Iterable[Gpu], found: Runs) -> dict[str | None, Floor]:
    """Floor by model, from runs without a program."""
    named = list(gpus)
    chosen = (found.state == State.DEEP_IDLE) & (found.run_seconds >= EMPTY_SECONDS_MIN) & ~np.isnan(found.joules)
    seen: dict[str | None, list[tuple[float, float]]] = {}
    for number in np.unique(found.gpu[chosen]).tolist():
        mine = chosen & (found.gpu == number)
        seconds = float(found.seconds[mine].sum() - found.unmeasured_seconds[mine].sum())
        if seconds > 0:
            seen.setdefault(named[number].name, []).append((float(found.joules[mine].sum()) / seconds, seconds))
    return {
        name: Floor(float(np.median([watts for watts, _ in each])), len(each), sum(seconds for _, seconds in each))
        for name, each in seen.items()
    }


def stored_floors(reader: Reader) -> dict[str | None, Floor]:
    """Floor by model, from the account of the past."""
    rows = reader.query(STORED_FLOORS).to_pylist()
    return {row["gpu_name"]: Floor(row["watts"], row["gpus"], row["seconds"]) for row in rows}


def watts(learned: Mapping[str | None, Floor]) -> dict[str | None, float]:
    """Watts by model alone."""
    return {name: floor.watts for name, floor in learned.items()}
