"""The book of one stream: the rows of `kernel_clusters` that were sent whole, by which sender and receiver predict later ones.

Both sides write the same book: each keyframe (rows sent whole) appends its rows as entries, in order, to the place they speak
of. A place is what does not change from step to step: node, job, rank, GPU, clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .bits import bit_length
from .clusters import QUANTILE_COLUMNS, QUANTILES, SUMS
from .tables import KERNEL_CLUSTERS

PLACE: Final = (
    "cluster", "node", "source", "job", "rank", "dp", "tp", "pp", "ep", "gpu_uuid", "device", "clock", "grade",
)  # fmt: skip
CATEGORIES: Final = ("compute", "communication", "memcpy", "memset")
ENTRIES_MAX: Final = 50_000
"""Entries of one book; a sender that needs more begins a new one. Eight ranks have some thousand."""
RUNS_MAX: Final = 500_000
"""Runs of all entries of a book, and of all rows of one message."""
LOG_STEP: Final = 0.05
"""Shortest and longest duration, and means of runs, are told in steps of 2 %: at most 1 % off."""
UNKNOWN_STREAM: Final = -(2**63)

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Place = tuple[Any, ...]


@dataclass(frozen=True)
class Runs:
    """Runs of many rows, one row after the other: those of row r are [offsets[r] : offsets[r + 1]]."""

    offsets: Numbers
    counts: Numbers
    means_ns: Reals

    @property
    def owner(self) -> Numbers:
        """The row of each run."""
        return np.repeat(np.arange(self.offsets.size - 1), np.diff(self.offsets))

    def take(self, rows: Numbers) -> Runs:
        """Those of some rows, in that order."""
        size = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(size)])
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], size)
        return Runs(offsets, self.counts[at], self.means_ns[at])

    def put(self, rows: Numbers, other: Runs) -> Runs:
        """These, with the ones of `rows` replaced by those of `other`, in order."""
        source = np.arange(self.offsets.size - 1)
        source[rows] = np.arange(rows.size) + source.size
        return _joined(self, other).take(source)


def _joined(left: Runs, right: Runs) -> Runs:
    return Runs(
        np.concatenate([left.offsets, right.offsets[1:] + left.offsets[-1]]),
        np.concatenate([left.counts, right.counts]),
        np.concatenate([left.means_ns, right.means_ns]),
    )


NO_RUNS: Final = Runs(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Values:
    """What changes from step to step, a row each: count and sum (ns), shortest and longest in LOG_STEPs, runs."""

    count: Numbers
    sum_ns: Numbers
    low: Numbers
    high: Numbers
    runs: Runs

    def __len__(self) -> int:
        return int(self.count.size)

    def take(self, rows: Numbers) -> Values:
        """Some rows, in that order."""
        return Values(self.count[rows], self.sum_ns[rows], self.low[rows], self.high[rows], self.runs.take(rows))

    def append(self, other: Values) -> Values:
        """These rows, then the other's."""
        return Values(
            np.concatenate([self.count, other.count]),
            np.concatenate([self.sum_ns, other.sum_ns]),
            np.concatenate([self.low, other.low]),
            np.concatenate([self.high, other.high]),
            _joined(self.runs, other.runs),
        )

    def put(self, rows: Numbers, other: Values) -> Values:
        """These rows, with `rows` replaced by the other's, in order."""
        source = np.arange(len(self))
        source[rows] = np.arange(rows.size) + source.size
        return self.append(other).take(source)

    @property
    def mean_ns(self) -> Reals:
        """Mean duration of each row."""
        return self.sum_ns / self.count


_NONE: Final = np.zeros(0, np.int64)
NO_VALUES: Final = Values(_NONE, _NONE, _NONE, _NONE, NO_RUNS)


