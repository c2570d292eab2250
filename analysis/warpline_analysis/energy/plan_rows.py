"""What a plan asks of the stored account and samples, and how it gets more rows than one answer may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa

from warpline_proto.power_tables import WINDOW_NS

from ..devices import KEY
from .floors import STORED_FLOORS
from .headroom import WATTS_STEP
from .signals import Reals
from .states import GAP_SECONDS_MAX

Ask = Callable[[str], pa.Table]
Question = Callable[[int, int], str]
"""From and to before, whole windows -> SQL."""
ROWS_MAX: Final = 20_000_000
"""Rows of one question in all, 1.5 GB; a longer time is planned in parts."""
POOLS: Final[Mapping[str, str]] = {
    "job": "job",
    "node": "coalesce(node, '?')",
    "user": '"user"',
    "model": "coalesce(gpu_name, '?')",
}
"""What a pool of interchangeable GPUs may be -> the expression that groups."""
_FLOORS: Final = f"SELECT gpu_name, watts AS floor_watts FROM ({STORED_FLOORS})"
_GPU: Final = "coalesce(node, '?') || ' ' || coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR))"
_ALONE: Final = "end_ns - start_ns <= seconds * 1e9 + 1e6"
"""One interval by itself: the sum of several that are kept no more takes longer from its beginning to its end than it lasts."""
_RUNNING: Final = "('execution_idle', 'low_unknown', 'busy_wait', 'spinning', 'active')"
_WORK: Final = "('busy_wait', 'spinning', 'active')"


def paged(ask: Ask, question: Question, start_ns: int, end_ns: int) -> pa.Table:
    """All rows of a question, asked by halves of the time where an answer comes cut short; ValueError beyond ROWS_MAX."""
    found = ask(question(start_ns, end_ns))
    if b"truncated" in (found.schema.metadata or {}):
        middle = start_ns + (end_ns - start_ns) // 2 // WINDOW_NS * WINDOW_NS
        if middle <= start_ns:
            raise ValueError("ten minutes hold more rows than one answer may: plan in the store itself (--store)")
        halves = [paged(ask, question, *each) for each in ((start_ns, middle), (middle, end_ns))]
        found = pa.concat_tables([each.replace_schema_metadata(None) for each in halves], promote_options="permissive")
    if len(found) > ROWS_MAX:
        raise ValueError(f"more than {ROWS_MAX:,} rows: plan a shorter time")
    return found


def real(found: pa.Table, name: str) -> Reals:
    """A column as floats, NaN for NULL."""
    values: Reals = found.column(name).cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False)
    return values


def totals(start_ns: int, end_ns: int) -> str:
    """One row: what was drawn in all, and by how many GPUs."""
    return f"""
SELECT coalesce(sum(joules), 0) AS joules, count(DISTINCT {_GPU}) AS gpus, min(start_ns) AS start_ns, max(end_ns) AS end_ns
FROM energy_states WHERE {_within(start_ns, end_ns)}"""


def wakes() -> str:
    """One row: how long work waited for clocks where the guard restored them."""
    return """
SELECT count(*) AS count, median(latency_ns) / 1e9 AS median_seconds, quantile_cont(latency_ns, 0.95) / 1e9 AS p95_seconds
FROM guard_actions WHERE action = 'restore' AND NOT coalesce(dry_run, false) AND latency_ns IS NOT NULL"""


def idle(start_ns: int, end_ns: int) -> str:
    """Pieces of low activity with a program, or without word on programs (`known` false); `alone`: not a sum of several."""
    return f"""
WITH floors AS ({_FLOORS})
SELECT {_GPU} AS gpu, start_ns, end_ns, state = 'execution_idle' AS known, {_ALONE} AS alone, joules,
  joules / nullif(seconds - unmeasured_seconds, 0) AS watts, floor_watts
FROM energy_states LEFT JOIN floors ON floors.gpu_name IS NOT DISTINCT FROM energy_states.gpu_name
WHERE {_within(start_ns, end_ns)} AND state IN ('execution_idle', 'low_unknown')"""


def pools(by: str) -> Question:
    """By pool, GPU model and window: GPUs with a program, their time and work, and how many worked at once at most."""

    def question(start_ns: int, end_ns: int) -> str:
        return f"""
