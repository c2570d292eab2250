"""The fleet as plain text, for pipes and for terminals that cannot draw."""

from __future__ import annotations

from collections.abc import Sequence

from .snapshot import Snapshot
from .words import UNKNOWN, cost, duration, number, share, since, subject


def fleet(snapshot: Snapshot) -> str:
    """Findings first, then GPUs, then ranks."""
    parts = [_findings(snapshot)]
    if snapshot.gpus:
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
            for gpu in snapshot.gpus
        ]
        parts.append(columns(gpu_heading, rows))
    if snapshot.ranks:
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
            for rank in snapshot.ranks
        ]
        parts.append(columns(rank_heading, rows_of_ranks))
    return "\n\n".join(parts)


def _findings(snapshot: Snapshot) -> str:
    if not snapshot.open_incidents:
        return "No finding is open." if snapshot.gpus or snapshot.ranks else "No data yet."
    return "\n".join(
        f"{incident.finding.severity.upper()} {incident.finding.kind}: {subject(incident.finding.subject)}"
        f" | since {since(incident.finding)} | cost {cost(incident.finding)}\n  {incident.finding.summary}"
        f"\n  next: {incident.finding.next_step}"
        for incident in snapshot.open_incidents
    )


def columns(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under a heading, each column as wide as its widest cell."""
    widths = [max(len(row[place]) for row in (heading, *rows)) for place in range(len(heading))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heading, *rows)
    ]
    return "\n".join(lines)
