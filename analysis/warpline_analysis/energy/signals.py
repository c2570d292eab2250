"""What GPUs measured of themselves, as columns: each signal at each sample, also where it is read more rarely than others.

A mean over the time since the reading before (GPM, byte counters) holds for the samples of that time, but for those at which
no kernel was resident at all by the finer utilisation. Whether a program is resident is read every half a minute: between two
readings that agree it is known, between two that do not it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.execution_idle import COMPUTE, LINKS, PERCENT_MAX, PIPES

from ..detector import Reader, literal
from ..devices import KEY

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

MEAN_SECONDS_MAX: Final = 10.0
"""A mean holds for at most so long before its reading; and as long after the last one, until the next is there."""
MEAN_SECONDS_MIN: Final = 1.5
"""One over less is as fine as the samples are."""
RESIDENCY_SECONDS_MAX: Final = 65.0
"""Two readings of the resident programs are at most so far apart: two of their periods."""
_READ: Final = (
    "power_watts", "energy_joules", "power_limit_watts", "sm_clock_mhz", "sm_clock_max_mhz", "gpu_utilization_percent",
    "memory_utilization_percent", *COMPUTE, "dram_active_percent", "resident_processes",
)  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """One GPU as one source saw it; `key` is its UUID, else node and index."""

    node: str | None
    source: str | None
    key: str
    uuid: str | None
    index: int | None
    name: str | None
    cluster: str | None = None


@dataclass(frozen=True)
class Samples:
    """All samples of some GPUs, ordered by GPU and time; NaN where a signal is not known.

    `gpu` counts in `gpus`, `job` in `jobs` (-1: none). `resident` is 1, 0 or -1 (not known). Percentages are of 100, rates
    bytes a second, of the busier direction. `utilization` and `memory` are duty cycles where nothing finer is offered.
    """

    gpus: tuple[Gpu, ...]
    jobs: tuple[str, ...]
    gpu: Numbers
    job: Numbers
    time_ns: Numbers
    watts: Reals
    joules: Reals
    averaged: npt.NDArray[np.bool_]
    limit_watts: Reals
    sm_clock_mhz: Reals
    sm_clock_max_mhz: Reals
    utilization: Reals
    memory_utilization: Reals
    compute: Reals
    pipes: Reals
    dram: Reals
    pcie: Reals
    nvlink: Reals
    resident: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.time_ns)


def load(
    reader: Reader,
    start_ns: int | None = None,
    end_ns: int | None = None,
    nodes: Sequence[str] = (),
    keys: Sequence[str] = (),
) -> Samples:
    """Samples from `start_ns` to before `end_ns` (None: all there are) of `nodes` and of GPUs by their `keys` (none: all).

    Where several sources sampled a GPU, those of the one that gave most signals.
    """
    return samples_of(reader.query(_sql(start_ns, end_ns, nodes, keys)))


def samples_of(found: pa.Table) -> Samples:
    """Rows of the question above -> signals at each sample."""
    gpus, gpu = _gpus(found)
    jobs, job = _texts(found, "job")
    time_ns = _whole(found, "time_ns")
    raw = {name: _real(found, name) for name in _READ}
    readings = _Readings(gpu, time_ns)
    still = raw["gpu_utilization_percent"] < PERCENT_MAX
    means = {name: readings.means(raw[name], still) for name in (*COMPUTE, "dram_active_percent")}
    links = {name: readings.means(_rate(found, name, gpu, time_ns)) for name in LINKS}
    methods, method = _texts(found, "power_method")
    return Samples(
        gpus=gpus,
        jobs=jobs,
        gpu=gpu,
        job=job,
        time_ns=time_ns,
        watts=raw["power_watts"],
        joules=raw["energy_joules"],
        averaged=np.isin(method, [at for at, name in enumerate(methods) if name == "average"]),
        limit_watts=readings.held(raw["power_limit_watts"]),
        sm_clock_mhz=raw["sm_clock_mhz"],
        sm_clock_max_mhz=readings.held(raw["sm_clock_max_mhz"]),
        utilization=raw["gpu_utilization_percent"],
        memory_utilization=raw["memory_utilization_percent"],
        compute=_highest([means[name] for name in COMPUTE]),
        pipes=_highest([means[name] for name in PIPES]),
        dram=means["dram_active_percent"],
        pcie=_highest([links["pcie_tx"], links["pcie_rx"]]),
        nvlink=_highest([links["nvlink_tx"], links["nvlink_rx"]]),
        resident=readings.resident(raw["resident_processes"]),
    )


class _Readings:
    """Fills the gaps of columns that are read more rarely than others; never from one GPU to another."""

    def __init__(self, gpu: Numbers, time_ns: Numbers) -> None:
        self._gpu = gpu
        self._time_ns = time_ns
        self._place = np.arange(len(gpu))

    def before(self, known: npt.NDArray[np.bool_]) -> Numbers:
        """Place of the last known value at or before each sample of the same GPU, -1 where there is none."""
        found = np.maximum.accumulate(np.where(known, self._place, -1)) if len(known) else self._place
        return np.where((found >= 0) & (self._gpu[found] == self._gpu), found, -1)

    def after(self, known: npt.NDArray[np.bool_]) -> Numbers:
        """Place of the first known value at or after each sample of the same GPU, -1 where there is none."""
        count = len(known)
        found = np.minimum.accumulate(np.where(known, self._place, count)[::-1])[::-1] if count else self._place
        found = np.where(found < count, found, -1)
        return np.where((found >= 0) & (self._gpu[found] == self._gpu), found, -1)

    def means(self, values: Reals, still: npt.NDArray[np.bool_] | None = None) -> Reals:
        """Each value for the time since the one before; the last one until the next.

        A mean over more than MEAN_SECONDS_MIN is no higher than 0 in the samples that are `still`.
        """
        known = ~np.isnan(values)
        if not known.any():
            return values
        place = self.after(known)
        later = self._taken(values, place, MEAN_SECONDS_MAX)
        filled = np.where(np.isnan(later), self._taken(values, self.before(known), MEAN_SECONDS_MAX), later)
        if still is None:
            return filled
        return np.where(still & (self._since_reading(known)[place] > MEAN_SECONDS_MIN), np.minimum(filled, 0.0), filled)

    def _since_reading(self, known: npt.NDArray[np.bool_]) -> Reals:
        """At each reading, seconds since the one before of the same GPU; 0 elsewhere."""
        read = np.flatnonzero(known)
        since = np.zeros(len(known))
        same = self._gpu[read[1:]] == self._gpu[read[:-1]]
        since[read[1:]] = np.where(same, np.diff(self._time_ns[read]) / 1e9, 0.0)
        return since

    def held(self, values: Reals) -> Reals:
        """Each value until the next, however long; before the first one, that one."""
        known = ~np.isnan(values)
        if known.all() or not known.any():
            return values
        earlier = self._taken(values, self.before(known), np.inf)
        return np.where(np.isnan(earlier), self._taken(values, self.after(known), np.inf), earlier)

    def resident(self, count: Reals) -> npt.NDArray[np.int8]:
        """1 and 0 between readings that agree, and up to the next reading where there is none yet; else -1."""
        known = ~np.isnan(count)
        some = np.where(known, (count > 0).astype(float), np.nan)
        earlier = self._taken(some, self.before(known), RESIDENCY_SECONDS_MAX)
        later = self._taken(some, self.after(known), RESIDENCY_SECONDS_MAX)
        agreed = np.where(np.isnan(later), earlier, np.where(np.isnan(earlier) | (earlier == later), later, np.nan))
        return np.where(np.isnan(agreed), -1, agreed).astype(np.int8)

    def _taken(self, values: Reals, place: Numbers, seconds_max: float) -> Reals:
        far = np.abs(self._time_ns[place] - self._time_ns) > seconds_max * 1e9
        return np.where((place < 0) | far, np.nan, values[place]) if len(values) else values


def _rate(found: pa.Table, link: str, gpu: Numbers, time_ns: Numbers) -> Reals:
    """The rate that the device reports, else what its counter grew by since it was last read."""
    rate, counter = _real(found, f"{link}_bytes_per_second").copy(), _real(found, f"{link}_bytes")
    read = np.flatnonzero(~np.isnan(counter))
    if len(read) < 2:
        return rate
    earlier, later = read[:-1], read[1:]
    passed_ns, grown = time_ns[later] - time_ns[earlier], counter[later] - counter[earlier]
    fit = (gpu[earlier] == gpu[later]) & (passed_ns > 0) & (grown >= 0) & np.isnan(rate[later])
    rate[later[fit]] = grown[fit] * 1e9 / passed_ns[fit]
    return rate


def _highest(columns: Sequence[Reals]) -> Reals:
    """The highest known of several columns."""
    best = columns[0]
    for each in columns[1:]:
        best = np.fmax(best, each)
    return best


def _gpus(found: pa.Table) -> tuple[tuple[Gpu, ...], Numbers]:
    names = ("node", "source", "gpu")
    keys = [found.column(name).combine_chunks().dictionary_encode() for name in names]
    indices = [each.indices.fill_null(len(each.dictionary)).to_numpy().astype(np.int64) for each in keys]
    fresh = np.ones(len(found), dtype=bool)
    if len(found):
        fresh[1:] = np.logical_or.reduce([index[1:] != index[:-1] for index in indices])
    firsts = np.flatnonzero(fresh)
    named = found.select([*names, "gpu_uuid", "gpu_index", "gpu_name", "cluster"]).take(pa.array(firsts)).to_pylist()
    gpus = tuple(
        Gpu(row["node"], row["source"], row["gpu"], row["gpu_uuid"], row["gpu_index"], row["gpu_name"], row["cluster"])
        for row in named
    )
    return gpus, np.cumsum(fresh) - 1


def _texts(found: pa.Table, name: str) -> tuple[tuple[str, ...], Numbers]:
    coded = found.column(name).combine_chunks().dictionary_encode()
    return tuple(coded.dictionary.to_pylist()), coded.indices.fill_null(-1).to_numpy().astype(np.int64)


def _whole(found: pa.Table, name: str) -> Numbers:
    values: Numbers = found.column(name).combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def _real(found: pa.Table, name: str) -> Reals:
    column: Any = found.column(name).combine_chunks().cast(pa.float64(), safe=False)
    values: Reals = column.to_numpy(zero_copy_only=False)
    return values


def _sql(start_ns: int | None, end_ns: int | None, nodes: Sequence[str], keys: Sequence[str]) -> str:
    links = [f"{link}_bytes{what}" for link in LINKS for what in ("", "_per_second")]
    where = ["coalesce(gpu_uuid, gpu_index::VARCHAR) IS NOT NULL"]
    where += [f"time_ns >= {start_ns}"] if start_ns is not None else []
    where += [f"time_ns < {end_ns}"] if end_ns is not None else []
    where += [f"node IN ({', '.join(map(literal, nodes))})"] if nodes else []
    where += [f"{KEY} IN ({', '.join(map(literal, keys))})"] if keys else []
    offered = " + ".join(f"(count({name}) > 0)::INT" for name in (*_READ, *links))
    return f"""
WITH rows AS (SELECT {KEY} AS gpu, cluster, node, source, gpu_uuid, gpu_index, gpu_name, job, time_ns, power_method,
    {", ".join((*_READ, *links))} FROM device_samples WHERE {" AND ".join(where)}
), best AS (
  SELECT node, gpu, source FROM rows GROUP BY node, gpu, source
  QUALIFY row_number() OVER (PARTITION BY node, gpu ORDER BY {offered} DESC, count(*) DESC, source) = 1
)
SELECT rows.* FROM rows JOIN best ON rows.gpu = best.gpu AND rows.node IS NOT DISTINCT FROM best.node
  AND rows.source IS NOT DISTINCT FROM best.source
ORDER BY rows.node, rows.gpu, rows.time_ns"""
