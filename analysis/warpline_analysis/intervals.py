"""Low activity of GPUs as intervals: the definition of execution-idle, in SQL.

After "The Energy Cost of Execution-Idle in GPU Clusters" (Lei et al., 2026): a sample is low when every signal that the GPU
offers is low; a program must be resident; only runs without a break count. A state holds from its sample to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .detector import Reader, literal
from .devices import KEY, count_gpus

PERCENT_MAX: Final = 5.0
"""Compute and device memory are low below this."""
BYTES_PER_SECOND_MAX: Final = 1e9
"""PCIe and NVLink are low below this, each direction by itself."""
THRESHOLDS: Final = (1.0, 5.0, 10.0)
"""Seconds from which an interval counts, side by side; the definition is the one in the middle."""
DEFINED: Final = 1
GAP_SECONDS_MAX: Final = 2.0
"""Samples further apart break an interval, and nothing is claimed of the time between them."""
WINDOW_SECONDS: Final = 3600
"""Newest part of each GPU's samples that is looked at."""
WATCHED_MIN: Final = 256
"""So many GPUs, those with most samples that are not plainly active, are looked at closely however busy they are ..."""
CALM_SHARE: Final = 0.05
"""... and of the others those that may have been idle for this share of the time, by a count of such samples ..."""
CALM_SECONDS_MIN: Final = 60.0
"""... or were watched for less than this."""

_COMPUTE: Final = ("sm_active_percent", "tensor_active_percent", "fp64_active_percent", "fp32_active_percent",
                   "fp16_active_percent")  # fmt: skip
_LINKS: Final = ("pcie_tx", "pcie_rx", "nvlink_tx", "nvlink_rx")
_OFFERED: Final = {
    "SM, tensor and FP activity": f"coalesce({', '.join(_COMPUTE)})",
    "GPU utilisation": "gpu_utilization_percent",
    "device memory activity": "dram_active_percent",
    "PCIe rates": "pcie_rate",
    "NVLink rates": "nvlink_rate",
    "program residency": "resident_processes",
    "energy counter": "energy_joules",
}
"""What a reader of the result wants to know was measured -> the expression that is not NULL where it was."""


@dataclass(frozen=True)
class Idle:
    """One GPU over the window, in seconds and joules; tuples go by THRESHOLDS.

    `idle` is low time with a program known to be resident, `maybe` low time where residency is not known, `deep` time
    without a program; `period` the mean distance of samples; `blind` the share of samples without any compute signal.
    `missing` names signals the GPU never gave. Joules are None where neither energy nor power is known.
    """

    node: str | None
    gpu: str
    index: int | None
    name: str | None
    job: str | None
    observed: float
    period: float
    blind: float
    deep: float
    deep_watts: float | None
    idle: tuple[float, ...]
    maybe: tuple[float, ...]
    idle_joules: tuple[float | None, ...]
    intervals: int
    first_ns: int | None
    missing: tuple[str, ...]

    def shares(self, bound: str = "lower") -> tuple[float, ...]:
        """Idle over execution (idle and active; deep idle is none). `upper` takes unknown residency for resident."""
        running = self.observed - self.deep - (sum(self.maybe[:1]) if bound == "lower" else 0.0)
        extra = self.maybe if bound == "upper" else (0.0,) * len(self.idle)
        return tuple((a + b) / running if running > 0 else 0.0 for a, b in zip(self.idle, extra, strict=True))


def _rate(name: str) -> str:
    """The rate the device reports, else what its counter grew by since the sample before."""
    return (
        f"coalesce({name}_bytes_per_second, CASE WHEN {name}_bytes >= lag({name}_bytes) OVER ordered THEN "
        f"({name}_bytes - lag({name}_bytes) OVER ordered) * 1e9 / nullif(time_ns - lag(time_ns) OVER ordered, 0) END)"
    )


