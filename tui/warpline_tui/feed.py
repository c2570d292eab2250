"""Asks for rows off the screen's thread and makes one frozen Snapshot of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from warpline_proto.errors import WarplineError
from warpline_proto.finding import OPEN, from_json

from .power import Prices
from .power_feed import PowerFeed
from .snapshot import NOTHING_CHOSEN, CaptureCost, Gpu, Incident, Kernel, Rank, RankKey, Snapshot, SourceState, Wanted

Query = Callable[[str], pa.Table]
"""SQL in, rows out; raises a WarplineError when it cannot."""

RECENT_SECONDS = 120
"""A GPU that was not heard of for so long before the newest reading is gone from the fleet."""
RECENT_STEPS = 64
"""Steps of each rank that its medians cover."""
ROWS_MAX = 2_000
KERNELS_MAX = 200
INCIDENTS_MAX = 200
COSTS_MAX = 3

GPUS = f"""
SELECT node, gpu_index, gpu_uuid, gpu_name, job, time_ns, power_watts, power_limit_watts,
       coalesce(sm_active_percent, gpu_utilization_percent) AS utilization_percent, sm_clock_mhz, temperature_celsius,
       memory_used_bytes, memory_total_bytes, resident_processes
FROM device_samples
WHERE time_ns IS NULL OR time_ns >= (SELECT max(time_ns) FROM device_samples) - {RECENT_SECONDS * 10**9}
QUALIFY row_number() OVER (PARTITION BY node, coalesce(gpu_uuid, gpu_index::VARCHAR) ORDER BY time_ns DESC) = 1
ORDER BY node, gpu_index LIMIT {ROWS_MAX}
"""
RANKS = f"""
WITH newest AS (SELECT job, max(step) AS last FROM steps GROUP BY job)
SELECT s.job, s.rank, any_value(s.node) AS node, any_value(s.pp) AS stage, any_value(s.dp) AS dp,
       max(s.step) AS step, count(*) AS steps, median(s.duration_ns) AS step_ns, median(s.compute_ns) AS compute_ns,
       median(s.communication_ns) AS communication_ns, median(s.idle_ns) AS idle_ns
FROM steps s JOIN newest n ON s.job IS NOT DISTINCT FROM n.job
WHERE s.step IS NULL OR s.step > n.last - {RECENT_STEPS}
GROUP BY s.job, s.rank ORDER BY s.job, s.rank LIMIT {ROWS_MAX}
"""
INCIDENTS = f"""
SELECT document, state, opened_ns, updated_ns FROM findings
QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1
ORDER BY updated_ns DESC LIMIT {INCIDENTS_MAX}
"""
SOURCES = f"""
SELECT node, source, subject, state, reason, time_ns, coalesce(dropped, 0) AS dropped FROM source_health
QUALIFY row_number() OVER (PARTITION BY node, source, subject ORDER BY time_ns DESC) = 1
ORDER BY state = 'fresh', node, source, subject LIMIT {ROWS_MAX}
"""

COSTS = f"""
WITH newest AS (
    SELECT * FROM capture_overhead QUALIFY row_number() OVER (PARTITION BY job, rank ORDER BY time_ns DESC) = 1
)
SELECT coalesce(job, '-') AS job, mode, overhead_percent, low_percent, high_percent, budget_percent, verdict FROM newest
QUALIFY row_number() OVER (PARTITION BY job ORDER BY overhead_percent DESC NULLS LAST, time_ns DESC) = 1
ORDER BY time_ns DESC LIMIT {COSTS_MAX}
"""


def kernels_of(key: RankKey) -> str:
    """SQL for the kernel table of one rank, largest total first. Order statistics are count-weighted over its clusters
    that have them."""
    job, rank = key
    escaped = (job or "").replace("'", "''")
    of_rank = "IS NULL" if rank is None else f"= {int(rank)}"
    return f"""
