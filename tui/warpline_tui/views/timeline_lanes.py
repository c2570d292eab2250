"""Rows of a rank's span become lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ..incident import Incident
from ..lanes import Form, Kind, Lane, Reading, Slice
from ..literal import literal
from ..view import Ask
from ..words import size
from . import timeline_sql as questions
from .timeline_sql import HELD_NS, LONGEST_NS, SLICES_MAX, Window

SECONDS: Final = 1.5
"""Moving the cursor, or zooming back, asks nothing anew for so long."""
STREAMS_MAX: Final = 32
"""Streams that have a lane; those with the most time."""
COMMUNICATORS_MAX: Final = 12
PHASE_LANES: Final = {
    "data": (Kind.DATA, "data loader"),
    "gc": (Kind.GC, "garbage coll."),
    "phase": (Kind.PHASE, "phases"),
}
REALTIME: Final = "realtime@"
Row = dict[str, Any]


@dataclass
class Facts:
    """What was learned on the way."""

    clock: str | None = None
    node: str | None = None
    gpu_uuid: str | None = None
    raw: tuple[tuple[int, int], ...] = ()
    steps: dict[int, int] = field(default_factory=dict)
    clusters: bool = False
    streams_left_out: int = 0
    several: bool = False

    def notes(self, window: Window) -> tuple[str, ...]:
        """What is missing, and how to get it."""
        rank = "" if window.rank is None else f" --rank {window.rank}"
        command = f"`warpline capture --job {window.job}{rank}`"
        notes = []
        if not self.raw and self.clusters:
            notes.append(f"kernels as sums of each step, not one by one: {command} gets those of the last seconds")
        elif not self.raw:
            notes.append(f"no kernel of this time is kept: {command} gets those of the last seconds")
        if self.streams_left_out:
            notes.append(f"{self.streams_left_out} more streams are not drawn")
        return tuple(notes)


def lanes_of(ask: Ask, window: Window, needle: str = "") -> tuple[list[Lane], Facts]:
    """All lanes of one rank but its findings, and what was learned of it."""
    facts = _facts(ask, window)
    named = _phase_lanes(ask, window)
    lanes = named + _step_lanes(ask, window, facts, {lane.kind for lane in named})
    lanes += _kernel_lanes(ask, window, facts, needle)
    lanes += _collective_lanes(ask, window)
    lanes += _node_lanes(ask, window, facts)
    return lanes, facts


def _facts(ask: Ask, window: Window) -> Facts:
    sql = f"""SELECT clock, node, gpu_uuid FROM steps WHERE {window.who}
    AND start_ns BETWEEN {window.start_ns - LONGEST_NS} AND {window.end_ns}{window.there()}
ORDER BY start_ns DESC, gpu_uuid NULLS LAST LIMIT 1"""
    row: Row = next(iter(ask.rows(sql, SECONDS).to_pylist()), {})
    rows = ask.rows(questions.extents(window), SECONDS).to_pylist()
    return Facts(
        row.get("clock"), row.get("node"), row.get("gpu_uuid"), _merged((each["start_ns"], each["end_ns"]) for each in rows),
        several=len(rows) > 1,
    )  # fmt: skip


def _merged(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Spans that overlap become one."""
    merged: list[tuple[int, int]] = []
    for start_ns, end_ns in sorted(spans):
        if merged and start_ns <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end_ns, merged[-1][1]))
        else:
            merged.append((start_ns, end_ns))
    return tuple(merged)


def _step_lanes(ask: Ask, window: Window, facts: Facts, known: set[Kind]) -> list[Lane]:
    """Steps, and what they say of idle GPUs and data loaders where that is not known in more detail."""
    sql = questions.steps(window)
    rows = ask.rows(sql, SECONDS).to_pylist()
    track = "step" if any(row["track"] == "step" for row in rows) else "trace"
    rows = [row for row in rows if row["track"] == track]
    facts.steps = {row["step"]: row["start_ns"] for row in rows if row["step"] is not None}
    slices = tuple(
        replace(each, name="whole trace" if each.step is None else f"step {each.step}") for each in map(_slice, rows)
    )
    lanes = [Lane(Kind.STEP, "steps", slices, sql=sql, left_out=_left_out(rows))]
    known = known | {Kind.GAP} if facts.raw else known
    for kind, label, column in ((Kind.GAP, "idle", "idle_ns"), (Kind.DATA, "data loader", "data_wait_ns")):
        told = [row for row in rows if row[column] is not None]
        if told and track == "step" and kind not in known:
            sums = tuple(replace(_slice(row), name=label, form=Form.SUMS, busy_ns=row[column]) for row in told)
            lanes.append(Lane(kind, label, sums, sql=sql))
    return lanes


