"""Reads a log into which NCCL and others write: fed line by line, it gives rows and keeps counts of what it saw.

The same object serves a recorded file and a file that is still being written: `rows` gives what is new since the last call.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import Any, Final, NamedTuple

import pyarrow as pa

from warpline_proto.tables import table

from ..source import Origin, Rows
from . import nccl_tests
from .all_reduce_bench import AllReduceBench
from .nccl_communicators import Communicators
from .nccl_faults import Event, Faults, columns
from .nccl_operations import Operations
from .nccl_records import Record, RecordReader, plain, without_launcher
from .values import epoch_ns, scaled, whole

STEPS_MAX: Final = 100_000
"""Training iterations kept between two calls of `rows`; more are counted."""

ROWS_MAX: Final = 8192
"""Rows of one batch."""

KINDS_MAX: Final = 256
"""Versions told apart in the facts."""

_VERSION: Final = re.compile(r"\b[NR]CCL version (\d{1,4}\.\d{1,4}\.\d{1,4}\S{0,40})")
_ITERATION: Final = re.compile(
    r"iteration +(\d{1,12})/ *\d{1,12} \|.{0,200}?elapsed time per iteration \((ms|s)\): (\d{1,12}(?:\.\d{1,9})?)"
)
_ITERATION_TIME: Final = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
_CONTENT_RECORDS_MIN: Final = 16
"""Logs with fewer records say too little to be called the same data."""


class Live(NamedTuple):
    """Where and when a log is read while it is written: `now` gives nanoseconds since the Unix epoch."""

    host: str
    now: Callable[[], int]


class NcclLogParser:
    """`name` is the file's; `zone` is that of times in the log, which name none.

    `live` is for a log that is still written, on the machine that writes it: one process of a job, say. No world is told
    from it, rows without a time get the time of reading, and rows of `live.host` are left for the agent to place.
    """

    def __init__(self, name: str = "", zone: tzinfo = UTC, live: Live | None = None) -> None:
        self._zone = zone
        self._live = live
        self._reader = RecordReader(zone)
        self._communicators = Communicators(whole=live is None)
        self._operations = Operations()
        self._faults = Faults()
        self._tables = nccl_tests.ResultTables(name)
        self._bench = AllReduceBench()
        self._steps: list[dict[str, Any]] = []
        self._steps_read = 0
        self._steps_dropped = 0
        self._told_world: int | None = None
        self._told_devices = 0
        self._told_exits: Counter[tuple[str, int]] = Counter()
        self._lines: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._hosts: dict[str, None] = {}
        self._times_read = False
        self._digest = hashlib.blake2b(digest_size=16)

    def feed(self, line: str) -> None:
        """Read one line (or a piece of one that was cut for its length)."""
        self._lines["lines"] += 1
        line = plain(line)
        before, records = self._reader.records(line) if "NCCL " in line else (line, [])
        if "CCL version" in line and (found := _VERSION.search(line)):
            self._version(found[1], records)
        for level in {record.level for record in records}:
            self._lines[level] += 1
        self._lines["torn"] += len(records) > 1
        for record in records:
            self._record(record)
        if before and not before.isspace():
            self._other(before)

    def rows(self) -> list[Rows]:
        """What was read since the last call, table by table; rows that found no place are counted with their table."""
        listed: dict[str, Iterable[dict[str, Any]]] = {
            "communicators": self._members(),
            "collectives": self._collectives(),
            "log_events": self._events(),
            "steps": self._steps,
            "jobs": self._job(),
        }
        self._steps = []
        lost = self._lost()
        return [
            Rows(name, batch, lost.pop(name, 0))
            for name, rows in listed.items()
            for batch in self._batches(name, rows, bool(lost.get(name)))
        ]

    def _batches(self, name: str, rows: Iterable[dict[str, Any]], always: bool) -> Iterator[pa.RecordBatch]:
        """Rows in batches of at most ROWS_MAX; an empty one where only losses are to be told."""
        waiting = iter(rows)
        while chunk := list(islice(waiting, ROWS_MAX)):
            yield table(name).from_rows(_placed(name, chunk, self._live))
            always = False
        if always:
            yield table(name).empty()

    @property
    def read_anything(self) -> bool:
        """Whether any line was of a kind known here."""
        levels = sum(count for name, count in self._lines.items() if name not in ("lines", "torn"))
        return bool(levels or self._versions or self._tables.seen or self._bench.results or self._steps_read)

    def facts(self) -> dict[str, Any]:
        """Counts worth showing; what was not met is left out."""
        seen, tables = self._communicators, self._tables
        told = {
            "nccl_info_lines": self._lines["INFO"],
            "nccl_warn_lines": self._lines["WARN"],
            "torn_lines": self._lines["torn"],
            "nccl_versions": dict(self._versions),
            "networks": dict(seen.networks),
            "init_complete": dict(seen.inits),
            "destroy_complete": seen.destroyed,
            "abort_complete": seen.aborted,
            "coll_channels": dict(seen.coll_channels),
            "operation_channels": dict(self._operations.channel_ranges),
            "operation_lines": self._operations.lines,
            "call_lines": self._operations.calls,
            "error_returns": self._faults.error_returns,
            "result_rows": tables.lines,
            "bench_results": self._bench.results,
            "task_exits": sum(tables.exits.values()),
            "iterations": self._steps_read,
        }
        measured = {
            "average_bus_gigabytes_per_second": tables.average_bus_gigabytes,
            "peak_out_of_place_bus_gigabytes_per_second": tables.peak_bus_gigabytes,
            "out_of_bounds": tables.out_of_bounds,
            "world_size": self._world_size(),
        }
        facts = {"lines": self._lines["lines"], **{name: value for name, value in told.items() if value}}
        return facts | {name: value for name, value in measured.items() if value is not None}

    def notes(self) -> list[str]:
        """What a reader of the rows should know."""
        notes = []
        if self._times_read and self._zone is UTC:
            notes.append("times in the log name no zone: read as UTC")
        if self._tables.unnamed:
            notes.append(
                f"{self._tables.unnamed} nccl-tests results have no operation: neither program nor columns tell it"
            )
        return notes

    def origin(self) -> Origin:
        """What the log says of where it comes from."""
        world = self._communicators.world()
        members = {
            each.identity: tuple(range(world.size or 0)) if each.group in world.groups else ()
            for each in self._communicators.known()
            if each.identity is not None
        }
        ranks = set(world.ranks.values())
        records = self._lines["INFO"] + self._lines["WARN"]
        return Origin(
            run_id=self._tables.run_id,
            rank=ranks.pop() if len(ranks) == 1 else None,
            world_size=self._world_size(),
            communicators=tuple(sorted(members.items())),
            node=next(iter(self._hosts)) if len(self._hosts) == 1 else None,
            content=self._digest.hexdigest() if records >= _CONTENT_RECORDS_MIN else None,
        )

    def _version(self, version: str, records: list[Record]) -> None:
        if version in self._versions or len(self._versions) < KINDS_MAX:
            self._versions[version] += 1
        record = records[0] if len(records) == 1 else Record("", "")
        self._communicators.version(record.host, record.pid, version)

    def _record(self, record: Record) -> None:
        self._digest.update(f"{record.host}:{record.pid}:{record.text}\n".encode("utf-8", "replace"))
        if record.host is not None and (record.host in self._hosts or len(self._hosts) < KINDS_MAX):
            self._hosts[record.host] = None
        self._times_read = self._times_read or record.time_ns is not None
        if record.level != "WARN" and (
            self._operations.read(record, self._communicators) or self._communicators.read(record)
        ):
            return
        self._faults.read(record)

    def _other(self, text: str) -> None:
        bare = without_launcher(text)
        if self._tables.feed(text) or (bare is not text and self._tables.feed(bare)) or self._bench.feed(text):
            return
        if "elapsed time per iteration" in text and (found := _ITERATION.search(text)):
            self._iteration(text, found)
        else:
            self._faults.other(text)

    def _iteration(self, text: str, found: re.Match[str]) -> None:
        duration = scaled(found[3], 1e6 if found[2] == "ms" else 1e9)
        self._steps_read += 1
        if len(self._steps) >= STEPS_MAX:
            self._steps_dropped += 1
            return
        ended = _ITERATION_TIME.search(text[: found.start()])
        start = None if ended is None or duration is None else self._moment(ended[1], duration)
        self._steps.append({"scope": "step", "step": whole(found[1]), "start_ns": start, "duration_ns": duration})

    def _moment(self, text: str, before_ns: int) -> int | None:
        try:
            ended = epoch_ns(datetime.fromisoformat(text).replace(tzinfo=self._zone))
            return None if ended is None else whole(ended - before_ns)
        except ValueError:
            return None

    def _members(self) -> list[dict[str, Any]]:
        members = [self._communicators.row(member) for member in self._communicators.take()]
        return members if self._communicators.inits else members + self._devices()

    def _collectives(self) -> Iterator[dict[str, Any]]:
        seen = self._communicators
        place = {"nranks": seen.world().size, "communicator": seen.world_label()}
        yield from self._operations.take(seen)
        for result in self._tables.take():
            yield nccl_tests.columns(self._tables, result)
        for row in self._bench.take():
            yield {**row, **place}

    def _events(self) -> list[dict[str, Any]]:
        ranks = self._communicators.world().ranks
        for count in self._tables.failed:
            message = f"nccl-tests checked its results: out of bounds values: {count} FAILED"
            self._faults.add(Event("wrong_data", "critical", message, count))
        self._tables.failed.clear()
        for (node, code), count in (self._tables.exits - self._told_exits).items():
            message = f"srun: tasks on {node} exited with exit code {code}"
            self._faults.add(Event("task_exit", "warning", message, code, host=node, count=count))
        self._told_exits = self._tables.exits.copy()
        return [columns(each, _rank_of(ranks, each)) for each in self._faults.take()]

    def _world_size(self) -> int | None:
        return self._communicators.world().size or len(self._tables.devices) or None

    def _job(self) -> list[dict[str, Any]]:
        size = self._world_size()
        if size is None or size == self._told_world or self._live is not None:
            return []
        self._told_world = size
        why = (
            "all processes of the log are in one communicator"
            if self._communicators.world().size
            else "ranks that nccl-tests lists"
        )
        return [{"world_size": size, "run_id": self._tables.run_id, "evidence": why}]

    def _devices(self) -> list[dict[str, Any]]:
        """The ranks that a table lists, for logs in which NCCL itself says nothing."""
        listed = list(self._tables.devices.values())
        if len(listed) == self._told_devices:
            return []
        self._told_devices = len(listed)
        nodes = len({each.node for each in listed})
        return [
            {
                "source": "nccl_tests",
                "node": each.node,
                "rank": each.rank,
                "device": each.device,
                "communicator": "world",
                "group_kind": "world",
                "communicator_rank": each.rank,
                "nranks": len(listed),
                "nnodes": nodes,
                "pid": each.pid,
                "bus_id": each.bus_id,
            }
            for each in listed
        ]

    def _lost(self) -> dict[str, int]:
        """Rows that found no place since the last call, by table; the counts start again."""
        lost = {
            "communicators": self._communicators.dropped,
            "collectives": self._operations.dropped + self._tables.dropped + self._bench.dropped,
            "log_events": self._faults.dropped,
            "steps": self._steps_dropped,
        }
        self._communicators.dropped = self._operations.dropped = self._tables.dropped = 0
        self._bench.dropped = self._faults.dropped = self._steps_dropped = 0
        return lost


def _rank_of(ranks: dict[tuple[str, int, int | None], int], event: Event) -> int | None:
    return None if event.host is None or event.pid is None else ranks.get((event.host, event.pid, event.device))


def _placed(name: str, rows: list[dict[str, Any]], live: Live | None) -> list[dict[str, Any]]:
    """Live rows without a time of their own get the time of reading, for which no clock is claimed."""
    if live is None or not rows:
        return rows
    column, now = table(name).time, live.now()
    nodes = {live.host: None}
    return [
        {**row, column: row.get(column) or now, "node": nodes.get(row.get("node") or "", row.get("node"))}
        for row in rows
    ]
