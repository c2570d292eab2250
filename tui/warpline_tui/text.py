"""The fleet as plain text, for pipes and for terminals that cannot draw."""

from __future__ import annotations

import re
from collections.abc import Iterable

from warpline_proto.controls import CONTROLS_CLASS

from .grid import grid
from .incident import open_ones
from .views.roster import Roster
from .words import UNKNOWN, accused, cost, duration, number, share, since


def fleet(shown: Roster) -> str:
    """Findings first, then GPUs, then ranks. What names hold moves nothing on the terminal."""
    parts = [_findings(shown)]
    if shown.gpus:
        gpu_heading = ("NODE", "GPU", "WATTS", "UTIL", "MHZ", "C", "JOB")
        rows = [
            (
                gpu.node,
                number(gpu.index),
                number(gpu.power_watts),
                number(gpu.utilization_percent, "%"),
                number(gpu.sm_clock_mhz),
                number(gpu.temperature_celsius),
                gpu.job or UNKNOWN,
            )
            for gpu in shown.gpus
        ]
        parts.append("\n".join(grid([gpu_heading, *map(_harmless, rows)])))
    if shown.ranks:
        rank_heading = ("JOB", "RANK", "STAGE", "DP", "STEP", "STEP TIME", "COMPUTE", "NODE")
        rows_of_ranks = [
            (
                rank.job,
                number(rank.rank),
                number(rank.stage),
                number(rank.dp),
                number(rank.step),
                duration(rank.step_ns),
                share(rank.compute_ns, rank.step_ns),
                rank.node or UNKNOWN,
            )
            for rank in shown.ranks
        ]
        parts.append("\n".join(grid([rank_heading, *map(_harmless, rows_of_ranks)])))
    return "\n\n".join(parts)


def _findings(shown: Roster) -> str:
    incidents = open_ones(shown.incidents)
    if not incidents:
        return "No finding is open." if shown.gpus or shown.ranks else "No data yet."
    lines = (
        (
            f"{incident.finding.severity.upper()} {incident.finding.kind}: {accused(incident.finding.subject)}"
            f" | since {since(incident.finding)} | cost {cost(incident.finding)}",
            f"  {incident.finding.summary}",
            f"  next: {incident.finding.next_step}",
        )
        for incident in incidents
    )
    return "\n".join(line for told in lines for line in _harmless(told))


def _harmless(cells: Iterable[str]) -> tuple[str, ...]:
    return tuple(re.sub(f"[{CONTROLS_CLASS}]", "?", cell) for cell in cells)
