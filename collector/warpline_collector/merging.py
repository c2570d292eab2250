"""The energy account by the hour: old intervals of one GPU, state, job and cause become one row whose sums are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from warpline_proto.power_tables import ENERGY_INTERVALS, FORGOTTEN_SECONDS, WINDOW_NS

from .schema import quoted
from .segments import Segment

HOUR_NS: Final = 3_600 * 10**9
_GPU: Final = "node, coalesce(gpu_uuid, CAST(gpu_index AS VARCHAR))"
_LENGTHS: Final = "CASE WHEN run_seconds >= 30 THEN 30 WHEN run_seconds >= 10 THEN 10 WHEN run_seconds >= 5 THEN 5 END"
"""Thresholds that reports ask runs by: rows on both sides of one stay apart."""
_SUMS: Final = {
    **{name: f"any_value({name})" for name in ("cluster", "source", "gpu_name", "updated_ns")},
    **{name: f"sum({name})" for name in ("seconds", "joules", "unmeasured_seconds", "error_joules")},
    **{name: f"sum({name})" for name in ("short_seconds", "short_joules")},
    **{name: "NULL" for name in ENERGY_INTERVALS.schema.names if name.startswith("before_")},
    "start_ns": "min(start_ns)",
    "end_ns": "max(end_ns)",
    "run_seconds": "min(run_seconds)",
    "continued": "false",
    "samples": "CAST(sum(samples) AS BIGINT)",
    "resets": "CAST(sum(resets) AS INTEGER)",
    "sm_clock_mhz": "sum(sm_clock_mhz * seconds) / sum(seconds) FILTER (sm_clock_mhz IS NOT NULL)",
    "window_ns": "hour_ns",
    "merged": "CAST(sum(coalesce(merged, 1)) AS BIGINT)",
}
_KEYS: Final = [name for name in ENERGY_INTERVALS.schema.names if name not in _SUMS]
"""What rows must have alike to become one: whatever is neither summed nor let go."""
_NEWEST: Final = f"""
CREATE OR REPLACE TEMP TABLE merging AS
SELECT *, window_ns // {HOUR_NS} * {HOUR_NS} AS hour_ns, {_LENGTHS} AS length,
  sum(CAST(NOT continued AS INTEGER)) OVER (PARTITION BY {_GPU}, state, merged IS NULL ORDER BY start_ns) AS run
FROM taken_rows QUALIFY updated_ns = max(updated_ns) OVER (PARTITION BY {_GPU}, window_ns, merged IS NULL)"""
_MERGED: Final = f"""
WITH told AS (
  SELECT * REPLACE (
    CASE WHEN state <> 'execution_idle' OR merged IS NOT NULL THEN cause
      WHEN sum(seconds) OVER whole >= {FORGOTTEN_SECONDS} THEN 'forgotten_session' ELSE max(cause) OVER whole END AS cause,
    max(updated_ns) OVER (PARTITION BY {_GPU}, hour_ns) AS updated_ns
  ) FROM merging WINDOW whole AS (PARTITION BY {_GPU}, state, run, merged IS NULL)
)
SELECT {", ".join(f"{_SUMS.get(name, quoted(name))} AS {quoted(name)}" for name in ENERGY_INTERVALS.schema.names)}
FROM told GROUP BY length, hour_ns, {", ".join(map(quoted, _KEYS))} ORDER BY window_ns, node, gpu_index"""


def is_merged(path: Path) -> bool:
    """Whether every row of a segment is merged already, by its footer; OSError or pyarrow.ArrowException if it is damaged."""
    with pq.ParquetFile(path) as file:
        at = file.schema_arrow.get_field_index("merged")
        groups = [file.metadata.row_group(number).column(at) for number in range(file.num_row_groups) if at >= 0]
    return at >= 0 and all(group.statistics is not None and group.statistics.null_count == 0 for group in groups)


def hours(rows: pa.Table) -> tuple[int, int]:
    """Start of the first hour that has rows which are not merged, and end of the last, ns; there is one such row."""
    unmerged = rows.filter(pc.is_null(rows.column("merged"))).column("window_ns")
    found = pc.min_max(unmerged).as_py()
    return found["min"] // HOUR_NS * HOUR_NS, found["max"] // HOUR_NS * HOUR_NS + HOUR_NS


def touching(segments: Iterable[Segment], start_ns: int, end_ns: int) -> Sequence[Segment]:
    """Segments that may have rows of windows from `start_ns` to before `end_ns`: a row starts within its window."""
    return [
        segment
        for segment in segments
        if segment.time_min_ns is None
        or segment.time_max_ns is None
        or (segment.time_min_ns < end_ns + WINDOW_NS and segment.time_max_ns >= start_ns - WINDOW_NS)
    ]


def merged(connection: duckdb.DuckDBPyConnection, rows: pa.Table, start_ns: int, end_ns: int) -> pa.Table:
    """The rows with those of windows from `start_ns` to before `end_ns` merged by the hour, and others as they are."""
    windows = rows.column("window_ns")
    chosen = pc.fill_null(pc.and_(pc.greater_equal(windows, start_ns), pc.less(windows, end_ns)), False)
    connection.register("taken_rows", rows.filter(chosen))
    try:
        connection.execute(_NEWEST)
        made = connection.sql(_MERGED).to_arrow_table().cast(ENERGY_INTERVALS.schema)
        connection.execute("DROP TABLE merging")
    finally:
        connection.unregister("taken_rows")
    return pa.concat_tables([made, rows.filter(pc.invert(chosen))]).combine_chunks()
