"""Spikes: single steps in which a phase, or a part of the step, takes a rank many times its usual time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from .detector import Reader, literal
from .host_gaps import COLLECTION, LOADER
from .iteration import GPU_WITHOUT_WORK, Iterations, jobs_with_steps, load_iterations, told_steps
from .jobs import WINDOW_STEPS
from .remembered import once
from .self_time import SELF_KINDS

STEP_RATIO: Final = 2.0
"""A step is a spike from so many times the median step on ..."""
PHASE_RATIO: Final = 10.0
"""... an operation of a phase from so many times its median on ..."""
DEVIATIONS: Final = 6.0
"""... and both only so many standard deviations of the logarithm above the median, so that varying work makes none."""
UPPER_RATIO: Final = 2.0
"""An operation must also be so many times the upper quartile, which tells where most of them take no time at all."""
STEP_SHARE: Final = 0.1
"""What an operation takes longer must be at least this share of the step."""
ATTRIBUTED: Final = 0.5
"""A rank made a step long when one part of it grew by at least this share of what the step took longer."""
EPISODE_STEPS_MAX: Final = 3
"""More steps in a row are a slow regime and no spike."""
RARE_SHARE: Final = 0.10
"""What happens to a rank in this share of steps or more is not sporadic."""
_QUARTILES: Final = 1.349

PARTS: Final = (
    ("compute", "compute", "compute_ns"),
    ("gap", "a GPU without work", GPU_WITHOUT_WORK),
)
"""Kind, name and value (ns) of the parts of a step that no other rank can make longer."""


@dataclass(frozen=True)
class Spike:
    """One rank in one step: what it took longer than usual, seconds, and how many times the usual that was."""

    rank: int
    step: int
    excess: float
    ratio: float


@dataclass(frozen=True)
class Series:
    """Spikes of one phase (`kind` as table phases has it) or of one part of the step (`kind` compute or gap)."""

    name: str
    kind: str
    of_phase: bool
    spikes: tuple[Spike, ...]

    @property
    def steps(self) -> list[int]:
        """Steps with a spike on any rank."""
        return sorted({spike.step for spike in self.spikes})

    @property
    def ranks(self) -> list[int]:
        """Ranks with a spike in any step."""
        return sorted({spike.rank for spike in self.spikes})

    def of(self, rank: int) -> list[int]:
        """Steps with a spike on one rank."""
        return sorted({spike.step for spike in self.spikes if spike.rank == rank})

    @property
    def lost(self) -> float:
        """Seconds lost over all steps, each as long as its longest spike."""
        longest: dict[int, float] = {}
        for spike in self.spikes:
            longest[spike.step] = max(longest.get(spike.step, 0.0), spike.excess)
        return sum(longest.values())


_ALONE: Final = f"(kind IN {SELF_KINDS} OR {LOADER} OR {COLLECTION})"


def _watched(job: str, first: int) -> str:
    """FROM and WHERE of phases in which nobody waits for another rank."""
    return (
        f"FROM phases WHERE job = {literal(job)} AND step >= {first} AND rank IS NOT NULL AND duration_ns IS NOT NULL AND "
        f"{_ALONE}"
    )


def phase_spikes_sql(job: str, first: int, step_seconds: float) -> str:
    """SELECT of (phase, kind, rank, step, excess, ratio): the longest spike of each rank, step and phase."""
    return _spikes_sql(_watched(job, first), f"{STEP_SHARE * step_seconds * 1e9!r}")


def _spikes_sql(told: str, least: str, job: str = "") -> str:
    """Spikes among the rows `told` (FROM and WHERE) of at least so many ns; `job` is "job, " where they are of many jobs."""
    jitter = f"coalesce(pow(quartiles[3] / nullif(quartiles[1], 0), {DEVIATIONS / _QUARTILES!r}), 1)"
    gate = f"greatest({PHASE_RATIO} * quartiles[2], {jitter} * quartiles[2], {UPPER_RATIO} * quartiles[3])"
    of_job, same, limit = ("job AS owner, ", "job = owner AND ", "least_ns, ") if job else ("", "", "")
    return (
        f"SELECT {job}phase, min(kind) AS kind, rank, step, max(duration_ns - usual) / 1e9 AS excess, "
        f"max(duration_ns / nullif(usual, 0)) AS ratio FROM (SELECT {job}{limit}phase, kind, rank, step, pp, duration_ns "
        f"{told}) AS every JOIN (SELECT {of_job}phase AS named, pp AS stage, quartiles[2] AS usual, {gate} AS gate FROM "
        f"(SELECT {job}phase, pp, quantile_cont(duration_ns, [0.25, 0.5, 0.75]) AS quartiles "
        f"{told} GROUP BY {job}phase, pp)) ON {same}phase = named AND pp IS NOT DISTINCT FROM stage WHERE "
        f"duration_ns >= gate AND duration_ns - usual >= {least} GROUP BY {job}phase, rank, step"
    )


def phase_spikes(reader: Reader, job: str) -> list[Series]:
    """Spikes of each phase in the newest steps; costliest first."""
    return _every_job(reader).get(job, [])


@once
def _every_job(reader: Reader) -> dict[str, list[Series]]:
    """All jobs with one question: one job by itself costs as much as many."""
    jobs = [load_iterations(reader, name, WINDOW_STEPS) for name in jobs_with_steps(reader)]
    bounds = ", ".join(
        f"({literal(each.job)}, {int(each.steps[0])}, {STEP_SHARE * each.typical * 1e9!r}::DOUBLE)"
        for each in jobs
        if len(each.steps)
    )
    if not bounds:
        return {}
    told = (
        f"FROM phases JOIN (VALUES {bounds}) AS newest(job, first, least_ns) USING (job) WHERE step >= first AND rank IS NOT "
        f"NULL AND duration_ns IS NOT NULL AND {_ALONE}"
    )
    rows = reader.query(
        "SELECT job, phase, kind, list(rank) AS rank, list(step) AS step, list(excess) AS excess, list(coalesce(ratio, 0)) AS "
        f"ratio FROM (FROM ({_spikes_sql(told, 'least_ns', 'job, ')}) ORDER BY job, step, rank) GROUP BY job, phase, kind "
        "ORDER BY job, phase"
    )
    found: dict[str, list[Series]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["job"], []).append(Series(row["phase"], row["kind"], True, _spikes(row)))
    return {job: sorted(series, key=lambda each: -each.lost) for job, series in found.items()}


def long_steps(iterations: Iterations) -> dict[int, float]:
    """Steps that are spikes of the iteration time, and what they took longer, seconds."""
    typical = iterations.typical
    gate = max(STEP_RATIO, float(np.exp(DEVIATIONS * iterations.jitter))) * typical
    return {
        int(step): float(seconds) - typical
        for step, seconds in zip(iterations.steps, iterations.seconds, strict=True)
        if seconds >= gate
    }


def part_spikes(reader: Reader, job: str, first: int, steps: dict[int, float]) -> list[Series]:
    """Ranks whose compute, or whose GPU's want of work, made these steps long; costliest first."""
    chosen = ", ".join(str(step) for step in sorted(steps))
    found: list[Series] = []
    for kind, name, value in PARTS:
        rows = reader.query(
            f"SELECT rank, step, (value - usual) / 1e9 AS excess, coalesce(value / nullif(usual, 0), 0) AS ratio FROM (SELECT "
            f"rank, step, {value} AS value, median({value}) OVER (PARTITION BY rank) AS usual {told_steps(job)} AND "
            f"rank IS NOT NULL AND step >= {first}) WHERE step IN ({chosen}) AND value > usual ORDER BY step, rank"
        )
        spikes = tuple(spike for spike in _of_rows(rows) if spike.excess >= ATTRIBUTED * steps[spike.step])
        found.append(Series(name, kind, False, spikes))
    return sorted((series for series in found if series.spikes), key=lambda each: -each.lost)


