"""Transfer times of collectives: what an operation takes once its last rank has arrived, by communicator, operation and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .detector import Reader
from .remembered import once
from .robust import Array
from .waits import timed

WINDOW_INSTANCES: Final = 1000
"""Newest operations of each communicator, operation and size that are looked at."""
WINDOW_OPERATIONS: Final = 5000
"""Newest operations of each communicator, of whatever operation and size, that are looked at."""
BYTES_FLOOR: Final = 64 * 1024
"""Smaller messages are bound by latency and say nothing about a link."""
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


def instances(job: str | None) -> str:
    """SELECT of one row an operation whose ranks were all recorded: the shortest duration over them is the transfer.

    Of one job, or of all of them with their names.
    """
    line = f"{LINE}, sequence" if job is not None else f"job, {LINE}, sequence"
    return (
        f"SELECT {line}, max(nranks) AS nranks, min(step) AS step, "
        f"min(duration_ns) AS transfer_ns {timed(job, WINDOW_OPERATIONS)} AND message_bytes >= {BYTES_FLOOR} AND nranks > 1 "
        f"GROUP BY {line} "
        "HAVING count(DISTINCT rank) = max(nranks)"
    )


def load_series(reader: Reader, job: str) -> list[Series]:
    """The newest WINDOW_INSTANCES operations of every line of a job."""
    return _every_job(reader).get(job, [])


@once
def _every_job(reader: Reader) -> dict[str, list[Series]]:
    """All jobs with one question: one job by itself costs as much as many."""
    rows = reader.query(
        f"WITH instances AS ({instances(None)} QUALIFY row_number() OVER (PARTITION BY job, {LINE} "
        f"ORDER BY sequence DESC) <= {WINDOW_INSTANCES}) SELECT job, {LINE}, max(nranks) AS nranks, "
        "list(transfer_ns ORDER BY sequence) AS transfer_ns, list(sequence ORDER BY sequence) AS sequence, "
        f"list(coalesce(step, -1) ORDER BY sequence) AS step FROM instances GROUP BY job, {LINE} "
        f"HAVING count(*) >= {SERIES_MIN} ORDER BY job, {LINE}"
    )
    found: dict[str, list[Series]] = {}
    columns = {name: rows.column(name).combine_chunks() for name in rows.schema.names}
    for at, job in enumerate(rows.column("job").to_pylist()):
        found.setdefault(job, []).append(_series(columns, at))
    return found


def _series(columns: dict[str, Any], at: int) -> Series:
    line = Line(*(columns[name][at].as_py() for name in ("communicator", "operation", "message_bytes", "nranks")))
    transfer = columns["transfer_ns"][at].values.to_numpy().astype(np.float64)
    return Series(
        line,
        line.message_bytes * line.factor / (transfer / 1e9),
        columns["sequence"][at].values.to_numpy().astype(np.int64),
        columns["step"][at].values.to_numpy().astype(np.int64),
    )


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
