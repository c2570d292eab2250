"""Steps of one job: how long they take in order, which group of ranks differs in which phase, and which rank from its group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from warpline_proto.history_tables import HISTORY_SECONDS as TEN_MINUTES
from warpline_proto.newest_run import STEPS, since, told

from ..literal import same
from ..spans import DAY, Span, settled
from ..view import Ask

STEPS_MAX: Final = 512
"""Newest steps on the line."""
RECENT_STEPS: Final = 64
"""Newest steps that ranks and groups are compared over."""
ROWS_MAX: Final = 1_000_000
"""Rows that a line is made of: of many ranks it covers fewer steps."""
STEPS_MIN: Final = 32
RANKS_MAX: Final = 200
GROUPS_MAX: Final = 64
PHASES_MAX: Final = 400
ASKED_SECONDS: Final = 5.0
HISTORY_SECONDS: Final = 60.0
GROUPED_BY: Final = ("pp", "dp", "tp", "ep")
"""What ranks are grouped by, in the order in which a key goes through them."""


@dataclass(frozen=True)
class Size:
    """Newest step, its start, and how many ranks told of one."""

    last_step: int | None
    last_ns: int | None
    ranks: int
    world_size: int | None
    nodes: int
    told: int
    """How many of the newest RECENT_STEPS numbers are recorded: of a recording that passes steps over, few."""
    run_ns: int | None
    """Before this an earlier run of the job, under the same name, told its steps; None where there was none."""
    groups: tuple[str, ...]
    """Those of GROUPED_BY of which there is more than one."""

    def since(self, steps: int) -> str:
        """SQL: the newest so many steps that were recorded, as far as they lie evenly."""
        stride = -(-RECENT_STEPS // max(self.told, 1))
        ours = (
            ""
            if self.run_ns is None
            else f" AND step <= {self.last_step} AND (start_ns IS NULL OR start_ns > {self.run_ns})"
        )
        return f"step > {self.last_step} - {steps * stride}{ours}"


@dataclass(frozen=True)
class Mark:
    """One step (or ten minutes of them): shortest, median and longest wall time over its ranks, ns."""

    step: int | None
    time_ns: int | None
    low_ns: float
    median_ns: float
    high_ns: float


@dataclass(frozen=True)
class Course:
    """Marks in order, and what one is, in words."""

    marks: tuple[Mark, ...]
    grain: str


@dataclass(frozen=True)
class Group:
    """Mean ns a step and rank of each phase, over the ranks of one group."""

    index: int | None
    ranks: int
    phases: dict[str, float]


@dataclass(frozen=True)
class RankOff:
    """Medians of one rank over recent steps, ns, and how far its worst phase is above the median of its stage."""

    rank: int | None
    node: str | None
    stage: int | None
    dp: int | None
    tp: int | None
    steps: int
    step_ns: float | None
    compute_ns: float | None
    communication_ns: float | None
    idle_ns: float | None
    data_wait_ns: float | None
    phase: str | None
    over_ns: float | None
    over_share: float | None


def extent(ask: Ask, job: str) -> Size:
    """How large the job is, by its newest steps."""
    when = ask.until("start_ns")
    groups = ", ".join(f"count(DISTINCT {each}) AS {each}" for each in GROUPED_BY)
    [row] = ask.rows(
        f"""
WITH {told(f"{same('job', job)} AND {when}")}
SELECT max(s.step) AS last_step, max(start_ns) AS last_ns, count(DISTINCT s.rank) AS ranks, count(DISTINCT node) AS nodes,
       count(DISTINCT s.step) AS told, max(run_ns) AS run_ns, {groups},
       (SELECT max(world_size) FROM jobs WHERE {same("job", job)}) AS world_size
FROM {STEPS}
WHERE {same("s.job", job)} AND {when} AND {since(RECENT_STEPS)}
""",
        ASKED_SECONDS,
    ).to_pylist()
    found = tuple(each for each in GROUPED_BY if row.pop(each) > 1)
    return Size(**row, groups=found)


def course(ask: Ask, job: str, size: Size, span: Span) -> Course:
    """Raw steps where they are kept and asked for, else the history."""
    if span.raw and size.last_step is not None:
        return _raw(ask, job, size)
    return _history(ask, job, DAY if span.raw else span)


def _raw(ask: Ask, job: str, size: Size) -> Course:
    steps = min(max(ROWS_MAX // max(size.ranks, 1), STEPS_MIN), STEPS_MAX)
    rows = ask.rows(
        f"""
