"""What a rank does by itself between two collectives that follow each other, step by step, on its own clock.

With sharded states the optimizer is such a segment, from the last reduction of a step to the next gather of parameters: told
also where nobody names phases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .detector import Reader, literal
from .medians import median
from .robust import Array
from .self_time import first_step

RANKS_MAX: Final = 16
"""Ranks of a job that are asked: what the data do not vary is alike on all of them."""
SEGMENTS_MAX: Final = 16
"""Segments of a step, the first ones."""
PRESENT_SHARE: Final = 0.8
"""A segment counts if so many of the steps have it."""


def segments(reader: Reader, job: str) -> Iterator[tuple[str, npt.NDArray[np.int64], Array]]:
    """Name, steps and typical length of each segment: the median over ranks of a length over the rank's own median."""
    told = f"FROM collectives WHERE job = {literal(job)} AND rank IS NOT NULL AND step IS NOT NULL AND start_ns IS NOT NULL"
    first = first_step(reader, told)
    if first is None:
        return
    rows = reader.query(_lengths(f"{told} AND duration_ns IS NOT NULL AND step >= {first}"))
    step, rank, slot = (rows.column(name).to_numpy().astype(np.int64) for name in ("step", "rank", "slot"))
    seconds, operation = rows.column("seconds").to_numpy(), rows.column("operation").to_pylist()
    steps, row = np.unique(step, return_inverse=True)
    ranks, column = np.unique(rank, return_inverse=True)
    for at in np.unique(slot):
        chosen = slot == at
        lengths: Array = np.full((len(steps), len(ranks)), np.nan)
        lengths[row[chosen], column[chosen]] = seconds[chosen]
        typical: Array = median(lengths / median(lengths, axis=0), axis=1)
        known = ~np.isnan(typical)
        if np.mean(known) >= PRESENT_SHARE:
            before: Any = operation[int(np.argmax(chosen))]
            yield f"between collectives, before {before or 'operation'} {at}", steps[known], typical[known]


def _lengths(told: str) -> str:
    """SELECT of (step, rank, slot, operation, seconds): from the end of all earlier collectives of a rank to the start of the
    slot-th one of a step, where the step before is told too."""
    own = "PARTITION BY rank ORDER BY start_ns, sequence, communicator"
    earlier = "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
    return (
        "SELECT step, rank, slot, operation, length / 1e9 AS seconds FROM (SELECT step, rank, operation, row_number() OVER "
        "(PARTITION BY rank, step ORDER BY start_ns, sequence, communicator) AS slot, "
        f"start_ns - max(start_ns + duration_ns) OVER ({own} {earlier}) AS length, step - lag(step) OVER ({own}) AS apart "
        f"{told} AND rank IN (SELECT rank FROM (SELECT DISTINCT rank {told}) ORDER BY rank LIMIT {RANKS_MAX})) "
        f"WHERE length > 0 AND apart <= 1 AND slot <= {SEGMENTS_MAX} ORDER BY step, rank, slot"
    )
