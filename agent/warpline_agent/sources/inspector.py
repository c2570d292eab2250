"""NCCL Inspector's JSON: one record for each collective or point-to-point operation of one rank, with measured time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COLLECTIVES, COMMUNICATORS

from ..parsers import nccl, values
from ..source import LINE_CHARS_MAX, Input, Origin, Reading, Rows

Row = dict[str, Any]

RECORDS_MAX: Final = 2_000_000
"""Records kept of one file; the rest is counted as dropped."""

VERSIONS_MAX: Final = 16

RECORD_CHARS_MAX: Final = 4 * 1024 * 1024
"""A single object spread over several lines is given up at this length."""

COMMUNICATORS_MAX: Final = 65_536
"""Memberships kept of one file; a process has a few dozen."""

BATCH_ROWS: Final = 50_000
_KINDS: Final = (("coll_perf", "coll"), ("p2p_perf", "p2p"))
_TIMINGS: Final = {"kernel_gpu": "kernel_gpu", "kernel_cpu": "kernel_cpu", "collective_cpu": "host"}
_WORLD_NAMES: Final = frozenset(("default_pg", "world"))


@dataclass
class _Found:
    """What has been read so far."""

    rows: list[Rows] = field(default_factory=list)
    pending: list[Row] = field(default_factory=list)
    communicators: dict[tuple[Any, ...], Row] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    records: int = 0
    skipped: int = 0
    dropped: int = 0

    def flush(self) -> None:
        if self.pending:
            self.rows.append(Rows("collectives", COLLECTIVES.from_rows(self.pending)))
            self.pending = []


class Inspector:
    """One dump file of one process: JSON lines, or objects spread over several lines."""

    name = "nccl_inspector"

    def recognises(self, candidate: Input) -> bool:
        """JSON that begins with the header or metadata of a record, and names a perf object or Inspector's version."""
        head = candidate.head.lstrip()
        marks = (b'"coll_perf"', b'"p2p_perf"', b'"inspector_output_format_version"')
        return head.startswith(b"{") and b'"header"' in head and any(mark in head for mark in marks)

    def read(self, candidate: Input) -> Reading:
        """Records -> collectives, and the communicators that they name."""
        found = _Found()
        for document in _documents(candidate, found):
            _take(document, found)
        if not found.records:
            raise Refused("holds no complete NCCL Inspector record", "the file is cut off or not from the Inspector")
        found.flush()
        found.rows.append(Rows("communicators", COMMUNICATORS.from_rows(found.communicators.values())))
        if found.dropped:
            found.rows[0] = found.rows[0]._replace(dropped=found.dropped)
        return Reading(found.rows, _facts(found), _origin(found), _notes(found))


def _documents(candidate: Input, found: _Found) -> Iterator[Mapping[Any, Any]]:
    """JSON objects: a line each, or from a brace in the first column to the next one."""
    kept: list[str] = []
    length = 0
    for line in candidate.lines():
        if line.startswith("{") and kept:
            yield from _object(kept, found)
            kept, length = [], 0
        length += len(line)
        if line.strip() and length <= RECORD_CHARS_MAX:
            kept.append(line)
        if len(kept) == 1 and len(line) < LINE_CHARS_MAX and line.rstrip().endswith("}"):
            yield from _object(kept, found)
            kept, length = [], 0
    if kept:
        yield from _object(kept, found)


def _object(lines: list[str], found: _Found) -> Iterator[Mapping[Any, Any]]:
    try:
        document = json.loads("".join(lines))
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and any(isinstance(document.get(key), dict) for key, _ in _KINDS):
        yield document
    else:
        found.skipped += 1


def _take(document: Mapping[Any, Any], found: _Found) -> None:
    if found.records >= RECORDS_MAX:
        found.dropped += 1
        return
    header, metadata = values.mapping(document.get("header")), values.mapping(document.get("metadata"))
    communicator = _communicator(header, metadata)
    if len(found.communicators) < COMMUNICATORS_MAX:
        membership = (communicator["communicator"], communicator["node"], communicator["pid"])
        found.communicators.setdefault(membership, communicator)
    version = values.text(metadata.get("inspector_output_format_version"))
    if version and len(found.versions) < VERSIONS_MAX:
        found.versions.add(version)
    for key, prefix in _KINDS:
        if isinstance(document.get(key), dict):
            found.pending.append(_collective(communicator, document[key], prefix))
            found.records += 1
    if len(found.pending) >= BATCH_ROWS:
        found.flush()


