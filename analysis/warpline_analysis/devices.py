"""Readings of GPUs side by side on a grid of time, and which rank ran on each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warpline_proto.finding import Subject

from .detector import Reader, literal
from .node_clocks import on_one_clock
from .parts import by_part, codes, together
from .remembered import once
from .robust import Array, median

WINDOW_SECONDS: Final = 300
"""Newest part of each GPU's samples that is looked at."""
CELL_SECONDS: Final = 2
"""Width of a cell of the grid: readings of several nodes are compared cell by cell, whatever their phase."""
HOLD_SECONDS: Final = 120
"""A value that is read seldom (limits, residency) holds for so long."""
CELLS_MAX: Final = WINDOW_SECONDS // CELL_SECONDS + 1
KEY: Final = "coalesce(gpu_uuid, coalesce(node, '?') || ':' || gpu_index)"
"""What a GPU is called."""
COLUMNS: Final = (
    "gpu_utilization_percent", "sm_active_percent", "memory_utilization_percent", "dram_active_percent", "tensor_active_percent",
    "fp64_active_percent", "fp32_active_percent", "fp16_active_percent", "power_watts", "power_limit_watts", "sm_clock_mhz",
    "sm_clock_max_mhz", "temperature_celsius", "clock_event_reasons", "thermal_ns", "hardware_thermal_ns", "power_brake_ns",
    "power_cap_ns", "resident_processes", "pcie_tx_bytes_per_second", "pcie_rx_bytes_per_second", "nvlink_tx_bytes_per_second",
    "nvlink_rx_bytes_per_second",
)  # fmt: skip
"""Columns of device_samples that a grid has."""
_SUMMED: Final[Mapping[str, str]] = {"clock_event_reasons": "bit_or"}
_NS: Final = 10**9


@dataclass(frozen=True)
class Gpu:
    """One GPU and the rank that ran on it, where known."""

    key: str
    node: str | None
    index: int | None
    name: str | None
    job: str | None
    rank: int | None = None
    dp: int | None = None
    tp: int | None = None
    pp: int | None = None
    ep: int | None = None

    @property
    def label(self) -> str:
        """GPU 3 of node0 (rank 11)."""
        name = f"GPU {self.index}" if self.index is not None else f"GPU {self.key}"
        where = f" of {self.node}" if self.node else ""
        return f"{name}{where}{f' (rank {self.rank})' if self.rank is not None else ''}"

    @property
    def order(self) -> tuple[str, int, str]:
        """By node, then by index."""
        return (self.node or "", -1 if self.index is None else self.index, self.key)

    @property
    def subject(self) -> Subject:
        """This GPU and its rank as the accused."""
        return Subject(
            job=self.job,
            rank=self.rank,
            stage=self.pp,
            dp=self.dp,
            tp=self.tp,
            ep=self.ep,
            node=self.node,
            gpu=self.key,
        )


