"""The ten-minute histories of readings, steps and kernels: made once a window is complete, again where rows of it came late.

A window is made from all its rows at once, and how many they were is kept with it: so a later start knows what is done, and
rows that were let go since never replace what was made of more of them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from warpline_analysis.parts import by_part
from warpline_proto.batch import Batch
from warpline_proto.errors import QueryError, WarplineError
from warpline_proto.history_tables import DEVICE_HISTORY, HISTORY_SECONDS, KERNELS_HISTORY, STEPS_HISTORY
from warpline_proto.table import Table
from warpline_proto.tables import DEVICE_SAMPLES, KERNEL_CLUSTERS, STEPS

from .passes import Passes
from .reader import CatalogReader, Query
from .schema import text
from .store import Store

SOURCE: Final = "history"
PERIOD_SECONDS: Final = 60.0
WINDOWS_MAX: Final = 32
"""Windows of one table made in one pass, the oldest first; what is left follows in the next."""
ROWS_MAX: Final = 500_000
"""About so many rows are looked at in one question; larger windows are asked for in shares."""
KERNEL_ROWS_MAX: Final = 20_000_000
"""The same for kernels, whose rows come down to one for each rank and kernel while they are read."""
LATE_SECONDS: Final = 900
"""The newest window of a table is made once it has been over for so long."""
WINDOW_NS: Final = HISTORY_SECONDS * 10**9
BEFORE_NS: Final = 60 * 10**9
"""The reading before the first of a window, from which its counter grew, is looked for so far back."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """What `table` is made into: `where` says which of its rows count, `sql` makes the rows of one window."""

    table: Table
    history: Table
    where: str
    sql: str
    share: str
    rows_max: int = ROWS_MAX


KINDS: Final = (
    Kind(
        DEVICE_SAMPLES,
        DEVICE_HISTORY,
        "time_ns > 0",
        """
WITH readings AS (
  SELECT *, coalesce(gpu_uuid, bus_id, CAST(gpu_index AS VARCHAR)) AS gpu, energy_joules - lag(energy_joules) OVER (
    PARTITION BY cluster, node, source, coalesce(gpu_uuid, bus_id, CAST(gpu_index AS VARCHAR)) ORDER BY time_ns
  ) AS growth FROM device_samples WHERE time_ns >= {start_ns} - {before_ns} AND time_ns < {end_ns} AND {share}
)
SELECT cluster, node, source, any_value(gpu_uuid) AS gpu_uuid, any_value(gpu_index) AS gpu_index,
  any_value(gpu_name) AS gpu_name, arg_max(job, time_ns) AS job, avg(power_watts) AS power_watts,
  max(power_watts) AS power_max_watts, sum(CASE WHEN growth >= 0 THEN growth ELSE energy_joules END)
  FILTER (growth IS NOT NULL) AS energy_joules, avg(gpu_utilization_percent) AS gpu_utilization_percent,
  avg(sm_active_percent) AS sm_active_percent, avg(sm_clock_mhz) AS sm_clock_mhz,
  max(temperature_celsius) AS temperature_celsius, max(memory_used_bytes) AS memory_used_bytes, count(*) AS samples
FROM readings WHERE time_ns >= {start_ns} GROUP BY cluster, node, source, gpu ORDER BY node, gpu""",
        "node",
    ),
    Kind(
        STEPS,
        STEPS_HISTORY,
        "start_ns > 0 AND scope IS DISTINCT FROM 'trace'",
        """
SELECT cluster, node, source, job, rank, any_value(dp) AS dp, any_value(tp) AS tp, any_value(pp) AS pp, any_value(ep) AS ep,
  any_value(gpu_uuid) AS gpu_uuid, any_value(device) AS device, clock, min(step) AS first_step, max(step) AS last_step,
  avg(duration_ns) AS duration_ns, min(duration_ns) AS min_ns, max(duration_ns) AS max_ns, avg(compute_ns) AS compute_ns,
  avg(communication_ns) AS communication_ns, avg(exposed_communication_ns) AS exposed_communication_ns,
  avg(idle_ns) AS idle_ns, avg(data_wait_ns) AS data_wait_ns, count(*) AS samples