@dataclass
class Book:
    """Entries in order of arrival.

    `names` has columns place, stream, kernel, category and index; `sum_bits` is about how long the difference of a sum is.
    """

    serial: int = 0
    places: dict[Place, int] = field(default_factory=dict)
    names: Numbers = field(default_factory=lambda: np.zeros((0, 5), np.int64))
    keys: Values = NO_VALUES
    sum_bits: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def has_room(self, batch: pa.RecordBatch) -> bool:
        """Whether all rows of `batch` could become entries."""
        runs = len(batch.column("run_counts").flatten())
        return len(self) + batch.num_rows <= ENTRIES_MAX and self.keys.runs.counts.size + runs <= RUNS_MAX

    def append(self, rows: Rows) -> None:
        """Remember the rows of a keyframe that can be predicted from."""
        known = np.array([self.places.setdefault(place, len(self.places)) for place in rows.places], np.int64)
        chosen = np.flatnonzero(rows.sound)
        place = known[rows.place[chosen]]
        self.names = np.concatenate([self.names, np.column_stack([place, rows.names[chosen]])])
        values = rows.values.take(chosen)
        self.keys = self.keys.append(values)
        self.sum_bits = np.concatenate([self.sum_bits, bit_length(values.sum_ns)])
        self.serial += 1

    def renew(self, entry: Numbers, values: Values, adopted: Numbers, sum_bits: Numbers | None) -> None:
        """After a message about `entry`: rows `adopted` take the place of theirs, `sum_bits` that of what was expected."""
        if adopted.size:
            self.keys = self.keys.put(entry[adopted], values.take(adopted))
        if sum_bits is not None:
            self.sum_bits[entry] = sum_bits
        self.serial += int(adopted.size > 0 or sum_bits is not None)


@dataclass(frozen=True)
class Rows:
    """Rows of `kernel_clusters` as numbers.

    `place` numbers `places`; `names` has columns stream, kernel, category, index; windows are (step, start, end) with `stepless`
    where the step is NULL. Rows that are not `sound` lack something, or are not what a sender makes: they travel whole.
    """

    places: list[Place]
    place: Numbers
    names: Numbers
    window: Numbers
    stepless: npt.NDArray[np.bool_]
    values: Values
    sound: npt.NDArray[np.bool_]


def read_rows(batch: pa.RecordBatch) -> Rows:
    """Rows of `kernel_clusters` -> their numbers."""
    stepless = batch.column("step").is_null().to_numpy(zero_copy_only=False)
    place, places = _places(batch)
    count, total, shortest, longest = (_whole(batch, name, 0) for name in ("count", "sum_ns", "min_ns", "max_ns"))
    bare = pa.compute.equal(batch.column("grade"), SUMS).fill_null(False).to_numpy(zero_copy_only=False)
    runs = _with_means(_runs(batch), bare, count, total)
    category = np.full(batch.num_rows, -1)
    for code, name in enumerate(CATEGORIES):
        category[pa.compute.equal(batch.column("category"), name).fill_null(False).to_numpy(zero_copy_only=False)] = (
            code
        )
    known = np.ones(batch.num_rows, dtype=bool)
    for name in ("kernel_id", "start_ns", "end_ns", "cluster_index"):
        known &= batch.column(name).is_valid().to_numpy(zero_copy_only=False)
    for name in (*QUANTILE_COLUMNS, "run_counts", "run_means_ns"):
        known &= batch.column(name).is_valid().to_numpy(zero_copy_only=False) != bare
    held = np.bincount(runs.owner, runs.counts, minlength=batch.num_rows)
    least = np.full(batch.num_rows, np.inf)
    np.minimum.at(least, runs.owner, np.minimum(runs.means_ns, runs.counts))
    start, end = _whole(batch, "start_ns", 0), _whole(batch, "end_ns", 0)
    sound = known & (shortest >= 1) & (longest >= shortest) & (count >= 1) & (held == count) & (least >= 1)
    sound &= (count < _COUNT_MAX) & (total < _SUM_MAX) & (longest < _SUM_MAX) & (total >= count) & (category >= 0)
    sound &= (np.abs(start) < _TIME_MAX) & (np.abs(end) < _TIME_MAX)
    names = [
        _whole(batch, "stream", UNKNOWN_STREAM),
        _whole(batch, "kernel_id", 0),
        category,
        _whole(batch, "cluster_index", 0),
    ]
    step = _whole(batch, "step", 0)
    sound &= np.abs(step) < _SUM_MAX
    values = Values(count, total, log_steps(shortest), log_steps(longest), runs)
    return Rows(places, place, np.column_stack(names), np.column_stack([step, start, end]), stepless, values, sound)


_COUNT_MAX: Final = 2**31
_SUM_MAX: Final = 2**60
_TIME_MAX: Final = 2**61
"""The longest number that can be told: from the epoch of a clock until 2043."""


def log_steps(durations_ns: Numbers) -> Numbers:
    """Durations in LOG_STEPs."""
    return np.rint(np.log(np.maximum(durations_ns, 1)) / LOG_STEP).astype(np.int64)


def _whole(batch: pa.RecordBatch, name: str, unknown: int) -> Numbers:
    column = batch.column(name).cast(pa.int64())
    filled = column.fill_null(unknown) if column.null_count else column
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int64)


