"""Databases of ingero, an eBPF tracer: what processes did in the kernel and in the CUDA libraries, and the host meanwhile.

Only what was traced is read: `events`, `event_aggregates`, `stack_traces`, `system_snapshots`, `sessions` and the names of
processes and operations. The table with the tracer's own verdicts is never asked.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import HOST_SAMPLES, PROCESS_EVENTS, STACKS, STEPS

from ..kernels import clean_name
from ..parsers import values
from ..parsers.ebpf_events import kind
from ..source import Input, Origin, Reading, Rows
from ..sqlite_file import SQLITE_MAGIC, database

Row = dict[str, Any]

EVENTS_MAX: Final = 2_000_000
"""Events kept of one database, oldest first; more are counted as dropped."""
OTHERS_MAX: Final = 200_000
"""Rows kept of each other table."""
SCHEMA_BYTES_MAX: Final = 64 * 1024 * 1024
"""A database is searched so far for its tables where its head does not show them."""
FRAMES_MAX: Final = 256
_MARK: Final = b"CREATE TABLE stack_traces"
_NEEDED: Final = frozenset({"events", "ops", "process_names", "stack_traces"})
_MIB: Final = 1024 * 1024


class Ingero:
    """One database of one node."""

    name = "ingero"

    def recognises(self, candidate: Input) -> bool:
        """An sqlite database with the tracer's table of stacks; its schema may lie behind the head."""
        if not candidate.head.startswith(SQLITE_MAGIC):
            return False
        return _MARK in candidate.head or (b"CREATE TABLE" not in candidate.head and _searched(candidate))

    def read(self, candidate: Input) -> Reading:
        """Rows of `process_events`, `stacks`, `host_samples`, and the traced time as a row of `steps`."""
        with database(candidate) as opened:
            try:
                return _Database(opened).reading()
            except KeyError as error:
                raise Refused(f"has a table without column {error}", "which version of the tracer wrote it?") from error


def _searched(candidate: Input) -> bool:
    try:
        with candidate.open() as stream:
            return _MARK in stream.read(SCHEMA_BYTES_MAX)
    except (Refused, OSError):
        return False


