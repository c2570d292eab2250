"""What the NVML child has said -> rows and health, without asking anything back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa

from warpline_proto.tables import DEVICE_SAMPLES, LINK_COUNTERS, LOG_EVENTS

from ..parsers.values import INT_MAX, SMALL_MAX
from ..parsers.xid import severity
from ..source import Health, Rows

WAITING_MAX: Final = 20_000
"""Rows kept until they are taken; further ones are dropped and counted."""
COST_SECONDS: Final = 60
"""Time spent in NVML is told for spans of this length."""
SETTLING: Final = frozenset({"gpu", "gone", "part", "verdict"})
ENDING: Final = frozenset({"gpu", "gone", "part", "sample"})
"""After one of these the child is in no call on a GPU."""
_IDENTITY: Final = {"uuid": "gpu_uuid", "name": "gpu_name", "bus_id": "bus_id"}
_WHOLE: Final = {
    column.name: SMALL_MAX if column.type == pa.int32() else INT_MAX
    for column in DEVICE_SAMPLES.columns
    if pa.types.is_integer(column.type)
}
_NOBODY: Final[Mapping[int, str]] = {}
_GONE_REASON: Final = {
    "gpu_lost": "NVML reports the GPU as lost: it has fallen off the bus or its driver has given it up",
    "reset_required": "NVML reports that the GPU must be reset before it can be used",
}


class Resident(NamedTuple):
    """One reading of who is resident on a GPU: pid and bytes (None: not told) of each; `more` are there and not told."""

    gpu: int
    gpu_uuid: str | None
    time_ns: int
    processes: list[tuple[int, int | None]]
    more: int


class Inbox:
    """Messages in, rows and health out. Identities outlive a restart of the child, so that a lost GPU keeps its name."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.verdict: tuple[str, str] | None = None
        self.settled = False
        self.samples_since_start = 0
        self._identity: dict[int, dict[str, Any]] = {}
        self._gone: dict[int, str] = {}
        self._parts: dict[tuple[int, str], Health] = {}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._pieces: dict[int, list[dict[str, Any]]] = {}
        self._resident: dict[int, Resident] = {}
        self._unheard: dict[int, Health] = {}
        self._dropped = 0
        self._cost: Health | None = None
        self._cost_since_ns = 0
        self._spent_ns = 0

    def begin(self) -> None:
        """A new child starts."""
        self.at = None
        self.verdict = None
        self.settled = False
        self.samples_since_start = 0

    def subject(self, index: int | None) -> str:
        """What a GPU is called in health: its UUID, its index where that is not known."""
        uuid = self._identity.get(index, {}).get("gpu_uuid") if index is not None else None
        return uuid or f"gpu {index}"

    def put(self, message: dict[str, Any]) -> None:
        """Take one message."""
        kind = message.get("kind")
        self.settled = self.settled or kind in SETTLING
        if kind in ENDING:
            self.at = None
        if kind == "verdict":
            self.verdict = (message["state"], message["reason"])
        elif kind == "at":
            self.at = message["gpu"]
        elif kind == "gpu":
            self._gone.pop(message["gpu"], None)
            self._identity[message["gpu"]] = {ours: message.get(theirs) for theirs, ours in _IDENTITY.items()}
        elif kind == "sample":
            self._sample(message)
        elif kind == "processes":
            self._processes(message)
        elif kind == "part":
            self._part(message)
        elif kind == "gone":
            self._lose(message)
        elif kind == "event":
            self._event(message)

    def take_resident(self) -> list[Resident]:
        """The newest whole reading of the processes of each GPU that was read since the last time."""
        taken, self._resident = list(self._resident.values()), {}
        return taken

    def take(self, jobs: Mapping[int, str] = _NOBODY) -> list[Rows]:
        """Rows that have come since the last time; samples with the one job of their GPU, by index."""
        rows, self._rows = self._rows, {}
        for row in rows.get(DEVICE_SAMPLES.name, ()):
            row["job"] = jobs.get(row["gpu_index"])
        dropped, self._dropped = self._dropped, 0
        tables = {table.name: table for table in (DEVICE_SAMPLES, LINK_COUNTERS, LOG_EVENTS)}
        taken = [Rows(name, tables[name].from_rows(listed)) for name, listed in rows.items()]
        if dropped and taken:
            taken[0] = taken[0]._replace(dropped=dropped)
        else:
            self._dropped = dropped
        return taken

    def health(self) -> list[Health]:
        """GPUs that are gone, counters that a GPU does not give, and the time spent in NVML."""
        gone = [Health(self.subject(index), "dead", _GONE_REASON[state]) for index, state in self._gone.items()]
        parts = [*self._parts.values(), *self._unheard.values()]
        return [*gone, *parts, *([self._cost] if self._cost else [])]

    def _add(self, table: str, row: dict[str, Any]) -> None:
        rows = self._rows.setdefault(table, [])
        if len(rows) < WAITING_MAX:
            rows.append(row)
        else:
            self._dropped += 1

    def _sample(self, message: dict[str, Any]) -> None:
        self.samples_since_start += 1
        self._dropped += message["dropped"]
        index, time_ns = message["gpu"], message["time_ns"]
        self._spend(time_ns, message["spent_ns"])
        identity = self._identity.get(index, {})
        row: dict[str, Any] = {**identity, "gpu_index": index, "time_ns": time_ns}
        for name, value in message["values"].items():
            self._parts.pop((index, name), None)
            kind, _, link_counter = name.partition(":")
            if link_counter:
                link = {"link_kind": kind, "device": self.subject(index), "counter": link_counter}
                self._add("link_counters", {"time_ns": time_ns, **link, "value": int(value), "unit": "errors"})
            else:
                row[name] = _fitting(name, value)
        if message["values"]:
            self._add("device_samples", row)

    def _processes(self, message: dict[str, Any]) -> None:
        """Gather the pieces of one reading; of one that did not come whole nothing is known."""
        index, time_ns, pieces = message["gpu"], message["time_ns"], self._pieces.get(message["gpu"], [])
        if pieces and pieces[0]["time_ns"] != time_ns:
            reason = "who is resident was not heard as a whole: the pipe to the NVML process was full"
            self._unheard[index] = Health(f"{self.subject(index)} processes", "dropped", reason)
            pieces = []
        pieces = self._pieces[index] = [*pieces, message]
        if len(pieces) == message["pieces"]:
            del self._pieces[index]
            self._unheard.pop(index, None)
            listed = [(pid, memory) for piece in pieces for pid, memory in piece["processes"]]
            uuid = self._identity.get(index, {}).get("gpu_uuid")
            self._resident[index] = Resident(index, uuid, time_ns, listed, message["all"] - len(listed))

    def _part(self, message: dict[str, Any]) -> None:
        key = (message["gpu"], message["column"])
        subject = " ".join(filter(None, (self.subject(key[0]), key[1])))
        self._parts.pop(key, None)
        if message["state"] != "fresh":
            self._parts[key] = Health(subject, message["state"], message["reason"])

    def _spend(self, time_ns: int, spent_ns: int) -> None:
        """Add up the time spent in NVML; tell it once a span is full."""
        self._cost_since_ns = self._cost_since_ns or time_ns
        self._spent_ns += spent_ns
        if time_ns - self._cost_since_ns >= COST_SECONDS * 1_000_000_000:
            reason = f"time spent in NVML calls in {COST_SECONDS} s"
            self._cost = Health("NVML calls", "fresh", reason, self._spent_ns)
            self._spent_ns, self._cost_since_ns = 0, time_ns

    def _lose(self, message: dict[str, Any]) -> None:
        index, state = message["gpu"], message["state"]
        known = self._gone.get(index) == state
        self._gone[index] = state
        if not known and "time_ns" in message:
            self._log(index, message["time_ns"], state, None, "critical", f"GPU {index}: {_GONE_REASON[state]}")

    def _event(self, message: dict[str, Any]) -> None:
        code, state = message["code"], message["state"]
        grade = severity(code) if state == "xid" else "warning"
        text = f"NVML event on GPU {message['gpu']}: {'Xid' if state == 'xid' else state} {code}"
        self._log(message["gpu"], message["time_ns"], state, code, grade, text)

    def _log(self, index: int | None, time_ns: int, kind: str, code: int | None, grade: str, text: str) -> None:
        identity = self._identity.get(index, {}) if index is not None else {}
        place = {"gpu_uuid": identity.get("gpu_uuid"), "bus_id": identity.get("bus_id")}
        what = {"time_ns": time_ns, "kind": kind, "code": code, "severity": grade, "message": text, "count": 1}
        self._add("log_events", {**what, **place})


def _fitting(name: str, value: Any) -> Any:
    """A value as its column holds it; NULL where it does not fit."""
    if name not in _WHOLE or isinstance(value, str):
        return value
    whole = round(value)
    return whole if abs(whole) <= _WHOLE[name] else None
