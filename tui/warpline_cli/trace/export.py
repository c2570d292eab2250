"""What is kept of a capture, of a finding, or of ranks and a time, written as a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Final

from warpline_cli.asking import Query
from warpline_proto.errors import ConfigError

from . import sums, tables
from .clock import Clocks, clocks
from .file import TraceFile
from .gpus import Beside
from .marks import Marks
from .ranks import ranks
from .scene import Scene
from .selection import Selection
from .slices import Drawing
from .tables import Row, pages

SLICES_MAX: Final = 5_000_000
"""Slices of one file; with gzip about 100 MB."""
LEAD_NS: Final = 1_000
"""Before the first event: Perfetto from before 2022 takes a counter's value at time 0 for none."""
NAMES_MAX: Final = 200_000
"""Kernel names held in memory."""


@dataclass(frozen=True)
class Exported:
    """What was drawn, from when to when on the collector's clock (ns) and how sure that is (None where not known).

    `flows` are operations whose ranks are joined by arrows; `left_out` is how many rows of each kind did not fit.
    """

    slices: int
    kernels: int
    kernel_sums: int
    flows: int
    counters: int
    marks: int
    ranks: int
    start_ns: int
    end_ns: int
    clock_error_ns: int | None
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Kind:
    """One kind of rows: which they are, what is asked of them, by which time in order, and how they are drawn."""

    table: Callable[[Selection], str]
    columns: Sequence[str]
    by: str
    draw: Callable[[Drawing, Iterator[Row]], Iterator[int]]


_KINDS: Final = {
    "steps": _Kind(tables.steps, tables.STEPS, "start_ns", Drawing.steps),
    "phases": _Kind(tables.phases, tables.PHASES, "start_ns", Drawing.phases),
    "collectives": _Kind(tables.collectives, tables.COLLECTIVES, "begun_ns", Drawing.collectives),
    "kernels": _Kind(tables.kernels, tables.KERNELS, "start_ns", Drawing.kernels),
    "kernel_sums": _Kind(tables.sums, tables.SUMS, "start_ns", sums.draw),
}
"""In the order in which they are drawn: where there is too much, the last are left out first."""


@dataclass(frozen=True)
class _Begun:
    """First start, last end and number of the rows of each kind."""

    rows: dict[str, int]
    start_ns: int
    end_ns: int


def export(query: Query, chosen: Selection, stream: IO[str]) -> Exported:
    """Write the trace; ConfigError where nothing is kept of the selection."""
    on = clocks(query, _nodes(query, chosen))
    wide = chosen if chosen.capture is not None else _widened(chosen, on)
    kept = {name: kind.table(wide) for name, kind in _KINDS.items()}
    begun = _begun(query, kept)
    known = ranks(query, wide, list({**kept, "kernels": tables.records(wide)}.values()))
    start_ns, end_ns = _time(chosen, begun, on)
    scene = Scene(query, TraceFile(stream, start_ns - LEAD_NS), known, on, start_ns, end_ns)
    scene.trace.open_()
    left = _beside(scene, chosen)
    limits = (None, None) if chosen.capture is not None else (chosen.start_ns, chosen.end_ns)
    names = _names(query, kept["kernels"]) | _names(query, kept["kernel_sums"])
    done, drawn = _slices(query, Drawing(scene.trace, known, on, names, *limits), kept)
    left |= {kind: begun.rows[kind] - done[kind] for kind in _KINDS}
    left = {kind: count for kind, count in left.items() if count > 0}
    scene.trace.close(_about(scene, chosen, left))
    trace = scene.trace
    return Exported(
        trace.slices, drawn["kernels"], drawn["kernel_sums"], trace.flows, trace.counters, trace.marks, len(known.rows),
        start_ns, end_ns, on.error_ns(known.nodes, end_ns), left,
    )  # fmt: skip


def _beside(scene: Scene, chosen: Selection) -> dict[str, int]:
    """Draw marks, counters and states: what of them was left out.

    Viewers show processes and tracks in the order in which they come, or by their sort index: ranks by number.
    """
    marks, gpus = Marks(scene), Beside(scene)
    marks.clocks()
    for row in scene.ranks.rows.values():
        scene.ranks.process(scene.trace, row)
    return {
        "findings": marks.findings(chosen),
        "log lines": marks.logs(chosen),
        "readings": gpus.counters(),
        "GPU states": gpus.states(SLICES_MAX),
    }


