"""Which step of a job is its newest: a job that is started again under its name counts its steps from the beginning."""

from __future__ import annotations

from typing import Final

EPOCH_CLOCKS_NS: Final = 10**18
"""Starts beyond count from 1970: those of a live fleet. Clocks that count from elsewhere say nothing of which run is newer."""
RUN_NS: Final = 600 * 10**9
"""Where a rank told its highest number so long before its newest step, that was in an earlier run."""
ONGOING: Final = "(s.start_ns > runs.run_ns) IS NOT FALSE"
"""SQL: a row of STEPS is of the newest run of its job, or nothing says of which."""


def joined(table: str) -> str:
    """SQL: rows of `table`, which is called `s`, each with what `told` and `runs` say of its job and rank."""
    return f"""{table} JOIN told ON s.job IS NOT DISTINCT FROM told.job
    LEFT JOIN runs ON s.job = runs.job AND s.rank IS NOT DISTINCT FROM runs.rank"""


STEPS: Final = joined("steps s")


def later(start: str = "start_ns", step: str = "step") -> str:
    """SQL: a group of rows has a newest start so long after that of its highest number that there are two runs in it."""
    return f"max({start}) > greatest(arg_max({start}, {step}) + {RUN_NS}, {EPOCH_CLOCKS_NS})"


def told(of: str, table: str = "steps", step: str = "step", start: str = "start_ns") -> str:
    """SQL: the tables `told` and `runs` over rows of `table` for which `of` holds.

    `told` has the newest step of each job by number; `runs`, only of jobs that were started again, the newest `step` of the job
    by time, and of each rank `run_ns`, when it told the last step of an earlier run (of a rank that only an earlier one had, when
    the last of the others did). Each rank is held against itself: clocks of two nodes may differ.
    """
    again = later(start, step)
    return f"""told AS (
    SELECT job, max({step}) AS step, coalesce({again}, false) AS odd FROM {table} WHERE {of} GROUP BY job
), runs AS (
    SELECT job, rank, max(newest) FILTER (again) OVER jobs AS step,
        CASE WHEN again THEN most_ns ELSE max(most_ns) FILTER (again) OVER jobs END AS run_ns
    FROM (
        SELECT job, rank, arg_max({start}, {step}) AS most_ns, arg_max({step}, {start}) AS newest,
            coalesce({again}, false) AS again
        FROM {table} WHERE {of} AND job IN (SELECT job FROM told WHERE odd) GROUP BY job, rank
    ) WINDOW jobs AS (PARTITION BY job) QUALIFY bool_or(again) OVER jobs
)"""


def since(steps: int) -> str:
    """SQL: a row of STEPS is of the newest `steps` steps of its job, or of none.

    Numbers beyond those of a new run are of an earlier one.
    """
    ours = f"s.step <= runs.step + {steps} AND {ONGOING}"
    return f"(s.step IS NULL OR s.step > coalesce(runs.step, told.step) - {steps}) AND (runs.job IS NULL OR {ours})"
