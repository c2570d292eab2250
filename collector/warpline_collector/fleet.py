"""What is known of each agent from the frames it sends: when, how much, what it lost, what it costs, how its clock stands."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND
from warpline_proto.finding import Severity
from warpline_proto.tables import DEVICE_SAMPLES, LOG_EVENTS, METRICS, NODE_CLOCKS, SOURCE_HEALTH

from .inventory import Inventory

AGENTS_MAX: Final = 10_000
"""Agents that are remembered; further ones are counted and left out."""
SOURCES_MAX: Final = 8
"""Sources of one agent whose newest readings of GPUs are kept."""
STARTS_MAX: Final = 8
"""Starts of one agent of which it is known how far they were heard, those heard of last."""
GPU_ERRORS: Final = frozenset({"xid", "sxid", "off_bus"})
GPU_ERRORS_MAX: Final = 32
"""Kinds and codes of GPU errors that are remembered of one agent."""
READINGS_MAX: Final = 512
"""Rows kept of one batch of readings, the last ones."""
FORGET_NS: Final = 24 * 3_600 * 10**9
"""An agent that sent nothing for so long is not spoken of any more."""
LAG_WINDOW_NS: Final = 30 * 10**9
"""The quickest frame of this window and the one before tells how an agent's clock stands."""
CLOCK_NS: Final = 300 * 10**9
"""What an agent says of its clock holds for so long, and is not heeded where it waited longer than this to be sent."""
REFUSAL_CHARS_MAX: Final = 200
OWN: Final = "own"
"""Source of the rows in which an agent speaks of itself."""
_READ: Final = [
    "gpu_uuid",
    "gpu_index",
    "time_ns",
    "power_watts",
    "energy_joules",
    "sm_clock_mhz",
    "gpu_utilization_percent",
    "temperature_celsius",
    "memory_used_bytes",
    "memory_total_bytes",
]
_UUID: Final = _READ.index("gpu_uuid")
_TIME: Final = _READ.index("time_ns")
_OWN_COUNTS: Final = {
    "agent_waiting_bytes": "waiting_bytes",
    "agent_detail_level": "detail_level",
    "agent_left_out_kernels": "kernels_left_out",
}
"""Metrics of an agent's own, and what of Seen they are."""


@dataclass(frozen=True)
class Clock:
    """What an agent measured: its clock less the collector's, to within `error_ns`; heard at `heard_ns`."""

    offset_ns: int
    error_ns: int
    heard_ns: int


@dataclass(frozen=True)
class Jump:
    """The clock of an agent jumped by `jump_ns`; heard at `heard_ns`."""

    jump_ns: int
    detail: str
    heard_ns: int


@dataclass
class Seen:
    """One agent. Times are ns on the collector's clock but for `created_ns` and the times in rows, which are the agent's.

    Counters are since the collector's start, `lost` since the agent's. `boot` is the start of which something new was heard last.
    """

    agent: str
    boot: str
    heard_ns: int
    node: str | None = None
    cluster: str | None = None
    sequence: int = 0
    version: str | None = None
    frames: int = 0
    rows: int = 0
    bytes: int = 0
    dropped: int = 0
    lost: int = 0
    loss_ns: int | None = None
    refused_frames: int = 0
    refused_rows: int = 0
    refused_ns: int | None = None
    refusal: str = ""
    """Why something of it was not taken, and when that was."""
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    waiting_bytes: int | None = None
    detail_level: int | None = None
    kernels_left_out: int | None = None
    readings: dict[str, pa.RecordBatch] = field(default_factory=dict)
    awaited_ns: int = 0
    """From when on it can be heard: the start of the collector that remembers it."""
    cpu: tuple[int, int] | None = None
    """Time of the newest report of its own, and its CPU time then."""
    lags: tuple[int, int, int | None] | None = None
    """Number of the window, least time from writing (or making) to hearing a frame in it, and in the one before."""
    clock: Clock | None = None
    jump: Jump | None = None
    clock_jumps: int | None = None
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Newest sequence of each start before, and what it had lost by then."""
    gpu_errors: dict[tuple[str, int | None, str], int] = field(default_factory=dict)
    """Kind, code and severity of errors that its logs speak of -> when the newest was written, at the latest when heard."""

    @property
    def measured(self) -> Clock | None:
        """What it measured of its clock, if that still holds."""
        return self.clock if self.clock and self.heard_ns - self.clock.heard_ns <= CLOCK_NS else None

    @property
    def clock_offset_ns(self) -> int | None:
        """Its clock less the collector's: as measured, else if the quickest frame took no time; None where neither is known."""
        if (measured := self.measured) is not None:
            return measured.offset_ns
        if self.lags is None:
            return None
        _, least, before = self.lags
        return -(least if before is None else min(least, before))

    @property
    def clock_error_ns(self) -> int | None:
        """The truth is no farther from that; None where it was not measured."""
        return self.measured.error_ns if self.measured else None


