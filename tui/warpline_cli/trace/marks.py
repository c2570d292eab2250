"""Findings, faults that a kernel's log speaks of, and how sure the clocks are: moments marked in a trace."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from warpline_cli.asking import text

from .file import Slice, Track
from .ranks import RANKS_MAX
from .scene import Scene
from .selection import Selection
from .slices import LOG_ORDER
from .tables import Row

MARKS_MAX: Final = 20_000
"""Findings, and log lines, of one file."""
NAME_MAX: Final = 120
"""Characters of a mark's name; its whole words stand in its arguments."""
_ALL: Final = "findings of all"


class Marks:
    """Draws moments; each method says how many were left out."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._nodes = sorted(scene.ranks.nodes)

    def clocks(self) -> None:
        """At the very start: how sure it is that what stands above one another was at one time."""
        error_ns = self._scene.clocks.error_ns(self._nodes, self._scene.end_ns)
        sure = "not known of every node" if error_ns is None else f"within {error_ns / 1e6:.3f} ms"
        told = {"clocks of nodes": sure, **self._scene.clocks.told(self._nodes, self._scene.end_ns)}
        self._everywhere(Slice(f"clocks of nodes: {sure}", "clock", self._scene.start_ns, 0, told))

    def findings(self, chosen: Selection) -> int:
        """Through all ranks, at the time since when; what began before is marked at the start."""
        ranks = f" AND (rank IS NULL OR rank IN ({', '.join(map(str, chosen.ranks))}))" if chosen.ranks else ""
        mine = f"job = {text(chosen.job)}" if chosen.job is not None else "false"
        rows = self._scene.query(
            f"SELECT * FROM findings WHERE ({mine} OR (job IS NULL AND {self._on_nodes()})){ranks} "
            "QUALIFY row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC) = 1 "
            f"ORDER BY opened_ns, id LIMIT {MARKS_MAX + 1}"
        ).to_pylist()
        for row in rows[:MARKS_MAX]:
            since_ns = row["onset_ns"] if row["onset_ns"] is not None else row["opened_ns"]
            over = row["state"] != "open" and row["updated_ns"] < self._scene.start_ns
            if since_ns < self._scene.end_ns and not over:
                self._finding(row, since_ns)
        return max(len(rows) - MARKS_MAX, 0)

    def _finding(self, row: Row, since_ns: int) -> None:
        document: dict[str, Any] = json.loads(row["document"])
        told = {
            "finding": row["id"], "severity": row["severity"], "state": row["state"], "confidence": row["confidence"],
            "summary": row["summary"], "next_step": document.get("next_step"), "since_step": row["onset_step"],
            "began_before_this_trace": "yes" if since_ns < self._scene.start_ns else None,
            "subject": row["subject"], "more": f"warpline explain {row['id']}",
        }  # fmt: skip
        name = f"{row['severity']}: {row['summary']}"
        self._everywhere(Slice(_short(name), "finding", max(since_ns, self._scene.start_ns), 0, told))

    def logs(self, chosen: Selection) -> int:
        """On the rank that a line names, by number or by its GPU's address; else on its node."""
        mine = f"({chosen.of_job()} AND job IS NOT NULL)" if chosen.job is not None else "false"
        rows = self._scene.query(
            f"SELECT * FROM log_events WHERE ({mine} OR (rank IS NULL AND {self._on_nodes()})) "
            f"AND {self._scene.within('time_ns', 'time_ns')} ORDER BY time_ns LIMIT {MARKS_MAX + 1}"
        ).to_pylist()
        for row in rows[:MARKS_MAX]:
            time_ns = self._scene.clocks.of_node(row["node"], row["time_ns"])
            if self._scene.holds(time_ns):
                self._log(row, time_ns)
        return max(len(rows) - MARKS_MAX, 0)

    def _log(self, row: Row, time_ns: int) -> None:
        rank = self._scene.ranks.rows.get((row["job"], row["rank"], None)) or self._scene.ranks.of_gpu(
            row["bus_id"], row["node"]
        )
        if rank is not None:
            process = self._scene.ranks.process(self._scene.trace, rank)
        else:
            process = self._scene.trace.process(("node", row["node"]), f"node {row['node']}", RANKS_MAX + 1)
        code = f" {row['code']}" if row["code"] is not None else ""
        kind = {"xid": "Xid", "sxid": "SXid"}.get(row["kind"], row["kind"] or "log")
        told = {key: row[key] for key in ("message", "severity", "bus_id", "link", "node", "source", "count")}
        self._scene.trace.mark(
            Track(process, "log", LOG_ORDER), Slice(_short(f"{kind}{code}"), "log", time_ns, 0, told), False
        )

    def _everywhere(self, drawn: Slice) -> None:
        process = self._scene.trace.process(_ALL, "findings", -1)
        self._scene.trace.mark(Track(process, "findings", 0), drawn, True)

    def _on_nodes(self) -> str:
        return f"node IN ({_listed(self._nodes)})" if self._nodes else "false"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(text(name) for name in names)


def _short(words: str) -> str:
    return words if len(words) <= NAME_MAX else words[: NAME_MAX - 1] + "…"
