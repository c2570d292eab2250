"""NCCL RAS reports, text or JSON: the state of every communicator, and which ranks are behind, silent or dead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from warpline_proto.errors import Refused
from warpline_proto.tables import COMMUNICATORS, LOG_EVENTS

from ..parsers import nccl, values
from ..scrub import scrub
from ..source import Input, Origin, Reading, Rows

Row = dict[str, Any]

LINES_MAX: Final = 1_000_000
"""A report of more lines than this is read so far and no further."""

REPORT_BYTES_MAX: Final = 64 * 1024 * 1024
"""A report in JSON larger than this is refused; one of 100,000 ranks has half of that."""

LINE_CHARS_MAX: Final = 1000
"""Lines of a report are looked at so far."""

LINES_KEPT_MAX: Final = 64
"""Lines of one warning that its message may be made of."""

MEMBERS_MAX: Final = 1_000_000
MESSAGE_CHARS_MAX: Final = 1000

_BLOCK: Final = re.compile(r"#(\d+)-(\d+) \(([0-9a-fA-F]{1,16})\) ([A-Z]+)")
_ALONE: Final = re.compile(r"(DEAD|TIMEOUT|INCOMPLETE|MISMATCH|ERROR|NOCOMM)")
_COHORT: Final = re.compile(r"(\d+|Rank \d+) (?:(?:ranks?|job process(?:es)?) )?(?:has|have|is|are|did|reports?)\b.*")
_LAUNCHED: Final = re.compile(r"launched up to (?:\w+ )?operation (\d+)")
_NOTHING: Final = re.compile(r"not launched any")
_STATUS: Final = re.compile(r"status (\w+)")
_MEMBER: Final = re.compile(r"Rank (\d+)\b.*?-- GPU (\d+)(?: \(NVML \d+\))? managed by process (\d+) on node (\S+)")
_PROCESS: Final = re.compile(r"Process (\d+) on node (\S+) managing GPUs? ([\d,\s-]+)")
_GROUP: Final = re.compile(r"\s*(\d+)\s+(\d+)\s+([\d-]+)\s+([\d-]+)\s+([\d-]+)\s+(\d+)\s+([A-Z]+)\s+([A-Z,]+)\s*")
_VERSION: Final = re.compile(r"NCCL version (\d+\.\d+\.\d+\S*)")
_MARKS: Final = (b"launched up to operation", b"Communicator ranks have different", b"considered dead", b"RAS network")
_STATES: Final = {"INIT": "init", "RUNNING": "ready", "FINALIZE": "destroyed", "ABORT": "aborted"}
_CRITICAL: Final = frozenset(("DEAD", "INCOMPLETE", "ERROR"))
_SUCCESS, _IN_PROGRESS = 0, 7


@dataclass
class _Block:
    """One warning: what it says, its cohorts in order, and the ranks that it names."""

    kind: str
    communicator: str | None
    lines: list[str] = field(default_factory=list)
    cohorts: list[Row] = field(default_factory=list)
    members: list[Row] = field(default_factory=list)


class Ras:
    """One answer of NCCL's RAS service, as `ncclras` prints it."""

    name = "nccl_ras"

    def recognises(self, candidate: Input) -> bool:
        """JSON by its keys; text by a warning's heading or the summary table."""
        head = candidate.head
        if head.lstrip().startswith(b"{"):
            return b'"communicators"' in head and (b'"ranks_count"' in head or b'"communicators_count"' in head)
        if b"NCCL INFO" in head or b"NCCL WARN" in head:
            return False
        text = head.decode("utf-8", "replace")
        lines = text.splitlines()
        return (
            any(mark in head for mark in _MARKS)
            or any(_BLOCK.fullmatch(line.strip()) for line in lines)
            or ("Group" in text and "Comms" in text and any(_GROUP.fullmatch(line) for line in lines))
        )

    def read(self, candidate: Input) -> Reading:
        """Members -> communicators, warnings -> log_events."""
        if candidate.head.lstrip().startswith(b"{"):
            return _from_json(values.json_value(candidate.read_bytes(REPORT_BYTES_MAX)))
        return _from_text(candidate.lines())