class Fleet:
    """`hear` of each frame, in the thread that takes them; `seen` from any thread."""

    def __init__(self) -> None:
        self.left_out = 0
        """Frames of agents beyond AGENTS_MAX."""
        self.inventory = Inventory()
        self._seen: dict[str, Seen] = {}
        self._mutex = threading.Lock()

    def remember(self, rows: Iterable[Mapping[str, Any]], now_ns: int) -> None:
        """Agents that an earlier collector knew, as rows of table agents: one that went away meanwhile is late too."""
        for row in rows:
            if len(self._seen) < AGENTS_MAX and row["agent"] != BY_HAND:
                kept = {name: row[name] for name in ("agent", "boot", "heard_ns", "node", "cluster", "version", "lost")}
                self._seen[row["agent"]] = Seen(**kept, awaited_ns=now_ns)

    def hear(self, frame: Frame, size: int, heard_ns: int) -> None:
        """One frame of `size` bytes that came at `heard_ns`; one that was heard before counts once.

        Requests that people send come as frames too: nobody waits for more of them.
        """
        if frame.agent == BY_HAND:
            return
        seen = self._seen.get(frame.agent)
        if seen is None:
            if len(self._seen) >= AGENTS_MAX:
                self.left_out += 1
                return
            seen = Seen(frame.agent, frame.boot, heard_ns)
            with self._mutex:
                self._seen[frame.agent] = seen
        seen.heard_ns = heard_ns
        if not _is_new(seen, frame):
            return
        seen.sequence = frame.sequence
        _count(seen, frame, size, heard_ns)
        for batch in frame.batches:
            _note(seen, batch, heard_ns)
            if batch.table == DEVICE_SAMPLES.name or batch.source == OWN:
                self.inventory.hear(batch, heard_ns)

    def refuse(self, agent: str, frames: int, rows: int, reason: str, now_ns: int) -> None:
        """So much of an agent was not taken; one that is not known is not told of."""
        seen = self._seen.get(agent)
        if seen is not None:
            seen.refused_frames += frames
            seen.refused_rows += rows
            seen.refused_ns, seen.refusal = now_ns, reason[:REFUSAL_CHARS_MAX]

    def seen(self, now_ns: int) -> list[Seen]:
        """All agents that are not forgotten, by name."""
        with self._mutex:
            for name in [name for name, each in self._seen.items() if now_ns - each.heard_ns > FORGET_NS]:
                del self._seen[name]
            return sorted(self._seen.values(), key=lambda each: each.agent)


def readings(seen: Seen) -> Iterator[dict[str, Any]]:
    """The newest reading of each of its GPUs, columns _READ of device_samples, without GPUs it no longer speaks of."""
    newest: dict[str, dict[str, Any]] = {}
    for rows in list(seen.readings.values()):
        columns = [rows.column(name).to_pylist() for name in _READ]  # a third of what rows one by one cost
        for values in zip(*columns, strict=True):
            uuid, time_ns = values[_UUID], values[_TIME]
            if uuid and time_ns and (uuid not in newest or newest[uuid]["time_ns"] <= time_ns):
                newest[uuid] = dict(zip(_READ, values, strict=True))
    yield from newest.values()


def _is_new(seen: Seen, frame: Frame) -> bool:
    """Whether it was not heard before; a new one of another start makes that the agent's, whatever its clock says it began.

    An agent sends what an earlier start left first, so the last one heard of is the one that runs.
    """
    if frame.boot == seen.boot:
        return frame.sequence > seen.sequence
    sequence, lost = seen.starts.get(frame.boot, (0, 0))
    if frame.sequence <= sequence:
        return False
    seen.starts.pop(frame.boot, None)
    seen.starts[seen.boot] = seen.sequence, seen.lost
    while len(seen.starts) > STARTS_MAX:
        del seen.starts[next(iter(seen.starts))]
    seen.boot, seen.lost, seen.cpu, seen.clock_jumps = frame.boot, lost, None, None
    return True