SELECT step, min(start_ns) AS time_ns, min(duration_ns) AS low_ns, median(duration_ns) AS median_ns, max(duration_ns) AS high_ns
FROM steps WHERE {same("job", job)} AND {ask.until("start_ns")} AND {size.since(steps)} AND duration_ns IS NOT NULL
GROUP BY step ORDER BY step LIMIT {STEPS_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    return Course(tuple(Mark(**row) for row in rows), f"newest {len(rows):,} steps")


def _history(ask: Ask, job: str, span: Span) -> Course:
    end_ns = settled(ask.now_ns, TEN_MINUTES)
    rows = ask.rows(
        f"""
SELECT max(last_step) AS step, min(time_ns) AS time_ns, min(duration_ns) AS low_ns, median(duration_ns) AS median_ns,
       max(duration_ns) AS high_ns
FROM step_history WHERE {same("job", job)} AND time_ns BETWEEN {span.start_ns(end_ns)} AND {end_ns} AND {ask.until()}
GROUP BY {span.bin_of("time_ns", end_ns)} ORDER BY time_ns LIMIT {span.bins}
""",
        HISTORY_SECONDS,
    ).to_pylist()
    return Course(tuple(Mark(**row) for row in rows if row["median_ns"] is not None), span.grain)


def groups(ask: Ask, job: str, by: str, size: Size) -> tuple[Group, ...]:
    """Phases as the framework names them, else the parts of a step, each group's mean a step and rank."""
    if size.last_step is None:
        return ()
    recent = f"{same('job', job)} AND {ask.until('start_ns')} AND {size.since(_compared(size))}"
    counted = f"SELECT {by} AS index, count(DISTINCT rank) AS ranks, count(*) AS steps FROM steps WHERE {recent} GROUP BY {by}"
    named = ask.rows(
        f"""
WITH counted AS ({counted})
SELECT {by} AS index, any_value(ranks) AS ranks, phase, sum(duration_ns) / any_value(steps) AS mean_ns
FROM phases JOIN counted ON phases.{by} IS NOT DISTINCT FROM counted.index WHERE {recent} AND phase IS NOT NULL
GROUP BY {by}, phase ORDER BY {by}, mean_ns DESC LIMIT {PHASES_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    if not named:
        named = _parts(ask, by, recent)
    found: dict[int | None, Group] = {}
    for row in (each for each in named if each["mean_ns"] is not None):
        group = found.setdefault(row["index"], Group(row["index"], row["ranks"], {}))
        group.phases[str(row["phase"])] = row["mean_ns"]
    return tuple(found.values())[:GROUPS_MAX]


def _parts(ask: Ask, by: str, recent: str) -> list[dict[str, float]]:
    """The columns of a step as phases."""
    rows: list[dict[str, float]] = ask.rows(
        f"""
UNPIVOT (
    SELECT {by} AS index, count(DISTINCT rank) AS ranks, avg(compute_ns) AS compute,
           avg(exposed_communication_ns) AS "exposed comm", avg(idle_ns) AS idle, avg(data_wait_ns) AS "data wait"
    FROM steps WHERE {recent} GROUP BY {by} ORDER BY {by} LIMIT {GROUPS_MAX}
) ON compute, "exposed comm", idle, "data wait" INTO NAME phase VALUE mean_ns
""",
        ASKED_SECONDS,
    ).to_pylist()
    return rows


def _compared(size: Size) -> int:
    """Steps that ranks are compared over."""
    return min(max(ROWS_MAX // max(size.ranks, 1), STEPS_MIN), RECENT_STEPS)


def ranks(ask: Ask, job: str, size: Size) -> tuple[RankOff, ...]:
    """Those first that are farthest above the median of their stage, in whatever is their own: waiting for others is not."""
    if size.last_step is None:
        return ()
    own = ("compute", "idle", "data_wait")
    medians = ", ".join(f"median({each}_ns) AS {each}_ns" for each in ("compute", "communication", "idle", "data_wait"))
    over = ", ".join(f"greatest({each}_ns - median({each}_ns) OVER stage, 0) AS {each}_over" for each in own)
    worst = f"greatest({', '.join(f'{each}_over' for each in own)})"
    phase = " ".join(f"WHEN {each}_over THEN '{each.replace('_', ' ')}'" for each in own)
    rows = ask.rows(
        f"""
WITH each AS (
    SELECT rank, any_value(node) AS node, any_value(pp) AS stage, any_value(dp) AS dp, any_value(tp) AS tp, count(*) AS steps,
           median(duration_ns) AS step_ns, {medians}
    FROM steps WHERE {same("job", job)} AND {ask.until("start_ns")} AND {size.since(_compared(size))} GROUP BY rank
), compared AS (SELECT *, {over}, median(step_ns) OVER stage AS usual_ns FROM each WINDOW stage AS (PARTITION BY stage))
SELECT * EXCLUDE ({", ".join(f"{each}_over" for each in own)}, usual_ns), {worst} AS over_ns,
       {worst} / nullif(usual_ns, 0) AS over_share, CASE {worst} WHEN 0 THEN NULL {phase} END AS phase
FROM compared ORDER BY over_ns DESC NULLS LAST, rank LIMIT {RANKS_MAX}
""",
        ASKED_SECONDS,
    )
    found = tuple(RankOff(**row) for row in rows.to_pylist())
    return found if any(each.compute_ns is not None for each in found) else _by_phase(ask, job, size, found)


def _by_phase(ask: Ask, job: str, size: Size, known: tuple[RankOff, ...]) -> tuple[RankOff, ...]:
    """The same by the phases that the framework names, where steps do not tell what they are made of."""
    rows = ask.rows(
        f"""
WITH once AS (
    SELECT rank, pp, phase, step, sum(duration_ns) AS phase_ns FROM phases
    WHERE {same("job", job)} AND {ask.until("start_ns")} AND {size.since(_compared(size))} AND kind <> 'communication'
    GROUP BY rank, pp, phase, step
), each AS (SELECT rank, pp, phase, median(phase_ns) AS phase_ns FROM once GROUP BY rank, pp, phase),
compared AS (SELECT *, greatest(phase_ns - median(phase_ns) OVER (PARTITION BY pp, phase), 0) AS over_ns FROM each)
SELECT rank, arg_max(phase, over_ns) AS phase, max(over_ns) AS over_ns FROM compared GROUP BY rank
ORDER BY over_ns DESC, rank LIMIT {RANKS_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    by_rank = {each.rank: each for each in known}
    told = ((by_rank[row["rank"]], row) for row in rows if row["rank"] in by_rank)
    off = [
        replace(
            rank,
            phase=row["phase"] if row["over_ns"] else None,
            over_ns=row["over_ns"],
            over_share=row["over_ns"] / rank.step_ns if rank.step_ns else None,
        )
        for rank, row in told
    ]
    return tuple(off) or known
