"""What the power of each job is like: its class, jobs that are like it, how near the limit it is, and how far that could go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ..devices import KEY
from .headroom import Powers
from .plan_rows import Ask
from .signals import Samples, load
from .spikes import KEPT_MIN, Profile, clusters, distances, nearest, profile
from .states import held_ns

JOBS_MAX: Final = 20
"""Jobs that are looked at, those that drew most."""
GPUS_MAX: Final = 8
SECONDS: Final = 3600
"""Of each job so many GPUs, over the last hour in which it drew power: 29,000 samples."""


@dataclass(frozen=True)
class Workload:
    """One job. `headroom_watts`: from what it stays below for 99 % of the time up to the limit; None without a limit.

    `cluster` numbers jobs whose spikes are alike; `alike` are the two nearest jobs and their distance, 0 to 1: what was learned
    of them under a cap is the first guess for this one. `cut`: only some of its samples were to be had.
    """

    job: str
    joules: float
    gpus: int
    samples: int
    cut: bool
    kind: str | None
    near_share: float | None
    p99_watts: float
    headroom_watts: float | None
    counted_share: float
    histogram: tuple[float, ...] | None
    cluster: int | None = None
    alike: Sequence[tuple[str, float]] = ()


class _Asked:
    """A Reader of one function."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.cut = False

    def query(self, sql: str, parameters: object = ()) -> pa.Table:
        found = self._ask(sql)
        self.cut |= b"truncated" in (found.schema.metadata or {})
        return found


def workloads(ask: Ask, start_ns: int, end_ns: int) -> Sequence[Workload]:
    """Of jobs with samples in windows from `start_ns` to before `end_ns`, those that drew most first."""
    jobs = ask(
        f"""
SELECT job, sum(joules) AS joules, max(end_ns) AS end_ns, array_agg(DISTINCT {KEY}) AS keys, array_agg(DISTINCT node) AS nodes
FROM energy_states WHERE job IS NOT NULL AND window_ns >= {start_ns} AND window_ns < {end_ns}
GROUP BY job ORDER BY joules DESC NULLS LAST, job LIMIT {JOBS_MAX}"""
    ).to_pylist()
    found = {job.job: (job, spikes) for row in jobs for job, spikes in _looked_at(ask, row, start_ns)}
    profiles = {name: spikes for name, (_, spikes) in found.items() if spikes.kept >= KEPT_MIN}
    numbers = _clusters(profiles)
    return [replace(job, cluster=numbers.get(name), alike=_alike(name, profiles)) for name, (job, _) in found.items()]


def _clusters(profiles: Mapping[str, Profile]) -> Mapping[str, int]:
    if not profiles:
        return {}
    apart = distances(np.vstack([each.histogram for each in profiles.values()]))
    return dict(zip(profiles, clusters(apart).tolist(), strict=True))


def _alike(name: str, profiles: Mapping[str, Profile]) -> Sequence[tuple[str, float]]:
    others = {other: each for other, each in profiles.items() if other != name}
    return nearest(profiles[name], others) if name in profiles else ()


def _looked_at(ask: Ask, row: Mapping[str, Any], start_ns: int) -> Iterator[tuple[Workload, Profile]]:
    """Nothing where samples are kept no more."""
    last_ns = row["end_ns"] + 1
    nodes = [node for node in row["nodes"] if node is not None]
    keys = sorted(row["keys"])[:GPUS_MAX]
    asked = _Asked(ask)
    samples = load(asked, max(start_ns, last_ns - SECONDS * 10**9), last_ns, nodes, keys)
    if row["job"] in samples.jobs:
        spikes = profile(samples, chosen=samples.job == samples.jobs.index(row["job"]))
        yield replace(_workload(samples, row["job"], row["joules"] or 0.0, spikes), cut=asked.cut), spikes


def _workload(samples: Samples, job: str, joules: float, spikes: Profile) -> Workload:
    mine = samples.job == samples.jobs.index(job)
    held = held_ns(samples) / 1e9
    known = mine & (held > 0) & ~np.isnan(samples.watts)
    limits = samples.limit_watts[mine & ~np.isnan(samples.limit_watts)]
    limit = float(np.median(limits)) if len(limits) else None
    powers = Powers(samples.watts[known], held[known], limit, None)
    highest = powers.quantile()
    return Workload(
        job=job,
        joules=joules,
        gpus=len(np.unique(samples.gpu[mine])),
        samples=int(mine.sum()),
        cut=False,
        kind=spikes.kind,
        near_share=powers.near_share,
        p99_watts=highest,
        headroom_watts=None if limit is None else limit - highest,
        counted_share=spikes.counted,
        histogram=_plain(spikes),
    )


def _plain(spikes: Profile) -> tuple[float, ...] | None:
    return None if np.isnan(spikes.histogram).any() else tuple(spikes.histogram.tolist())