def _communicator(header: Mapping[Any, Any], metadata: Mapping[Any, Any]) -> Row:
    """Membership as the header tells it. Its rank counts within the communicator; it is the global one only in the world."""
    name = values.text(header.get("comm_name"))
    rank = values.small(header.get("rank"))
    identifier = values.text(header.get("id")) or ""
    return {
        "source": "nccl_inspector",
        "node": values.text(metadata.get("hostname")),
        "rank": rank if name in _WORLD_NAMES else None,
        "communicator": nccl.communicator_id(identifier) or identifier or None,
        "group_name": name,
        "communicator_rank": rank,
        "nranks": values.small(header.get("n_ranks")),
        "nnodes": values.small(header.get("nnodes")),
        "pid": values.count(metadata.get("pid")),
    }


def _collective(communicator: Row, perf: Mapping[Any, Any], prefix: str) -> Row:
    operation = values.text(perf.get(prefix))
    source = perf.get(f"{prefix}_timing_source")
    timing = _TIMINGS.get(source) if isinstance(source, str) else None
    start = _start_ns(values.mapping(perf.get("event_trace_ts")), prefix, timing)
    algorithm, bus = (values.real(perf.get(f"{prefix}_{kind}_gbs")) for kind in ("algobw", "busbw"))
    return {
        **{
            name: communicator[name]
            for name in ("source", "node", "rank", "communicator", "communicator_rank", "group_name", "nranks")
        },
        "sequence": values.count(perf.get(f"{prefix}_sn")),
        "operation": nccl.operation(operation or "") or operation,
        "message_bytes": values.count(perf.get(f"{prefix}_msg_size_bytes")),
        "peer": values.small(perf.get("p2p_peer")) if communicator["rank"] is not None else None,
        "start_ns": start,
        "clock": f"realtime@{communicator['node']}" if start is not None and communicator["node"] else None,
        "duration_ns": values.scaled(perf.get(f"{prefix}_exec_time_us"), 1e3),
        "timing": timing,
        "algorithm_bytes_per_second": None if algorithm is None else algorithm * 1e9,
        "bus_bytes_per_second": None if bus is None else bus * 1e9,
        "state": "completed",
    }


def _start_ns(trace: Mapping[Any, Any], prefix: str, timing: str | None) -> int | None:
    """The start of what was timed: of the first channel's kernel, or of the call where the host was timed."""
    channels = trace.get("kernel_events")
    if timing in ("kernel_gpu", "kernel_cpu") and values.is_list(channels):
        starts = [values.scaled(values.mapping(channel).get("kernel_start_ts"), 1e3) for channel in channels]
        return min((start for start in starts if start), default=None)
    return values.scaled(trace.get(f"{prefix}_start_ts"), 1e3) or None if timing == "host" else None


def _facts(found: _Found) -> Row:
    return {
        "records": found.records,
        "communicators": len(found.communicators),
        "versions": sorted(found.versions),
        "nodes": len({row["node"] for row in found.communicators.values()} - {None}),
    }


def _origin(found: _Found) -> Origin:
    nodes = {row["node"] for row in found.communicators.values()}
    ranks = {row["rank"] for row in found.communicators.values()} - {None}
    identifiers = dict.fromkeys(row["communicator"] for row in found.communicators.values() if row["communicator"])
    return Origin(
        rank=ranks.pop() if len(ranks) == 1 else None,
        communicators=tuple((identifier, ()) for identifier in identifiers),
        node=nodes.pop() if len(nodes) == 1 else None,
        content=values.digest(found.rows),
    )


def _notes(found: _Found) -> list[str]:
    notes = []
    if found.skipped:
        notes.append(f"{found.skipped} objects are damaged or no Inspector record and were skipped")
    if found.dropped:
        notes.append(f"{found.dropped} records beyond the first {RECORDS_MAX} were left out")
    if any(row["rank"] is None for row in found.communicators.values()):
        notes.append("ranks count within their communicators: the Inspector does not write global ranks")
    return notes
