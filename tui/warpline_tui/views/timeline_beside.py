"""What stands beside a rank's timeline: another rank at the same time, on one clock, or the same rank at another time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..literal import literal, same
from ..view import Ask
from ..words import duration
from .timeline_sql import Window

SECONDS: Final = 5.0
"""How two ranks were aligned is asked again so rarely."""
NEAR_NS: Final = 600 * 10**9
"""Steps by which clocks are compared lie no farther from the span."""


@dataclass(frozen=True)
class Beside:
    """Rank `rank` of the same job (the same rank where `other_time`), there where its step `step` begins or at `at_ns`.

    `anchor_step` and `anchor_ns` say what of the rank that is looked at is held against it.
    """

    rank: int | None = None
    other_time: bool = False
    step: int | None = None
    at_ns: int | None = None
    anchor_step: int | None = None
    anchor_ns: int | None = None


@dataclass(frozen=True)
class Aligned:
    """The window beside; what is at t there is drawn at t - shift_ns. `said` tells how the two were aligned."""

    window: Window
    shift_ns: int
    said: str


@dataclass(frozen=True)
class _Clock:
    """Of a rank near the window: the clock of its times, and how far that is from the collector's; None where not known."""

    name: str | None
    offset_ns: int | None
    error_ns: int | None


def aligned(ask: Ask, window: Window, beside: Beside) -> Aligned | str:
    """Where to look beside; a sentence where that cannot be told."""
    if beside.other_time:
        return _another_time(ask, window, beside)
    other = replace(window, rank=beside.rank)
    clocks = _clocks(ask, window, other)
    mine, its = clocks.get(window.rank), clocks.get(beside.rank)
    if its is None:
        return f"no step of rank {beside.rank} of {window.job} is kept near this time"
    if mine is not None and mine.name is not None and mine.name == its.name:
        return Aligned(other, 0, f"both told by clock {mine.name}")
    if mine is not None and mine.offset_ns is not None and its.offset_ns is not None:
        shift_ns = its.offset_ns - mine.offset_ns
        bound = duration((mine.error_ns or 0) + (its.error_ns or 0))
        return Aligned(_moved(other, shift_ns), shift_ns, f"on the collector's clock, give or take {bound}")
    return _by_step(ask, window, other)


def _clocks(ask: Ask, window: Window, other: Window) -> dict[int | None, _Clock]:
    near = f"start_ns BETWEEN {window.start_ns - NEAR_NS} AND {window.end_ns + NEAR_NS}"
    ranks = " OR ".join(f"{same('rank', each.rank)}" for each in (window, other))
    both = f"job = {literal(window.job)} AND ({ranks}) AND {near}{window.there()}"
    nearest = f"QUALIFY row_number() OVER (PARTITION BY rank ORDER BY abs(start_ns - {window.start_ns})) = 1"
    sql = f"""WITH plain AS (SELECT rank, clock FROM steps WHERE {both} {nearest}), placed AS (
    SELECT rank, start_ns - collector_ns AS offset_ns, collector_error_ns AS error_ns FROM steps_on_one_clock
    WHERE {both} AND collector_ns IS NOT NULL {nearest}
)
SELECT rank, clock, offset_ns, error_ns FROM plain LEFT JOIN placed USING (rank)"""
    rows = ask.rows(sql, SECONDS).to_pylist()
    return {row["rank"]: _Clock(row["clock"], row["offset_ns"], row["error_ns"]) for row in rows}


def _by_step(ask: Ask, window: Window, other: Window) -> Aligned | str:
    """Nothing is known of the clocks: the first step in the window that both have is laid on top of each other."""
    sql = f"""SELECT mine.step AS step, its.start_ns - mine.start_ns AS shift_ns
FROM (SELECT step, start_ns FROM steps WHERE {window.within()} AND step IS NOT NULL) AS mine
JOIN (SELECT step, min(start_ns) AS start_ns FROM steps WHERE {other.who}{other.there()} GROUP BY step) AS its USING (step)
ORDER BY mine.start_ns < {window.start_ns}, mine.start_ns LIMIT 1"""
    rows = ask.rows(sql, SECONDS).to_pylist()
    if not rows:
        return f"no step of rank {other.rank} can be laid beside this time: their clocks differ, and they share no step here"
    shift_ns = rows[0]["shift_ns"]
    said = f"clocks not known: laid on top of each other where step {rows[0]['step']} begins; lateness cannot be seen"
    return Aligned(_moved(other, shift_ns), shift_ns, said)


def _another_time(ask: Ask, window: Window, beside: Beside) -> Aligned | str:
    """Two steps of the same rank, laid on top of each other where they begin."""
    starts = []
    for step, at_ns in ((beside.anchor_step, beside.anchor_ns), (beside.step, beside.at_ns)):
        of = f"step = {step}" if step is not None else f"start_ns <= {at_ns or 0}"
        sql = f"""SELECT step, start_ns FROM steps WHERE {window.who} AND scope = 'step' AND {of}{window.there()}
ORDER BY start_ns DESC LIMIT 1"""
        rows = ask.rows(sql, SECONDS).to_pylist()
        if not rows:
            return (
                f"no step {step} of this rank is kept"
                if step is not None
                else "no step of this rank is kept at that time"
            )
        starts.append(rows[0])
    shift_ns = starts[1]["start_ns"] - starts[0]["start_ns"]
    said = f"step {starts[1]['step']} laid beside step {starts[0]['step']}, {duration(abs(shift_ns))} apart, where they begin"
    return Aligned(_moved(window, shift_ns), shift_ns, said)


def _moved(window: Window, shift_ns: int) -> Window:
    return replace(window, start_ns=window.start_ns + shift_ns, end_ns=window.end_ns + shift_ns)
