"""The newest records of a ring, whoever has read them before: what a process did last, for somebody who only looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warpline_hook import ring

from .kernels import TIME_NS_MAX, clean_name
from .parsers import nccl
from .ring_file import FILE_BYTES_MAX, RECORD, Records, RingFile, Text
from .ring_records import OPERATIONS, communicator_row

OPERATIONS_MAX: Final = 8192
"""Newest records of NCCL's lane that are looked at: all that it has room for."""
EVENTS_MAX: Final = 256
FEW: Final = 64
"""Newest records among which the newest operation is looked for."""
ROWS_MAX: Final = 256
"""Operations of communicators that are told of one process."""
TEXT_READS_MAX: Final = 32
"""Reads until all texts of a ring are known."""


@dataclass(frozen=True)
class Lately:
    """What a process did last: its communicators, how far it is in each operation of each, and when it enqueued the newest.

    `enqueued_ns` counts only communicators of more than one rank, the others wait for nobody. `captured_from_ns` is since when
    kernels are captured without a break, None where they are not.
    """

    operations: tuple[Mapping[str, Any], ...] = ()
    enqueued_ns: int | None = None
    captured_from_ns: int | None = None


def newest(file: RingFile, lane: str, records_max: int) -> Records:
    """The newest records of a lane that are whole, oldest first."""
    at = ring.LANES_AT + ring.LANES.index(lane) * ring.LANE_BYTES
    told = file.peek(at, ring.LANE.size)
    if len(told) < ring.LANE.size:
        return np.empty(0, RECORD)
    offset, capacity, head, _, _ = ring.LANE.unpack(told)
    if not capacity or capacity & (capacity - 1) or offset + capacity * ring.RECORD_BYTES > FILE_BYTES_MAX:
        return np.empty(0, RECORD)
    count = min(head, records_max, capacity)
    first = (head - count) % capacity
    before_end = min(count, capacity - first)
    block = file.peek(offset + first * ring.RECORD_BYTES, before_end * ring.RECORD_BYTES)
    block += file.peek(offset, (count - before_end) * ring.RECORD_BYTES)
    if len(block) < count * ring.RECORD_BYTES:
        return np.empty(0, RECORD)
    records: Records = np.frombuffer(block, RECORD)
    expected = (np.arange(count, dtype=np.uint64) + np.uint64(head - count + 1 & 0xFFFFFFFF)).astype(np.uint32)
    chosen: Records = records[records["commit"] == expected]
    return chosen


def newest_enqueued(file: RingFile) -> int | None:
    """When the newest operation was enqueued, on whatever communicator."""
    records = newest(file, "nccl", FEW)
    times = records["start_ns"][np.isin(records["kind"], OPERATIONS) & (records["start_ns"] < TIME_NS_MAX)]
    return int(times.max()) if times.size else None


def lately(file: RingFile) -> Lately:
    """What the process of a ring did last."""
    for _ in range(TEXT_READS_MAX):
        if not file.read_texts():
            break
    named = {number: row for number, text in file.texts.items() if (row := _communicator(text)) is not None}
    records = newest(file, "nccl", OPERATIONS_MAX)
    records = records[(records["kind"] == ring.COLLECTIVE) & (records["start_ns"] < TIME_NS_MAX)]
    found: dict[tuple[int, int], Any] = {(int(each["extra"]), int(each["name"])): each for each in records}
    told = [(key, each) for key, each in found.items() if key[0] in named][:ROWS_MAX]
    rows = [_operation(each, file, named[communicator]) for (communicator, _), each in told]
    used = {communicator for communicator, _ in found}
    rows += [row for number, row in named.items() if number not in used][: ROWS_MAX - len(rows)]
    waited_for = [row["enqueued_ns"] for row in rows if "enqueued_ns" in row and row["nranks"] != 1]
    return Lately(tuple(rows), max(waited_for, default=None), _captured_from(file))


def _communicator(text: Text) -> Mapping[str, Any] | None:
    row = communicator_row(text)
    return None if row is None else {name: value for name, value in row.items() if name != "nnodes"}


def _operation(record: Any, file: RingFile, communicator: Mapping[str, Any]) -> Mapping[str, Any]:
    name = file.text(int(record["name"]))
    told = {
        "operation": None if name is None else nccl.operation(name) or clean_name(name),
        "sequence": int(record["number"]) & (1 << 63) - 1,
        "elements": min(int(record["value"]), (1 << 63) - 1),
        "datatype": nccl.datatype(file.text(int(record["context"])) or ""),
        "enqueued_ns": int(record["start_ns"]),
    }
    return {**communicator, **told}


def _captured_from(file: RingFile) -> int | None:
    if not file.standing().capturing & ring.KERNELS:
        return None
    events = newest(file, "events", EVENTS_MAX)
    changes = events[events["kind"] == ring.CAPTURE]
    return int(changes[-1]["start_ns"]) if len(changes) and changes[-1]["value"] & ring.KERNELS else file.created_ns
