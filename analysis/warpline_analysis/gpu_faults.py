"""GPU faults of the kernel log and of the driver: any number of repeats, and all codes of one GPU, are one incident.

A GPU that is off the bus raises further codes as a consequence: the gravest earliest one is the root, the others are counted
under it. What programs cause is told of the node and never of a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from warpline_proto.finding import Finding, FindingKind, Onset, Severity, Subject

from .detector import COUNTED, Reader, literal, show
from .replaced import STILL_THERE
from .xid import OFF_BUS, PROGRAM, RESET, Xid, known

KINDS: Final = ("xid", "off_bus", "gpu_lost", "reset_required", "gpu_unavailable", "poison_error", "recovery_action")
"""Kinds of `log_events` that speak of one GPU."""
LOST: Final = ("off_bus", "gpu_lost")
OFF_BUS_CODE: Final = 79
CODES_MAX: Final = 20_000
"""Codes of GPUs looked at in one pass, the gravest first."""
FINDINGS_MAX: Final = 256
"""GPUs named one by one; the rest is counted in the last."""
FRESH_NS: Final = 24 * 3600 * 10**9
"""On a node that is watched live, a fault without a repeat for so long is over."""
BACK_NS: Final = 300 * 10**9
"""A lost GPU that still gives readings so long after its last fault is back."""
OTHERS_MAX: Final = 4
_GRADES: Final = {2: Severity.CRITICAL, 1: Severity.WARNING, 0: Severity.INFO}
GRADE: Final = "CASE severity WHEN 'critical' THEN 2 WHEN 'warning' THEN 1 ELSE 0 END"

_NO_CODE: Final = {
    "off_bus": OFF_BUS,
    "gpu_lost": OFF_BUS,
    "reset_required": Xid("must be reset before it can be used", Severity.CRITICAL, RESET),
    "gpu_unavailable": Xid("the driver reports it as unavailable", Severity.CRITICAL, RESET),
    "poison_error": known(94),
    "recovery_action": known(154),
}
"""Events without an Xid."""


@dataclass(frozen=True)
class Code:
    """All repeats of one code on one GPU."""

    kind: str
    code: int | None
    count: int
    first_ns: int | None
    last_ns: int | None
    link: str | None
    pids: int
    grade: Severity

    @property
    def lost(self) -> bool:
        """Whether the GPU is gone."""
        return self.kind in LOST or (self.code == OFF_BUS_CODE and self.kind == "xid")

    @property
    def entry(self) -> Xid:
        """What the table says of it."""
        return _NO_CODE.get(self.kind) or known(self.code)

    @property
    def severity(self) -> Severity:
        """By the table; where that leaves it open, as the driver graded it."""
        return self.entry.severity or self.grade

    @property
    def name(self) -> str:
        """Xid 119; off the bus."""
        return f"Xid {self.code}" if self.kind == "xid" else self.kind.replace("_", " ")

    @property
    def order(self) -> tuple[bool, int, bool, int]:
        """Root first: lost, then graver, then earlier."""
        rank = (Severity.CRITICAL, Severity.WARNING, Severity.INFO).index(self.severity)
        return not self.lost, rank, self.first_ns is None, self.first_ns or 0


@dataclass(frozen=True)
class Gpu:
    """One GPU with what was said of it, root first."""

    node: str | None
    uuid: str | None
    bus_id: str | None
    job: str | None
    codes: tuple[Code, ...]
    seen_ns: int | None = None

    @property
    def name(self) -> str:
        """How the sentence calls it."""
        return f"GPU {self.bus_id or self.uuid or '(not named)'}" + (f" on {self.node}" if self.node else "")

    @property
    def back(self) -> bool:
        """Lost, but it gave readings long after."""
        last = max((code.last_ns or 0 for code in self.codes), default=0)
        return self.codes[0].lost and bool(last) and (self.seen_ns or 0) >= last + BACK_NS


def when(time_ns: int) -> str:
    """2025-02-23 16:24:18 UTC."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def times(count: int, first_ns: int | None, last_ns: int | None) -> str:
    """5 times from ... to ...; once at ...; 3 times."""
    often = "once" if count == 1 else f"{count:,} times"
    if first_ns is None or last_ns is None:
        return often
    return f"{often} from {when(first_ns)} to {when(last_ns)}" if count > 1 else f"{often} at {when(first_ns)}"


