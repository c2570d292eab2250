"""Compute on CPUs: its times hold whatever else the scheduler ran meanwhile, so that some of what they show is chance."""

from __future__ import annotations

from typing import Final

from .detector import Reader
from .self_time import SelfTime

SHARED: Final = "the ranks compute on CPUs, and whose turn it is there looks like uneven work"


def on_cpus(reader: Reader, times: SelfTime) -> bool:
    """Whether compute times come from CPUs: steps tell of compute and communication, and of no device busy with them."""
    if times.table != "steps":
        return False
    told = reader.query(
        "SELECT 1 FROM steps WHERE job = ? AND scope = 'step' AND compute_ns IS NOT NULL AND communication_ns IS NOT NULL "
        "AND busy_ns IS NULL LIMIT 1",
        (times.job,),
    )
    found: int = told.num_rows
    return found > 0
