"""Nsight Systems GPU traces as CSV: `nsys stats --report cuda_gpu_trace`, and the same with a line for start and for end."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from warpline_proto.errors import Refused

from ..kernels import COMPUTE, MEMCPY, MEMSET, RECORDS_MAX, TIME_NS_MAX, KernelLog, Kernels, digest
from ..parsers import values
from ..source import Input, Origin, Reading
from ..timeline import collective_rows, timeline_facts, timeline_rows

_HEAD_LINE: Final = re.compile(rb"\A(?:\xef\xbb\xbf)?([^\r\n]*)")
_DEVICE: Final = re.compile(r"\((\d{1,4})\)\s*$")


class Record(NamedTuple):
    """One activity; device and stream -1 where not given."""

    start_ns: int
    duration_ns: int
    name: str
    category: int
    device: int
    stream: int


class NsysGpuTrace:
    """One GPU trace."""

    name = "nsys_gpu_trace"

    def recognises(self, candidate: Input) -> bool:
        """By the names of the columns; traces of API calls are taken too, to say why they are refused."""
        return _paired(candidate.head) or _stats(candidate.head)

    def read(self, candidate: Input) -> Reading:
        """Steps (the whole trace), clusters, names and collectives."""
        records, dropped = _collect(_records(candidate))
        kernels = records.finish()
        if not len(kernels):
            raise Refused(
                "a CUDA trace without GPU activity (API calls only)", "export the report cuda_gpu_trace instead"
            )
        content = digest(kernels)
        clock = f"trace@{(content or '')[:16]}"
        first = int(kernels.start_ns.min())
        whole = (first, int(kernels.end_ns.max()) - first)
        rows = timeline_rows(kernels, [], rank=None, clock=clock, whole=whole)
        unknown = np.full(len(kernels), -1, dtype=np.int64)
        rows.append(collective_rows(kernels, unknown, {}, rank=None, clock=clock))
        notes = ["times count from the start of the recording: the time of day is not in the file"]
        if dropped:
            notes.append(f"{dropped} lines without a sound time, or beyond the bound, were left out")
        kept = [each for each in rows if each.batch.num_rows]
        return Reading(kept, _facts(kernels), Origin(content=content), notes)


def _facts(kernels: Kernels) -> dict[str, Any]:
    return {"steps": 0} | timeline_facts(kernels)


def _header(head: bytes) -> bytes:
    found = _HEAD_LINE.match(head)
    return found[1] if found else b""


def _paired(head: bytes) -> bool:
    return all(column in _header(head) for column in (b"Name", b"Trace Type", b"Event Type", b"Timestamp (ns)"))


def _stats(head: bytes) -> bool:
    return all(column in _header(head) for column in (b"Start (ns)", b"Duration (ns)", b"Strm", b"Name"))


def _records(candidate: Input) -> Iterator[Record | None]:
    """Activities in the order of the file, None for a line that cannot be used."""
    try:
        lines = csv.DictReader(line.lstrip("\ufeff") for line in candidate.lines())
        yield from _from_pairs(lines) if _paired(candidate.head) else map(_from_stats, lines)
    except csv.Error as error:
        raise Refused(f"damaged CSV: {error}") from error


def _from_pairs(lines: Iterable[Mapping[str, Any]]) -> Iterator[Record | None]:
    for line in lines:
        if line.get("Trace Type") != "gpu_trace" or line.get("Event Type") != "Enter":
            continue
        start, end = values.count(line.get("Timestamp (ns)")), values.count(line.get("_matching_timestamp"))
        kind = values.text(line.get("type")) or ""
        yield _record(start, end, values.text(line.get("Name")), _category(kind), None, line.get("streamId"))


def _from_stats(line: Mapping[str, Any]) -> Record | None:
    start, duration = values.count(line.get("Start (ns)")), values.count(line.get("Duration (ns)"))
    end = None if start is None or duration is None else start + duration
    name = values.text(line.get("Name")) or ""
    device = _DEVICE.search(values.text(line.get("Device")) or "")
    category = _category(name) if name.startswith("[CUDA ") else COMPUTE
    label = name.strip("[]") if name.startswith("[CUDA ") else name
    return _record(start, end, label, category, device and device[1], line.get("Strm"))


def _category(kind: str) -> int:
    lowered = kind.lower()
    if "memset" in lowered:
        return MEMSET
    return MEMCPY if "memcpy" in lowered else COMPUTE


def _record(
    start: int | None, end: int | None, name: str | None, category: int, device: Any, stream: Any
) -> Record | None:
    if start is None or end is None or not name or max(start, end) >= TIME_NS_MAX:
        return None
    numbers = [-1 if number is None else number for number in (values.small(device), values.small(stream))]
    return Record(start, end - start, name, category, *numbers)


def _collect(records: Iterable[Record | None]) -> tuple[KernelLog, int]:
    log, dropped = KernelLog(), 0
    for record in records:
        if record is None or len(log) >= RECORDS_MAX:
            dropped += 1
            continue
        name = log.name_id(record.name, record.category)
        log.append(record.start_ns, record.duration_ns, name, record.device, record.stream)
    return log, dropped
