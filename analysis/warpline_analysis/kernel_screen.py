"""A cheap look at the kernels of all ranks: which of them take longer on some rank than on the ranks that do the same work?

One grouped pass over the newest steps; only kernels that stand out there are compared step by step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from .detector import Reader, literal
from .jobs import by_job
from .newest import steps_told
from .robust import EXCESS_GATE
from .self_time import PLACE, PeerGroup, side_by_side

SCREEN_STEPS: Final = 3
"""Newest steps of each job that the screen adds up."""
SCREEN_GATE: Final = EXCESS_GATE / 2
"""A kernel is worth a closer look from this excess of a rank's mean over its group's lower quartile on ..."""
IMPACT_GATE: Final = 0.02
"""... if it costs at least this part of what a rank's compute kernels take."""
KERNELS_MAX: Final = 8
"""Kernels of a job that are compared step by step, the costliest first."""
ARRIVING_MAX: Final = 3
"""So many of the newest steps may look healthy in what lasts up to now: some ranks' part of them may still be on its way."""
STEPS_MAX: Final = 40
CELLS_MAX: Final = 4_000_000
"""Ranks times kernels times steps that are gone through to compare; fewer steps where there are more ranks."""
STEPS_FLOOR: Final = 10
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
    """Kernels of one job worth a closer look (WHOLE among them if their sum is), how many ranks and kernels were screened.

    `usual` is what a typical rank's compute kernels take in a step, seconds.
    """

    kernels: tuple[int, ...]
    ranks: int
    screened: int
    usual: float


def clustered_jobs(reader: Reader) -> list[Clustered]:
    """Jobs with kernel clusters of numbered steps."""
    told = steps_told(reader, "kernel_clusters", "rank IS NOT NULL")
    return [Clustered(job, int(steps[-SCREEN_STEPS:][0]), len(steps)) for job, steps in told.items()]


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
        "max((high - low) * launches / usual) AS impact, any_value(ranks) AS ranks, any_value(usual) AS usual FROM "
        "judged JOIN wide USING (job) GROUP BY job, kernel_id ORDER BY job, impact DESC, kernel_id"
    )
    return _by_job(rows, {each.job: min(each.steps, SCREEN_STEPS) for each in jobs})


def _by_job(rows: pa.Table, steps: Mapping[str, int]) -> dict[str, Standing]:
    found: dict[str, Standing] = {}
    for job, mine in by_job(rows):
        kernel, excess, impact = (mine.column(name).to_numpy() for name in ("kernel_id", "excess", "impact"))
        standing = kernel[(impact >= IMPACT_GATE) & (excess >= SCREEN_GATE)][:KERNELS_MAX]
        usual = float(mine.column("usual")[0].as_py()) / steps[job] / 1e9
        ranks = int(mine.column("ranks")[0].as_py())
        found[job] = Standing(tuple(int(each) for each in standing), ranks, mine.num_rows - 1, usual)
    return found


@dataclass(frozen=True)
class KernelTimes:
    """One kernel (or WHOLE) of a job by peer group: seconds per launch; launches of each rank in a typical step."""

    kernel: int
    groups: tuple[PeerGroup, ...]
    launches: dict[int, float]


def places_of(reader: Reader, job: str, first: int) -> pa.Table:
    """PLACE of each rank that ran a compute kernel since step `first`."""
    return reader.query(
        f"SELECT {PLACE} FROM kernel_clusters WHERE job = {literal(job)} AND {_OF_COMPUTE} AND step >= {first} GROUP BY rank "
        "ORDER BY rank"
    )


def kernel_times(
    reader: Reader, job: str, standing: Standing, kernels: Sequence[int], places: pa.Table
) -> list[KernelTimes]:
    """The newest steps of some kernels, as many as CELLS_MAX allows, by those ranks of `places` that do the same work."""
    if not kernels:
        return []
    steps = min(STEPS_MAX, max(STEPS_FLOOR, CELLS_MAX // (standing.ranks * max(standing.screened, 1))))
    condition = f"FROM kernel_clusters WHERE job = {literal(job)} AND {_OF_COMPUTE}"
    condition += (
        f" AND step >= (SELECT min(step) FROM (SELECT DISTINCT step {condition} ORDER BY step DESC LIMIT {steps}))"
    )
    chosen = ", ".join(str(kernel) for kernel in kernels if kernel != WHOLE)
    parts = [
        f"SELECT kernel_id, {_MEANS} {condition} AND kernel_id IN ({chosen}) GROUP BY kernel_id, step, rank"
    ] * bool(chosen)
    parts += [f"SELECT {WHOLE} AS kernel_id, {_MEANS} {condition} GROUP BY step, rank"] * (WHOLE in kernels)
    rows = reader.query(" UNION ALL ".join(parts))
    return [found for kernel in kernels if (found := _times(job, kernel, rows, places))]


_MEANS: Final = "step, rank, sum(sum_ns) / sum(count) / 1e9 AS seconds, sum(count)::DOUBLE AS parts"
"""Mean duration of a launch, and launches."""


def _times(job: str, kernel: int, rows: pa.Table, places: pa.Table) -> KernelTimes | None:
    placed = np.isin(rows.column("rank").to_numpy(), places.column("rank").to_numpy())
    mine = rows.filter(pa.array(placed & (rows.column("kernel_id").to_numpy() == kernel)))
    if mine.num_rows == 0:
        return None
    ranks, parts = mine.column("rank").to_numpy(), mine.column("parts").to_numpy()
    known = np.unique(ranks)
    there = places.filter(pa.array(np.isin(places.column("rank").to_numpy(), known)))
    order = np.lexsort((parts, ranks))
    middle = (np.searchsorted(ranks[order], known) + np.searchsorted(ranks[order], known, side="right") - 1) // 2
    launches = dict(zip(known.tolist(), parts[order][middle].tolist(), strict=True))
    return KernelTimes(kernel, side_by_side(job, "kernel_clusters", mine, there).groups, launches)


def peer_counts(places: pa.Table) -> dict[int, int]:
    """Ranks that do the same work as each rank, itself counted, whatever kernels they run."""
    rows = places.to_pylist()
    fine = Counter((row["pp"], row["tp"], row["ep"]) for row in rows)
    wide = Counter((row["pp"], row["ep"]) for row in rows)
    alone = max(fine.values(), default=0) < 2
    return {row["rank"]: wide[row["pp"], row["ep"]] if alone else fine[row["pp"], row["tp"], row["ep"]] for row in rows}


def cells(condition: str) -> str:
    """SELECT of (step, rank, seconds, parts): mean duration of a launch and launches, one row a rank and step."""
    return f"SELECT {_MEANS} {condition} GROUP BY step, rank"


def foreign_share(reader: Reader, job: str, slow: Sequence[int], others: Sequence[int], first: int) -> float:
    """Part of the compute time of the `slow` since step `first` that goes into kernels few of the others run, 0 to 1."""
    mine, beside = (f"rank IN ({', '.join(map(str, ranks))})" for ranks in (slow, others))
    found: float | None = reader.query(
        f"SELECT sum(total) FILTER (others < {RUN_BY * len(others)}) / sum(total) AS share FROM (SELECT kernel_id, sum(sum_ns) "
        f"FILTER ({mine}) AS total, count(DISTINCT rank) FILTER ({beside}) AS others FROM kernel_clusters WHERE job = "
        f"{literal(job)} AND ({mine} OR {beside}) AND step >= {first} AND {_OF_COMPUTE} GROUP BY kernel_id)"
    )["share"][0].as_py()
    return found or 0.0
