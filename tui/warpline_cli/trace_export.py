"""What is kept of a capture, or of ranks and a time, drawn as a trace: kernels by stream, steps, phases, collectives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

from warpline_proto.errors import ConfigError

from .asking import Query, text
from .trace_file import Drawn, TraceFile

PAGE_ROWS: Final = 50_000
"""Rows of one question: a collector answers no more than twice as many."""
SLICES_MAX: Final = 5_000_000
"""Slices of one file; with gzip about 100 MB."""
NAMES_MAX: Final = 200_000
"""Kernel names held in memory."""
Row = Mapping[str, Any]

_PLACE: Final = ("job", "rank", "node", "clock")
_KERNELS: Final = (*_PLACE, "start_ns", "duration_ns", "device", "stream", "step", "kernel_id", "category", "gpu_uuid")
_STEPS: Final = (*_PLACE, "start_ns", "duration_ns", "device", "step", "scope", "kernels", "busy_ns", "idle_ns")
_PHASES: Final = (*_PLACE, "start_ns", "duration_ns", "step", "phase", "kind", "microbatch", "chunk", "sequence")
_TOLD_OF_COLLECTIVES: Final = (
    "step", "communicator", "sequence", "datatype", "message_bytes", "nranks", "algorithm", "protocol", "timing", "state",
)  # fmt: skip
_COLLECTIVES: Final = (
    *_PLACE, "start_ns", "duration_ns", "operation", "group_name", *_TOLD_OF_COLLECTIVES, "ranks_drawn", "place",
)  # fmt: skip
_ON_ANY_AXIS: Final = "coalesce(clock, '') NOT LIKE 'step@%'"
"""Times that count from the start of a step have no place on a common axis."""
_RANKS: Final = """
SELECT job, rank, node, min(clock) AS clock FROM ({}) GROUP BY job, rank, node ORDER BY job, rank NULLS LAST, node
"""
_RANKS_MAX: Final = 1_000_000
"""Behind every rank."""
_STEP_TRACK, _PHASE_TRACK, _COLLECTIVE_TRACK, _STREAM_TRACKS = range(4)


@dataclass(frozen=True)
class Selection:
    """What to draw: one capture, or a job, its ranks (all where empty), and a time (all where None)."""

    capture: str | None = None
    job: str | None = None
    ranks: tuple[int, ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None

    def where(self, *more: str) -> str:
        """The condition that rows with a start and a duration meet when any of their time is of the selection."""
        parts = [f"job = {text(self.job)}" if self.job is not None else "true", "start_ns IS NOT NULL", *more]
        if self.ranks:
            parts.append(f"rank IN ({', '.join(map(str, self.ranks))})")
        if self.end_ns is not None:
            parts.append(f"start_ns < {self.end_ns}")
        if self.start_ns is not None:
            parts.append(f"start_ns + greatest(coalesce(duration_ns, 0), 1) > {self.start_ns}")
        return " AND ".join(parts)


@dataclass(frozen=True)
class Exported:
    """What was drawn. `left_out` rows did not fit into SLICES_MAX."""

    slices: int
    kernels: int
    left_out: int


def of_capture(query: Query, capture: str) -> Selection:
    """The selection of a closer look; ConfigError where it gave no records, with the reason."""
    rows = query(f"SELECT * FROM current_captures WHERE id = {text(capture)}").to_pylist()
    if not rows:
        raise ConfigError(f"there is no capture {capture!r}", 'warpline sql "SELECT id, state FROM current_captures"')
    row = rows[0]
    if row["what"] not in ("kernels", "trace") or row["state"] != "done":
        raise ConfigError(f"capture {capture!r} of {row['what']} is {row['state']}: {row['detail']}")
    start_ns, end_ns = row["delivered_start_ns"], row["delivered_end_ns"]
    return Selection(capture, row["job"], (row["rank"],), start_ns, end_ns)


def export(query: Query, chosen: Selection, stream: IO[str]) -> Exported:
    """Write the trace; ConfigError where nothing is kept of the selection."""
    tables = _tables(chosen)
    begins = [query(f"SELECT min(start_ns) AS first, count(*) AS rows FROM {each}").to_pylist()[0] for each in tables]
    total = sum(each["rows"] for each in begins)
    if not total:
        raise ConfigError(
            "nothing is kept of that", "kernels arrive by a closer look, steps and phases always: see `warpline sql`"
        )
    about = {"producer": "warpline", "job": chosen.job, "capture": chosen.capture}
    trace = TraceFile(stream, min(each["first"] for each in begins if each["rows"]), about)
    trace.open_()
    names = _names(query, tables[0])
    # The Perfetto UI shows processes and tracks in the order in which they come: ranks by number, few and long slices first.
    places = " UNION ALL ".join(f"SELECT {', '.join(_PLACE)} FROM {each}" for each in tables)
    for row in query(_RANKS.format(places)).to_pylist():
        _process(trace, row)
    for table, columns, one in zip(
        tables[1:], (_STEPS, _PHASES, _COLLECTIVES), (_step, _phase, _collective), strict=True
    ):
        _draw(trace, _pages(query, columns, table), one)
    kernels = _draw(trace, _pages(query, _KERNELS, tables[0]), lambda file, row: _kernel(file, row, names))
    trace.close()
    return Exported(trace.slices, kernels, total - trace.slices)


def _tables(chosen: Selection) -> list[str]:
    """Kernels, steps, phases and collectives of the selection, each as what may stand behind FROM.

    A record that several captures sent is drawn once.
    """
    kernels = f"raw_kernels WHERE {chosen.where()}"
    if chosen.capture is not None:
        kernels = f"raw_kernels WHERE capture_id = {text(chosen.capture)}"
    arrows = (
        "*, count(*) OVER same AS ranks_drawn, row_number() OVER (same ORDER BY rank, start_ns) AS place FROM collectives "
        f"WHERE {chosen.where('count IS NULL')} WINDOW same AS (PARTITION BY job, communicator, sequence, source)"
    )
    return [
        f"(SELECT DISTINCT {', '.join(_KERNELS)} FROM {kernels})",
        f"(SELECT * FROM steps WHERE {chosen.where()})",
        f"(SELECT * FROM phases WHERE {chosen.where(_ON_ANY_AXIS)})",
        f"(SELECT {arrows})",
    ]


def _pages(query: Query, columns: Sequence[str], table: str) -> Iterator[Row]:
    """All rows by start, some at a time; rows of one start that a page breaks off are skipped by number in the next."""
    listed = ", ".join(columns)
    cursor, skip = "true", 0
    while True:
        page = query(
            f"SELECT {listed} FROM {table} WHERE {cursor} ORDER BY start_ns, {listed} LIMIT {PAGE_ROWS} OFFSET {skip}"
        )
        starts = page.column("start_ns").to_pylist()
        yield from page.to_pylist()
        if page.num_rows < PAGE_ROWS:
            return
        same = starts.count(starts[-1])
        skip = skip + same if cursor == f"start_ns >= {starts[-1]}" else same
        cursor = f"start_ns >= {starts[-1]}"


def _names(query: Query, kernels: str) -> dict[int, str]:
    names: dict[int, str] = {}
    asked = (
        f"FROM kernel_names WHERE kernel_id IN (SELECT kernel_id FROM {kernels}) GROUP BY kernel_id ORDER BY kernel_id"
    )
    while len(names) < NAMES_MAX:
        page = query(f"SELECT kernel_id, min(name) AS name {asked} LIMIT {PAGE_ROWS} OFFSET {len(names)}").to_pylist()
        names |= {row["kernel_id"]: row["name"] for row in page}
        if len(page) < PAGE_ROWS:
            break
    return names


def _draw(trace: TraceFile, rows: Iterator[Row], one: Callable[[TraceFile, Row], None]) -> int:
    """Slices drawn until there are no more rows, or no more slices allowed."""
    before = trace.slices
    for row in rows:
        if trace.slices >= SLICES_MAX:
            break
        one(trace, row)
    return trace.slices - before


def _kernel(trace: TraceFile, row: Row, names: Mapping[int, str]) -> None:
    track = "stream not known" if row["stream"] is None else f"stream {row['stream']}"
    if row["device"] is not None:
        track += f" of device {row['device']}"
    order = _STREAM_TRACKS + (row["device"] or 0) * 1_000 + min(row["stream"] or 0, 999)
    name = names.get(row["kernel_id"]) or f"kernel {row['kernel_id']}"
    told = {"step": row["step"], "kernel_id": str(row["kernel_id"]), "gpu_uuid": row["gpu_uuid"]}
    _slice(trace, row, track, order, name, row["category"] or "kernel", told)


def _step(trace: TraceFile, row: Row) -> None:
    name = "whole trace" if row["step"] is None else f"step {row['step']}"
    told = {key: row[key] for key in ("kernels", "busy_ns", "idle_ns", "device")}
    _slice(trace, row, "steps" if row["scope"] == "step" else "recorded", _STEP_TRACK, name, "step", told)


def _phase(trace: TraceFile, row: Row) -> None:
    told = {key: row[key] for key in ("step", "kind", "microbatch", "chunk", "sequence")}
    _slice(trace, row, "phases", _PHASE_TRACK, row["phase"] or "phase", "phase", told)


def _collective(trace: TraceFile, row: Row) -> None:
    """The operation, and an arrow to the same one on the next rank."""
    group = row["group_name"] or row["communicator"]
    track = "collectives" if group is None else f"collectives of {group}"
    told = {key: row[key] for key in _TOLD_OF_COLLECTIVES}
    drawn = _slice(trace, row, track, _COLLECTIVE_TRACK, row["operation"] or "collective", "collective", told)
    if row["communicator"] is not None and row["sequence"] is not None and row["ranks_drawn"] > 1:
        same = f"{row['job']} {row['communicator']} {row['sequence']}".encode()
        key = int.from_bytes(hashlib.blake2b(same, digest_size=6).digest(), "big")
        phase = "s" if row["place"] == 1 else "f" if row["place"] == row["ranks_drawn"] else "t"
        trace.flow(key, phase, drawn)


def _slice(
    trace: TraceFile, row: Row, track: str, order: int, name: str, category: str, told: Mapping[str, Any]
) -> Drawn:
    process = _process(trace, row)
    return trace.slice_(process, track, order, name, category, row["start_ns"], row["duration_ns"] or 0, told)


def _process(trace: TraceFile, row: Row) -> int:
    rank = row["rank"]
    who = f"rank {rank}" if rank is not None else "rank not known"
    place = f" on {row['node']}" if row["node"] else ""
    clock = f", clock {row['clock']}" if row["clock"] else ""
    key = (row["job"], rank, row["node"] if rank is None else None)
    return trace.process(key, f"{who}{place}{clock}", rank if rank is not None else _RANKS_MAX)