FROM steps WHERE start_ns >= {start_ns} AND start_ns < {end_ns} AND scope IS DISTINCT FROM 'trace' AND {share}
GROUP BY cluster, node, source, job, rank, clock ORDER BY job, rank""",
        "job || CAST(rank AS VARCHAR)",
    ),
    Kind(
        KERNEL_CLUSTERS,
        KERNELS_HISTORY,
        "start_ns > 0 AND job IS NOT NULL AND rank IS NOT NULL",
        """
WITH each AS (
  SELECT cluster, job, kernel_id, rank, any_value(category) AS category, any_value(node) AS node, any_value(gpu_uuid) AS gpu_uuid,
    sum(count) AS kernels, sum(sum_ns) AS total_ns, sum(sum_ns) / nullif(sum(count), 0) AS mean_ns, count(*) AS samples
  FROM kernel_clusters
  WHERE start_ns >= {start_ns} AND start_ns < {end_ns} AND job IS NOT NULL AND rank IS NOT NULL AND {share}
  GROUP BY cluster, job, kernel_id, rank
)
SELECT cluster, job, kernel_id, any_value(category) AS category, TRY_CAST(sum(kernels) AS BIGINT) AS count,
  TRY_CAST(sum(total_ns) AS BIGINT) AS sum_ns, count(*) AS ranks, min(mean_ns) AS min_mean_ns, median(mean_ns) AS p50_mean_ns,
  max(mean_ns) AS max_mean_ns, arg_max(rank, mean_ns) AS slowest_rank, arg_max(node, mean_ns) AS slowest_node,
  arg_max(gpu_uuid, mean_ns) AS slowest_gpu_uuid, list(rank ORDER BY rank) AS rank_numbers,
  list(TRY_CAST(mean_ns AS BIGINT) ORDER BY rank) AS rank_means_ns, CAST(sum(samples) AS BIGINT) AS samples