STILL_FRESH: Final = (
    "NOT EXISTS (SELECT 1 FROM (SELECT node, max(time_ns) AS now FROM source_health GROUP BY node) AS live "
    f"WHERE live.node = log_events.node AND log_events.time_ns < live.now - {FRESH_NS}) AND {STILL_THERE}"
)
"""Condition on rows of log_events: not over, as far as the node is watched live, and of what is there now."""


def load_gpus(reader: Reader) -> list[Gpu]:
    """Every GPU of which something was said and is not over, gravest first."""
    rows = reader.query(
        f"SELECT node, gpu_uuid, bus_id, kind, code, {COUNTED} AS count, "
        f"min(time_ns) AS first_ns, max(time_ns) AS last_ns, max({GRADE}) AS grade, "
        "arg_max(job, coalesce(time_ns, 0)) AS job, max(link) AS link, count(DISTINCT pid) AS pids FROM log_events "
        f"WHERE kind IN {KINDS} AND {STILL_FRESH} GROUP BY node, gpu_uuid, bus_id, kind, code "
        f"ORDER BY grade DESC, first_ns, node, bus_id, gpu_uuid, kind, code LIMIT {CODES_MAX}"
    ).to_pylist()
    places = _places(reader) if rows else []
    groups: dict[tuple[str | None, ...], list[dict[str, Any]]] = {}
    names = _names([*rows, *places])
    for row in rows:
        groups.setdefault(_key(row, names), []).append(row)
    seen = {_key(place, names): place for place in places}
    gpus = [_gpu(members, seen.get(key, {})) for key, members in groups.items()]
    return sorted((gpu for gpu in gpus if not gpu.back), key=lambda gpu: (gpu.codes[0].order, gpu.name))


def _places(reader: Reader) -> list[dict[str, Any]]:
    """Newest reading of each GPU of the nodes in question: its names, its job, when it last answered."""
    rows: list[dict[str, Any]] = reader.query(
        "SELECT node, gpu_uuid, bus_id, arg_max(job, time_ns) AS job, max(time_ns) AS seen_ns FROM device_samples "
        f"WHERE node IN (SELECT node FROM log_events WHERE kind IN {KINDS}) GROUP BY node, gpu_uuid, bus_id "
        f"ORDER BY node, gpu_uuid, bus_id LIMIT {CODES_MAX}"
    ).to_pylist()
    return rows


def _names(rows: Iterable[dict[str, Any]]) -> dict[tuple[str | None, str], str]:
    """Bus id on a node -> UUID, where one row has both: of several the one that was seen last."""
    both = [row for row in rows if row["bus_id"] and row["gpu_uuid"]]
    return {
        (row["node"], row["bus_id"]): row["gpu_uuid"] for row in sorted(both, key=lambda row: row.get("seen_ns") or 0)
    }


def _key(row: dict[str, Any], names: dict[tuple[str | None, str], str]) -> tuple[str | None, ...]:
    uuid = row["gpu_uuid"] or names.get((row["node"], row["bus_id"] or ""))
    return (row["node"], uuid or row["bus_id"])


def _gpu(rows: Sequence[dict[str, Any]], place: dict[str, Any]) -> Gpu:
    def first(name: str) -> Any:
        return next((row[name] for row in (*rows, place) if row.get(name)), None)

    return Gpu(
        first("node"),
        first("gpu_uuid"),
        first("bus_id"),
        first("job"),
        tuple(sorted(_codes(rows), key=lambda code: code.order)),
        place.get("seen_ns"),
    )


def _codes(rows: Sequence[dict[str, Any]]) -> list[Code]:
    names = ("kind", "code", "count", "first_ns", "last_ns", "link", "pids")
    return [Code(**{name: row[name] for name in names}, grade=_GRADES[row["grade"]]) for row in rows]


def program_only(gpu: Gpu) -> bool:
    """Whether nothing was said of it that speaks against the GPU itself."""
    return all(code.entry.program for code in gpu.codes)


def gpu_findings(reader: Reader, gpus: Sequence[Gpu]) -> list[Finding]:
    """One finding a GPU that is at fault; one of least severity a node for what programs did."""
    guilty = [gpu for gpu in gpus if not program_only(gpu)]
    left = len(guilty) - FINDINGS_MAX
    note = (f"{left} more GPUs with faults are not listed",) if left > 0 else ()
    found = [_finding(reader, gpu, note) for gpu in guilty[:FINDINGS_MAX]]
    nodes: dict[str | None, list[Gpu]] = {}
    for gpu in gpus:
        if program_only(gpu):
            nodes.setdefault(gpu.node, []).append(gpu)
    return found + [_of_programs(reader, node, members) for node, members in list(nodes.items())[:FINDINGS_MAX]]


