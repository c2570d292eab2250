"""What went before a GPU fell idle, and the word for it.

After Lei et al. (2026), section 4.5: the ten seconds before each onset, cut to the active time next to it. There clusters of
these were named by hand; here a signal counts from the limit on at which the rule of execution-idle calls it active, the one
furthest above its limit gives the name, and where none is above, the GPU simply computed and then had nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.execution_idle import BYTES_PER_SECOND_MAX, PERCENT_MAX

from ..detector import Reader, literal
from .runs import Runs
from .signals import Numbers, Reals, Samples
from .states import State, told

BEFORE_SECONDS: Final = 10.0
NETWORK_MAX: Final = 125e6
"""Bytes a second of a node's network from which it is at work: a gigabit."""
DISK_MAX: Final = 100e6
"""Bytes a second of a node's disks from which a checkpoint is written, or data read from them."""
LIMITS: Final[Mapping[str, tuple[str, float]]] = {
    "pcie": ("pcie_bytes_per_second", BYTES_PER_SECOND_MAX),
    "nvlink": ("nvlink_bytes_per_second", BYTES_PER_SECOND_MAX),
    "nic": ("nic_bytes_per_second", NETWORK_MAX),
    "disk": ("disk_bytes_per_second", DISK_MAX),
}
"""Cause -> the signal that tells it, and its limit. `disk` is reading data or writing a checkpoint."""
COLLECTIVE: Final = "collective_wait"
COMPUTE: Final = "compute_to_idle"
_IDLE: Final = (State.DEEP_IDLE, State.EXECUTION_IDLE, State.LOW_UNKNOWN, State.UNOBSERVED, State.BLIND)
_ONSETS: Final = (State.EXECUTION_IDLE, State.LOW_UNKNOWN)


@dataclass(frozen=True)
class Before:
    """Means over the seconds before each run, NaN where not known; `waiting` is the share of them in busy-wait."""

    onset: npt.NDArray[np.bool_]
    signals: Mapping[str, Reals]
    waiting: Reals


@dataclass(frozen=True)
class Hosts:
    """Rates of nodes, ordered by node and time: each from its time to the next."""

    nodes: Mapping[str, int]
    node: Numbers
    time_ns: Numbers
    signals: Mapping[str, Reals]


def load_hosts(reader: Reader, start_ns: int, end_ns: int, nodes: Sequence[str] = ()) -> Hosts:
    """Rates of the nodes (none: all) between their readings."""
    only = f" AND node IN ({', '.join(map(literal, nodes))})" if nodes else ""
    found = reader.query(_HOSTS.format(start_ns=start_ns, end_ns=end_ns, only=only))
    coded = found.column("node").combine_chunks().dictionary_encode()
    names = {name: at for at, name in enumerate(coded.dictionary.to_pylist())}
    order = np.lexsort((found.column("time_ns").to_numpy(), coded.indices.to_numpy()))
    signals = ("cpu_percent", "nic_bytes_per_second", "disk_bytes_per_second")
    return Hosts(
        nodes=names,
        node=coded.indices.to_numpy().astype(np.int64)[order],
        time_ns=found.column("time_ns").to_numpy()[order],
        signals={name: found.column(name).cast(pa.float64()).to_numpy()[order] for name in signals},
    )


def before(samples: Samples, found: Runs, floors: Mapping[str | None, float], hosts: Hosts) -> Before:
    """What each run follows, for those that begin to be idle."""
    onset = np.isin(found.state, _ONSETS) & ~found.continued
    state = told(samples, floors)
    begins, ends = _active_before(samples, state, found.first)
    onset &= ends > begins
    columns = {
        "compute_percent": np.where(np.isnan(samples.compute), samples.utilization, samples.compute),
        "memory_percent": samples.dram,
        "pcie_bytes_per_second": samples.pcie,
        "nvlink_bytes_per_second": samples.nvlink,
    }
    signals = {name: _mean(values, begins, ends) for name, values in columns.items()}
    last = max(len(samples) - 1, 0)
    from_ns, to_ns = (samples.time_ns[np.minimum(place, last)] if len(samples) else begins for place in (begins, ends))
    signals |= _of_hosts(samples, found, hosts, from_ns, to_ns)
    waiting = _mean((state == State.BUSY_WAIT).astype(float), begins, ends)
    return Before(onset, {name: np.where(onset, values, np.nan) for name, values in signals.items()}, waiting)


