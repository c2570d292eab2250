"""Looks at rows before they are stored: times that cannot be, numbers beyond measure, texts without end, jobs without number.

One row of the year 2262 would stand at the end of every question, end every sum of times with an overflow, and never grow old;
one number near the end of 64 bits would end every question that reckons with it, for all jobs.
The rows of many frames are looked at together, table by table, which costs next to nothing; only where something is strange
are those frames taken apart, so that the others keep all of theirs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.batch import Batch, Frame
from warpline_proto.table import Column
from warpline_proto.tables import table
from warpline_proto.wire import COUNT_MAX

LEAST_NS: Final = -(2**61)
"""Earlier times and longer negative spans are damage: two of them would not add up within 64 bits."""
TEXT_BYTES_MAX: Final = 256 * 1024
"""Longest text of one cell."""
COUNTER_MAX: Final = 2**62
"""No counter counts further; two of them still subtract within 64 bits, and other counts are bounded by COUNT_MAX."""
REAL_MAX: Final = 1e100
"""Nothing that is measured is larger; very many of them still add up."""
_BOUNDLESS: Final = ("kernel_id",)
"""Whole numbers that are names: every bit of them means something, and nobody reckons with them."""
TIMES: Final = "times that cannot be"
TEXTS: Final = f"texts longer than {TEXT_BYTES_MAX // 1024} KiB"
JOBS: Final = "too many new jobs"

May = Callable[[str], bool]
"""Whether a job that is not known may begin."""


@dataclass(frozen=True)
class _Columns:
    times: tuple[str, ...]
    wholes: tuple[tuple[str, int], ...]
    """With the most that each may be."""
    reals: tuple[str, ...]
    texts: tuple[str, ...]
    job: bool


@lru_cache(64)
def _columns(name: str) -> _Columns:
    columns = table(name).columns
    return _Columns(
        tuple(each.name for each in columns if each.unit == "ns" and each.type == pa.int64()),
        tuple((each.name, _most(each)) for each in columns if _counts(each)),
        tuple(each.name for each in columns if pa.types.is_floating(each.type)),
        tuple(each.name for each in columns if pa.types.is_string(each.type)),
        any(each.name == "job" for each in columns),
    )


def _counts(column: Column) -> bool:
    return column.type == pa.int64() and column.unit not in ("ns", "bits") and column.name not in _BOUNDLESS


def _most(column: Column) -> int:
    return COUNTER_MAX if column.meaning.startswith("counter:") else COUNT_MAX


class Sieve:
    """What is looked for now: times up to `latest_ns`, jobs that are `known`."""

    def __init__(self, latest_ns: int, known: Collection[str]) -> None:
        self._latest_ns = latest_ns
        self._known = known

    def strange(self, frames: Sequence[Frame]) -> bool:
        """Whether any of their rows has to be looked at by itself."""
        together: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for frame in frames:
            for batch in frame.batches:
                if batch.rows.num_rows:
                    together[batch.table].append(batch.rows)
        return any(self._is_strange(name, pa.Table.from_batches(batches)) for name, batches in together.items())

    def _is_strange(self, name: str, rows: pa.Table) -> bool:
        columns = _columns(name)
        for each in columns.times:
            least, most = _span(rows.column(each))
            if (least is not None and least < LEAST_NS) or (most is not None and most > self._latest_ns):
                return True
        if any(not _within(rows.column(each), most) for each, most in columns.wholes):
            return True
        for each in columns.reals:
            total = pc.sum(rows.column(each)).as_py()  # NaN, of which least and greatest know nothing
            if total is not None and not (math.isfinite(total) and _within(rows.column(each), REAL_MAX)):
                return True
        for each in columns.texts:
            longest = pc.max(pc.binary_length(rows.column(each))).as_py()
            if longest is not None and longest > TEXT_BYTES_MAX:
                return True
        return columns.job and any(job and job not in self._known for job in pc.unique(rows.column("job")).to_pylist())

    def frame(self, frame: Frame, may: May) -> tuple[Frame, Counter[str]]:
        """The frame with what is left of its rows, and how many went for which reason."""
        reasons: Counter[str] = Counter()
        kept = tuple(self._batch(batch, may, reasons) for batch in frame.batches)
        return replace(frame, batches=kept), reasons

    def _batch(self, batch: Batch, may: May, reasons: Counter[str]) -> Batch:
        rows, columns = batch.rows, _columns(batch.table)
        if not rows.num_rows:
            return batch
        rows = _chosen(rows, [self._in_time(rows.column(each)) for each in columns.times], TIMES, reasons)
        rows = _chosen(rows, [_short(rows.column(each)) for each in columns.texts], TEXTS, reasons)
        if columns.job:
            jobs = rows.column("job")
            fresh = [job for job in pc.unique(jobs).to_pylist() if job and job not in self._known and not may(job)]
            if fresh:
                allowed = pc.invert(pc.is_in(jobs, pa.array(fresh, pa.string())))
                rows = _chosen(rows, [allowed], JOBS, reasons)
        return replace(batch, rows=_known(rows, columns))

    def _in_time(self, column: pa.Array) -> pa.Array:
        return pc.and_(pc.greater_equal(column, LEAST_NS), pc.less_equal(column, self._latest_ns))


def _span(column: pa.ChunkedArray) -> tuple[Any, Any]:
    found = pc.min_max(column)
    return found["min"].as_py(), found["max"].as_py()


def _short(column: pa.Array) -> pa.Array:
    return pc.less_equal(pc.binary_length(column), TEXT_BYTES_MAX)


def _chosen(rows: pa.RecordBatch, sound: Sequence[pa.Array], reason: str, reasons: Counter[str]) -> pa.RecordBatch:
    """Rows of which all of that is true or unknown."""
    every = pa.repeat(True, rows.num_rows)
    for flags in sound:
        every = pc.and_(every, pc.fill_null(flags, True))
    kept = rows.filter(every)
    if kept.num_rows < rows.num_rows:
        reasons[reason] += rows.num_rows - kept.num_rows
    return kept


def _within(column: pa.ChunkedArray, most: float) -> bool:
    least, greatest = _span(column)
    return least is None or (least >= -most and greatest <= most)


def _known(rows: pa.RecordBatch, columns: _Columns) -> pa.RecordBatch:
    """Numbers that are none, or beyond all measure, are not known."""
    for each, most in (*columns.wholes, *((name, REAL_MAX) for name in columns.reals)):
        column = rows.column(each)
        sound = pc.and_(pc.greater_equal(column, -most), pc.less_equal(column, most))  # of NaN neither is true
        if pc.all(sound).as_py() is False:
            at = rows.schema.get_field_index(each)
            known = pc.if_else(pc.fill_null(sound, False), column, pa.scalar(None, column.type))
            rows = rows.set_column(at, rows.schema.field(at), known)
    return rows
