"""How long each GPU did nothing with a program on it, over the last hour: by the energy account, and by samples since.

The states are those of `energy.states`; what was accounted before is not reckoned again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.execution_idle import COMPUTE, LINKS, PERCENT_MAX
from warpline_proto.power_tables import WINDOW_NS

from .detector import Reader
from .devices import KEY, count_gpus
from .energy.account import AROUND_SECONDS, RESIDENCY, rows
from .energy.runs import runs
from .energy.signals import load
from .energy.states import DEFINED_SECONDS, GAP_SECONDS_MAX, THRESHOLDS

DEFINED: Final = THRESHOLDS.index(DEFINED_SECONDS)
"""Place of the threshold of the definition."""
LOOK_SECONDS: Final = 3600
"""Newest part of each GPU's samples that is looked at, from the start of its first window on."""
GPUS_MAX: Final = 512
"""GPUs whose samples are asked for at once."""
WATCHED_MIN: Final = 256
"""So many GPUs, those with most samples that are not plainly active, are looked at closely however busy they are ..."""
CALM_SHARE: Final = 0.05
"""... and of the others those that may have been idle for this share of the time, by a count of such samples ..."""
CALM_SECONDS_MIN: Final = 60.0
"""... or were watched for less than this."""
_ABSENT: Final = ("power",)
"""What is not told as missing of the rule: energy may be counted without it."""
_OFFERED: Final = {
    "SM, tensor and FP activity": f"coalesce({', '.join(COMPUTE)})",
    "GPU utilisation": "gpu_utilization_percent",
    "device memory activity": "dram_active_percent",
    "PCIe rates": "pcie_rate",
    "NVLink rates": "nvlink_rate",
    RESIDENCY: "resident_processes",
    "energy counter": "energy_joules",
}
"""What a reader of the result wants to know was measured -> the expression that is not NULL where it was."""
_NEVER: Final = np.iinfo(np.int64).max
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Idle:
    """One GPU, in seconds and joules; tuples go by THRESHOLDS.

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
    idle_joules: float | None
    intervals: int
    first_ns: int | None
    missing: tuple[str, ...]

    def shares(self, bound: str = "lower") -> tuple[float, ...]:
        """Idle over execution (idle and active; deep idle is none). `upper` takes unknown residency for resident."""
        running = self.observed - self.deep - (sum(self.maybe[:1]) if bound == "lower" else 0.0)
        extra = self.maybe if bound == "upper" else (0.0,) * len(self.idle)
        return tuple((a + b) / running if running > 0 else 0.0 for a, b in zip(self.idle, extra, strict=True))


def load_idle(reader: Reader) -> list[Idle]:
    """Every GPU that was sampled; where several sources sampled one, the one with most signals.

    Where GPUs are many, states are told only of those that may have idled; the others never did, by a count of samples.
    """
    seen = reader.query(_screen_sql()).to_pylist()
    calm = _calm(seen) if count_gpus(reader) > WATCHED_MIN else {}
    found = [_busy(row) for row in calm.values()]
    doubtful = [row for row in seen if row["gpu"] not in calm]
    if doubtful:
        found += _idle(pa.concat_tables(_states(reader, doubtful)))
    return sorted(
        found, key=lambda each: (each.node is None, each.node or "", each.index is None, each.index or 0, each.gpu)
    )


def _states(reader: Reader, gpus: Sequence[Mapping[str, Any]]) -> Iterator[pa.Table]:
    """Rows as of `energy_intervals`, with a column `gpu`: those of the account, and those not accounted yet."""
    told = _accounted(reader, min(map(_since, gpus)))
    ends: dict[str, int] = {}
    if told.num_rows:
        keys, since = told.column("gpu").to_pylist(), {row["gpu"]: _since(row) for row in gpus}
        starts = told.column("window_ns").to_pylist()
        wanted = [key in since and start >= since[key] for key, start in zip(keys, starts, strict=True)]
        for key, start, is_wanted in zip(keys, starts, wanted, strict=True):
            if is_wanted:
                ends[key] = max(ends.get(key, 0), start + WINDOW_NS)
        yield told.filter(pa.array(wanted))
    groups: dict[tuple[int, bool], list[str]] = {}
    for row in gpus:
        start = ends.get(row["gpu"])
        groups.setdefault((start or _since(row), start is not None), []).append(row["gpu"])
    for (start_ns, follows), named in groups.items():
        for at in range(0, len(named), GPUS_MAX):
            yield _unaccounted(reader, start_ns, follows, named[at : at + GPUS_MAX])


def _unaccounted(reader: Reader, start_ns: int, follows: bool, keys: Sequence[str]) -> pa.Table:
    """States from `start_ns` on; where the account goes before, samples a little before tell how long a run is."""
    samples = load(reader, start_ns - int(AROUND_SECONDS * 1e9) if follows else start_ns, keys=keys)
    found = runs(samples, {}, start_ns)
    batch = rows(samples, found, {})
    table = pa.Table.from_batches([batch])
    named = pa.array([samples.gpus[number].key for number in found.gpu.tolist()], pa.string())
    return table.append_column("gpu", named)


def _accounted(reader: Reader, since_ns: int) -> pa.Table:
    newest = "PARTITION BY node, coalesce(gpu_uuid, gpu_index::VARCHAR), window_ns"
    return reader.query(
        f"SELECT *, {KEY} AS gpu FROM energy_intervals WHERE window_ns >= {since_ns} "
        f"QUALIFY updated_ns = max(updated_ns) OVER ({newest}) ORDER BY start_ns"
    )


def _since(row: Mapping[str, Any]) -> int:
    """Start of the first window that is looked at."""
    earliest = max(row["newest_ns"] - LOOK_SECONDS * 10**9, row["first_ns"])
    return int(earliest - earliest % WINDOW_NS)


@dataclass(frozen=True)
class _Sums:
    """Rows of states, added up by GPU."""

    table: pa.Table
    gpu: npt.NDArray[np.int32]
    gpus: int

    def column(self, name: str) -> Reals:
        """A number, NaN where it is not known."""
        values: Reals = self.table.column(name).cast(pa.float64()).to_numpy()
        return values

    def are(self, *states: str) -> Flags:
        """Rows of these states."""
        found: Flags = pc.is_in(self.table.column("state"), pa.array(states)).to_numpy()
        return found

    def total(self, values: Reals | str, where: Flags | None = None) -> Reals:
        """Sum of what is known, by GPU."""
        known = np.nan_to_num(self.column(values) if isinstance(values, str) else values)
        chosen = known if where is None else np.where(where, known, 0.0)
        return np.bincount(self.gpu, chosen, self.gpus).astype(float)

    def count(self, where: Flags) -> Reals:
        """Rows, by GPU."""
        return np.bincount(self.gpu[where], minlength=self.gpus).astype(float)

    def by_threshold(self, state: str, short: Flags) -> list[tuple[float, ...]]:
        """Seconds from each of THRESHOLDS on, by GPU; what is too short to be a state of its own is told in `short` rows."""
        run, brief = self.column("run_seconds"), self.total("short_seconds", short)
        long = [self.total("seconds", self.are(state) & (run >= least)) for least in THRESHOLDS]
        long[0] = long[0] + brief
        return [tuple(float(each[at]) for each in long) for at in range(self.gpus)]


def _idle(table: pa.Table) -> list[Idle]:
    """Rows of states -> one summary a GPU."""
    coded = table.column("gpu").combine_chunks().dictionary_encode()
    sums = _Sums(table, coded.indices.to_numpy(), len(coded.dictionary))
    low, deep = sums.are("execution_idle"), sums.are("deep_idle")
    told = _residency(table)
    idle, maybe = sums.by_threshold("execution_idle", told), sums.by_threshold("low_unknown", ~told)
    length, spans = sums.total("seconds"), sums.total("samples")
    observed, deep_seconds = sums.total("seconds", ~sums.are("unobserved")), sums.total("seconds", deep)
    measured = deep_seconds - sums.total("unmeasured_seconds", deep)
    deep_joules, low_joules = sums.total("joules", deep), sums.total("joules", low)
    unpriced = sums.count(low & np.isnan(sums.column("joules")))
    blind = sums.total("samples", sums.are("blind"))
    intervals = sums.count(low & ~table.column("continued").to_numpy())
    first = np.full(sums.gpus, _NEVER)
    np.minimum.at(first, sums.gpu[low], table.column("start_ns").to_numpy()[low])
    return [
        Idle(
            gpu=key,
            **place,
            observed=float(observed[at]),
            period=float(length[at] / spans[at]),
            blind=float(blind[at] / spans[at]),
            deep=float(deep_seconds[at]),
            deep_watts=float(deep_joules[at] / measured[at]) if measured[at] > 0 else None,
            idle=idle[at],
            maybe=maybe[at],
            idle_joules=None if unpriced[at] else float(low_joules[at]),
            intervals=int(intervals[at]),
            first_ns=None if first[at] == _NEVER else int(first[at]),
        )
        for at, (key, place) in enumerate(zip(coded.dictionary.to_pylist(), _places(table, sums), strict=True))
    ]


def _residency(table: pa.Table) -> Flags:
    """Rows of GPUs of which it is known whether a program is resident."""
    lists = table.column("missing").combine_chunks()
    lacking = pc.list_parent_indices(lists).filter(pc.equal(pc.list_flatten(lists), RESIDENCY))
    known = np.ones(len(table), dtype=bool)
    known[lacking.to_numpy()] = False
    return known


def _places(table: pa.Table, sums: _Sums) -> Iterator[dict[str, Any]]:
    """Of each GPU, what its newest row says of it, and what none of its rows had."""
    newest = np.zeros(sums.gpus, dtype=np.int64)
    order = np.argsort(table.column("start_ns").to_numpy(), kind="stable")
    newest[sums.gpu[order]] = order
    for row in table.select(["node", "gpu_index", "gpu_name", "job", "missing"]).take(pa.array(newest)).to_pylist():
        missing = tuple(name for name in row["missing"] if name not in _ABSENT)
        yield {
            "node": row["node"],
            "index": row["gpu_index"],
            "name": row["gpu_name"],
            "job": row["job"],
            "missing": missing,
        }


def _screen_sql() -> str:
    """SELECT of what a count tells of each GPU: samples, those that are not plainly active, and which signals it gives."""
    rates = {"pcie_rate": LINKS[:2], "nvlink_rate": LINKS[2:]}
    offered = ", ".join(
        f"bool_or({' OR '.join(f'{name}_bytes_per_second IS NOT NULL OR {name}_bytes IS NOT NULL' for name in rates[value])}) "
        f"AS has_{at}" if value in rates else f"bool_or({value} IS NOT NULL) AS has_{at}"
        for at, value in enumerate(_OFFERED.values())
    )  # fmt: skip
    whole = " AND ".join(f"count({name}_bytes) IN (0, count(*))" for name in LINKS)
    return f"""
SELECT {KEY} AS gpu, min(node) AS node, max(gpu_index) AS gpu_index,
  max(gpu_name) AS gpu_name, max(job) AS job, min(time_ns) AS first_ns, max(time_ns) AS newest_ns, count(*) AS samples,
  (max(time_ns) - min(time_ns)) / 1e9 AS seconds,
  count(*) FILTER (NOT coalesce(coalesce(greatest({", ".join(COMPUTE)}), gpu_utilization_percent) >= {PERCENT_MAX}
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
        and CALM_SECONDS_MIN <= row["seconds"] <= min(LOOK_SECONDS, GAP_SECONDS_MAX * (row["samples"] - 1))
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
        idle_joules=None,
        intervals=0,
        first_ns=None,
        missing=tuple(name for place, name in enumerate(_OFFERED) if not row[f"has_{place}"]),
    )
