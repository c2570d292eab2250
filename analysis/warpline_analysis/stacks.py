"""What the threads of a rank were seen doing: the innermost frames of its stacks, by how often they were seen."""

from __future__ import annotations

from typing import Final

from warpline_proto.finding import Evidence

from .detector import Reader, literal, show
from .node_clocks import on_one_clock

FRAMES_TOLD: Final = 3
"""Frames that a sentence names."""


def top_frames(reader: Reader, job: str, rank: int, since_ns: int | None) -> Evidence | None:
    """Frames of a rank since a time, most frequent first; threads known to wait off the CPU do not count. None without rows."""
    since = "" if since_ns is None else f" AND {on_one_clock(reader)} >= {since_ns}"
    evidence = show(
        reader,
        "SELECT frames[1] AS frame, sum(coalesce(count, 1)) AS times, any_value(thread_name) AS thread FROM stacks WHERE "
        f"job = {literal(job)} AND rank = {rank} AND coalesce(active, true) AND len(frames) > 0{since} GROUP BY frame "
        "ORDER BY times DESC, frame",
    )
    return evidence if evidence.rows else None


def frames_told(evidence: Evidence) -> str:
    """The first frames in words, with how often each was seen."""
    return ", ".join(f"{row['frame']} ({row['times']} times)" for row in evidence.rows[:FRAMES_TOLD])
