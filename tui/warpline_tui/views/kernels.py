"""What the kernels screen shows: the kernel table of one rank, and which other ranks there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..incident import Incident, newest, open_ones
from ..view import Ask

KERNELS_MAX: Final = 200
RANKS_MAX: Final = 20_000
RANKS_SECONDS: Final = 10.0
"""Which ranks there are is asked so rarely."""

RankKey = tuple[str, int | None]


@dataclass(frozen=True)
class Kernel:
    """One kernel of one rank over the steps kept: calls, total and order statistics in ns; p50 and p99 None where it is told by
    sums alone."""

    name: str
    category: str
    count: int
    sum_ns: int
    min_ns: int
    p50_ns: float | None
    p99_ns: float | None
    max_ns: int
    share: float


@dataclass(frozen=True)
class Kernels:
    """The rank that is shown (None where there is none), all ranks, and the kernels, largest total first."""

    selected: RankKey | None = None
    ranks: tuple[RankKey, ...] = ()
    kernels: tuple[Kernel, ...] = ()


@dataclass(frozen=True)
class KernelsView:
    """The kernels of `rank`, None for the one most worth a look."""

    rank: RankKey | None = None

    def take(self, ask: Ask) -> Kernels:
        """Ask for ranks, and for the kernels of one."""
        found = ask.rows(_ranks(ask), RANKS_SECONDS).to_pylist()
        keys = tuple((str(row["job"]), row["rank"]) for row in found)
        chosen = self.rank if self.rank is not None else _worth_a_look(keys, newest(ask))
        kernels = [] if chosen is None else ask.rows(kernels_of(chosen, ask.until("c.start_ns"))).to_pylist()
        return Kernels(chosen, keys, tuple(Kernel(**row) for row in kernels))


def kernels_of(key: RankKey, until: str = "TRUE") -> str:
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
WHERE c.job = '{escaped}' AND c.rank {of_rank} AND {until}
GROUP BY c.kernel_id, n.name ORDER BY sum_ns DESC LIMIT {KERNELS_MAX}
"""


def _ranks(ask: Ask) -> str:
    return f"""
SELECT DISTINCT job, rank FROM steps WHERE job IS NOT NULL AND {ask.until("start_ns")}
ORDER BY job, rank LIMIT {RANKS_MAX}
"""


def _worth_a_look(keys: tuple[RankKey, ...], incidents: tuple[Incident, ...]) -> RankKey | None:
    """The rank that an open finding accuses, else the first."""
    accused = {(each.finding.subject.job, each.finding.subject.rank) for each in open_ones(incidents)}
    return next((key for key in keys if key in accused), keys[0] if keys else None)