def _from_text(lines: Iterable[str]) -> Reading:
    blocks: list[_Block] = []
    groups: list[Row] = []
    version: str | None = None
    for number, line in enumerate(lines):
        if number >= LINES_MAX:
            break
        line = line[:LINE_CHARS_MAX]
        stripped = line.strip()
        version = version or ((found := _VERSION.search(line)) and found[1]) or None
        if found := _BLOCK.fullmatch(stripped):
            blocks.append(_Block(found[4], nccl.communicator_id(found[3])))
        elif found := _ALONE.fullmatch(stripped):
            blocks.append(_Block(found[1], None))
        elif found := _GROUP.fullmatch(line):
            groups.append(_group(found))
        elif blocks and line.startswith(" ") and stripped:
            _continue(blocks[-1], stripped)
    if not blocks and not groups:
        raise Refused("is no NCCL RAS report: neither a communicator table nor a warning is in it")
    members = [row for block in blocks for row in block.members if row["communicator_rank"] is not None]
    rows = [
        Rows("communicators", COMMUNICATORS.from_rows({**row, "library_version": version} for row in members)),
        Rows("log_events", LOG_EVENTS.from_rows(_event(block) for block in blocks)),
    ]
    facts: Row = {"nccl_version": version, "groups": groups, "warnings": [_summary(block) for block in blocks]}
    return _reading(rows, facts, [block.communicator for block in blocks])


def _continue(block: _Block, line: str) -> None:
    member, process = _MEMBER.search(line), _PROCESS.match(line)
    cohort = _COHORT.match(line)
    if cohort:
        block.cohorts.append(_cohort(cohort[1], line))
    if member:
        block.members.append(_member(block, member[1], member[2], member[3], member[4]))
    elif process:
        block.members.append({"node": process[2], "pid": values.count(process[1]), "communicator_rank": None})
    if (cohort or not (member or process)) and len(block.lines) < LINES_KEPT_MAX:
        block.lines.append(line)


def _cohort(who: str, line: str) -> Row:
    launched = _LAUNCHED.search(line)
    status = _STATUS.search(line)
    operation = values.count(launched[1]) if launched else 0 if _NOTHING.search(line) else None
    ranks = 1 if who.startswith("Rank") else values.count(who)
    return {"ranks": ranks, "last_enqueued": operation, "status": status[1] if status else None}


def _member(block: _Block, rank: str, device: str, pid: str, node: str) -> Row:
    cohort = block.cohorts[-1] if block.cohorts else {}
    state = {"DEAD": "dead", "INCOMPLETE": "missing"}.get(block.kind)
    return {
        "source": "nccl_ras",
        "node": node,
        "communicator": block.communicator,
        "communicator_rank": values.small(rank),
        "device": values.small(device),
        "pid": values.count(pid),
        "state": state or _STATES.get(cohort.get("status") or ""),
        "last_enqueued": cohort.get("last_enqueued"),
    }


def _group(found: re.Match[str]) -> Row:
    names = ("group", "communicators", "nodes", "ranks_per_node", "ranks", "ranks_in_group", "status", "errors")
    texts = [found[index + 1] for index in range(len(names))]
    return {name: values.whole(text) if text.isdecimal() else text for name, text in zip(names, texts, strict=True)}


def _summary(block: _Block) -> Row:
    named = [row["communicator_rank"] for row in block.members if row["communicator_rank"] is not None]
    return {
        "kind": block.kind,
        "communicator": block.communicator,
        "cohorts": block.cohorts,
        "ranks_named": named,
        "processes_named": [{"node": row["node"], "pid": row["pid"]} for row in block.members],
    }


def _event(block: _Block) -> Row:
    nodes = {row["node"] for row in block.members}
    pids = {row["pid"] for row in block.members}
    about = f"communicator {block.communicator}: " if block.communicator else ""
    message = f"RAS {block.kind}: {about}{'; '.join(block.lines)}"
    return _log(block.kind, message, nodes.pop() if len(nodes) == 1 else None, pids.pop() if len(pids) == 1 else None)


def _log(kind: str, message: str, node: str | None, pid: int | None, time_ns: int | None = None) -> Row:
    return {
        "source": "nccl_ras",
        "node": node,
        "time_ns": time_ns,
        "kind": f"ras_{kind.lower()}",
        "severity": "critical" if kind in _CRITICAL else "warning",
        "pid": pid,
        "message": scrub(message)[:MESSAGE_CHARS_MAX],
        "count": 1,
    }


