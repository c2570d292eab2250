"""The fleet as lists: the newest reading of each GPU, the recent steps of each rank, and who is accused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.newest_run import STEPS, since, told

from ..incident import Incident, newest
from ..view import Ask
from . import headline

RECENT_NS: Final = 120 * 10**9
"""A GPU that was not heard of for so long before the newest reading is gone from the fleet."""
RECENT_STEPS: Final = 64
"""Steps of each rank that its medians cover."""
ROWS_MAX: Final = 2_000

RankKey = tuple[str, int | None]


@dataclass(frozen=True)
class Gpu:
    """The newest reading of one GPU; None where the device does not tell."""

    node: str
    index: int | None
    uuid: str | None
    name: str | None
    job: str | None
    time_ns: int | None
    power_watts: float | None
    power_limit_watts: float | None
    utilization_percent: float | None
    sm_clock_mhz: float | None
    temperature_celsius: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    resident_processes: int | None


@dataclass(frozen=True)
class Rank:
    """One rank's recent steps: newest step, median durations in ns over the steps looked at."""

    job: str
    rank: int | None
    node: str | None
    stage: int | None
    dp: int | None
    step: int | None
    steps: int
    step_ns: float | None
    compute_ns: float | None
    communication_ns: float | None
    idle_ns: float | None

    @property
    def key(self) -> RankKey:
        """What names the rank."""
        return (self.job, self.rank)


@dataclass(frozen=True)
class Roster:
    """GPUs by node and index, ranks by job and number."""

    gpus: tuple[Gpu, ...] = ()
    ranks: tuple[Rank, ...] = ()
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True)
class RosterView:
    """Everything that is recent."""

    def take(self, ask: Ask) -> Roster:
        """Ask for GPUs, ranks and findings."""
        return Roster(
            gpus=tuple(_gpu(row) for row in ask.rows(_gpus(ask)).to_pylist()),
            ranks=ranks(ask),
            incidents=newest(ask),
        )


def ranks(ask: Ask) -> tuple[Rank, ...]:
    """Recent steps of each rank of each job."""
    return tuple(Rank(**row) for row in ask.rows(_ranks(ask)).to_pylist() if row["job"] is not None)


def _gpus(ask: Ask) -> str:
    return f"""
SELECT node, gpu_index, gpu_uuid, gpu_name, job, time_ns, power_watts, power_limit_watts,
       coalesce(sm_active_percent, gpu_utilization_percent) AS utilization_percent, sm_clock_mhz, temperature_celsius,
       memory_used_bytes, memory_total_bytes, resident_processes
FROM device_samples
WHERE {ask.until()}
  AND (time_ns IS NULL OR {headline.since(headline.newest(ask), RECENT_NS)})
QUALIFY row_number() OVER (PARTITION BY node, coalesce(gpu_uuid, gpu_index::VARCHAR) ORDER BY time_ns DESC) = 1
ORDER BY node, gpu_index LIMIT {ROWS_MAX}
"""


def _ranks(ask: Ask) -> str:
    return f"""
WITH {told(ask.until("start_ns"))}
SELECT s.job, s.rank, any_value(s.node) AS node, any_value(s.pp) AS stage, any_value(s.dp) AS dp,
       max(s.step) AS step, count(*) AS steps, median(s.duration_ns) AS step_ns, median(s.compute_ns) AS compute_ns,
       median(s.communication_ns) AS communication_ns, median(s.idle_ns) AS idle_ns
FROM {STEPS}
WHERE {since(RECENT_STEPS)} AND {ask.until("s.start_ns")}
GROUP BY s.job, s.rank ORDER BY s.job, s.rank LIMIT {ROWS_MAX}
"""


def _gpu(row: dict[str, Any]) -> Gpu:
    renamed = dict(row, index=row["gpu_index"], uuid=row["gpu_uuid"], name=row["gpu_name"], node=row["node"] or "-")
    for column in ("gpu_index", "gpu_uuid", "gpu_name"):
        del renamed[column]
    return Gpu(**renamed)
