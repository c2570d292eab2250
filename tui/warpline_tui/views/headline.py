"""The headline of every screen: how many are watched, how many findings are open, how new the data is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from warpline_proto.finding import GRAVITY

from ..spans import settled
from ..view import Ask

RECENT_NS: Final = 120 * 10**9
"""A GPU that was not heard of for so long before the newest reading is not counted."""
RECENT_STEPS_NS: Final = 600 * 10**9
"""A rank whose newest step began so long before its job's newest is not counted."""
AHEAD_SECONDS: Final = 10
"""A reading from so much later than now is of a clock that is ahead: of its node, or else the viewer's is behind."""
NEAR_NS: Final = 600 * 10**9
"""So far back it is looked whose clock that is."""
NEAR_SECONDS: Final = 5.0
"""... and so rarely."""
ROUND_NS: Final = 60 * 10**9
"""What is asked for rarely is asked as of whole minutes, so that the same words are asked for a while."""
COUNTED_SECONDS: Final = 10.0
"""Counting goes through all that is recent: it is done so rarely."""


@dataclass(frozen=True)
class Headline:
    """Counts of what is watched, open findings by severity (the gravest first), and the time of the newest reading."""

    nodes: int = 0
    gpus: int = 0
    jobs: int = 0
    ranks: int = 0
    open: dict[str, int] = field(default_factory=dict)
    newest_ns: int | None = None


@dataclass(frozen=True)
class HeadlineView:
    """Asked beside every screen."""

    def take(self, ask: Ask) -> Headline:
        """Small questions each time, the counts now and then."""
        newest_ns = newest(ask)
        found = ask.rows(f"""
SELECT severity, count(*) AS open FROM (
    SELECT severity, state FROM findings WHERE {ask.until("updated_ns")}
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
) WHERE state = 'open' GROUP BY severity
""")
        by_severity = {str(row["severity"]): int(row["open"]) for row in found.to_pylist()}
        order = [str(severity) for severity in GRAVITY]
        gravest_first = sorted(by_severity, key=lambda each: order.index(each) if each in order else len(order))
        [counts] = ask.rows(_counts(ask, newest_ns), COUNTED_SECONDS).to_pylist()
        return Headline(**counts, open={each: by_severity[each] for each in gravest_first}, newest_ns=newest_ns)


def newest(ask: Ask, table: str = "device_samples") -> int | None:
    """Time of the newest reading of any GPU, or of the newest row of another table, ns.

    A few nodes whose clocks are ahead do not make all the others old: what they tell of later is passed over.
    """
    latest_ns: int | None = ask.rows(f"SELECT max(time_ns) AS newest FROM {table} WHERE {ask.until()}")["newest"][
        0
    ].as_py()
    bound_ns = settled(ask.now_ns, AHEAD_SECONDS) + AHEAD_SECONDS * 10**9
    if latest_ns is None or latest_ns <= bound_ns:
        return latest_ns
    sql = f"""
SELECT max(time_ns) FILTER (time_ns <= {bound_ns}) AS newest, count(DISTINCT node) AS nodes,
       count(DISTINCT node) FILTER (time_ns > {bound_ns}) AS ahead
FROM {table} WHERE time_ns > {bound_ns - NEAR_NS}
"""
    [near] = ask.rows(sql, NEAR_SECONDS).to_pylist()
    return latest_ns if near["newest"] is None or 2 * near["ahead"] > near["nodes"] else near["newest"]


def since(newest_ns: int | None, span_ns: int) -> str:
    """SQL: the reading is no older than `span_ns` before the newest, as of a whole minute; all are where none has a time."""
    return "TRUE" if newest_ns is None else f"time_ns >= {newest_ns // ROUND_NS * ROUND_NS - span_ns}"


def _counts(ask: Ask, newest_ns: int | None) -> str:
    return f"""
WITH gpus AS (
    SELECT DISTINCT coalesce(node, '-') AS node, coalesce(gpu_uuid, gpu_index::VARCHAR) AS gpu, job
    FROM device_samples WHERE (time_ns IS NULL OR {since(newest_ns, RECENT_NS)}) AND {ask.until()}
), last AS (
    SELECT job, least(max(start_ns), {settled(ask.now_ns, AHEAD_SECONDS)}) AS newest_ns FROM steps
    WHERE {ask.until("start_ns")} GROUP BY job
),
ranks AS (
    SELECT DISTINCT steps.job, steps.rank, steps.node FROM steps JOIN last USING (job)
    WHERE (start_ns IS NULL OR start_ns > newest_ns - {RECENT_STEPS_NS}) AND {ask.until("start_ns")}
), nodes AS (SELECT node FROM gpus UNION SELECT node FROM ranks WHERE node IS NOT NULL),
jobs AS (SELECT job FROM gpus WHERE job IS NOT NULL UNION SELECT job FROM ranks)
SELECT (SELECT count(*) FROM nodes) AS nodes, (SELECT count(DISTINCT (node, gpu)) FROM gpus) AS gpus,
       (SELECT count(*) FROM jobs) AS jobs, (SELECT count(DISTINCT (job, rank)) FROM ranks) AS ranks
"""