def causes(of: Before) -> list[str | None]:
    """The word for each run; None of those that do not begin here, or of which nothing is known."""
    above = {cause: of.signals[signal] / limit for cause, (signal, limit) in LIMITS.items()}
    names = list(above)
    multiples = np.nan_to_num(np.array([above[name] for name in names]))
    highest = multiples.argmax(axis=0) if len(names) else np.zeros(0, dtype=int)
    reached = multiples.max(axis=0) >= 1.0
    computed = of.signals["compute_percent"] >= PERCENT_MAX
    return [
        None if not onset else COLLECTIVE if waited else names[best] if is_reached else COMPUTE if worked else None
        for onset, waited, best, is_reached, worked in zip(
            of.onset.tolist(),
            (of.waiting >= 0.5).tolist(),
            highest.tolist(),
            reached.tolist(),
            computed.tolist(),
            strict=True,
        )
    ]


def _active_before(samples: Samples, state: npt.NDArray[np.int8], first: Numbers) -> tuple[Numbers, Numbers]:
    """Of each run, the places of the active samples next before it that are at most BEFORE_SECONDS old: from, to before."""
    count = len(samples)
    place = np.arange(count)
    idle = np.maximum.accumulate(np.where(np.isin(state, _IDLE), place, -1)) if count else place
    starts = np.searchsorted(samples.gpu, samples.gpu[first])
    previous = np.maximum(first - 1, 0)
    since = np.searchsorted(
        _key(samples.gpu, samples.time_ns), _key(samples.gpu[first], samples.time_ns[first] - _BEFORE_NS)
    )
    begins = np.maximum.reduce([starts, idle[previous] + 1, since]) if len(first) else first
    return np.minimum(begins, first), first


def _key(group: Numbers, time_ns: Numbers) -> Numbers:
    """Group and time (to the millisecond) as one number that orders them."""
    return group * 10**13 + time_ns // 1_000_000


def _mean(values: Reals, begins: Numbers, ends: Numbers) -> Reals:
    known = ~np.isnan(values)
    total = np.append(0.0, np.cumsum(np.where(known, values, 0.0)))
    count = np.append(0, np.cumsum(known))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((total[ends] - total[begins]) / (count[ends] - count[begins]))


def _of_hosts(samples: Samples, found: Runs, hosts: Hosts, from_ns: Numbers, to_ns: Numbers) -> dict[str, Reals]:
    """The same seconds as the node saw them."""
    node = np.array([hosts.nodes.get(gpu.node or "", -1) for gpu in samples.gpus], dtype=np.int64)[found.gpu]
    key = _key(hosts.node, hosts.time_ns)
    begins = np.maximum(np.searchsorted(key, _key(node, from_ns), side="right") - 1, 0)
    ends = np.maximum(np.searchsorted(key, _key(node, to_ns)), begins)
    inside = (node >= 0) & (ends > begins)
    if len(hosts.node):
        inside &= hosts.node[np.minimum(begins, len(hosts.node) - 1)] == node
    begins, ends = np.where(inside, begins, 0), np.where(inside, ends, 0)
    return {name: np.where(inside, _mean(values, begins, ends), np.nan) for name, values in hosts.signals.items()}


_BEFORE_NS: Final = int(BEFORE_SECONDS * 1e9)
_GROWN: Final = (
    "CASE WHEN lead({0}) OVER ordered >= {0} THEN (lead({0}) OVER ordered - {0}) * 1e9 "
    "/ nullif(lead(time_ns) OVER ordered - time_ns, 0) END"
)
_HOSTS: Final = f"""
SELECT node, time_ns, cpu_percent,
  greatest({_GROWN.format("network_rx_bytes")}, {_GROWN.format("network_tx_bytes")}) AS nic_bytes_per_second,
  greatest({_GROWN.format("disk_read_bytes")}, {_GROWN.format("disk_write_bytes")}) AS disk_bytes_per_second
FROM host_samples WHERE node IS NOT NULL AND time_ns >= {{start_ns}} AND time_ns < {{end_ns}}{{only}}
WINDOW ordered AS (PARTITION BY node, source ORDER BY time_ns)"""
