"""Which step of a job is its newest: a job that is started again under its name counts its steps from the beginning."""

from __future__ import annotations

from typing import Final

EPOCH_CLOCKS_NS: Final = 10**18
"""Starts beyond count from 1970: those of a live fleet. Clocks that count from elsewhere say nothing of which run is newer."""
RUN_NS: Final = 600 * 10**9
"""Where a rank told its highest number so long before its newest step, that was in an earlier run."""


STEPS: Final = """steps s JOIN told ON s.job IS NOT DISTINCT FROM told.job
    LEFT JOIN runs ON s.job = runs.job AND s.rank IS NOT DISTINCT FROM runs.rank"""
"""SQL: rows of `steps` as `s`, each with what `told` says of its job."""


def told(of: str) -> str:
    """SQL: the tables `told` and `runs` over rows of `steps` for which `of` holds.

    `told` has the newest step of each job by number; `runs`, only of jobs that were started again, the newest `step` of the job
    by time, and of each rank `run_ns`, when it told the last step of an earlier run (NULL where it had none). Each rank is held
    against itself: clocks of two nodes may differ.
    """
    later = f"max(start_ns) > greatest(arg_max(start_ns, step) + {RUN_NS}, {EPOCH_CLOCKS_NS})"
    return f"""told AS (
    SELECT job, max(step) AS step, coalesce({later}, false) AS odd FROM steps WHERE {of} GROUP BY job
), runs AS (
    SELECT job, rank, max(newest) FILTER (again) OVER jobs AS step, CASE WHEN again THEN most_ns END AS run_ns FROM (
        SELECT job, rank, arg_max(start_ns, step) AS most_ns, arg_max(step, start_ns) AS newest, coalesce({later}, false) AS again
        FROM steps WHERE {of} AND job IN (SELECT job FROM told WHERE odd) GROUP BY job, rank
    ) WINDOW jobs AS (PARTITION BY job) QUALIFY bool_or(again) OVER jobs
)"""


def since(steps: int) -> str:
    """SQL: a row of STEPS is of the newest `steps` steps of its job, or of none.

    Numbers beyond those of a new run are of ranks that an earlier one had and it has not.
    """
    ours = f"s.step <= runs.step + {steps} AND (s.start_ns > runs.run_ns) IS NOT FALSE"
    return f"(s.step IS NULL OR s.step > coalesce(runs.step, told.step) - {steps}) AND (runs.job IS NULL OR {ours})"