SELECT coalesce(n.name, 'kernel ' || c.kernel_id) AS name, any_value(c.category) AS category, sum(c.count)::BIGINT AS count,
       sum(c.sum_ns)::BIGINT AS sum_ns, min(c.min_ns) AS min_ns,
       (sum(c.p50_ns * c.count) / sum(c.count) FILTER (c.p50_ns IS NOT NULL))::DOUBLE AS p50_ns,
       max(c.p99_ns) AS p99_ns, max(c.max_ns) AS max_ns,
       (sum(c.sum_ns) / sum(sum(c.sum_ns)) OVER ())::DOUBLE AS share
FROM kernel_clusters c
LEFT JOIN (SELECT kernel_id, any_value(name) AS name FROM kernel_names GROUP BY kernel_id) n USING (kernel_id)
WHERE c.job = '{escaped}' AND c.rank {of_rank}
GROUP BY c.kernel_id, n.name ORDER BY sum_ns DESC LIMIT {KERNELS_MAX}
"""


class Feed:
    """Makes snapshots. `query` is called from whichever thread calls `take`; `clock` gives ns since the epoch.

    `prices` is None where no price is set.
    """

    def __init__(self, query: Query, clock: Callable[[], int] = time.time_ns, prices: Prices | None = None) -> None:
        self._query = query
        self._clock = clock
        self._power = PowerFeed(query, clock, prices)
        self._last = Snapshot()

    def take(self, wanted: Wanted = NOTHING_CHOSEN) -> Snapshot:
        """A new snapshot; when it cannot be had, the last one with the reason in `error`."""
        try:
            self._last = self._ask(wanted)
        except WarplineError as error:
            self._last = replace(self._last, taken_ns=self._clock(), error=str(error))
        return self._last

    def _ask(self, wanted: Wanted) -> Snapshot:
        gpus = tuple(_gpu(row) for row in self._query(GPUS).to_pylist())
        ranks = tuple(Rank(**row) for row in self._query(RANKS).to_pylist() if row["job"] is not None)
        incidents = tuple(filter(None, map(_incident, self._query(INCIDENTS).to_pylist())))
        chosen = wanted.rank if wanted.rank is not None else _worth_a_look(ranks, incidents)
        kernels = self._query(kernels_of(chosen)).to_pylist() if chosen is not None else []
        return Snapshot(
            taken_ns=self._clock(),
            newest_ns=max((gpu.time_ns for gpu in gpus if gpu.time_ns is not None), default=None),
            gpus=gpus,
            ranks=ranks,
            incidents=incidents,
            sources=tuple(SourceState(**_texts(row)) for row in self._query(SOURCES).to_pylist()),
            costs=tuple(CaptureCost(**row) for row in self._query(COSTS).to_pylist()),
            selected=chosen,
            kernels=tuple(Kernel(**row) for row in kernels),
            power=self._last.power if wanted.power_by is None else self._power.take(wanted.power_by),
        )


def _worth_a_look(ranks: tuple[Rank, ...], incidents: tuple[Incident, ...]) -> RankKey | None:
    """The rank that an open finding accuses, else the first."""
    accused = {
        (incident.finding.subject.job, incident.finding.subject.rank)
        for incident in incidents
        if incident.state == OPEN
    }
    keys = [rank.key for rank in ranks]
    return next((key for key in keys if key in accused), keys[0] if keys else None)


def _gpu(row: dict[str, Any]) -> Gpu:
    renamed = dict(row, index=row["gpu_index"], uuid=row["gpu_uuid"], name=row["gpu_name"], node=row["node"] or "-")
    for column in ("gpu_index", "gpu_uuid", "gpu_name"):
        del renamed[column]
    return Gpu(**renamed)


def _incident(row: dict[str, Any]) -> Incident | None:
    """None where another version wrote the finding in a form that this one cannot read: the others are shown."""
    try:
        finding = from_json(json.loads(str(row["document"])))
    except (KeyError, TypeError, ValueError):
        return None
    return Incident(
        finding=finding,
        state=str(row["state"]),
        opened_ns=row["opened_ns"],
        updated_ns=row["updated_ns"],
    )


def _texts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: ("" if value is None and key not in ("time_ns", "dropped") else value) for key, value in row.items()}