def _from_json(report: Any) -> Reading:
    if not isinstance(report, dict) or not values.is_list(report.get("communicators")):
        raise Refused("is no NCCL RAS report: it has no list of communicators")
    time_ns = _time_ns(report.get("timestamp"))
    shared = {"library_version": values.text(report.get("nccl_version")), "start_ns": None}
    members: list[Row] = []
    events: list[Row] = []
    identifiers: list[str | None] = []
    for communicator in map(values.mapping, report["communicators"]):
        identifiers.append(nccl.communicator_id(values.text(communicator.get("hash")) or ""))
        for key in ("ranks", "missing_ranks"):
            listed = communicator.get(key)
            for member in map(values.mapping, listed if values.is_list(listed) else ()):
                members.append({**_json_member(member, identifiers[-1], communicator, key == "ranks"), **shared})
                if key == "missing_ranks":
                    events.append(_missing(member, identifiers[-1], time_ns))
    timeouts = values.count(values.mapping(report.get("ras")).get("timeouts_count"))
    if timeouts:
        events.append(_log("TIMEOUT", f"RAS TIMEOUT: {timeouts} timeouts while collecting", None, None, time_ns))
    rows = [
        Rows("communicators", COMMUNICATORS.from_rows(members[:MEMBERS_MAX]), max(0, len(members) - MEMBERS_MAX)),
        Rows("log_events", LOG_EVENTS.from_rows(events)),
    ]
    facts: Row = {
        "nccl_version": shared["library_version"],
        "timestamp": values.text(report.get("timestamp")),
        "communicators": len(identifiers),
        "ranks": sum(row["state"] not in ("missing", "dead") for row in members),
        "missing_ranks": sum(row["state"] in ("missing", "dead") for row in members),
        "timeouts": timeouts,
    }
    return _reading(rows, facts, identifiers)


def _json_member(member: Mapping[Any, Any], identifier: str | None, parent: Mapping[Any, Any], present: bool) -> Row:
    counts = values.mapping(member.get("collective_counts"))
    launched = [number for value in counts.values() if (number := values.count(value)) is not None]
    status = values.mapping(member.get("status"))
    return {
        "source": "nccl_ras",
        "node": values.text(member.get("host")),
        "communicator": identifier,
        "communicator_rank": values.small(member.get("rank")),
        "nranks": values.small(parent.get("size")),
        "device": values.small(member.get("cuda_dev")),
        "pid": values.count(member.get("pid")),
        "state": _state(status) if present else "dead" if status.get("considered_dead") is True else "missing",
        "last_enqueued": values.count(sum(launched)) if launched else None,
    }


def _state(status: Mapping[Any, Any]) -> str | None:
    if status.get("abort_flag") is True:
        return "aborted"
    if status.get("destroy_flag") is True or status.get("finalize_called") is True:
        return "destroyed"
    begun = values.small(status.get("init_state"))
    return None if begun is None else {_SUCCESS: "ready", _IN_PROGRESS: "init"}.get(begun)


def _missing(member: Mapping[Any, Any], identifier: str | None, time_ns: int | None) -> Row:
    dead = values.mapping(member.get("status")).get("considered_dead") is True
    host = values.text(member.get("host"))
    kind = "DEAD" if dead else "INCOMPLETE"
    rank, pid = values.small(member.get("rank")), values.count(member.get("pid"))
    message = (
        f"RAS {kind}: communicator {identifier}: rank {rank}, process {pid} on node {host}, "
        f"{'is considered dead' if dead else 'does not answer'}"
    )
    return _log(kind, message, host, pid, time_ns)


def _time_ns(value: Any) -> int | None:
    try:
        return values.epoch_ns(datetime.fromisoformat(values.text(value) or ""))
    except ValueError:
        return None


def _reading(rows: list[Rows], facts: Row, identifiers: list[str | None]) -> Reading:
    known = dict.fromkeys(identifier for identifier in identifiers if identifier)
    return Reading(
        [each for each in rows if each.batch.num_rows],
        facts,
        Origin(communicators=tuple((identifier, ()) for identifier in known), content=values.digest(rows)),
        ["RAS ranks count within their communicator"],
    )
