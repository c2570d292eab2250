"""A cheap look at the kernels of all ranks: which of them take longer on some rank than on the ranks that do the same work?

One grouped pass over the newest steps; only kernels that stand out there are compared step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from .detector import Reader, literal
from .robust import EXCESS_GATE, Array
from .self_time import PeerGroup, beside_peers

SCREEN_STEPS: Final = 3
"""Newest steps of each job that the screen adds up."""
SCREEN_GATE: Final = EXCESS_GATE / 2
"""A kernel is worth a closer look from this excess of a rank's mean over its group's lower quartile on ..."""
IMPACT_GATE: Final = 0.02
"""... if it costs at least this part of what a rank's compute kernels take."""
KERNELS_MAX: Final = 8
"""Kernels of a job that are compared step by step, the costliest first."""
STEPS_MAX: Final = 40
CELLS_MAX: Final = 250_000
"""Ranks times steps that are compared for one kernel; fewer steps where there are more ranks."""
STEPS_FLOOR: Final = 8
RUN_BY: Final = 2 / 3
"""Part of a peer group that has to run a kernel: one that few ranks run was chosen there instead of another."""
WHOLE: Final = -1
"""Stands for all compute kernels of a rank together."""
_OF_COMPUTE: Final = (
    "job IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL AND category <> 'communication' AND count > 0 "
    "AND sum_ns > 0"
)


class Clustered(NamedTuple):
    """A job with kernel clusters, the first of its newest SCREEN_STEPS steps, and how many steps it has."""

    job: str
    first: int
    steps: int


@dataclass(frozen=True)
class Standing:
    """Kernels of one job worth a closer look (WHOLE among them if their sum is), and how many ranks and kernels were screened.

    `largest` is the largest excess of a kernel that would cost enough to matter, `ranks` those screened.
    """

    kernels: tuple[int, ...]
    largest: float
    ranks: int
    screened: int


def clustered_jobs(reader: Reader) -> list[Clustered]:
    """Jobs with kernel clusters of numbered steps."""
    rows = reader.query(
        "SELECT job, min(step) FILTER (newness <= ?)::BIGINT AS first, count(*) AS steps FROM (SELECT job, step, row_number() "
        "OVER (PARTITION BY job ORDER BY step DESC) AS newness FROM (SELECT DISTINCT job, step FROM kernel_clusters WHERE job "
        "IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL)) GROUP BY job ORDER BY job",
        (SCREEN_STEPS,),
    ).to_pylist()
    return [Clustered(**row) for row in rows]


def screen(reader: Reader, jobs: list[Clustered]) -> dict[str, Standing]:
    """Over all jobs at once: kernels that stand out somewhere in their group, by cost."""
    if not jobs:
        return {}
    firsts = ", ".join(f"({literal(each.job)}, {each.first})" for each in jobs)
    rows = reader.query(
        f"WITH newest(job, first) AS (VALUES {firsts}), cells AS (SELECT job, rank, kernel_id, max(pp) AS pp, max(ep) AS ep, "
        "sum(sum_ns)::DOUBLE AS total, sum(count)::DOUBLE AS launches FROM kernel_clusters JOIN newest USING (job) WHERE "
        f"step >= first AND {_OF_COMPUTE} GROUP BY job, rank, kernel_id), whole AS (SELECT job, rank, max(pp) AS pp, max(ep) AS "
        "ep, sum(total) AS total, sum(launches) AS launches FROM cells GROUP BY job, rank), wide AS (SELECT job, count(*) AS "
        "ranks, median(total) AS usual FROM whole GROUP BY job), judged AS (SELECT job, kernel_id, "
        "quantile_disc(total / launches, 0.25) AS low, max(total / launches) AS high, median(launches) AS launches FROM "
        f"(SELECT job, kernel_id, pp, ep, total, launches FROM cells UNION ALL SELECT job, {WHOLE}, pp, ep, total, launches FROM "
        "whole) GROUP BY job, kernel_id, pp, ep HAVING count(*) > 1) SELECT job, kernel_id, max(high / low - 1) AS excess, "
        "max((high - low) * launches / usual) AS impact, any_value(ranks) AS ranks FROM judged JOIN wide USING (job) "
        "GROUP BY job, kernel_id ORDER BY job, impact DESC, kernel_id"
    )
    return _by_job(rows)