WITH floors AS ({_FLOORS}),
pieces AS (
  SELECT {POOLS[by]} AS key, gpu_name, window_ns, {_GPU} AS gpu, start_ns, end_ns, seconds, joules,
    seconds - unmeasured_seconds AS measured, state IN {_WORK} AS work
  FROM energy_states WHERE {_within(start_ns, end_ns)} AND state IN {_RUNNING} AND {_ALONE}
    AND {POOLS[by]} IS NOT NULL
), changes AS (
  SELECT key, gpu_name, window_ns, start_ns AS at_ns, 1 AS change FROM pieces WHERE work
  UNION ALL SELECT key, gpu_name, window_ns, end_ns, -1 FROM pieces WHERE work
), working AS (
  SELECT key, gpu_name, window_ns, sum(change) OVER (PARTITION BY key, gpu_name, window_ns ORDER BY at_ns, change
    ROWS UNBOUNDED PRECEDING) AS together FROM changes
), most AS (SELECT key, gpu_name, window_ns, max(together) AS together FROM working GROUP BY ALL),
sums AS (
  SELECT key, gpu_name, window_ns, count(DISTINCT gpu) AS gpus, sum(seconds) AS seconds,
    coalesce(sum(seconds) FILTER (work), 0) AS busy_seconds, coalesce(sum(joules) FILTER (NOT work), 0) AS idle_joules,
    sum(joules) FILTER (NOT work) / nullif(sum(measured) FILTER (NOT work), 0) AS idle_watts
  FROM pieces GROUP BY ALL
)
SELECT sums.key || ' ' || coalesce(sums.gpu_name, '?') AS pool, sums.window_ns, gpus, sums.seconds, busy_seconds, idle_joules,
  idle_watts, coalesce(most.together, 0) AS together, floor_watts
FROM sums LEFT JOIN most ON most.key = sums.key AND most.window_ns = sums.window_ns
  AND most.gpu_name IS NOT DISTINCT FROM sums.gpu_name
LEFT JOIN floors ON floors.gpu_name IS NOT DISTINCT FROM sums.gpu_name"""

    return question


def powers(start_ns: int, end_ns: int) -> str:
    """Seconds by GPU model, limit and bin of power, and what an idle GPU of the model draws.

    Where several sources sampled a GPU, of the one with most readings of power; a sample holds until the next, GAP_SECONDS_MAX at
    most. `floor_watts` is the power in execution-idle, else of an empty GPU, over all that is stored.
    """
    return f"""
WITH floors AS ({_FLOORS}),
idle AS (
  SELECT gpu_name, sum(joules) / nullif(sum(seconds - unmeasured_seconds), 0) AS watts
  FROM energy_states WHERE state = 'execution_idle' AND joules IS NOT NULL GROUP BY gpu_name
), taken AS (
  SELECT {KEY} AS gpu, node, source, gpu_name, time_ns, power_watts, power_limit_watts FROM device_samples
  WHERE time_ns >= {start_ns} AND time_ns < {end_ns} AND {KEY} IS NOT NULL
), best AS (
  SELECT node, gpu, source, max(power_limit_watts) AS limit_watts FROM taken GROUP BY node, gpu, source
  QUALIFY row_number() OVER (PARTITION BY node, gpu ORDER BY count(power_watts) DESC, source) = 1
), held AS (
  SELECT taken.gpu_name, best.limit_watts, power_watts, (lead(time_ns) OVER (
    PARTITION BY taken.node, taken.gpu ORDER BY time_ns) - time_ns) / 1e9 AS seconds
  FROM taken JOIN best ON taken.gpu = best.gpu AND taken.node IS NOT DISTINCT FROM best.node
    AND taken.source IS NOT DISTINCT FROM best.source
  WHERE power_watts IS NOT NULL
)
SELECT held.gpu_name, limit_watts, coalesce(any_value(idle.watts), any_value(floor_watts)) AS floor_watts,
  CAST(round(power_watts / {WATTS_STEP}) AS INTEGER) AS bin, sum(seconds) AS seconds
FROM held LEFT JOIN idle ON idle.gpu_name IS NOT DISTINCT FROM held.gpu_name
LEFT JOIN floors ON floors.gpu_name IS NOT DISTINCT FROM held.gpu_name
WHERE seconds > 0 AND seconds <= {GAP_SECONDS_MAX} GROUP BY held.gpu_name, limit_watts, bin"""


def _within(start_ns: int, end_ns: int) -> str:
    return f"window_ns >= {start_ns} AND window_ns < {end_ns}"
