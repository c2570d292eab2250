"""How far apart clocks of different hosts are, with a bound on the error, from the collectives themselves.

An operation in which everybody needs everybody cannot end anywhere before its last rank has arrived, and its last rank spends
only the transfer in it. So its ends lie at most one transfer apart on all ranks; what they differ by beyond that, on paper, is
the clocks. Every operation thus brackets the difference of two clocks; small operations bracket it closely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .detector import Reader, literal
from .robust import Array, median

OPERATIONS_MIN: Final = 20
"""Operations that two clocks share, below which nothing is said of them."""
OPERATIONS_MAX: Final = 400
"""Newest operations of each communicator that are looked at."""
TIGHT_SHARE: Final = 0.25
"""The shortest transfers bracket best: this share of them is used, OPERATIONS_MIN at least."""
DRIFT_SPAN_NS: Final = 10 * 10**9
"""Shorter records say nothing of drift."""
BREAKDOWN: Final = 3.0
"""Residuals beyond so many times their median are noise of single operations."""
ALL_NEED_ALL: Final = "('all_reduce', 'all_gather', 'reduce_scatter', 'all_to_all')"
DEVICE_TIMED: Final = "('kernel_gpu', 'kernel_cpu')"


@dataclass(frozen=True)
class Offset:
    """How far a clock is ahead of the reference at `time_ns`, and how it drifts; the truth lies within `bound_ns` of it.

    `operations` is how many were used for it: of the last link of the chain, where the clocks meet by way of a third.
    """

    clock: str
    offset_ns: float
    drift: float
    time_ns: float
    bound_ns: float
    operations: int

    def at(self, time_ns: float) -> float:
        """Nanoseconds ahead at a time of its own clock; `drift` is nanoseconds a nanosecond."""
        return self.offset_ns + self.drift * (time_ns - self.time_ns)


def estimate(clock: str, time_ns: Array, ahead_ns: Array, transfer_ns: Array) -> Offset | None:
    """One clock against another, from operations that both took part in; None where they are too few.

    `ahead_ns` is the end on this clock less the end on the other, `transfer_ns` the shortest duration over the ranks.
    """
    if len(time_ns) < OPERATIONS_MIN:
        return None
    order = np.argsort(transfer_ns, kind="stable")
    kept = order[: max(OPERATIONS_MIN, int(len(order) * TIGHT_SHARE))]
    times, ahead, transfer = time_ns[kept], ahead_ns[kept], transfer_ns[kept]
    middle = float(np.median(times))
    drift = _drift(times, ahead)
    level = ahead - drift * (times - middle)
    offset = float(np.median(level))
    away = np.abs(level - offset)
    spread = float(np.median(away))
    clean = away <= BREAKDOWN * spread
    # Where ends agree, what is not known is at most one transfer; where they scatter, they say so themselves.
    bound = float(np.max(transfer[clean])) + BREAKDOWN * spread
    return Offset(clock, offset, drift, middle, bound, len(kept))


def _drift(times: Array, ahead: Array) -> float:
    """Slope of the difference by repeated medians (Siegel 1982), which half the points cannot upset; 0 in a short record."""
    if np.ptp(times) < DRIFT_SPAN_NS:
        return 0.0
    apart = times[None, :] - times[:, None]
    slopes = (ahead[None, :] - ahead[:, None]) / np.where(apart == 0, np.nan, apart)
    return float(median(median(slopes, axis=1)))


def load_offsets(reader: Reader, job: str) -> Mapping[str, Offset]:
    """Every clock of a job against one reference: the first by name of the largest set of clocks that meet in operations.

    Clocks that never meet it, not even by way of others, are left out. Empty where ends of operations are not known.
    """
    rows = reader.query(_ends_sql(job))
    if rows.num_rows == 0:
        return {}
    names = np.asarray(rows.column("communicator").to_pylist()).astype(str)
    clocks = np.asarray(rows.column("clock").to_pylist()).astype(str)
    values = {name: rows.column(name).to_numpy().astype(np.int64) for name in ("sequence", "end_ns", "transfer_ns")}
    links: dict[str, dict[str, Offset]] = {}
    for name in np.unique(names):
        mine = names == name
        for one, other, found in _star(clocks[mine], {key: value[mine] for key, value in values.items()}):
            _link(links, one, other, found)
            _link(links, other, one, _turned(found, one))
    return _from_reference(links)


def _ends_sql(job: str) -> str:
    """SELECT of one row an operation and clock: the median end there, and the shortest duration over all ranks."""
    return (
        "WITH newest AS (SELECT communicator, max(sequence) AS last FROM collectives "
        f"WHERE job = {literal(job)} AND communicator IS NOT NULL GROUP BY communicator), ops AS (SELECT communicator, "
        "operation, sequence, rank, clock, start_ns, duration_ns, nranks FROM collectives JOIN newest USING (communicator) "
        f"WHERE job = {literal(job)} AND sequence > last - {OPERATIONS_MAX} AND timing IN {DEVICE_TIMED} "
        f"AND operation IN {ALL_NEED_ALL} AND duration_ns > 0 AND start_ns IS NOT NULL AND clock IS NOT NULL "
        "AND clock NOT LIKE 'step@%' AND rank IS NOT NULL), whole AS (SELECT communicator, operation, sequence, "
        "min(duration_ns) AS transfer_ns FROM ops GROUP BY ALL HAVING count(DISTINCT clock) > 1 "
        "AND count(DISTINCT rank) = coalesce(max(nranks), count(DISTINCT rank))) "
        "SELECT communicator, sequence, clock, quantile_disc(start_ns + duration_ns, 0.5) AS end_ns, "
        "max(transfer_ns) AS transfer_ns FROM ops JOIN whole USING (communicator, operation, sequence) "
        "GROUP BY communicator, operation, sequence, clock ORDER BY communicator, clock, sequence"
    )


def _star(clocks: Any, values: Mapping[str, Any]) -> Sequence[tuple[str, str, Offset]]:
    """(clock, reference, offset) of each clock of a communicator against its first."""
    reference, *others = np.unique(clocks).tolist()
    base = {key: value[clocks == reference] for key, value in values.items()}
    found = []
    for clock in others:
        mine = {key: value[clocks == clock] for key, value in values.items()}
        _, left, right = np.intersect1d(base["sequence"], mine["sequence"], assume_unique=False, return_indices=True)
        ends = mine["end_ns"][right]
        ahead = (ends - base["end_ns"][left]).astype(np.float64)
        offset = estimate(clock, ends.astype(np.float64), ahead, mine["transfer_ns"][right].astype(np.float64))
        if offset:
            found.append((clock, reference, offset))
    return found


def _turned(found: Offset, clock: str) -> Offset:
    """The same seen from the other side."""
    time_ns = found.time_ns - found.offset_ns
    return Offset(clock, -found.offset_ns, -found.drift, time_ns, found.bound_ns, found.operations)


def _link(links: dict[str, dict[str, Offset]], clock: str, reference: str, found: Offset) -> None:
    """Keep the closer of two estimates."""
    known = links.setdefault(reference, {}).get(clock)
    if known is None or found.bound_ns < known.bound_ns:
        links[reference][clock] = found


def _from_reference(links: Mapping[str, Mapping[str, Offset]]) -> Mapping[str, Offset]:
    """All clocks of the largest connected set against its first by name, each by the way with the least error."""
    best: dict[str, Offset] = {}
    seen: set[str] = set()
    for start in sorted(links):
        if start in seen:
            continue
        reached = _reach(links, start)
        seen |= reached.keys()
        if len(reached) > len(best):
            best = reached
    return best


def _reach(links: Mapping[str, Mapping[str, Offset]], start: str) -> dict[str, Offset]:
    """Shortest ways by bound (Dijkstra); offsets, drifts and bounds add up along a way."""
    first = next(iter(links[start].values()))
    waiting = {start: Offset(start, 0.0, 0.0, first.time_ns - first.offset_ns, 0.0, first.operations)}
    done: dict[str, Offset] = {}
    while waiting:
        name = min(waiting, key=lambda each: (waiting[each].bound_ns, each))
        here = waiting.pop(name)
        done[name] = here
        for clock, link in links.get(name, {}).items():
            if clock in done:
                continue
            through = Offset(
                clock,
                link.offset_ns + here.at(link.time_ns - link.offset_ns),
                link.drift + here.drift,
                link.time_ns,
                link.bound_ns + here.bound_ns,
                link.operations,
            )
            if clock not in waiting or through.bound_ns < waiting[clock].bound_ns:
                waiting[clock] = through
    return done


@dataclass(frozen=True)
class Arrivals:
    """One operation by rank: seconds each waited for the last to arrive, known to within `bound_seconds`.

    `last` is the place of the last to arrive, or None where two may be it within the bound: then it cannot be told.
    """

    waits: Array
    last: int | None
    bound_seconds: float


def arrivals(starts_ns: Sequence[int], clocks: Sequence[str], offsets: Mapping[str, Offset]) -> Arrivals | None:
    """wait = latest start - own start, on the reference clock; None where a clock is not known.

    Ranks of one clock are compared without error whatever that clock shows.
    """
    if not starts_ns or any(clock not in offsets for clock in clocks):
        return None
    base = min(starts_ns)  # as floats, nanoseconds since the epoch would lose their last digits
    starts = np.array([start - base - offsets[clock].at(start) for start, clock in zip(starts_ns, clocks, strict=True)])
    bounds = np.array([offsets[clock].bound_ns for clock in clocks])
    last = int(np.argmax(starts))
    others = [place for place in range(len(starts)) if place != last]
    doubt = [0.0 if clocks[place] == clocks[last] else bounds[place] + bounds[last] for place in others]
    clear = all(starts[last] - starts[place] > error for place, error in zip(others, doubt, strict=True))
    waits: Array = (starts[last] - starts) / 1e9
    return Arrivals(waits, last if clear else None, max(doubt, default=0.0) / 1e9)
