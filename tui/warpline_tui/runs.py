"""Which step of a job is its newest: a job that is started again under its name counts its steps from the beginning."""

from __future__ import annotations

from typing import Final

EPOCH_CLOCKS_NS: Final = 10**18
"""Starts beyond count from 1970: those of a live fleet. Clocks that count from elsewhere say nothing of which run is newer."""
RUN_NS: Final = 600 * 10**9
"""Where the highest number is of a step so long before the newest, it is of an earlier run."""


def last(of: str) -> str:
    """SQL: job, its newest `step`, and `run_ns`, before which an earlier run of it told steps (NULL where there was none), over
    rows of `steps` for which `of` holds."""
    again = f"at_ns > {EPOCH_CLOCKS_NS} AND most_ns < at_ns - {RUN_NS}"
    return f"""
    SELECT job, CASE WHEN {again} THEN newest ELSE most END AS step, CASE WHEN {again} THEN most_ns END AS run_ns FROM (
        SELECT job, max(step) AS most, arg_max(start_ns, step) AS most_ns, arg_max(step, start_ns) AS newest,
               max(start_ns) AS at_ns
        FROM steps WHERE {of} GROUP BY job
    )"""


def since(steps: int, last: str, rows: str) -> str:
    """SQL: a row of table `rows` is of the newest `steps` steps, as the table `last` has them, or of none.

    Some ranks of an earlier run may have begun its last step a little after the others: numbers beyond the new run's tell them.
    """
    ours = f"{rows}.start_ns > {last}.run_ns AND {rows}.step <= {last}.step + {steps}"
    return (
        f"({rows}.step IS NULL OR {rows}.step > {last}.step - {steps})"
        f" AND ({last}.run_ns IS NULL OR {rows}.start_ns IS NULL OR {ours})"
    )