def _phase_lanes(ask: Ask, window: Window) -> list[Lane]:
    sql = questions.phases(window)
    by = _by_track(ask.rows(sql, SECONDS).to_pylist())
    return [
        Lane(*PHASE_LANES[track], tuple(map(_slice, rows)), sql=sql, left_out=_left_out(rows))
        for track, rows in by.items()
    ]


def _kernel_lanes(ask: Ask, window: Window, facts: Facts, needle: str) -> list[Lane]:
    """A lane a stream: single kernels where these are kept, sums of the step around them; and when no kernel ran."""
    found: dict[str, list[Slice]] = {}
    single = questions.kernels(window, facts.several, needle)
    summed = questions.clusters(window, needle)
    left_out = 0
    clusters = ask.rows(summed, SECONDS).to_pylist()
    facts.clusters = bool(clusters)
    for track, rows in _by_track(clusters).items():
        parts = (each for row in rows for each in _outside(_sums(row), facts.raw, window.bin_ns))
        found[track] = [each for each in parts if each.start_ns < window.end_ns and each.end_ns > window.start_ns]
    if facts.raw:
        kernels = ask.rows(single, SECONDS).to_pylist()
        left_out = _left_out(kernels)
        for track, rows in _by_track(kernels).items():
            found.setdefault(track, []).extend(map(_slice, rows))
    heaviest = sorted(found, key=lambda track: -sum(each.busy_ns for each in found[track]))[:STREAMS_MAX]
    facts.streams_left_out = len(found) - len(heaviest)
    sql = single if facts.raw else summed
    lanes = [
        Lane(Kind.KERNEL, f"stream {track}", tuple(found[track]), sql=sql, left_out=left_out) for track in heaviest
    ]
    if facts.raw:
        holes = tuple((one[1], other[0]) for one, other in zip(facts.raw, facts.raw[1:], strict=False))
        sql = questions.gaps(window, facts.several, holes)
        rows = ask.rows(sql, SECONDS).to_pylist()
        lanes.append(Lane(Kind.GAP, "idle", tuple(map(_slice, rows)), sql=sql, left_out=_left_out(rows)))
    return lanes


def _outside(whole: Slice, raw: tuple[tuple[int, int], ...], least_ns: int) -> Iterator[Slice]:
    """The parts of a step's sums that are not shown kernel by kernel, where at least a column long."""
    start_ns = whole.start_ns
    for first_ns, last_ns in (*raw, (whole.end_ns, whole.end_ns)):
        end_ns = min(first_ns, whole.end_ns)
        if start_ns == whole.start_ns and end_ns == whole.end_ns:
            yield whole
        elif end_ns - start_ns >= least_ns:
            busy_ns = int(whole.share * (end_ns - start_ns))
            yield replace(whole, start_ns=start_ns, end_ns=end_ns, busy_ns=busy_ns, partial=True)
        start_ns = max(start_ns, last_ns)


def _collective_lanes(ask: Ask, window: Window) -> list[Lane]:
    sql = questions.collectives(window)
    rows = ask.rows(sql, SECONDS).to_pylist()
    by = _by_track(rows)
    heaviest = sorted(by, key=lambda track: -sum(row["busy_ns"] for row in by[track]))[:COMMUNICATORS_MAX]
    return [
        Lane(
            Kind.COLLECTIVE,
            f"coll. {track}" if track else "collectives",
            tuple(map(_collective, by[track])),
            sql=sql,
            left_out=_left_out(rows),
        )
        for track in heaviest
    ]


def _collective(row: Row) -> Slice:
    moved = "" if row["message_bytes"] in (None, -1) else size(row["message_bytes"])
    number = "" if row["sequence"] is None else f"number {row['sequence']}"
    wait_ns = row["wait_ns"] if row["told"] == row["count"] else None
    return replace(
        _slice(row), wait_ns=wait_ns, last=row["last"] if row["count"] == 1 else None,
        about=", ".join(filter(None, (number, moved))) if row["count"] == 1 else "",
    )  # fmt: skip