def _count(seen: Seen, frame: Frame, size: int, heard_ns: int) -> None:
    seen.frames += 1
    seen.rows += sum(batch.rows.num_rows for batch in frame.batches)
    seen.bytes += size
    dropped = sum(batch.dropped for batch in frame.batches)
    seen.dropped += dropped
    if dropped or frame.lost > seen.lost:
        seen.loss_ns = heard_ns
    seen.lost = max(frame.lost, seen.lost)
    written_ns = frame.created_ns if frame.sent_ns is None else frame.sent_ns
    window, lag = heard_ns // LAG_WINDOW_NS, heard_ns - written_ns
    if seen.lags is None or window > seen.lags[0] + 1:
        seen.lags = (window, lag, None)
    elif window == seen.lags[0] + 1:
        seen.lags = (window, lag, seen.lags[1])
    else:
        seen.lags = (seen.lags[0], min(lag, seen.lags[1]), seen.lags[2])


def _note(seen: Seen, batch: Batch, heard_ns: int) -> None:
    """Keep what the rows say of the agent itself, and its newest readings of GPUs."""
    rows = batch.rows
    if not rows.num_rows:
        return
    if batch.table == DEVICE_SAMPLES.name:
        if batch.source in seen.readings or len(seen.readings) < SOURCES_MAX:
            first = max(rows.num_rows - READINGS_MAX, 0)
            seen.readings[batch.source] = rows.take(pa.array(range(first, rows.num_rows))) if first else rows
    elif batch.table == LOG_EVENTS.name:
        _note_errors(seen, rows, heard_ns)
    elif batch.table == NODE_CLOCKS.name:
        for row in rows.to_pylist():
            _time(seen, row, heard_ns)
    elif batch.source != OWN:
        return
    elif batch.table == SOURCE_HEALTH.name:
        for row in rows.filter(pc.equal(rows.column("subject"), "agent")).to_pylist():
            _cost(seen, row)
    elif batch.table == METRICS.name:
        for metric, value in zip(rows.column("metric").to_pylist(), rows.column("value").to_pylist(), strict=True):
            if metric in _OWN_COUNTS:
                setattr(seen, _OWN_COUNTS[metric], None if value is None or not 0 <= value < 2**62 else int(value))


def _note_errors(seen: Seen, rows: pa.RecordBatch, heard_ns: int) -> None:
    columns = [rows.column(name).to_pylist() for name in ("kind", "code", "severity", "time_ns")]
    for kind, code, severity, time_ns in zip(*columns, strict=True):
        key = kind, code, severity if severity in tuple(Severity) else ""
        if kind in GPU_ERRORS and (key in seen.gpu_errors or len(seen.gpu_errors) < GPU_ERRORS_MAX):
            written_ns = heard_ns if time_ns is None else min(max(time_ns, 0), heard_ns)
            seen.gpu_errors[key] = max(written_ns, seen.gpu_errors.get(key, 0))


def _time(seen: Seen, row: Mapping[str, Any], heard_ns: int) -> None:
    """What a row of node_clocks says, unless it waited."""
    offset_ns, error_ns, time_ns = row["offset_ns"], row["error_ns"], row["time_ns"]
    known = offset_ns is not None and error_ns is not None and time_ns is not None
    if known and abs(heard_ns - (time_ns - offset_ns)) > CLOCK_NS + error_ns:
        return
    if known:
        seen.clock = Clock(offset_ns, error_ns, heard_ns)
    if row["jump_ns"] is not None:
        seen.jump = Jump(row["jump_ns"], row["detail"] or "", heard_ns)
    if row["jumps"] is not None:
        seen.clock_jumps = row["jumps"]


def _cost(seen: Seen, row: Mapping[str, Any]) -> None:
    seen.node, seen.cluster = row["node"] or seen.node, row["cluster"] or seen.cluster
    seen.version, seen.rss_bytes = row["version"], row["rss_bytes"]
    if row["cpu_ns"] is None or row["time_ns"] is None:
        seen.cpu = seen.cpu_percent = None
        return
    time_ns, cpu_ns = seen.cpu or (row["time_ns"], row["cpu_ns"])
    if row["time_ns"] > time_ns and row["cpu_ns"] >= cpu_ns:
        seen.cpu_percent = 100.0 * (row["cpu_ns"] - cpu_ns) / (row["time_ns"] - time_ns)
    seen.cpu = (row["time_ns"], row["cpu_ns"])