def intervals_sql(only: str = "") -> str:
    """SELECT of one row a run of samples of one GPU in one state: deep, low, maybe, active or blind.

    `only` restricts the rows of device_samples: AND and a condition.
    """
    pcie, nvlink = (f"greatest({_rate(_LINKS[at])}, {_rate(_LINKS[at + 1])})" for at in (0, 2))
    offered = ", ".join(
        f"bool_or({expression} IS NOT NULL) AS has_{at}" for at, expression in enumerate(_OFFERED.values())
    )
    return f"""
WITH samples AS (
  SELECT *, coalesce(gpu_uuid, coalesce(node, '?') || ':' || gpu_index) AS gpu,
    coalesce(greatest({", ".join(_COMPUTE)}), gpu_utilization_percent) AS compute,
    {pcie} AS pcie_rate, {nvlink} AS nvlink_rate,
    (lead(time_ns) OVER ordered - time_ns) / 1e9 AS ahead, (time_ns - lag(time_ns) OVER ordered) / 1e9 AS since,
    lead(power_watts) OVER ordered AS next_watts, lead(energy_joules) OVER ordered AS next_joules
  FROM device_samples WHERE coalesce(gpu_uuid, gpu_index::VARCHAR) IS NOT NULL{only}
  WINDOW ordered AS (PARTITION BY node, source, gpu_uuid, gpu_index ORDER BY time_ns)
  QUALIFY time_ns >= max(time_ns) OVER (PARTITION BY node, source, gpu_uuid, gpu_index) - {WINDOW_SECONDS * 10**9}
), states AS (
  SELECT *, CASE
      WHEN resident_processes = 0 THEN 'deep'
      WHEN compute IS NULL THEN 'blind'
      WHEN compute >= {PERCENT_MAX} OR coalesce(dram_active_percent, 0) >= {PERCENT_MAX}
        OR coalesce(greatest(pcie_rate, nvlink_rate), 0) >= {BYTES_PER_SECOND_MAX} THEN 'active'
      WHEN resident_processes > 0 THEN 'low' ELSE 'maybe' END AS state,
    CASE WHEN ahead <= {GAP_SECONDS_MAX} THEN ahead ELSE 0 END AS held,
    CASE WHEN ahead > {GAP_SECONDS_MAX} THEN NULL WHEN next_joules >= energy_joules THEN next_joules - energy_joules
      ELSE (power_watts + next_watts) / 2 * ahead END AS joules
  FROM samples
), breaks AS (
  SELECT *, (state IS DISTINCT FROM lag(state) OVER ordered OR coalesce(since, 1e9) > {GAP_SECONDS_MAX})::INT AS fresh
  FROM states WINDOW ordered AS (PARTITION BY node, source, gpu ORDER BY time_ns)
), runs AS (
  SELECT *, sum(fresh) OVER (PARTITION BY node, source, gpu ORDER BY time_ns) AS run FROM breaks
)
SELECT node, source, gpu, run, any_value(state) AS state, min(time_ns) AS start_ns, max(time_ns) AS last_ns,
  sum(held) AS seconds, sum(joules) AS joules, count(*) AS samples, max(gpu_index) AS gpu_index,
  max(gpu_name) AS gpu_name, max(job) AS job, {offered}
FROM runs GROUP BY node, source, gpu, run"""


def _total_sql(only: str) -> str:
    sums = ", ".join(
        f"coalesce(sum(seconds) FILTER (state = '{state}' AND seconds >= {least}), 0) AS {state}_{at}, "
        f"sum(joules) FILTER (state = '{state}' AND seconds >= {least}) AS {state}_joules_{at}"
        for state in ("low", "maybe")
        for at, least in enumerate(THRESHOLDS)
    )
    counted = f"FILTER (state = 'low' AND seconds >= {THRESHOLDS[DEFINED]})"
    offered = ", ".join(f"bool_or(has_{at}) AS has_{at}" for at in range(len(_OFFERED)))
    return f"""
SELECT * FROM (SELECT node, source, gpu, max(gpu_index) AS gpu_index, max(gpu_name) AS gpu_name, arg_max(job, last_ns) AS job,
  sum(seconds) AS observed, (max(last_ns) - min(start_ns)) / 1e9 / greatest(sum(samples) - 1, 1) AS period,
  coalesce(sum(samples) FILTER (state = 'blind'), 0) / sum(samples) AS blind,
  coalesce(sum(seconds) FILTER (state = 'deep'), 0) AS deep,
  sum(joules) FILTER (state = 'deep') / nullif(sum(seconds) FILTER (state = 'deep'), 0) AS deep_watts,
  {sums}, count(*) {counted} AS intervals, min(start_ns) {counted} AS first_ns, {offered}
FROM ({intervals_sql(only)}) GROUP BY node, source, gpu)
QUALIFY row_number() OVER (PARTITION BY node, gpu ORDER BY has_0 DESC, observed DESC, source) = 1
ORDER BY node, gpu_index, gpu"""


