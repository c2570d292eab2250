"""The agent's own cost as rows: processor time and memory of it and its children, what it sent, what waits, what fell off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from warpline_proto.batch import Batch
from warpline_proto.tables import METRICS, SOURCE_HEALTH

from .detail import Detail
from .exporter import Exporter
from .spool import Spool

NAME: Final = "own"
"""Source name of these rows."""
DETAIL_LEVEL: Final = "agent_detail_level"
LEFT_OUT: Final = "agent_left_out_"
"""Metrics of what is told: the level, 0 is everything; and counters of what it left out since the start, by kind."""
VERSION: Final = version("warpline")
MACHINE_ID: Final = Path("/etc/machine-id")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_UTIME: Final = 11
"""Position of utime among the fields behind the command name in /proc/PID/stat; stime, cutime and cstime follow."""
_RSS: Final = 21


class Cost(NamedTuple):
    """Processor time since the start and memory now."""

    cpu_ns: int
    rss_bytes: int


def parse_stat(text: str) -> Cost:
    """One /proc/PID/stat: time of the process and of its children that ended, resident memory. ValueError if it is not one."""
    fields = text.rpartition(")")[2].split()
    try:
        ticks = sum(int(value) for value in fields[_UTIME : _UTIME + 4])
        return Cost(ticks * 1_000_000_000 // _TICKS_PER_SECOND, int(fields[_RSS]) * _PAGE_BYTES)
    except IndexError as error:
        raise ValueError("a stat line that is cut short") from error


def cost(proc: Path = Path("/proc"), pid: str = "self") -> Cost | None:
    """Cost of a process with its living children; None where /proc does not tell."""
    try:
        own = parse_stat((proc / pid / "stat").read_text())
        children = [path.read_text().split() for path in (proc / pid / "task").glob("*/children")]
    except (OSError, ValueError):
        return None
    below = [cost(proc, child) for listed in children for child in listed]
    parts = [own, *(part for part in below if part is not None)]
    return Cost(sum(part.cpu_ns for part in parts), sum(part.rss_bytes for part in parts))


def machine(path: Path = MACHINE_ID) -> str | None:
    """What tells this machine from another of its name: a hash of its machine id, which itself stays here; None without one."""
    try:
        told = path.read_text().strip()
    except (OSError, ValueError):
        return None
    return hashlib.blake2b(told.encode(), digest_size=16, key=b"warpline").hexdigest() if told else None


_MACHINE: Final = machine()


def rows(
    place: Mapping[str, Any],
    time_ns: int,
    spool: Spool,
    exporter: Exporter,
    detail: Detail,
    proc: Path = Path("/proc"),
) -> Iterable[Batch]:
    """Rows of source `own`: its cost, the state of spool and exporter, how much is told, and its counts as metrics."""
    common = {**place, "source": NAME, "time_ns": time_ns}
    spent = cost(proc)
    losses = spool.take_losses()
    health: list[dict[str, Any]] = [
        {"subject": "agent", "state": "fresh", "version": VERSION, "machine": _MACHINE}
        | (spent._asdict() if spent is not None else {})
    ]
    health += [part._asdict() for part in (spool.health(), *exporter.health(), detail.health())]
    if losses:
        health.append(
            {"subject": "spool", "state": "dropped", "reason": f"{losses} frames fell off", "dropped": losses}
        )
    yield Batch("source_health", NAME, SOURCE_HEALTH.from_rows({**common, **row} for row in health))
    sent = exporter.sent()
    counts = {
        "agent_sent_frames": (sent.frames, "frames"),
        "agent_sent_bytes": (sent.bytes, "B"),
        "agent_acknowledged_frames": (sent.acknowledged, "frames"),
        "agent_refused_frames": (sent.refused, "frames"),
        "agent_lost_frames": (spool.lost(spool.boot), "frames"),
        "agent_waiting_frames": (spool.waiting_frames, "frames"),
        "agent_waiting_bytes": (spool.waiting_bytes, "B"),
        "agent_starved_seconds": (sent.starved_seconds, "s"),
        DETAIL_LEVEL: (detail.level, ""),
    } | {f"{LEFT_OUT}{what}": (count, what) for what, count in detail.left_out().items()}
    yield Batch(
        "metrics",
        NAME,
        METRICS.from_rows(
            {**common, "metric": name, "value": float(value), "unit": unit} for name, (value, unit) in counts.items()
        ),
    )