class _Database:
    """The tables of one database, as rows."""

    def __init__(self, opened: sqlite3.Connection) -> None:
        self._opened = opened
        self._tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if missing := sorted(_NEEDED - self._tables):
            raise Refused(f"has no table {', '.join(missing)}", "is it the database that the tracer recorded?")
        self._operations = {
            (row["source_id"], row["op_id"]): _text(row["name"]) for row in self._rows("ops", OTHERS_MAX)
        }
        self._processes = {row["pid"]: _text(row["name"]) for row in self._rows("process_names", OTHERS_MAX)}
        self._session: Row = next(self._rows("sessions", 1), {})
        self._clock = f"trace@{self._node}" if self._node else None

    @property
    def _node(self) -> str | None:
        return _text(self._session.get("node"))

    def reading(self) -> Reading:
        """All that is read."""
        events, dropped = self._events()
        rows = [
            Rows("process_events", PROCESS_EVENTS.from_rows(events + self._aggregates(events)), dropped),
            Rows("stacks", STACKS.from_rows(self._stacks())),
            Rows("host_samples", HOST_SAMPLES.from_rows(self._snapshots())),
            Rows("steps", STEPS.from_rows(self._span())),
        ]
        facts = {
            "events": len(events),
            "processes": len({row["pid"] for row in events}),
            "gpu": _text(self._session.get("gpu_model")),
            "driver": _text(self._session.get("gpu_driver")),
        }
        origin = Origin(node=self._node, rank=values.small(self._session.get("rank")), content=values.digest(rows[:1]))
        return Reading([each for each in rows if each.batch.num_rows or each.dropped], facts, origin)

    def _rows(self, table: str, rows_max: int, order: str = "") -> Iterator[Row]:
        if table not in self._tables:
            return
        found = self._opened.execute(f"SELECT * FROM {table} {order} LIMIT {rows_max}")
        names = [each[0] for each in found.description]
        for row in found:
            yield dict(zip(names, row, strict=True))

    def _events(self) -> tuple[list[Row], int]:
        kept = [self._event(row) for row in self._rows("events", EVENTS_MAX, "ORDER BY timestamp")]
        (total,) = self._opened.execute("SELECT count(*) FROM events").fetchone()
        return kept, total - len(kept)

    def _event(self, row: Mapping[str, Any]) -> Row:
        return self._named(row) | {
            "rank": values.small(row.get("rank")),
            "start_ns": values.count(row["timestamp"]),
            "clock": self._clock,
            "thread": values.count(row["tid"]),
            "duration_ns": values.count(row["duration"]),
        }

    def _named(self, row: Mapping[str, Any]) -> Row:
        event = self._operations.get((row["source"], row["op"])) or f"{row['source']}/{row['op']}"
        pid = values.count(row["pid"])
        return {"pid": pid, "process": self._processes.get(pid), "kind": kind(event), "event": event}

    def _aggregates(self, events: list[Row]) -> list[Row]:
        """What was counted and not stored one by one: each minute's sum, less the stored events of that minute."""
        buckets = list(self._rows("event_aggregates", OTHERS_MAX, "ORDER BY bucket"))
        stored: dict[tuple[Any, ...], int] = {}
        minute = 60 * 10**9
        for event in events if buckets else ():
            key = ((event["start_ns"] or 0) // minute, event["pid"], event["event"])
            stored[key] = stored.get(key, 0) + (event["duration_ns"] or 0)
        rows = []
        for row in buckets:
            count = (values.count(row["count"]) or 0) - (values.count(row["stored"]) or 0)
            named, start, total = self._named(row), values.count(row["bucket"]), values.count(row["sum_dur"])
            if count > 0 and start is not None and total is not None:
                left = max(total - stored.get((start // minute, named["pid"], named["event"]), 0), 0)
                times = {"start_ns": start, "duration_ns": left, "max_ns": values.count(row["max_dur"])}
                rows.append(named | times | {"count": count, "clock": self._clock})
        return rows

    def _stacks(self) -> Iterator[Row]:
        """Stacks of calls, with how often and when first each thread was seen in them."""
        found = self._opened.execute(
            "SELECT min(timestamp), pid, tid, count(*), frames FROM events JOIN stack_traces ON stack_hash = hash "
            f"WHERE stack_hash <> 0 GROUP BY pid, tid, stack_hash ORDER BY 1 LIMIT {OTHERS_MAX}"
        )
        for time_ns, pid, thread, count, frames in found:
            yield {
                "time_ns": values.count(time_ns), "pid": values.count(pid), "thread": values.count(thread),
                "thread_name": self._processes.get(pid), "frames": _frames(frames), "count": count,
            }  # fmt: skip

    def _snapshots(self) -> Iterator[Row]:
        total = values.count(self._session.get("mem_total"))
        for row in self._rows("system_snapshots", OTHERS_MAX, "ORDER BY timestamp"):
            free, swap = values.count(row["mem_avail"]), values.count(row["swap_mb"])
            yield {
                "time_ns": values.count(row["timestamp"]),
                "cpu_percent": values.real(row["cpu_pct"]),
                "cpu_count": values.small(self._session.get("cpu_cores")) or None,
                "load_1m": values.real(row["load_avg"]),
                "memory_total_bytes": total * _MIB if total else None,
                "memory_used_bytes": (total - free) * _MIB if total and free is not None else None,
                "swap_used_bytes": None if swap is None else swap * _MIB,
            }

    def _span(self) -> Iterator[Row]:
        start, stop = (values.count(self._session.get(name)) for name in ("started_at", "stopped_at"))
        if start and stop and stop > start:
            yield {"scope": "trace", "start_ns": start, "duration_ns": stop - start, "clock": self._clock}


def _text(value: Any) -> str | None:
    found = values.text(value)
    return None if found is None else clean_name(found)


def _frames(told: Any) -> list[str]:
    """JSON of frames, innermost first -> `symbol (library)`."""
    try:
        listed = json.loads(told)
    except (TypeError, ValueError, RecursionError):
        return []
    frames = [values.mapping(each) for each in listed[:FRAMES_MAX]] if values.is_list(listed) else []
    named = [(_text(each.get("s")) or _text(each.get("i")) or "?", _text(each.get("f"))) for each in frames]
    return [f"{symbol} ({library})" if library else symbol for symbol, library in named]
