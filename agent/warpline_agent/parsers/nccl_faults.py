"""Reads what NCCL, its network plugins and PyTorch's watchdog say of faults, and folds repeated lines into one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ..scrub import scrub
from .nccl_records import Record
from .values import whole

EVENTS_MAX: Final = 10_000
"""Events kept between two calls of `take`; more are counted in `dropped`."""

MESSAGE_CHARS_MAX: Final = 1000
_FLUSHED: Final = 5
"""IBV_WC_WR_FLUSH_ERR: the request fell because another had failed before it."""

_COMPLETION: Final = re.compile(
    r"Got completion (?:from peer (?P<peer>\S{1,200}) )?with (?:error |status=)(?:\w{1,60}\()?(?P<status>\d{1,6})"
)
_DEVICE: Final = re.compile(r"\bhca (\S{1,64})")
_LOCAL: Final = re.compile(r"\blocalGid:? ?(\S{1,64})")
_REMOTE: Final = re.compile(r"\bremoteGids?(?:: )? ?(\S{1,64})")
_PORT: Final = re.compile(r"NET/IB ?: (?:\[\d+\] ?)?([\w.-]{1,64}:\d{1,4})\b")
_EVENT: Final = re.compile(
    r"Got async (?:error |fatal )?event|async (?:fatal|error) event|GID table changed", re.IGNORECASE
)
_RECOVERY: Final = re.compile(r"NET/IB.{0,200}\bport\b.{0,200}(?:recover|fail|down|active)", re.IGNORECASE)
_HARMLESS: Final = re.compile(
    r"port active|gid|lid changed?|p_?key|client reregist|sm change|recovered|path migrated|communication established",
    re.IGNORECASE,
)
_FABRIC: Final = re.compile(r"NET/OFI.{0,200}completed with error.{0,40}RC: (\d{1,6})")
_SOCKET: Final = re.compile(
    r"Connection closed by remote peer (?P<closed>\S{1,200})"
    r"|(?:Call|call) to (?:connect|recv|send|accept|poll|writev?|readv?)\b.{0,200}?(?:(?:to|from) (?P<peer>\S{1,200}) )?failed ?:"
    r"|[Cc]onnect(?:ion)? (?:to )?(?P<refused>\S{1,200}) (?:failed|refused|timed out)"
)
_WATCHDOG: Final = re.compile(
    r"Rank (?P<rank>\d{1,6})\].{0,80}Watchdog caught collective operation timeout: (?P<work>WorkNCCL\(.{0,300}?\))"
)
_TRACE: Final = re.compile(r"[\w./-]{1,120}\.(?:cc|cu|c|h):\d{1,6} -> \d{1,4}\b")


@dataclass
class Event:
    """One row of `log_events` before its process is known by rank."""

    kind: str
    severity: str
    message: str
    code: int | None = None
    link: str | None = None
    host: str | None = None
    pid: int | None = None
    device: int | None = None
    rank: int | None = None
    time_ns: int | None = None
    count: int = 1

    def same(self, other: Event) -> bool:
        """Whether another line of the same process says the same again."""
        return (self.kind, self.code, self.link, self.message) == (other.kind, other.code, other.link, other.message)


class Faults:
    """Fed with records and other lines; keeps events until they are taken."""

    def __init__(self) -> None:
        self.error_returns = 0
        self.dropped = 0
        self._events: list[Event] = []
        self._latest: dict[tuple[str | None, int | None], Event] = {}

    def read(self, record: Record) -> None:
        """Read one record; those that speak of no fault are passed over."""
        event = _warning(record.text) if record.level in ("WARN", "ERROR", "ABORT") else _notice(record.text)
        if event is not None:
            event.host, event.pid, event.device = record.host, record.pid, record.device
            event.rank, event.time_ns = record.rank, record.time_ns
            self.add(event)
        elif _TRACE.match(record.text):
            self.error_returns += 1

    def other(self, line: str) -> bool:
        """Read a line that is no record of NCCL's; whether it spoke of a fault."""
        found = _WATCHDOG.search(line) if "Watchdog" in line else None
        if found is not None:
            self.add(Event("hang", "critical", line[max(0, found.start() - 1) :], rank=whole(found["rank"])))
        return found is not None

    def add(self, event: Event) -> None:
        """Keep an event, or count it on the same one just before it."""
        event.message = scrub(event.message[: 2 * MESSAGE_CHARS_MAX].strip())[:MESSAGE_CHARS_MAX]
        process = event.host, event.pid
        latest = self._latest.get(process)
        if latest is not None and latest.same(event):
            latest.count += 1
        elif len(self._events) < EVENTS_MAX:
            self._events.append(event)
            self._latest[process] = event
        else:
            self.dropped += 1

    def take(self) -> list[Event]:
        """Events since the last call."""
        taken, self._events = self._events, []
        self._latest.clear()
        return taken


def _warning(text: str) -> Event:
    if found := _COMPLETION.search(text):
        code = int(found["status"])
        return Event("net_error", "info" if code == _FLUSHED else "critical", text, code, _link(text, found["peer"]))
    if _EVENT.search(text):
        return _link_event(text)
    if found := _FABRIC.search(text):
        return Event("net_error", "critical", text, int(found[1]))
    if found := _SOCKET.search(text):
        return Event("net_error", "warning", text, link=found["closed"] or found["peer"] or found["refused"])
    return Event("nccl_warn", "critical" if "Cuda failure" in text else "warning", text)


def _notice(text: str) -> Event | None:
    """INFO lines that speak of the fabric; everything else is no fault."""
    if "NET/IB" in text and (_EVENT.search(text) or _RECOVERY.search(text)):
        return _link_event(text)
    return None


def _link_event(text: str) -> Event:
    port = _PORT.search(text)
    severity = "info" if _HARMLESS.search(text) else "critical"
    return Event("link_event", severity, text, link=port[1] if port else None)


def _link(text: str, peer: str | None) -> str | None:
    """Both ends of a connection as far as the line names them: `mlx5_0 ::ffff:10.0.0.1 -> ::ffff:10.0.0.2`."""
    device, local, remote = (pattern.search(text) for pattern in (_DEVICE, _LOCAL, _REMOTE))
    near = " ".join(found[1] for found in (device, local) if found)
    far = remote[1] if remote else peer
    return " -> ".join(part for part in (near, far) if part) or None


def columns(event: Event, rank: int | None) -> dict[str, Any]:
    """One row of `log_events`."""
    return {
        "node": event.host,
        "rank": event.rank if rank is None else rank,
        "device": event.device,
        "time_ns": event.time_ns,
        "kind": event.kind,
        "code": event.code,
        "severity": event.severity,
        "link": event.link,
        "pid": event.pid,
        "message": event.message,
        "count": event.count,
    }
