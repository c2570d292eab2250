"""Transfer times of collectives: what an operation takes once its last rank has arrived, by communicator, operation and size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .detector import Reader
from .parts import Numbers, by_part, codes, together
from .remembered import once
from .robust import Array
from .waits import POINT_TO_POINT, UNTIMED, timed

WINDOW_INSTANCES: Final = 1000
"""Newest operations of each communicator, operation and size that are looked at."""
WINDOW_OPERATIONS: Final = 5000
"""Newest operations of each communicator, of whatever operation and size, that are looked at."""
BYTES_FLOOR: Final = 64 * 1024
"""Smaller messages are bound by latency and say nothing about a link."""
LARGE: Final = f"message_bytes >= {BYTES_FLOOR} AND nranks > 1 AND coalesce(sharing, 1) = 1"
"""Of operations that one kernel did together nobody knows which part of its time each took."""
LINE: Final = "communicator, operation, message_bytes"
"""Columns of what is compared."""
SERIES_MIN: Final = 5
"""Operations from which a communicator, operation and size are worth a series."""


@dataclass(frozen=True)
class Line:
    """What is compared: one operation of one size on one communicator."""

    communicator: str
    operation: str
    message_bytes: int
    nranks: int

    @property
    def factor(self) -> float:
        """Bus bandwidth over message_bytes / time, as nccl-tests defines both."""
        if self.operation == "all_reduce":
            return 2 * (self.nranks - 1) / self.nranks
        if self.operation in ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter"):
            return (self.nranks - 1) / self.nranks
        return 1.0

    def __str__(self) -> str:
        return f"{self.operation} of {self.message_bytes / 2**20:.3g} MiB"


@dataclass(frozen=True)
class Series:
    """Bus bandwidth of each operation of a line in order, bytes a second; steps are -1 where not known."""

    line: Line
    bandwidth: Array
    sequence: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]

    @property
    def seconds(self) -> Array:
        """Transfer time of each operation."""
        return self.line.message_bytes * self.line.factor / self.bandwidth


def instances(job: str) -> str:
    """SELECT of one row an operation whose ranks were all recorded: the shortest duration over them is the transfer."""
    line = f"{LINE}, sequence"
    return (
        f"SELECT {line}, max(nranks) AS nranks, min(step) AS step, "
        f"min(duration_ns) AS transfer_ns {timed(job, WINDOW_OPERATIONS)} AND {LARGE} "
        f"GROUP BY {line} "
        "HAVING count(DISTINCT rank) = max(nranks)"
    )


def load_series(reader: Reader, job: str) -> list[Series]:
    """The newest WINDOW_INSTANCES operations of every line of a job."""
    return _every_job(reader).get(job, [])


_INSTANCES: Final = (
    f"SELECT job, {LINE}, sequence, max(nranks) AS nranks, min(step) AS step, min(duration_ns) AS transfer_ns, list(DISTINCT "
    "rank) AS ranks FROM collectives WHERE job IS NOT NULL AND communicator IS NOT NULL AND sequence IS NOT NULL AND "
    f"coalesce(timing, 'host') NOT IN {UNTIMED} AND duration_ns > 0 AND rank IS NOT NULL AND operation NOT IN {POINT_TO_POINT} "
    f"AND {LARGE} GROUP BY job, {LINE}, sequence"
)
"""Operations as far as one part of the table tells of them."""
_NEWEST: Final = (
    "SELECT job, communicator, max(sequence) AS last FROM collectives WHERE job IS NOT NULL AND communicator IS NOT NULL AND "
    "sequence IS NOT NULL GROUP BY job, communicator"
)
_NO_STEP: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class _Told:
    """Operations, a row for each part that tells of it; those of one line side by side, by sequence."""

    sequence: Numbers
    nranks: Numbers
    step: Numbers
    transfer_ns: Numbers
    ranks: pa.ListArray

    def series(self, line: Line, before: int) -> Series | None:
        """Of operations whose ranks were all recorded; None where they are too few."""
        starts = np.flatnonzero(_changes([self.sequence]))
        starts = starts[self.sequence[starts] > before]
        if not len(starts):
            return None
        nranks = np.maximum.reduceat(self.nranks, starts)
        kept = np.flatnonzero(self._members(starts) == nranks)[-WINDOW_INSTANCES:]
        if len(kept) < SERIES_MIN:
            return None
        transfer = np.minimum.reduceat(self.transfer_ns, starts)[kept].astype(np.float64)
        steps = np.minimum.reduceat(self.step, starts)[kept]
        line = replace(line, nranks=int(nranks[kept].max()))
        bandwidth = line.message_bytes * line.factor / (transfer / 1e9)
        return Series(line, bandwidth, self.sequence[starts[kept]], np.where(steps == _NO_STEP, -1, steps))

    def _members(self, starts: Numbers) -> Numbers:
        """How many ranks tell of the operations that begin at these rows."""
        ends = np.append(starts[1:], len(self.sequence))
        counts: Numbers = pc.list_value_length(self.ranks).to_numpy().astype(np.int64)[starts]
        for at in np.flatnonzero(ends - starts > 1):
            rows = self.ranks.slice(int(starts[at]), int(ends[at] - starts[at]))
            counts[at] = len(pc.unique(rows.flatten()))
        return counts


@once
def _every_job(reader: Reader) -> dict[str, list[Series]]:
    """All jobs at once: one job by itself costs as much as many."""
    last, outdated = _newest(reader)
    parts = by_part(reader, "collectives", _INSTANCES, outdated)
    if not sum(each.num_rows for each in parts.values()):
        return {}
    rows = together(parts)
    named = [codes(rows.column(name)) for name in ("job", "communicator", "operation")]
    key = [*(place for _, place in named), _whole(rows, "message_bytes")]
    order = np.lexsort((_whole(rows, "sequence"), *reversed(key)))
    edges = [*np.flatnonzero(_changes([each[order] for each in key])).tolist(), len(order)]
    sequence, nranks, step, transfer = (
        _whole(rows, name)[order] for name in ("sequence", "nranks", "step", "transfer_ns")
    )
    ranks = rows.column("ranks").combine_chunks().take(pa.array(order))
    found: dict[str, list[Series]] = {}
    for start, end in itertools.pairwise(edges):
        job, communicator, operation = (names[int(place[order[start]])] for names, place in named)
        own = slice(start, end)
        told = _Told(sequence[own], nranks[own], step[own], transfer[own], ranks.slice(start, end - start))
        line = Line(communicator, operation, int(key[-1][order[start]]), 0)
        series = told.series(line, last[job, communicator] - WINDOW_OPERATIONS)
        if series is not None:
            found.setdefault(job, []).append(series)
    return found


def _newest(reader: Reader) -> tuple[dict[tuple[str, str], int], frozenset[str]]:
    """The newest sequence of each communicator, and parts of collectives without any of its newest WINDOW_OPERATIONS."""
    last: dict[tuple[str, str], int] = {}
    told = {name: _last(rows) for name, rows in by_part(reader, "collectives", _NEWEST).items()}
    for part in told.values():
        last |= {key: max(newest, last.get(key, newest)) for key, newest in part.items()}
    return last, frozenset(
        name
        for name, part in told.items()
        if all(newest <= last[key] - WINDOW_OPERATIONS for key, newest in part.items())
    )


def _last(rows: pa.Table) -> dict[tuple[str, str], int]:
    columns = (rows.column(name).to_pylist() for name in ("job", "communicator", "last"))
    return {(job, communicator): newest for job, communicator, newest in zip(*columns, strict=True)}


def _whole(rows: pa.Table, name: str) -> Numbers:
    """A column of whole numbers, _NO_STEP where one is not known."""
    column = rows.column(name).cast(pa.int64())
    values: Numbers = pc.fill_null(column, _NO_STEP).to_numpy()
    return values


def _changes(columns: Sequence[Numbers]) -> npt.NDArray[np.bool_]:
    """Where sorted rows differ from the row before."""
    found = np.ones(len(columns[0]), dtype=bool)
    found[1:] = np.any([np.diff(each) != 0 for each in columns], axis=0)
    return found


def why_none(reader: Reader, job: str) -> str:
    """In words, why a job with collectives has no series."""
    row = reader.query(
        "SELECT count(*) AS rows, count(*) FILTER (timing = 'summary') AS summaries, count(duration_ns) AS timed, "
        "count(*) FILTER (duration_ns IS NOT NULL AND sequence IS NULL) AS unnumbered, "
        f"count(*) FILTER (message_bytes >= {BYTES_FLOOR}) AS large FROM collectives WHERE job = ?",
        (job,),
    ).to_pylist()[0]
    if row["summaries"] == row["rows"]:
        return "published summaries only: no history of single operations"
    if row["timed"] == 0:
        return "no durations of collectives"
    if row["large"] == 0:
        return f"no message of {BYTES_FLOOR // 1024} KiB or more with a known size"
    if row["unnumbered"] == row["timed"]:
        return "collectives without sequence numbers: the ranks of one operation cannot be brought together"
    return f"fewer than {SERIES_MIN} operations of one size with all their ranks recorded"
