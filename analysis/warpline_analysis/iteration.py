"""Iteration time: how long each step of a job took, whoever was slow in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from .detector import Reader, literal
from .jobs import WINDOW_STEPS, by_job
from .remembered import once
from .rises import deviation
from .robust import Array

HISTORY_STEPS: Final = 1000
"""Newest steps whose iteration time is looked at ..."""
ROWS_MAX: Final = 4_000_000
"""... as far as so many rows of one job hold them, but never fewer than WINDOW_STEPS."""
GPU_WITHOUT_WORK: Final = "CASE WHEN busy_ns IS NOT NULL THEN greatest(duration_ns - busy_ns, 0) END"
"""Part of a step in which a rank's GPU has nothing to do, ns; NULL where its activity is not known."""


@dataclass(frozen=True)
class Iterations:
    """Iteration times of a job, oldest first: `seconds` is the median over the ranks that told of each of `steps`."""

    job: str
    ranks: int
    steps: npt.NDArray[np.int64]
    seconds: Array

    @property
    def typical(self) -> float:
        """Median iteration time, seconds; NaN where there is none."""
        return float(np.median(self.seconds)) if len(self.seconds) else float("nan")

    @property
    def jitter(self) -> float:
        """Standard deviation of the logarithm, from the quartiles: rare pauses do not count."""
        return deviation(np.log(self.seconds))


TOLD: Final = "scope = 'step' AND step IS NOT NULL AND duration_ns > 0"
"""Rows of table steps with an iteration time."""


def told_steps(job: str) -> str:
    """FROM and WHERE of the steps of a job with an iteration time; a single recorded process has no rank."""
    return f"FROM steps WHERE job = {literal(job)} AND {TOLD}"


@once
def jobs_with_steps(reader: Reader) -> list[str]:
    """Jobs that tell of steps at all."""
    rows = reader.query(
        "SELECT DISTINCT job FROM steps WHERE job IS NOT NULL AND scope = 'step' AND step IS NOT NULL ORDER BY job"
    )
    return [row["job"] for row in rows.to_pylist()]


def load_iterations(reader: Reader, job: str, steps_max: int = HISTORY_STEPS) -> Iterations:
    """The newest steps of a job."""
    whole = _every_job(reader).get(job)
    if whole is None:
        return Iterations(job, 1, np.empty(0, dtype=np.int64), np.empty(0))
    return replace(whole, steps=whole.steps[-steps_max:], seconds=whole.seconds[-steps_max:])


@once
def _every_job(reader: Reader) -> dict[str, Iterations]:
    """All jobs with one question: one job by itself costs as much as many."""
    rows = reader.query(
        f"WITH told AS (SELECT job, step, rank, duration_ns FROM steps WHERE job IS NOT NULL AND {TOLD}), counted AS (SELECT "
        "job, greatest(count(DISTINCT rank), 1) AS ranks FROM told GROUP BY job), firsts AS (SELECT job, any_value(ranks) AS "
        "ranks, min(step) AS first FROM (SELECT job, step, ranks FROM (SELECT DISTINCT job, step FROM told) JOIN counted "
        "USING (job) QUALIFY row_number() OVER (PARTITION BY job ORDER BY step DESC) <= "
        f"least({HISTORY_STEPS}, greatest({WINDOW_STEPS}, {ROWS_MAX} // ranks))) GROUP BY job) "
        "SELECT job, any_value(ranks) AS ranks, step, median(duration_ns) / 1e9 AS seconds FROM told JOIN firsts USING (job) "
        "WHERE step >= first GROUP BY job, step ORDER BY job, step"
    )
    return {
        job: Iterations(
            job,
            part.column("ranks")[0].as_py(),
            part.column("step").to_numpy().astype(np.int64),
            part.column("seconds").to_numpy().astype(np.float64),
        )
        for job, part in by_job(rows)
    }
