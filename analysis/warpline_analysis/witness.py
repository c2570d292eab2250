"""Parts of a step that take the same time whatever the data are: they tell when a restless job became slower.

Lengths of sequences make whole steps vary by far more than a rise. The optimizer, for one, does the same work in each step:
where such a part rises beyond doubt, only one question is left, whether the steps as a whole are longer from there on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from .detector import Reader
from .iteration import Iterations
from .medians import median
from .remembered import once
from .rises import Rise, deviation, lasting_rise, risen_from
from .robust import SURE_GATE, Array
from .segments import segments
from .self_time import SELF_KINDS, Coverage, SelfTime, load

PHASES_MAX: Final = 8
"""Compute phases of a job that are asked, those that take most time."""
DOUBT_STEPS: Final = 2
"""A rise whose bounds lie no further apart needs no witness."""
STEADY_SHARE: Final = 0.5
"""A part is a witness if it scatters by no more than this part of what the steps do."""
WITNESSED_DEVIATIONS: Final = 3.0
"""Standard score of the later steps' ranks at a step that is given: no other step is tried."""


@dataclass(frozen=True)
class Dated:
    """A rise of the iteration time; `witness` names the steady part that rose along and dates it, None where none was needed."""

    rise: Rise
    witness: str | None = None


def dated_rise(reader: Reader, iterations: Iterations) -> Dated | None:
    """The newest lasting rise of a job's iteration time, by itself or by a witness, whichever dates it more closely."""
    rise = lasting_rise(iterations.seconds)
    own = Dated(rise) if rise else None
    if iterations.jitter < SURE_GATE or (rise and rise.doubt <= DOUBT_STEPS):
        return own
    witnessed = _witnessed(reader, iterations)
    if witnessed is None or (rise and rise.doubt <= witnessed.rise.doubt):
        return own
    return witnessed


def _witnessed(reader: Reader, iterations: Iterations) -> Dated | None:
    for name, steps, series in chain(_of_phases(reader, iterations.job), segments(reader, iterations.job)):
        part = lasting_rise(series)
        if part is None or deviation(np.log(series[: part.start])) > STEADY_SHARE * iterations.jitter:
            continue
        places = [int(np.searchsorted(iterations.steps, steps[at])) for at in (part.start, part.earliest, part.latest)]
        start, earliest, latest = (min(max(at, 1), len(iterations.steps) - 1) for at in places)
        rise = risen_from(iterations.seconds, start, WITNESSED_DEVIATIONS, SURE_GATE)
        if rise is not None:
            return Dated(Rise(start, rise.before, rise.after, rise.scale, earliest, latest), name)
    return None


def _of_phases(reader: Reader, job: str) -> Iterator[tuple[str, npt.NDArray[np.int64], Array]]:
    for phase in _phases(reader).get(job, ()):
        yield f"phase {phase}", *_together(load(reader, Coverage(job, "phases", 0, 0), phase))


@once
def _phases(reader: Reader) -> dict[str, list[str]]:
    """Job -> its compute phases, those that take most time first."""
    rows = reader.query(
        "SELECT job, phase FROM phases WHERE job IS NOT NULL AND phase IS NOT NULL AND rank IS NOT NULL AND step IS NOT NULL "
        f"AND kind IN {SELF_KINDS} GROUP BY job, phase QUALIFY row_number() OVER (PARTITION BY job ORDER BY "
        f"sum(duration_ns) DESC, phase) <= {PHASES_MAX} ORDER BY job, sum(duration_ns) DESC, phase"
    ).to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["job"], []).append(row["phase"])
    return found


def _together(times: SelfTime) -> tuple[npt.NDArray[np.int64], Array]:
    """Steps, and the median over all ranks of a time over the rank's own median."""
    steps = np.unique(np.concatenate([group.steps for group in times.groups] or [np.empty(0, dtype=np.int64)]))
    columns = [np.full((len(steps), len(group.members)), np.nan) for group in times.groups]
    for column, group in zip(columns, times.groups, strict=True):
        column[np.searchsorted(steps, group.steps)] = group.seconds / median(group.seconds, axis=0)
    series: Array = median(np.concatenate(columns, axis=1), axis=1) if columns else np.empty(0)
    known = ~np.isnan(series)
    return steps[known], series[known]
