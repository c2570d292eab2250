"""Capture: "look closer at this for so long", from the analysis back to an agent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capture:
    """A request to look closer. `what` is kernels, stacks or flight_recorder; `reason` is the finding that asked."""

    id: str
    job: str
    rank: int
    what: str
    start_ns: int
    duration_ns: int
    reason: str