FROM each GROUP BY cluster, job, kernel_id ORDER BY job, kernel_id""",
        "job || CAST(kernel_id AS VARCHAR)",
        KERNEL_ROWS_MAX,
    ),
)
HISTORY_OF: Final[Mapping[str, Kind]] = {kind.table.name: kind for kind in KINDS}


class History:
    """`start` and `close`, or `one_pass` by itself; `clock` gives nanoseconds since the epoch."""

    def __init__(self, store: Store, reader: CatalogReader, clock: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._reader = reader
        self._clock = clock
        self._done: dict[str, Counter[int]] = {}
        self._before: dict[str, Counter[int]] = {}
        self._updated_ns = 0
        self._passes = Passes("history", self._turn, reader.interrupt, lambda took: max(PERIOD_SECONDS, took))

    def start(self) -> None:
        """Begin with the passes, in a thread of their own."""
        self._passes.start()

    def close(self) -> None:
        """Stop the pass that runs, and let the thread end."""
        self._passes.close()

    def one_pass(self) -> int:
        """Make the windows of which no more rows came since the pass before; how many were. Durable when it returns."""
        return sum(self._pass(kind) for kind in KINDS)

    def _pass(self, kind: Kind) -> int:
        name = kind.table.name
        if name not in self._done:
            self._done[name] = self._remembered(kind)
        done, counts = self._done[name], self._counted(kind)
        before = self._before.get(name, Counter())
        newest = max(counts, default=0)
        due = sorted(
            window_ns
            for window_ns, count in counts.items()
            if count > done[window_ns] and count == before[window_ns] and self._over(window_ns, newest)
        )
        made = 0
        for window_ns in due[:WINDOWS_MAX]:
            if self._passes.stop.is_set():
                break
            if self._made(kind, window_ns, counts[window_ns]):
                done[window_ns] = counts[window_ns]
                made += 1
        self._before[name] = counts
        return made

    def _made(self, kind: Kind, window_ns: int, count: int) -> bool:
        """Whether the window could be made: one whose question fails is tried again, and holds no other up."""
        try:
            self._make(kind, window_ns, count)
        except QueryError as error:
            if not self._passes.stop.is_set():
                _LOG.error("%s at %d could not be made, and is tried again: %s", kind.history.name, window_ns, error)
            return False
        return True

    def _over(self, window_ns: int, newest: int) -> bool:
        return window_ns < newest or self._clock() >= window_ns + WINDOW_NS + LATE_SECONDS * 10**9

    def _counted(self, kind: Kind) -> Counter[int]:
        """Rows by window."""
        window = f"{kind.table.time} // {WINDOW_NS} * {WINDOW_NS} AS window_ns"
        sql = f"SELECT {window}, count(*) AS rows FROM {kind.table.name} WHERE {kind.where} GROUP BY ALL"
        counts: Counter[int] = Counter()
        for part in by_part(self._reader, kind.table.name, sql).values():
            for row in part.to_pylist():
                counts[row["window_ns"]] += row["rows"]
        return counts

    def _remembered(self, kind: Kind) -> Counter[int]:
        """Rows that each window was made of."""
        rows = self._reader.query(
            f"SELECT time_ns, updated_ns, CAST(sum(samples) AS BIGINT) AS rows FROM {kind.history.name} "
            "GROUP BY time_ns, updated_ns QUALIFY updated_ns = max(updated_ns) OVER (PARTITION BY time_ns)"
        ).to_pylist()
        self._updated_ns = max((row["updated_ns"] for row in rows), default=self._updated_ns)
        return Counter({row["time_ns"]: row["rows"] for row in rows})

    def _make(self, kind: Kind, window_ns: int, count: int) -> None:
        self._updated_ns = max(self._clock(), self._updated_ns + 1)  # the clock may stand still, or be set back
        shares = -(-count // kind.rows_max)
        found = []
        for share in range(shares):
            chosen = f"hash({kind.share}) % {shares} = {share}" if shares > 1 else "true"
            bounds = {"start_ns": window_ns, "end_ns": window_ns + WINDOW_NS, "before_ns": BEFORE_NS}
            found.append(self._reader.query(kind.sql.format(share=chosen, **bounds)))
        rows = pa.concat_tables(found).combine_chunks()
        columns = {name: rows.column(name) for name in rows.schema.names}
        columns |= {"time_ns": window_ns, "updated_ns": self._updated_ns}
        made = kind.history.from_columns(columns, length=rows.num_rows)
        self._store.write([Batch(kind.history.name, SOURCE, made)])

    def _turn(self) -> None:
        try:
            self.one_pass()
        except WarplineError as error:
            if not self._passes.stop.is_set():
                _LOG.error("the histories could not be made and are tried again: %s", error)


def windows_missing(connection: duckdb.DuckDBPyConnection, query: Query, path: Path, table: str) -> bool:
    """Whether `path`, a segment of `table`, has rows of a window of which no history was made yet."""
    kind = HISTORY_OF[table]
    window = f"{kind.table.time} // {WINDOW_NS} * {WINDOW_NS}"
    rows = connection.sql(
        f"SELECT DISTINCT {window} FROM read_parquet({text(str(path))}) WHERE {kind.where}"
    ).fetchall()
    windows = _whole(rows)
    if not windows:
        return False
    bounds = f"time_ns BETWEEN {min(windows)} AND {max(windows)}"
    made = query(f"SELECT DISTINCT time_ns FROM {kind.history.name} WHERE {bounds}").column("time_ns").to_pylist()
    return not windows <= set(made)


def _whole(rows: Sequence[Sequence[int]]) -> set[int]:
    return {row[0] for row in rows}
