"""Finds what matters in kernel records: Xid, SXid, GPUs off the bus, mlx5 link trouble, out of memory, segmentation faults."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..scrub import scrub
from .bus_id import normal_bus_id
from .kernel_records import Record
from .values import whole
from .xid import severity

MESSAGE_CHARS_MAX: Final = 1000
BUS_IDS_MAX: Final = 1024
"""GPUs whose UUID is kept in mind."""
OFF_BUS_LINES: Final = 4
"""The report of a lost GPU over several lines is at most so many records long."""
FOLD_NS: Final = 10_000_000_000
"""Equal lines further apart than this are told one by one."""

Row = dict[str, Any]
_ID: Final = r"((?:PCI:)?(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
_XID = re.compile(rf"NVRM: Xid \({_ID}\)[^:]{{0,40}}: (\d{{1,6}})\b,? ?(.*)")
_SXID = re.compile(rf"(?:nvidia-(nvswitch\d+): )?SXid \({_ID}\): (\d{{1,9}}), ?(.*)")
_FABRIC = re.compile(
    rf"NVSwitch (non-fatal|fatal) error (\d{{1,9}}) on .{{0,80}}?pci bus id {_ID}(?: physical id (\d+))?(?: port (\d+))?"
)
_FABRIC_ERROR = re.compile(r"\[(?:ERROR|CRITICAL|FATAL)\] \[tid \d+\] ")
_UUID = re.compile(rf"NVRM: GPU at {_ID}: (GPU-[0-9a-f-]{{36}})")
_OFF_BUS = re.compile(rf"NVRM: GPU (?:at )?{_ID}: .{{0,40}}fallen off the bus")
_OFF_BUS_HEAD = re.compile(rf"NVRM: The NVIDIA GPU {_ID}")
_OFF_BUS_TAIL = re.compile(r"NVRM: .{0,300}fallen off the bus")
_MLX5 = re.compile(rf"mlx5_core {_ID}:? ?(?:([a-zA-Z][\w.-]{{0,30}})(?: \([^)]*\))?: )?(.*)")
_MLX5_BAD = re.compile(
    r"\berr(?:or)?\b|fail|insufficient power|health compromised|fatal|link down|high temperature|timeout|lost", re.I
)
_MLX5_WORST = re.compile(r"health compromised|fatal error|insufficient power", re.I)
_MODULE = re.compile(r"module (\d+)")
_LINK = re.compile(r"\bLink (\d+)", re.I)
_PID = re.compile(r"\bpid=(\d{1,10})\b")
_OOM_KILL = re.compile(r"[Oo]ut of memory: Kill(?:ed)? process (\d{1,10})")
_OOM = re.compile(r"^oom-kill:|^oom_reaper: |invoked oom-killer")
_SEGFAULT = re.compile(r"\[(\d{1,10})\]: segfault at .{0,200}? in (\S{1,200})\[")
_DRIVER_LIBRARY = re.compile(r"lib(?:nccl|cuda|cudart|nvidia-[\w-]+)\b")


class KernelEvents:
    """Records in, in order; rows of log_events out. Remembers which GPU is at which bus id, and half-told reports."""

    def __init__(self) -> None:
        self._uuids: dict[str, str] = {}
        self._half_told: tuple[str, int] | None = None

    def rows(self, record: Record) -> list[Row]:
        """The rows of one record: one if it speaks of a fault, else none."""
        if not record.kernel:
            return []
        found = self._off_bus(record.text) or _first(record.text)
        self._learn(record.text)
        if found is None:
            return []
        found.setdefault("bus_id", None)
        message = scrub(record.text)[:MESSAGE_CHARS_MAX]
        uuid = self._uuids.get(found["bus_id"] or "")
        return [{**found, "time_ns": record.time_ns, "gpu_uuid": uuid, "message": message, "count": 1}]

    def _learn(self, said: str) -> None:
        match = _UUID.search(said)
        bus_id = normal_bus_id(match[1]) if match else None
        if match and bus_id and len(self._uuids) < BUS_IDS_MAX:
            self._uuids[bus_id] = match[2]

    def _off_bus(self, said: str) -> Row | None:
        """A GPU off the bus without an Xid: told in one line, or in a head that names it and a tail that says so."""
        if match := _OFF_BUS.search(said):
            return {"kind": "off_bus", "severity": "critical", "bus_id": normal_bus_id(match[1])}
        if head := _OFF_BUS_HEAD.search(said):
            self._half_told = (head[1], OFF_BUS_LINES)
        if self._half_told is None:
            return None
        name, left = self._half_told
        self._half_told = (name, left - 1) if left > 1 else None
        if "Xid" in said or not _OFF_BUS_TAIL.search(said):
            return None
        self._half_told = None
        return {"kind": "off_bus", "severity": "critical", "bus_id": normal_bus_id(name)}


def fold(rows: Iterable[Row]) -> list[Row]:
    """Equal rows in a row, within FOLD_NS, become one with their count, at the time of the first."""
    folded: list[Row] = []
    for row in rows:
        if folded and _repeats(folded[-1], row):
            folded[-1]["count"] += row["count"]
        else:
            folded.append(dict(row))
    return folded


def _repeats(first: Row, row: Row) -> bool:
    apart_ns = (row["time_ns"] or 0) - (first["time_ns"] or 0)
    same = all(first.get(key) == value for key, value in row.items() if key not in ("time_ns", "count"))
    return same and abs(apart_ns) <= FOLD_NS


def _first(said: str) -> Row | None:
    return next((row for look in _LOOKS if (row := look(said)) is not None), None)


def _xid(said: str) -> Row | None:
    match = _XID.search(said)
    if not match:
        return None
    code, pid = int(match[2]), _PID.search(match[3])
    link = _LINK.search(match[3])
    return {
        "kind": "xid",
        "code": code,
        "severity": severity(code, " " + match[3]),
        "bus_id": normal_bus_id(match[1]),
        "pid": whole(pid[1]) if pid else None,
        "link": f"link {int(link[1])}" if link else None,
    }


def _sxid(said: str) -> Row | None:
    match = _SXID.search(said)
    if not match:
        return None
    switch, bus_id, code, rest = match.groups()
    port = _LINK.search(rest)
    link = " ".join(filter(None, (switch, f"link {int(port[1])}" if port else "")))
    grade = "critical" if rest.lower().startswith("fatal") else "warning"
    return {
        "kind": "sxid",
        "code": int(code),
        "severity": grade,
        "bus_id": normal_bus_id(bus_id),
        "link": link or None,
    }


def _fabric(said: str) -> Row | None:
    match = _FABRIC.search(said)
    if match:
        grade, code, bus_id, switch, port = match.groups()
        link = " ".join(filter(None, (f"nvswitch{switch}" if switch else "", f"link {port}" if port else "")))
        severity_ = "critical" if grade == "fatal" else "warning"
        place = {"bus_id": normal_bus_id(bus_id), "link": link or None}
        return {"kind": "sxid", "code": int(code), "severity": severity_, **place}
    return {"kind": "fabric_error", "severity": "warning"} if _FABRIC_ERROR.match(said) else None


def _mlx5(said: str) -> Row | None:
    match = _MLX5.search(said)
    if not match or "ACCESS_REG" in said or not _MLX5_BAD.search(match[3]):
        return None
    module = _MODULE.search(match[3])
    grade = "critical" if _MLX5_WORST.search(match[3]) else "warning"
    link = f"module {module[1]}" if module else match[2]
    return {"kind": "link_event", "severity": grade, "bus_id": normal_bus_id(match[1]), "link": link}


def _oom(said: str) -> Row | None:
    if match := _OOM_KILL.search(said):
        return {"kind": "oom", "severity": "critical", "pid": whole(match[1])}
    return {"kind": "oom", "severity": "info"} if _OOM.search(said) else None


def _segfault(said: str) -> Row | None:
    match = _SEGFAULT.search(said)
    if not match:
        return None
    grade = "critical" if _DRIVER_LIBRARY.match(match[2]) else "warning"
    return {"kind": "segfault", "severity": grade, "pid": whole(match[1]), "link": None}


_LOOKS: Final[tuple[Callable[[str], Row | None], ...]] = (_xid, _sxid, _fabric, _mlx5, _oom, _segfault)