def load_idle(reader: Reader) -> list[Idle]:
    """Every GPU that was sampled; where several sources sampled one, the one with most signals.

    Where GPUs are many, intervals are sought only in those that may have idled; the others never did, by a count of samples.
    """
    seen = reader.query(_screen_sql()).to_pylist() if count_gpus(reader) > WATCHED_MIN else []
    calm = _calm(seen)
    if not calm:
        return [_idle(row) for row in reader.query(_total_sql("")).to_pylist()]
    doubtful = ", ".join(literal(gpu) for gpu in sorted({row["gpu"] for row in seen} - calm.keys()))
    rows = reader.query(_total_sql(f" AND {KEY} IN ({doubtful})"))
    found = [*(_idle(row) for row in rows.to_pylist()), *(_busy(row) for row in calm.values())]
    return sorted(
        found, key=lambda each: (each.node is None, each.node or "", each.index is None, each.index or 0, each.gpu)
    )


def _screen_sql() -> str:
    """SELECT of what a count tells of each GPU: samples, those that are not plainly active, and which signals it gives."""
    rates = {"pcie_rate": _LINKS[:2], "nvlink_rate": _LINKS[2:]}
    offered = ", ".join(
        f"bool_or({' OR '.join(f'{name}_bytes_per_second IS NOT NULL OR {name}_bytes IS NOT NULL' for name in rates[value])}) "
        f"AS has_{at}" if value in rates else f"bool_or({value} IS NOT NULL) AS has_{at}"
        for at, value in enumerate(_OFFERED.values())
    )  # fmt: skip
    whole = " AND ".join(f"count({name}_bytes) IN (0, count(*))" for name in _LINKS)
    return f"""
SELECT {KEY} AS gpu, min(node) AS node, max(gpu_index) AS gpu_index,
  max(gpu_name) AS gpu_name, max(job) AS job, count(*) AS samples, (max(time_ns) - min(time_ns)) / 1e9 AS seconds,
  count(*) FILTER (NOT coalesce(coalesce(greatest({", ".join(_COMPUTE)}), gpu_utilization_percent) >= {PERCENT_MAX}
    AND resident_processes IS DISTINCT FROM 0, false)) AS doubtful,
  ({whole}) AND count(job) IN (0, count(*)) AND min(job) IS NOT DISTINCT FROM max(job) AND count(node) IN (0, count(*))
    AND min(node) IS NOT DISTINCT FROM max(node) AND min(source) IS NOT DISTINCT FROM max(source) AND count(time_ns) = count(*)
    AS plain, {offered}
FROM device_samples WHERE coalesce(gpu_uuid, gpu_index::VARCHAR) IS NOT NULL GROUP BY gpu"""


def _calm(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """GPUs that were sampled evenly and at work all the time but for less than CALM_SHARE, the WATCHED_MIN calmest left in."""
    ordered = sorted(rows, key=lambda row: (-row["doubtful"], row["gpu"]))[WATCHED_MIN:]
    return {
        row["gpu"]: row
        for row in ordered
        if row["plain"]
        and CALM_SECONDS_MIN <= row["seconds"] <= min(WINDOW_SECONDS, GAP_SECONDS_MAX * (row["samples"] - 1))
        and row["doubtful"] * GAP_SECONDS_MAX < CALM_SHARE * row["seconds"]
    }


def _busy(row: Mapping[str, Any]) -> Idle:
    """A GPU that never idled long enough to matter."""
    none = (0.0,) * len(THRESHOLDS)
    return Idle(
        node=row["node"],
        gpu=row["gpu"],
        index=row["gpu_index"],
        name=row["gpu_name"],
        job=row["job"],
        observed=row["seconds"],
        period=row["seconds"] / (row["samples"] - 1),
        blind=0.0,
        deep=0.0,
        deep_watts=None,
        idle=none,
        maybe=none,
        idle_joules=(None,) * len(THRESHOLDS),
        intervals=0,
        first_ns=None,
        missing=tuple(name for place, name in enumerate(_OFFERED) if not row[f"has_{place}"]),
    )


def _idle(row: Mapping[str, Any]) -> Idle:
    at = range(len(THRESHOLDS))
    return Idle(
        node=row["node"],
        gpu=row["gpu"],
        index=row["gpu_index"],
        name=row["gpu_name"],
        job=row["job"],
        observed=row["observed"],
        period=row["period"],
        blind=row["blind"],
        deep=row["deep"],
        deep_watts=row["deep_watts"],
        idle=tuple(row[f"low_{place}"] for place in at),
        maybe=tuple(row[f"maybe_{place}"] for place in at),
        idle_joules=tuple(row[f"low_joules_{place}"] for place in at),
        intervals=row["intervals"],
        first_ns=row["first_ns"],
        missing=tuple(name for place, name in enumerate(_OFFERED) if not row[f"has_{place}"]),
    )
