"""A cheap look at all compute phases of a pipeline at once: in which of them does any rank stand out at all?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from .detector import Reader, literal
from .jobs import WINDOW_STEPS
from .remembered import once
from .robust import SURE_GATE, windows
from .self_time import SELF_KINDS
from .slow_compute import WINDOW_MIN

PHASES_MAX: Final = 6
"""Compute phases of a job that are looked at, those that take most time."""
SCREEN_GATE: Final = SURE_GATE / 2
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
    return _every_job(reader)[job]


@once
def _every_job(reader: Reader) -> dict[str, Screened]:
    """All jobs with two questions: one job by itself costs as much as many."""
    told = f"job IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL AND duration_ns IS NOT NULL AND kind IN {SELF_KINDS}"
    newest = reader.query(
        f"SELECT job, list(step ORDER BY step) AS steps FROM (SELECT job, step FROM (SELECT DISTINCT job, step FROM phases WHERE "
        f"{told}) QUALIFY row_number() OVER (PARTITION BY job ORDER BY step DESC) <= {WINDOW_STEPS}) GROUP BY job"
    ).to_pylist()
    steps: dict[str, list[int]] = {row["job"]: row["steps"] for row in newest}
    if not steps:
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in reader.query(_excess_sql(steps, told)).to_pylist():
        found.setdefault(row["job"], []).append(row)
    return {
        job: Screened(
            {row["phase"]: row["excess"] or 0.0 for row in rows}, max(row["peers"] for row in rows), len(steps[job])
        )
        for job, rows in found.items()
    }


def _excess_sql(steps: dict[str, list[int]], told: str) -> str:
    """SELECT of the largest excess of each phase of each job, over windows of the job's newest `steps`."""
    firsts = {job: [own[start] for start in windows(len(own), WINDOW_MIN)] for job, own in steps.items()}
    count = max(map(len, firsts.values()))
    bounds = ", ".join(
        f"({', '.join([literal(job), *(str(own[at]) if at < len(own) else 'NULL' for at in range(count))])})"
        for job, own in sorted(firsts.items())
    )
    names = ", ".join(f"first{at}" for at in range(count))
    means = ", ".join(f"avg(duration_ns) FILTER (step >= first{at}) AS mean{at}" for at in range(count))
    ratios = ", ".join(f"mean{at} / median(mean{at}) OVER (PARTITION BY job, phase, pp, ep)" for at in range(count))
    return (
        f"SELECT job, phase, max(excess) AS excess, max(peers) AS peers FROM (SELECT job, phase, total, greatest({ratios}) - 1 "
        "AS excess, count(*) OVER (PARTITION BY job, phase, pp, ep) AS peers FROM (SELECT job, phase, rank, max(pp) AS pp, "
        f"max(ep) AS ep, sum(duration_ns) AS total, {means} FROM phases JOIN (VALUES {bounds}) AS newest(job, {names}) "
        f"USING (job) WHERE {told} AND step >= first0 GROUP BY job, phase, rank)) GROUP BY job, phase QUALIFY row_number() OVER "
        f"(PARTITION BY job ORDER BY sum(total) DESC, phase) <= {PHASES_MAX} ORDER BY job, sum(total) DESC, phase"
    )