def _by_job(rows: pa.Table) -> dict[str, Standing]:
    found: dict[str, Standing] = {}
    names = np.asarray(rows.column("job").to_pylist(), dtype=object)
    columns = {name: rows.column(name).to_numpy() for name in ("kernel_id", "excess", "impact", "ranks")}
    for job in dict.fromkeys(names.tolist()):
        mine = names == job
        kernel, excess, impact, ranks = (columns[name][mine] for name in ("kernel_id", "excess", "impact", "ranks"))
        heavy = impact >= IMPACT_GATE
        standing = kernel[heavy & (excess >= SCREEN_GATE)][:KERNELS_MAX]
        largest = float(excess[heavy].max()) if heavy.any() else 0.0
        found[job] = Standing(tuple(int(each) for each in standing), largest, int(ranks[0]), len(kernel))
    return found


@dataclass(frozen=True)
class KernelTimes:
    """One kernel (or WHOLE) of a job by peer group: seconds per launch, launches of each rank in a typical step."""

    kernel: int
    groups: tuple[PeerGroup, ...]
    launches: dict[int, float]


def kernel_times(reader: Reader, job: str, kernel: int, ranks: int) -> KernelTimes:
    """The newest steps of one kernel, as many as CELLS_MAX allows, by the ranks that do the same work."""
    steps = min(STEPS_MAX, max(STEPS_FLOOR, CELLS_MAX // max(ranks, 1)))
    only = "" if kernel == WHOLE else f" AND kernel_id = {kernel}"
    condition = f"FROM kernel_clusters WHERE job = {literal(job)} AND {_OF_COMPUTE}{only}"
    first = reader.query(
        f"SELECT min(step) AS first FROM (SELECT DISTINCT step {condition} ORDER BY step DESC LIMIT {steps})"
    )
    condition += f" AND step >= {first['first'][0].as_py() or 0}"
    times = beside_peers(reader, job, "kernel_clusters", condition, cells(condition))
    usual = reader.query(
        f"SELECT rank, median(launches) AS launches FROM (SELECT rank, sum(count) AS launches {condition} GROUP BY step, rank) "
        "GROUP BY rank"
    )
    launches = dict(zip(usual.column("rank").to_pylist(), usual.column("launches").to_pylist(), strict=True))
    return KernelTimes(kernel, times.groups, launches)


def cells(condition: str) -> str:
    """SELECT of (step, rank, seconds, parts): mean duration of a launch and launches, one row a rank and step."""
    return (
        f"SELECT step, rank, sum(sum_ns) / sum(count) / 1e9 AS seconds, sum(count)::DOUBLE AS parts {condition} "
        "GROUP BY step, rank"
    )


def seconds_per_step(times: KernelTimes, group: PeerGroup) -> Array:
    """What each member of a group spends in the kernel in a typical step."""
    usual = np.array([times.launches.get(member.rank, np.nan) for member in group.members])
    with np.errstate(invalid="ignore"):
        spent: Array = np.nanmedian(group.seconds, axis=0) * usual
    return spent


def foreign_share(reader: Reader, job: str, slow: Sequence[int], others: Sequence[int], first: int) -> float:
    """Part of the compute time of the `slow` since step `first` that goes into kernels few of the others run, 0 to 1."""
    mine, beside = (f"rank IN ({', '.join(map(str, ranks))})" for ranks in (slow, others))
    found: float | None = reader.query(
        f"SELECT sum(total) FILTER (others < {RUN_BY * len(others)}) / sum(total) AS share FROM (SELECT kernel_id, sum(sum_ns) "
        f"FILTER ({mine}) AS total, count(DISTINCT rank) FILTER ({beside}) AS others FROM kernel_clusters WHERE job = "
        f"{literal(job)} AND ({mine} OR {beside}) AND step >= {first} AND {_OF_COMPUTE} GROUP BY kernel_id)"
    )["share"][0].as_py()
    return found or 0.0