@dataclass(frozen=True)
class Grid:
    """GPUs of one job, or of one node where no job is known, over the newest WINDOW_SECONDS.

    Cells are (time, gpu); the cell at row `r` begins `start_ns + r * CELL_SECONDS * 1e9` since the Unix epoch.
    """

    job: str | None
    node: str | None
    gpus: tuple[Gpu, ...]
    start_ns: int
    cells: int
    time: str
    """SQL of the time of a reading on the clock of the grid."""
    _places: npt.NDArray[np.int64]
    _values: pa.Table
    _found: dict[tuple[str, str], Array] = field(default_factory=dict)

    def raw(self, name: str) -> Array:
        """What was read: the mean of each cell (of reasons: all bits; of counters: the highest); NaN where nothing was.

        Nobody changes what this, `sampled` and `settled` return.
        """
        return self._once("raw", name, lambda: self._matrix(name))

    def sampled(self, name: str) -> Array:
        """`raw`, each value held until the next reading is due."""
        values = self.raw(name)
        return self._once("sampled", name, lambda: held(values, typical_gap(values)))

    def settled(self, name: str) -> Array:
        """`raw`, each value held for HOLD_SECONDS: for what is read seldom and changes seldom."""
        return self._once("settled", name, lambda: held(self.raw(name), HOLD_SECONDS // CELL_SECONDS))

    def _once(self, kind: str, name: str, make: Callable[[], Array]) -> Array:
        if (kind, name) not in self._found:
            self._found[kind, name] = make()
        return self._found[kind, name]

    def _matrix(self, name: str) -> Array:
        """Cells that lie in two parts of the table are put together."""
        size, told = self.cells * len(self.gpus), self._values.column(name)
        if pa.types.is_null(told.type):
            return np.broadcast_to(np.nan, (self.cells, len(self.gpus)))
        known = told.is_valid().to_numpy()
        places, values = self._places[known], told.drop_null().to_numpy()
        how = _how(name)
        counts = self._values.column(f"{name}_count").drop_null().to_numpy() if how == "sum" else None
        readings = np.bincount(places, counts, size)
        if how == "sum":
            result = np.bincount(places, values, size).astype(np.float64, copy=False)
            np.divide(result, readings, out=result, where=readings > 0)
        elif how == "max":
            result = np.full(size, -np.inf)
            np.maximum.at(result, places, values)
        else:
            bits = np.zeros(size, dtype=np.int64)
            np.bitwise_or.at(bits, places, values)
            result = bits.astype(np.float64)
        result[readings == 0] = np.nan
        return result.reshape(self.cells, len(self.gpus))

    def time_ns(self, row: int) -> int:
        """When a cell begins."""
        return self.start_ns + row * CELL_SECONDS * _NS

    def label(self, columns: Sequence[int]) -> str:
        """8 GPUs on node0; GPU 3 of node0."""
        if len(columns) == 1:
            return self.gpus[columns[0]].label
        return f"{len(columns)} GPUs on {self.node}" if self.node else f"{len(columns)} GPUs"


def held(values: Array, cells: int) -> Array:
    """Each value of a (time, gpu) matrix carried forward over at most `cells` cells without one."""
    unknown = np.isnan(values)
    if cells < 1 or unknown.all() or not unknown.any():
        return values
    place = np.where(unknown, -1, np.arange(len(values))[:, None])
    last = np.maximum.accumulate(place, axis=0)
    age = np.arange(len(values))[:, None] - last
    filled = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    result: Array = np.where((last >= 0) & (age <= cells), filled, np.nan)
    return result


def typical_gap(values: Array) -> int:
    """Cells between two readings of a GPU, less one, and one more for jitter."""
    counts = np.sum(~np.isnan(values), axis=0)
    most = int(counts.max(initial=0))
    return min(len(values) // most, HOLD_SECONDS // CELL_SECONDS) if most else 0


@once
def count_gpus(reader: Reader) -> int:
    """How many GPUs were ever sampled."""
    count: int = reader.query(f"SELECT count(DISTINCT {KEY}) AS gpus FROM device_samples")["gpus"][0].as_py()
    return count


@once
def load_grids(reader: Reader) -> list[Grid]:
    """Every GPU that was sampled, together with the others of its job (else of its node)."""
    time = on_one_clock(reader)
    parts = by_part(reader, "device_samples", _cells_sql(COLUMNS, time), _outdated(reader))
    values = together(parts) if parts else None
    if values is None or values.num_rows == 0:
        return []
    known = _gpus(reader)
    keys, place = codes(values.column("gpu"))
    cell = values.column("cell").to_numpy().astype(np.int64)
    kept = cell > _newest(place, cell)[place] - CELLS_MAX
    if not kept.all():
        place, cell, values = place[kept], cell[kept], values.filter(pa.array(kept))
    groups: dict[tuple[str | None, str | None], list[int]] = {}
    for at in sorted(range(len(keys)), key=lambda each: known[keys[each]].order):
        gpu = known[keys[at]]
        groups.setdefault((gpu.job, None if gpu.job else gpu.node), []).append(at)
    arranged = sorted(groups.items(), key=_sortable)
    group, column = np.empty(len(keys), dtype=np.int64), np.empty(len(keys), dtype=np.int64)
    for at, (_, members) in enumerate(arranged):
        group[members], column[members] = at, np.arange(len(members))
    if len(arranged) > 1:  # the rows of each group side by side
        order = np.argsort(group[place], kind="stable")
        cell, place, values = cell[order], place[order], values.take(pa.array(order))
    edges = np.searchsorted(group[place], np.arange(len(arranged) + 1)) if len(arranged) > 1 else [0, len(place)]
    spans = [slice(start, end) for start, end in itertools.pairwise(edges)]
    return [_grid(job, node, time, [known[keys[at]] for at in members], column[place[span]], cell[span],
                  values.slice(span.start, span.stop - span.start))
            for ((job, node), members), span in zip(arranged, spans, strict=True)]  # fmt: skip


def _newest(place: npt.NDArray[np.int64], cell: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The newest cell of each GPU."""
    newest = np.zeros(int(place.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(newest, place, cell)
    return newest


@once
def _outdated(reader: Reader) -> frozenset[str]:
    """Parts of device_samples with nothing of any GPU's newest WINDOW_SECONDS."""
    cell_of = _cell(on_one_clock(reader))
    parts = by_part(
        reader,
        "device_samples",
        f"SELECT {KEY} AS gpu, max({cell_of}) AS cell FROM device_samples WHERE {cell_of} IS NOT NULL AND {KEY} IS NOT NULL "
        "GROUP BY gpu",
    )
    if not parts:
        return frozenset()
    rows = together(parts)
    _, place = codes(rows.column("gpu"))
    cell = rows.column("cell").to_numpy().astype(np.int64)
    inside = cell > _newest(place, cell)[place] - CELLS_MAX
    ends = np.cumsum([each.num_rows for each in parts.values()])
    starts = [0, *ends[:-1].tolist()]
    return frozenset(name for name, start, end in zip(parts, starts, ends, strict=True) if not inside[start:end].any())


def _sortable(item: tuple[tuple[str | None, str | None], list[int]]) -> tuple[str, str]:
    return (item[0][0] or "", item[0][1] or "")


def _grid(
    job: str | None,
    node: str | None,
    time: str,
    gpus: Iterable[Gpu],
    column: npt.NDArray[np.int64],
    cell: npt.NDArray[np.int64],
    values: pa.Table,
) -> Grid:
    last = int(cell.max())
    newest = cell > last - CELLS_MAX
    if not newest.all():
        column, cell, values = column[newest], cell[newest], values.filter(pa.array(newest))
    first, members = int(cell.min()), tuple(gpus)
    places = (cell - first) * len(members) + column
    return Grid(job, node, members, first * CELL_SECONDS * _NS, last - first + 1, time, places, values)


def _how(name: str) -> str:
    """How readings of one cell are put together: means by sum and count."""
    return _SUMMED.get(name) or ("max" if name.endswith("_ns") else "sum")


def _cell(time: str) -> str:
    return f"{time} // {CELL_SECONDS * _NS}"


def _cells_sql(columns: Sequence[str], time: str) -> str:
    """SELECT of all cells that may be of a GPU's newest WINDOW_SECONDS, and some before."""
    chosen = ", ".join(
        f"sum({name})::DOUBLE AS {name}, nullif(count({name}), 0)::UINTEGER AS {name}_count"
        if _how(name) == "sum"
        else f"{_how(name)}({name}) AS {name}"
        for name in columns
    )
    cell = _cell(time)
    return (
        f"SELECT {KEY} AS gpu, {cell} AS cell, {chosen} FROM device_samples WHERE {KEY} IS NOT NULL AND {cell} > (SELECT "
        f"min(newest) FROM (SELECT max({cell}) AS newest FROM device_samples WHERE {KEY} IS NOT NULL GROUP BY {KEY})) - "
        f"{CELLS_MAX} GROUP BY gpu, cell"
    )


@once
def _gpus(reader: Reader) -> dict[str, Gpu]:
    ranks = _ranks(reader)
    rows = reader.query(
        f"SELECT {KEY} AS key, arg_max(node, time_ns) AS node, arg_max(gpu_index, time_ns) AS index, "
        "arg_max(gpu_name, time_ns) AS name, arg_max(job, time_ns) AS job, arg_max(bus_id, time_ns) AS bus_id "
        f"FROM device_samples WHERE {KEY} IS NOT NULL AND time_ns IS NOT NULL GROUP BY key"
    ).to_pylist()
    found = {}
    for row in rows:
        place = ranks.get(row["key"]) or ranks.get(f"{row['node']}/{row.pop('bus_id')}") or {}
        row.pop("bus_id", None)
        same = row["job"] is None or place.get("job") == row["job"]
        found[row["key"]] = Gpu(**(row | (place if same else {})))
    return found


def _ranks(reader: Reader) -> dict[str, dict[str, Any]]:
    """Job and place of the rank that used a GPU last, by the GPU's UUID and by `node/bus id`."""
    place = "job, rank, dp, tp, pp, ep, coalesce(start_ns, 0) AS at_ns"
    whole = "rank IS NOT NULL AND job IS NOT NULL"
    rows = reader.query(
        "SELECT key, unnest(arg_max({'job': job, 'rank': rank, 'dp': dp, 'tp': tp, 'pp': pp, 'ep': ep}, at_ns)) FROM ("
        f"SELECT gpu_uuid AS key, {place} FROM steps WHERE gpu_uuid IS NOT NULL AND {whole} UNION ALL "
        f"SELECT coalesce(gpu_uuid, node || '/' || bus_id), {place} FROM communicators WHERE {whole}) "
        "WHERE key IS NOT NULL GROUP BY key"
    ).to_pylist()
    return {row.pop("key"): row for row in rows}


def share_of_time(counter: Array) -> Array:
    """A (time, gpu) counter of nanoseconds -> for each reading the share of the time since the one before; else NaN."""
    place = np.where(np.isnan(counter), -1, np.arange(len(counter))[:, None])
    before = np.vstack([np.full((1, counter.shape[1]), -1), np.maximum.accumulate(place, axis=0)[:-1]])
    value = np.take_along_axis(counter, np.maximum(before, 0), axis=0)
    elapsed = (np.arange(len(counter))[:, None] - before) * CELL_SECONDS * 1e9
    growth = counter - value
    result: Array = np.where((before >= 0) & (growth >= 0), np.minimum(growth / elapsed, 1.0), np.nan)
    return result


def typical(values: Array, where: npt.NDArray[np.bool_]) -> float:
    """Median of the chosen cells."""
    return float(median(values[where]))


def samples_of(gpus: Sequence[str], first_ns: int, end_ns: int, time: str = "time_ns") -> str:
    """FROM and WHERE of the samples of these GPUs in a span of `time`, as a grid has it."""
    return (
        f"FROM device_samples WHERE {KEY} IN ({', '.join(literal(key) for key in gpus)}) "
        f"AND {time} BETWEEN {first_ns} AND {end_ns}"
    )
