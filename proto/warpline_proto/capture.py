"""Capture: "look closer at this for so long", from the analysis back to an agent, and what became of it.

A capture is REQUESTED by the collector, SENT once the node's agent took it, and ends DONE, DENIED or EXPIRED. Each of these is
a row of table `captures`; the furthest state of an identifier counts, whatever the clocks that wrote the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from . import service_pb2
from .tables import CAPTURES

REQUESTED: Final = "requested"
SENT: Final = "sent"
EXPIRED: Final = "expired"
"""Nobody answered in time; an answer that comes later still counts."""
DENIED: Final = "denied"
DONE: Final = "done"
STATES: Final = (REQUESTED, SENT, EXPIRED, DENIED, DONE)
"""In the order in which one takes the place of another."""
OPEN_STATES: Final = (REQUESTED, SENT)
KERNELS: Final = "kernels"
STACKS: Final = "stacks"
FLIGHT_RECORDER: Final = "flight_recorder"
TRACE: Final = "trace"
"""A trace by the training process's own profiler library, of a time that is still to come."""
BY_HAND: Final = "by_hand"
"""Under which people send their requests, whoever they are."""
DETAIL_CHARS_MAX: Final = 500


@dataclass(frozen=True)
class Capture:
    """A request to look closer. `what` is kernels, stacks, flight_recorder or trace; `reason` is the finding that asked.

    `start_ns` counts from the Unix epoch on the collector's clock.
    """

    id: str
    job: str
    rank: int
    what: str
    start_ns: int
    duration_ns: int
    reason: str

    def row(self, state: str, detail: str | None = None, **columns: Any) -> dict[str, Any]:
        """A row of table `captures`; `columns` say who writes it, where and when."""
        told = None if detail is None else detail[:DETAIL_CHARS_MAX]
        return asdict(self) | {"state": state, "detail": told} | columns


def from_message(message: service_pb2.CaptureRequest) -> Capture:
    """A request as it came over the wire; strings of whatever content, numbers of whatever size."""
    fields = ("id", "job", "rank", "what", "start_ns", "duration_ns", "reason")
    return Capture(**{name: getattr(message, name) for name in fields})


def to_message(row: Mapping[str, Any]) -> service_pb2.CaptureRequest:
    """A row of table `captures` as a request; what is not known is left out."""
    names = ("id", "job", "rank", "what", "start_ns", "duration_ns", "reason")
    return service_pb2.CaptureRequest(**{name: row[name] for name in names if row.get(name) is not None})


def to_rows(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Rows of table `captures`."""
    return CAPTURES.from_rows(rows)