def _finding(reader: Reader, gpu: Gpu, note: tuple[str, ...]) -> Finding:
    root, others = gpu.codes[0], gpu.codes[1:]
    told = ", ".join(f"{code.name} ({times(code.count, None, None)})" for code in others[:OTHERS_MAX])
    more = f", and {len(others) - OTHERS_MAX} more codes" if len(others) > OTHERS_MAX else ""
    consequence = f"; with it came {told}{more}" if others else ""
    where = f" ({root.link})" if root.link else ""
    label = f"{root.name}, " if root.kind == "xid" else ""
    return Finding(
        kind=FindingKind.GPU_LOST if root.lost else FindingKind.GPU_ERROR,
        severity=root.severity,
        confidence=_confidence(root),
        subject=Subject(job=gpu.job, node=gpu.node, gpu=gpu.uuid or gpu.bus_id, link=root.link),
        summary=f"{gpu.name}: {label}{root.entry.meaning}{where}, "
        f"{times(root.count, root.first_ns, root.last_ns)}{consequence}",
        next_step=f"On {gpu.name}: {root.entry.next_step}",
        onset=Onset(root.first_ns),
        evidence=(show(reader, _evidence(gpu)),),
        ruled_out=_ruled_out(gpu),
        missing=(() if root.first_ns is not None else ("times of the events",)) + note,
    )


def _confidence(root: Code) -> float:
    """The driver's own word; less where it names a warning, or only the last code and no time."""
    value = 0.97 if root.lost else 0.9 if root.severity == Severity.CRITICAL else 0.8
    return value if root.first_ns is not None else round(value - 0.1, 2)


def _ruled_out(gpu: Gpu) -> tuple[str, ...]:
    root = gpu.codes[0]
    if root.entry.program:
        return ()
    several = f"a single program: {root.pids} different processes met it" if root.pids > 1 else ""
    blamed = [code for code in gpu.codes if code.entry.program]
    after = f"the program: {', '.join(code.name for code in blamed)} follow from it" if blamed else ""
    return tuple(filter(None, (several, after)))


def _where(gpu: Gpu) -> str:
    names = [f"{name} = {literal(value)}" for name, value in (("gpu_uuid", gpu.uuid), ("bus_id", gpu.bus_id)) if value]
    either = f"({' OR '.join(names)})" if names else "gpu_uuid IS NULL AND bus_id IS NULL"
    return f"node IS NOT DISTINCT FROM {literal(gpu.node)} AND {either}"


def _evidence(gpu: Gpu) -> str:
    return (
        f"SELECT node, bus_id, kind, code, {COUNTED} AS times, min(time_ns) AS first_ns, "
        "max(time_ns) AS last_ns, arg_min(message, coalesce(time_ns, 0)) AS message FROM log_events "
        f"WHERE kind IN {KINDS} AND {_where(gpu)} GROUP BY node, bus_id, kind, code ORDER BY times DESC, code"
    )


def _of_programs(reader: Reader, node: str | None, gpus: Sequence[Gpu]) -> Finding:
    totals: dict[str, int] = {}
    for code in (code for gpu in gpus for code in gpu.codes):
        totals[code.name] = totals.get(code.name, 0) + code.count
    listed = ", ".join(f"{name} ({times(count, None, None)})" for name, count in totals.items())
    firsts = [code.first_ns for gpu in gpus for code in gpu.codes if code.first_ns is not None]
    codes = ", ".join(str(code.code) for code in {code.code: code for gpu in gpus for code in gpu.codes}.values())
    return Finding(
        kind=FindingKind.GPU_ERROR,
        severity=Severity.INFO,
        confidence=0.8,
        subject=Subject(node=node, group="programs"),
        summary=f"A program{f' on {node}' if node else ''} made the driver report {listed}: "
        f"{gpus[0].codes[0].entry.meaning}; no GPU is accused",
        next_step=PROGRAM[0].upper() + PROGRAM[1:],
        onset=Onset(min(firsts, default=None)),
        evidence=(
            show(
                reader,
                f"SELECT bus_id, code, pid, {COUNTED} AS times, min(time_ns) AS first_ns, "
                "arg_min(message, coalesce(time_ns, 0)) AS message FROM log_events WHERE kind = 'xid' "
                f"AND node IS NOT DISTINCT FROM {literal(node)} AND code IN ({codes}) "
                "GROUP BY bus_id, code, pid ORDER BY times DESC, code, pid",
            ),
        ),
        ruled_out=("a GPU fault: these codes follow from what a program does, and nothing else was reported",),
    )
