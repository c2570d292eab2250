"""How far a power limit may go down: from how a job's power is distributed, or from runs of it at several limits.

What a cap does to a job that was never run under it has bounds only. At best nothing is lost: power is cut to the cap and the
work takes as long. At worst work slows as power above an idle GPU's does. Work that saves more by lower voltage than it loses by
lower clocks, which is most, lies between; under a cap near idle power, which hardware can hardly keep, it may be slower still.
Of 166 runs of Zeus' tables whose cap, 60 % of the limit or more, cut anything, 163 took no longer than that.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from .signals import Reals

NEAR_SHARE: Final = 0.95
"""From here on power is near its limit."""
QUANTILE: Final = 0.99
WATTS_STEP: Final = 5.0
ROWS_MAX: Final = 100_000
"""Lines of one table of runs."""
_LIMIT, _SECONDS, _WATTS = "power_limit", "time_per_epoch", "average_power"


@dataclass(frozen=True)
class Powers:
    """Power of one kind of work: `seconds` at each of `watts`. `floor_watts`: of a GPU that idles; None where not known."""

    watts: Reals
    seconds: Reals
    limit_watts: float | None
    floor_watts: float | None

    @property
    def joules(self) -> float:
        """Drawn in all."""
        return float(self.watts @ self.seconds)

    @property
    def near_share(self) -> float | None:
        """Share of the time near the limit."""
        if self.limit_watts is None or not self.seconds.sum():
            return None
        return float(self.seconds[self.watts >= NEAR_SHARE * self.limit_watts].sum() / self.seconds.sum())

    def quantile(self, share: float = QUANTILE) -> float:
        """Watts that are not exceeded for `share` of the time: a limit there is hardly felt. NaN without samples."""
        if not len(self.watts):
            return float("nan")
        order = np.argsort(self.watts)
        passed = np.cumsum(self.seconds[order])
        return float(self.watts[order][np.searchsorted(passed, share * passed[-1] * (1 - 1e-12))])


@dataclass(frozen=True)
class Capped:
    """A cap that was not there. Saved joules and added seconds between two bounds, None where the floor is not known."""

    cap_watts: float
    over_seconds: float
    saved_at_most: float
    saved_at_least: float | None
    added_seconds_at_most: float | None


def capped(powers: Powers, cap_watts: float) -> Capped:
    """What a cap would have done; time at or below it is as it was."""
    over = powers.watts > cap_watts
    watts, seconds = powers.watts[over], powers.seconds[over]
    cut = float((watts - cap_watts) @ seconds)
    floor = powers.floor_watts
    if floor is None or floor >= cap_watts:
        return Capped(cap_watts, float(seconds.sum()), cut, None, None)
    added = float(((watts - floor) / (cap_watts - floor) - 1.0) @ seconds)
    return Capped(cap_watts, float(seconds.sum()), cut, cut - cap_watts * added, added)


class Run(NamedTuple):
    """One workload at one limit: seconds and mean watts of the same amount of work."""

    limit_watts: float
    seconds: float
    watts: float

    @property
    def joules(self) -> float:
        """Of this amount of work."""
        return self.seconds * self.watts


@dataclass(frozen=True)
class Choice:
    """A limit against the highest one that was run: parts of time added and of energy saved (0.1 is a tenth)."""

    limit_watts: float
    slowdown: float
    saving: float


Curve = Sequence[Run]
"""Runs of one workload by limit, the highest first."""


def curves(lines: Iterable[str]) -> Mapping[str, Curve]:
    """Runs by workload from CSV with `power_limit`, `time_per_epoch` and `average_power`; the other columns name the workload.

    The form of Zeus' tables of traces. ValueError in a sentence if a line cannot be read.
    """
    reader = csv.DictReader(lines)
    wanted = (_LIMIT, _SECONDS, _WATTS)
    if not set(wanted) <= set(reader.fieldnames or ()):
        raise ValueError(f"a table of runs at several limits has columns {', '.join(wanted)}")
    found: dict[str, list[Run]] = {}
    for number, row in enumerate(itertools.islice(reader, ROWS_MAX), start=2):
        name = " ".join(row[each] or "" for each in reader.fieldnames or () if each not in wanted)
        try:
            run = Run(*(float(row[each]) for each in wanted))
        except (TypeError, ValueError):
            raise ValueError(f"line {number}: {', '.join(wanted)} are numbers") from None
        if not all(0 < value < float("inf") for value in run):
            raise ValueError(f"line {number}: {', '.join(wanted)} are more than 0")
        found.setdefault(name, []).append(run)
    return {name: sorted(runs, reverse=True) for name, runs in found.items()}


def choices(curve: Curve) -> Sequence[Choice]:
    """Each limit against the highest."""
    top = curve[0]
    return [Choice(run.limit_watts, run.seconds / top.seconds - 1, 1 - run.joules / top.joules) for run in curve]


def best(curve: Curve, slowdown_max: float) -> Choice:
    """The limit that saves most and adds no more than `slowdown_max` of the time; the highest is always one of them."""
    return max((each for each in choices(curve) if each.slowdown <= slowdown_max), key=lambda each: each.saving)
