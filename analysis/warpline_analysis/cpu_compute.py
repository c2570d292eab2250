"""Compute on CPUs: its times hold whatever else the scheduler ran meanwhile, so that some of what they show is chance.

By themselves they accuse nobody: a rank that is slow in them has to be the one that the others wait for, too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .arrivals import corroborate
from .detector import Reader
from .self_time import SelfTime
from .waits import load_waits

SHARED: Final = "the ranks compute on CPUs, and whose turn it is there looks like uneven work and stalls"


def on_cpus(reader: Reader, times: SelfTime) -> bool:
    """Whether compute times come from CPUs."""
    return times.table == "steps" and computes_on_cpus(reader, times.job)


def computes_on_cpus(reader: Reader, job: str) -> bool:
    """Whether a job's steps tell of compute and communication, and of no device busy with them."""
    told = reader.query(
        "SELECT 1 FROM steps WHERE job = ? AND scope = 'step' AND compute_ns IS NOT NULL AND communication_ns IS NOT NULL "
        "AND busy_ns IS NULL LIMIT 1",
        (job,),
    )
    found: int = told.num_rows
    return found > 0


def waited_for(reader: Reader, times: SelfTime, ranks: Collection[int]) -> bool:
    """Whether compute times of these ranks may accuse them: on CPUs only where the others wait for them."""
    return not on_cpus(reader, times) or corroborate(ranks, load_waits(reader, times.job)).agrees is True