def _about(scene: Scene, chosen: Selection, left: Mapping[str, int]) -> dict[str, Any]:
    """What the file says of itself."""
    error_ns = scene.clocks.error_ns(scene.ranks.nodes, scene.end_ns)
    about = {
        "producer": "warpline", "job": chosen.job, "capture": chosen.capture, "finding": chosen.finding,
        "clock": "the collector's", "clock_error_ns": str(error_ns) if error_ns is not None else "not known of every node",
        "clocks": scene.clocks.told(scene.ranks.nodes, scene.end_ns),
        "left_out": {kind: str(count) for kind, count in left.items()},
    }  # fmt: skip
    return {key: value for key, value in about.items() if value is not None}


def _slices(query: Query, drawing: Drawing, kept: dict[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Draw all kinds while there is room: rows of each that were drawn, or were not of the time after all, and slices."""
    rows, slices = dict.fromkeys(_KINDS, 0), dict.fromkeys(_KINDS, 0)
    for name, kind in _KINDS.items():
        if drawing.trace.slices >= SLICES_MAX:
            break
        before = drawing.trace.slices
        for done in kind.draw(drawing, pages(query, kind.columns, kept[name], kind.by)):
            rows[name] += done
            slices[name] = drawing.trace.slices - before
            if drawing.trace.slices >= SLICES_MAX:
                break
    return rows, slices


def _nodes(query: Query, chosen: Selection) -> list[str]:
    """Where its ranks were at any time: of their clocks it depends which time is asked for."""
    told = " UNION ".join(f"SELECT node FROM {name} WHERE {chosen.of_job()}" for name in ("steps", "communicators"))
    return [row["node"] for row in query(f"SELECT DISTINCT node FROM ({told}) WHERE node IS NOT NULL").to_pylist()]


def _widened(chosen: Selection, on: Clocks) -> Selection:
    """The same time on all clocks that are moved."""
    start_ns = None if chosen.start_ns is None else chosen.start_ns + on.least_ahead_ns
    end_ns = None if chosen.end_ns is None else chosen.end_ns + on.most_ahead_ns
    return replace(chosen, start_ns=start_ns, end_ns=end_ns)


def _begun(query: Query, kept: dict[str, str]) -> _Begun:
    rows, starts, ends = {}, [], []
    for kind, table in kept.items():
        end = "max(end_ns)" if kind == "kernel_sums" else "max(start_ns + greatest(coalesce(duration_ns, 0), 1))"
        found = query(f"SELECT count(*) AS rows, min(start_ns) AS first, {end} AS last FROM {table}").to_pylist()[0]
        rows[kind] = found["rows"]
        if found["rows"]:
            starts.append(found["first"])
            ends.append(found["last"])
    if not starts:
        raise ConfigError(
            "nothing is kept of that", "kernels arrive by a closer look, steps and phases always: see `warpline sql`"
        )
    return _Begun(rows, min(starts), max(ends))


def _time(chosen: Selection, begun: _Begun, on: Clocks) -> tuple[int, int]:
    """From when to when there is something to draw, on the common clock; no slice begins before."""
    start_ns, end_ns = begun.start_ns - on.most_ahead_ns, begun.end_ns - on.least_ahead_ns
    return start_ns, end_ns if chosen.capture is not None or chosen.end_ns is None else min(end_ns, chosen.end_ns)


def _names(query: Query, rows: str) -> dict[int, str]:
    names: dict[int, str] = {}
    asked = f"FROM kernel_names WHERE kernel_id IN (SELECT kernel_id FROM {rows}) GROUP BY kernel_id ORDER BY kernel_id"
    while len(names) < NAMES_MAX:
        page = query(
            f"SELECT kernel_id, min(name) AS name {asked} LIMIT {tables.PAGE_ROWS} OFFSET {len(names)}"
        ).to_pylist()
        names |= {row["kernel_id"]: row["name"] for row in page}
        if len(page) < tables.PAGE_ROWS:
            break
    return names
