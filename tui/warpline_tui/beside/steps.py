"""Step by step: how long the accused took, and between what its peers did, for the step and each part of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Onset
from warpline_proto.newest_run import told

from ..literal import literal
from ..view import Ask
from .ranks import Compared, in_ranks

STEPS_MAX: Final = 240
"""Steps that are shown: the newest, or those around the onset where it lies before them."""
STEPS_BEFORE: Final = 40
"""Steps before the onset that are shown where the newest do not reach so far."""
RUNS_SECONDS: Final = 10.0
"""Whether a job was started again is asked so rarely."""
PARTS_MAX: Final = 12
LOW: Final = 0.1
HIGH: Final = 0.9
"""Between these shares of the peers lies their spread."""
_COLUMNS: Final = (
    ("duration_ns", "step time"), ("compute_ns", "compute"), ("communication_ns", "communication"),
    ("exposed_communication_ns", "uncovered communication"), ("idle_ns", "GPU idle"), ("data_wait_ns", "data wait"),
)  # fmt: skip
WHOLE: Final = "step time"
Point = tuple[int, float | None, float | None, float | None, float | None]
"""Step; the accused; the peers' middle and the bounds of their spread; ns."""


@dataclass(frozen=True)
class Line:
    """One part of a step over the steps. `mine_ns` and `peers_ns` are medians over the steps since the onset."""

    name: str
    points: tuple[Point, ...]
    mine_ns: float | None
    peers_ns: float | None

    @property
    def excess_ns(self) -> float:
        """What the accused takes longer than its peers; negative where it takes less, 0 where it is not known."""
        return 0.0 if self.mine_ns is None or self.peers_ns is None else self.mine_ns - self.peers_ns


@dataclass(frozen=True)
class Steps:
    """The step first, then its parts, the greatest excess of the accused first. `onset_step` is the finding's."""

    lines: tuple[Line, ...] = ()
    onset_step: int | None = None


def steps(ask: Ask, who: Compared, onset: Onset) -> Steps:
    """Ask for the steps of the accused and their peers."""
    if who.job is None or not who.accused:
        return Steps()
    of_job = f"job = {literal(who.job)} AND {ask.until('start_ns')}"
    of_job += f" AND {_of_its_run(ask, of_job, onset)}"
    reach = _reach(ask, f"{of_job} AND {in_ranks(who.accused)}", onset.step)
    if reach is None:
        return Steps()
    within = f"{of_job} AND {in_ranks((*who.accused, *who.peers))} AND step BETWEEN {reach[0]} AND {reach[1]}"
    rows = ask.rows(_of_steps(within, who)).to_pylist() + ask.rows(_of_phases(within, who)).to_pylist()
    return Steps(_lines(rows, onset.step), onset.step)


def _of_its_run(ask: Ask, of_job: str, onset: Onset) -> str:
    """SQL: a row is of the run in which the finding began, where the job was started again under its name."""
    [row] = ask.rows(f"WITH {told(of_job)} SELECT max(run_ns) AS run_ns FROM runs", RUNS_SECONDS).to_pylist()
    if row["run_ns"] is None:
        return "true"
    is_before = onset.time_ns is not None and onset.time_ns <= row["run_ns"]
    return f"(start_ns {'<=' if is_before else '>'} {row['run_ns']}) IS NOT FALSE"


def _reach(ask: Ask, of_accused: str, onset_step: int | None) -> tuple[int, int] | None:
    """First and last step to show, None where there is none. Not every step is recorded, so that they are counted."""
    steps = f"SELECT DISTINCT step FROM steps WHERE {of_accused} AND step IS NOT NULL AND scope = 'step'"
    span = "SELECT min(step) AS first, max(step) AS last FROM"
    [newest] = ask.rows(f"{span} ({steps} ORDER BY step DESC LIMIT {STEPS_MAX})").to_pylist()
    if newest["last"] is None:
        return None
    if onset_step is not None and onset_step < newest["first"]:
        before = f"{steps} AND step < {onset_step} ORDER BY step DESC LIMIT {STEPS_BEFORE}"
        since = f"{steps} AND step >= {onset_step} ORDER BY step LIMIT {STEPS_MAX - STEPS_BEFORE}"
        [newest] = ask.rows(f"{span} (({before}) UNION ALL ({since}))").to_pylist()
    return newest["first"], newest["last"]


def _of_steps(within: str, who: Compared) -> str:
    parts = " UNION ALL ".join(
        f"SELECT step, rank, '{name}' AS part, {column}::DOUBLE AS took FROM kept WHERE {column} IS NOT NULL"
        for column, name in _COLUMNS
    )
    return f"WITH kept AS (SELECT * FROM steps WHERE {within} AND scope = 'step'), told AS ({parts})\n{_summed(who)}"


def _of_phases(within: str, who: Compared) -> str:
    """Phases by name, and what is computed all together: not every source tells that of a step."""
    return f"""
WITH kept AS (SELECT step, rank, phase, kind, duration_ns FROM phases WHERE {within} AND duration_ns IS NOT NULL),
told AS (
    SELECT step, rank, phase AS part, sum(duration_ns)::DOUBLE AS took FROM kept WHERE phase IN (
        SELECT phase FROM kept GROUP BY phase ORDER BY sum(duration_ns) DESC LIMIT {PARTS_MAX}
    ) GROUP BY ALL
    UNION ALL
    SELECT step, rank, 'computing phases' AS part, sum(duration_ns)::DOUBLE AS took FROM kept
    WHERE kind IN ('compute', 'optimizer') GROUP BY ALL
)
{_summed(who)}
"""


def _summed(who: Compared) -> str:
    mine, peers = in_ranks(who.accused), in_ranks(who.peers)
    return f"""
SELECT part, step, median(took) FILTER ({mine}) AS mine, median(took) FILTER ({peers}) AS middle,
       quantile_cont(took, {LOW}) FILTER ({peers}) AS low, quantile_cont(took, {HIGH}) FILTER ({peers}) AS high
FROM told GROUP BY part, step ORDER BY part, step
"""


def _lines(rows: Iterable[dict[str, Any]], onset_step: int | None) -> tuple[Line, ...]:
    points: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        points[row["part"]].append((row["step"], row["mine"], row["middle"], row["low"], row["high"]))
    lines = [_line(name, tuple(found), onset_step) for name, found in points.items()]
    lines = [line for line in lines if line.mine_ns or line.peers_ns]
    lines.sort(key=lambda line: (line.name != WHOLE, -line.excess_ns, line.name))
    return tuple(lines[:PARTS_MAX])


def _line(name: str, points: tuple[Point, ...], onset_step: int | None) -> Line:
    since = [point for point in points if onset_step is None or point[0] >= onset_step] or list(points)
    return Line(name, points, _median(point[1] for point in since), _median(point[2] for point in since))


def _median(values: Iterable[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    half = len(known) // 2
    return known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2