def _runs(batch: pa.RecordBatch) -> Runs:
    """Rows whose two lists do not go together have none."""
    counts, means = batch.column("run_counts"), batch.column("run_means_ns")
    size = np.asarray(pa.compute.list_value_length(counts).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    other = np.asarray(pa.compute.list_value_length(means).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    flat_counts, flat_means = counts.flatten(), means.flatten()
    if (size != other).any() or flat_counts.null_count or flat_means.null_count:
        return Runs(np.zeros(batch.num_rows + 1, np.int64), NO_RUNS.counts, NO_RUNS.means_ns)
    return Runs(
        np.concatenate([[0], np.cumsum(size)]),
        np.asarray(flat_counts.to_numpy(), np.int64),
        np.asarray(flat_means.to_numpy(), np.float64),
    )


def _with_means(runs: Runs, bare: Flags, count: Numbers, total: Numbers) -> Runs:
    """Rows that are `bare` of a shape stand for their mean."""
    rows = np.flatnonzero(bare)
    if not rows.size:
        return runs
    return runs.put(rows, Runs(np.arange(rows.size + 1), count[rows], total[rows] / np.maximum(count[rows], 1)))


def _places(batch: pa.RecordBatch) -> tuple[Numbers, list[Place]]:
    """Number of each row's place, and the places in order of appearance."""
    columns = [batch.column(name) for name in PLACE]
    codes = [column.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False) for column in columns]
    stacked = np.column_stack(codes) if batch.num_rows else np.zeros((0, len(PLACE)), np.int64)
    changed = np.flatnonzero(np.concatenate([[True], (stacked[1:] != stacked[:-1]).any(axis=1)])[: batch.num_rows])
    places: dict[Place, int] = {}
    number = [
        places.setdefault(tuple(column[at].as_py() for column in columns), len(places)) for at in changed.tolist()
    ]
    size = np.diff(np.append(changed, batch.num_rows))
    return np.repeat(np.array(number, np.int64), size), list(places)


def to_batch(
    places: list[Place], place: Numbers, names: Numbers, window: Numbers, stepless: Flags, values: Values
) -> pa.RecordBatch:
    """Rows of `kernel_clusters` from their numbers."""
    taken = pa.array(place)
    columns: dict[str, Any] = {
        name: pa.array([each[at] for each in places], KERNEL_CLUSTERS.schema.field(name).type).take(taken)
        for at, name in enumerate(PLACE)
    }
    columns |= {
        "step": pa.array(window[:, 0], mask=stepless),
        "start_ns": window[:, 1],
        "end_ns": window[:, 2],
        "stream": pa.array(names[:, 0], mask=names[:, 0] == UNKNOWN_STREAM),
        "kernel_id": names[:, 1],
        "category": pa.array(CATEGORIES).take(pa.array(names[:, 2])),
        "cluster_index": pa.array(names[:, 3]),
    }
    grade = PLACE.index("grade")
    bare = np.array([each[grade] == SUMS for each in places], dtype=bool)[place]
    return KERNEL_CLUSTERS.from_columns(columns | _numbers(values, bare))


def _numbers(values: Values, bare: Flags) -> dict[str, Any]:
    """Shapes of rows that are `bare` of one are NULL."""
    mean = values.mean_ns
    low = np.minimum(np.rint(np.exp(values.low * LOG_STEP)), np.floor(mean))
    high = np.maximum(np.rint(np.exp(values.high * LOG_STEP)), np.ceil(mean))
    runs, owner = values.runs, values.runs.owner
    means = np.rint(np.clip(runs.means_ns, low[owner], high[owner])).astype(np.int64)
    reached = np.cumsum(runs.counts)
    base = np.concatenate([[0], np.cumsum(values.count)[:-1]])
    columns: dict[str, Any] = {"count": values.count, "sum_ns": values.sum_ns}
    columns |= {"min_ns": low.astype(np.int64), "max_ns": high.astype(np.int64)}
    for share, name in zip(QUANTILES, QUANTILE_COLUMNS, strict=True):
        rank = base + np.minimum((share * values.count).astype(np.int64), values.count - 1)
        columns[name] = pa.array(means[np.searchsorted(reached, rank, side="right")], mask=bare)
    offsets, unknown = pa.array(runs.offsets, pa.int32()), pa.array(bare)
    columns["run_counts"] = pa.ListArray.from_arrays(offsets, pa.array(runs.counts, pa.int32()), mask=unknown)
    columns["run_means_ns"] = pa.ListArray.from_arrays(offsets, pa.array(means), mask=unknown)
    return columns
