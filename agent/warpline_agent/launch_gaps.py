"""Launch gaps: how long kernels waited on their GPU since the CPU had launched them, behind earlier work or for lack of a slot.

Short gaps throughout mean that the GPU waits for launches, long ones that the CPU is ahead of it, which is how it should be.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]

UNKNOWN: Final = -1
"""A record whose launch was not seen."""


def launch_gaps_ns(start_ns: Times, launched_ns: Times | None) -> Times:
    """Start less end of the launching call, of the records whose launch is known; 0 where it began before the call returned."""
    if launched_ns is None:
        return np.zeros(0, dtype=np.int64)
    known = launched_ns != UNKNOWN
    gaps: Times = np.maximum(start_ns[known] - launched_ns[known], 0)
    return gaps


def columns(start_ns: Times, launched_ns: Times | None) -> dict[str, int | None]:
    """Columns of `steps`; nothing where not one launch is known."""
    gaps = np.sort(launch_gaps_ns(start_ns, launched_ns))
    if not gaps.size:
        return {}
    return {
        "launch_gaps": int(gaps.size),
        "launch_gap_sum_ns": int(gaps.sum()),
        "launch_gap_p50_ns": int(gaps[gaps.size // 2]),
        "launch_gap_max_ns": int(gaps[-1]),
    }
