"""A cheap look at all compute phases of a pipeline at once: in which of them does any rank stand out at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .detector import Reader, literal
from .jobs import WINDOW_STEPS
from .robust import EXCESS_GATE, windows
from .self_time import SELF_KINDS
from .slow_compute import WINDOW_MIN

PHASES_MAX: Final = 6
"""Compute phases of a job that are looked at, those that take most time."""
SCREEN_GATE: Final = EXCESS_GATE / 2
"""A phase is worth comparing step by step when some rank's mean is so much above its stage's median."""


@dataclass(frozen=True)
class Screened:
    """The phases that take most time, longest first, with the largest excess of a rank's mean over its stage's median in each.

    Over the whole window or its newest half, quarter and so on, whichever is largest: the windows of `slow_members`. `peers` is
    how many ranks of one stage were told of, `steps` the length of the window.
    """

    excess: dict[str, float]
    peers: int
    steps: int

    @property
    def standing_out(self) -> list[str]:
        """Phases worth comparing step by step."""
        return [phase for phase, excess in self.excess.items() if excess >= SCREEN_GATE]


def piped_jobs(reader: Reader) -> list[str]:
    """Jobs of two and more pipeline stages that name their compute phases."""
    rows = reader.query(
        "SELECT job FROM phases WHERE job IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL AND duration_ns IS NOT NULL AND "
        f"kind IN {SELF_KINDS} GROUP BY job HAVING min(pp) < max(pp) ORDER BY job"
    )
    return [row["job"] for row in rows.to_pylist()]


def screen(reader: Reader, job: str) -> Screened:
    """The compute phases of a job that `piped_jobs` names."""
    condition = (
        f"FROM phases WHERE job = {literal(job)} AND rank IS NOT NULL AND step IS NOT NULL AND duration_ns IS NOT NULL AND "
        f"kind IN {SELF_KINDS}"
    )
    told = (
        reader.query(f"SELECT DISTINCT step {condition} ORDER BY step DESC LIMIT {WINDOW_STEPS}")
        .column("step")
        .to_pylist()
    )
    steps = sorted(told)
    firsts = [steps[start] for start in windows(len(steps), WINDOW_MIN)]
    means = ", ".join(f"avg(duration_ns) FILTER (step >= {first}) AS mean{at}" for at, first in enumerate(firsts))
    ratios = ", ".join(f"mean{at} / median(mean{at}) OVER (PARTITION BY phase, pp, ep)" for at in range(len(firsts)))
    rows = reader.query(
        f"SELECT phase, max(excess) AS excess, max(peers) AS peers FROM (SELECT phase, total, greatest({ratios}) - 1 AS excess, "
        f"count(*) OVER (PARTITION BY phase, pp, ep) AS peers FROM (SELECT phase, "
        f"rank, max(pp) AS pp, max(ep) AS ep, sum(duration_ns) AS total, {means} {condition} AND step >= {steps[0]} "
        f"GROUP BY phase, rank)) GROUP BY phase ORDER BY sum(total) DESC, phase LIMIT {PHASES_MAX}"
    )
    found = rows.to_pylist()
    excess = {row["phase"]: row["excess"] or 0.0 for row in found}
    return Screened(excess, max(row["peers"] for row in found), len(steps))
