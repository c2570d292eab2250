"""What is usual for a rank: its steps, phases, kernels and collectives by step, against which one of them is held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from ..view import Ask
from .timeline_sql import UNTIMED, Window

STEPS_MAX: Final = 64
"""Steps up to the end of the span that is looked at."""
BEFORE_NS: Final = 86_400 * 10**9
"""Steps that lie farther back say nothing of what is usual."""
ROUND_NS: Final = 60 * 10**9
ROWS_MAX: Final = 20_000
SECONDS: Final = 3.0
"""What is usual is asked so rarely while the same steps are looked at."""
Key = tuple[str, str]


@dataclass(frozen=True)
class Had:
    """What one step had of one thing: how often, how long altogether, and the median of one."""

    count: int
    sum_ns: int
    one_ns: float | None


@dataclass(frozen=True)
class Usual:
    """By (what, name) and step; `what` is step, idle, data, launch, phase, kernel or collective. `left_out` says that there was
    more than could be asked for."""

    had: dict[Key, dict[int, Had]] = field(default_factory=dict)
    left_out: bool = False

    def of(self, key: Key, step: int | None) -> Had | None:
        """What that step had."""
        return None if step is None else self.had.get(key, {}).get(step)

    def others(self, key: Key, step: int | None) -> list[Had]:
        """What the other steps had."""
        return [each for at, each in self.had.get(key, {}).items() if at != step]

    def median_sum(self, key: Key, step: int | None) -> tuple[float, int] | None:
        """Median over the other steps of what they had altogether, and how many these are; None where there are none."""
        others = self.others(key, step)
        return (median(each.sum_ns for each in others), len(others)) if others else None

    def median_one(self, key: Key, step: int | None) -> tuple[float, int] | None:
        """Median over the other steps of the median of one."""
        told = [each.one_ns for each in self.others(key, step) if each.one_ns is not None]
        return (median(told), len(told)) if told else None

    def kernels(self, step: int | None) -> list[tuple[str, Had]]:
        """Kernels of a step, those with most time first."""
        found = (
            [(name, by[step]) for (what, name), by in self.had.items() if what == "kernel" and step in by]
            if step is not None
            else []
        )
        return sorted(found, key=lambda one: -one[1].sum_ns)


def usual(ask: Ask, window: Window) -> Usual:
    """Ask for it."""
    sql = f"""SELECT arg_max(step, start_ns) AS last, min(start_ns) AS first_ns FROM (
    SELECT step, start_ns FROM steps
    WHERE {window.who} AND step IS NOT NULL AND start_ns BETWEEN {window.start_ns - BEFORE_NS} AND {window.end_ns}{window.there()}
    ORDER BY start_ns DESC LIMIT {STEPS_MAX}
)"""
    newest = ask.rows(sql, 1.0).to_pylist()[0]
    if newest["last"] is None:
        return Usual()
    asked = _questions(window, newest["last"], newest["first_ns"])
    rows = [row for sql in asked for row in ask.rows(sql, SECONDS).to_pylist()]
    return Usual(_by_key(rows), any(row["rows"] > ROWS_MAX for row in rows))


def _questions(window: Window, last: int, first_ns: int) -> Iterable[str]:
    """Steps and time are rounded, so that the same words are asked for a while."""
    last = -(-last // 8) * 8
    first_ns = first_ns // ROUND_NS * ROUND_NS
    mine = (
        f"{window.who} AND step > {last - STEPS_MAX - 8} AND step <= {last} AND start_ns >= {first_ns}{window.there()}"
    )
    columns = "what, name, step, count, sum_ns, one_ns, count(*) OVER () AS rows"
    yield f"""SELECT {columns} FROM (
    UNPIVOT (
        SELECT step, duration_ns AS step_ns, idle_ns, data_wait_ns AS data_ns, launch_gap_p50_ns AS launch_ns FROM steps
        WHERE {mine} AND scope = 'step'
    ) ON step_ns, idle_ns, data_ns, launch_ns INTO NAME named VALUE sum_ns
), LATERAL (SELECT replace(named, '_ns', '') AS what, '' AS name, 1 AS count, sum_ns::DOUBLE AS one_ns) LIMIT {ROWS_MAX}"""
    yield f"""SELECT {columns} FROM (
    SELECT 'phase' AS what, phase AS name, step, count(*) AS count, sum(duration_ns)::BIGINT AS sum_ns,
        median(duration_ns) AS one_ns
    FROM phases WHERE {mine} GROUP BY phase, step
) ORDER BY sum_ns DESC LIMIT {ROWS_MAX}"""
    yield f"""SELECT {columns} FROM (
    SELECT 'kernel' AS what, coalesce(any_value(kernel), 'kernel ' || kernel_id) AS name, step, sum(count)::BIGINT AS count,
        sum(sum_ns)::BIGINT AS sum_ns, sum(p50_ns * count) / sum(count) FILTER (p50_ns IS NOT NULL) AS one_ns
    FROM kernel_clusters LEFT JOIN (
        SELECT kernel_id, any_value(name) AS kernel FROM kernel_names
        WHERE kernel_id IN (SELECT kernel_id FROM kernel_clusters WHERE {mine}) GROUP BY kernel_id
    ) USING (kernel_id)
    WHERE {mine} GROUP BY kernel_id, step
) ORDER BY sum_ns DESC LIMIT {ROWS_MAX}"""
    yield f"""SELECT {columns} FROM (
    SELECT 'collective' AS what, operation || ' of ' || coalesce(group_name, communicator, '') AS name, step, count(*) AS count,
        sum(duration_ns)::BIGINT AS sum_ns, median(duration_ns) AS one_ns
    FROM collectives WHERE {mine} AND count IS NULL AND coalesce(timing, 'host') NOT IN {UNTIMED} GROUP BY ALL
) ORDER BY sum_ns DESC LIMIT {ROWS_MAX}"""


def _by_key(rows: Iterable[dict[str, Any]]) -> dict[Key, dict[int, Had]]:
    found: dict[Key, dict[int, Had]] = {}
    for row in rows:
        if row["step"] is not None and row["sum_ns"] is not None:
            had = Had(row["count"], row["sum_ns"], row["one_ns"])
            found.setdefault((row["what"], row["name"] or ""), {})[row["step"]] = had
    return found