def _spikes(row: dict[str, list[float]]) -> tuple[Spike, ...]:
    columns = (row[name] for name in ("rank", "step", "excess", "ratio"))
    return tuple(Spike(int(r), int(s), float(e), float(x)) for r, s, e, x in zip(*columns, strict=True))


def _of_rows(rows: pa.Table) -> tuple[Spike, ...]:
    return _spikes(rows.to_pydict())


def sporadic(series: Series, steps: int) -> Series:
    """Without ranks to which it happens often, and without spells of more than EPISODE_STEPS_MAX steps in a row."""
    kept: set[tuple[int, int]] = set()
    for rank in series.ranks:
        own = series.of(rank)
        if len(own) < RARE_SHARE * steps:
            kept.update(
                (rank, step) for episode in episodes(own) if len(episode) <= EPISODE_STEPS_MAX for step in episode
            )
    return Series(
        series.name, series.kind, series.of_phase, tuple(s for s in series.spikes if (s.rank, s.step) in kept)
    )


def episodes(steps: Sequence[int]) -> list[list[int]]:
    """Sorted steps as runs of consecutive ones."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def evenly_spaced(steps: Collection[int]) -> bool:
    """Whether steps come at one period, give or take a tenth of it: a schedule has them so."""
    starts = [run[0] for run in episodes(sorted(steps))]
    gaps = np.diff(starts)
    return len(gaps) > 1 and int(gaps.max() - gaps.min()) <= max(1.0, 0.1 * float(np.median(gaps)))