def _node_lanes(ask: Ask, window: Window, facts: Facts) -> list[Lane]:
    """Power and clock of the GPU, and faults in logs, where the rank's times are told by the clock of its node."""
    if facts.clock is None or not facts.clock.startswith(REALTIME) or facts.node is None:
        return []
    node = facts.clock.removeprefix(REALTIME)
    lanes = []
    sql = questions.logs(window, node)
    rows = ask.rows(sql, SECONDS).to_pylist()
    if rows:
        marks = tuple(_log(row) for row in rows)
        lanes.append(Lane(Kind.LOG, "log", marks, sql=sql, left_out=_left_out(rows)))
    if facts.gpu_uuid is not None:
        lanes += _readings(ask, window, facts.node, facts.gpu_uuid)
    return lanes


def _log(row: Row) -> Slice:
    code = "" if row["code"] is None else f" {row['code']}"
    at = "" if row["bus_id"] is None else f"{row['bus_id']}: "
    return Slice(
        row["time_ns"],
        row["time_ns"],
        f"{row['kind']}{code}",
        row["severity"] or "",
        about=f"{at}{row['message'] or ''}",
    )


def _readings(ask: Ask, window: Window, node: str, gpu_uuid: str) -> list[Lane]:
    sql = questions.readings(window, node, gpu_uuid)
    rows = ask.rows(sql, SECONDS).to_pylist()
    lanes = []
    for kind, label, column, unit in ((Kind.POWER, "power", "watts", "W"), (Kind.CLOCK, "SM clock", "mhz", "MHz")):
        told = [row for row in rows if row[column] is not None]
        if told:
            tops = [row[f"{column}_top"] for row in told if row[f"{column}_top"] is not None]
            top = max(tops, default=0.0) or max(row[f"{column}_highest"] for row in told)
            lanes.append(Lane(kind, label, readings=_held(told, column, window), top=top, unit=unit, sql=sql))
    return lanes


def _held(rows: list[Row], column: str, window: Window) -> tuple[Reading, ...]:
    """Readings that hold until the next, and not for long."""
    nexts = [row["time_ns"] for row in rows[1:]] + [window.end_ns]
    return tuple(
        Reading(
            row["time_ns"], max(min(following, row["time_ns"] + HELD_NS), row["time_ns"] + 1), row[column],
            row[f"{column}_lowest"], row[f"{column}_highest"], row["count"],
        )
        for row, following in zip(rows, nexts, strict=True)
    )  # fmt: skip


def finding_lane(window: Window, incidents: Iterable[Incident], facts: Facts) -> list[Lane]:
    """Findings that speak of the rank, its GPU or its node, from their onset on."""
    marks = []
    for each in incidents:
        who, onset = each.finding.subject, each.finding.onset
        rank = who.job == window.job and who.rank in (None, window.rank)
        gpu = who.gpu is not None and who.gpu == facts.gpu_uuid
        node = who.job is None and who.gpu is None and who.node is not None and who.node == facts.node
        start_ns = onset.time_ns
        if start_ns is None and onset.step is not None:
            start_ns = facts.steps.get(onset.step)
        if start_ns is None or not (rank or gpu or node):
            continue
        open_until = window.end_ns if each.state == "open" else (each.updated_ns or window.end_ns)
        if start_ns < window.end_ns and open_until > window.start_ns:
            marks.append(
                Slice(start_ns, max(open_until, start_ns), str(each.finding.kind), str(each.finding.severity),
                      step=onset.step, incident=each.finding.id, about=each.finding.summary)
            )  # fmt: skip
    if not marks:
        return []
    columns = "id, kind, severity, state, onset_ns, summary"
    sql = f"SELECT {columns} FROM findings WHERE job = {literal(window.job)} ORDER BY updated_ns DESC"
    return [Lane(Kind.FINDING, "findings", tuple(marks), sql=sql)]


def _slice(row: Row) -> Slice:
    name = row["name"] or ""
    return Slice(
        row["start_ns"], row["end_ns"], str(name), row["category"] or "", Form.ONE if row["count"] == 1 else Form.MANY,
        row["count"], row["busy_ns"], row["longest_ns"], row["step"], hit=bool(row["hit"]), kernel_id=row.get("kernel_id"),
    )  # fmt: skip


def _sums(row: Row) -> Slice:
    return replace(_slice(row), form=Form.SUMS, count=row["kernels"], busy_ns=row["taken_ns"])


def _by_track(rows: Iterable[Row]) -> dict[str, list[Row]]:
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row["track"], []).append(row)
    return by


def _left_out(rows: list[Row]) -> int:
    """Slices that were too many."""
    return max(rows[0]["groups"] - SLICES_MAX, 0) if rows else 0
