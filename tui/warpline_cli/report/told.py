"""What a report tells: findings, steps, energy, bandwidth, data quality and nodes of a time, each bounded, asked of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from warpline_proto import newest_run
from warpline_proto.errors import QueryError
from warpline_proto.finding import GRAVITY, OPEN, FindingState, Severity

from .. import states
from ..asking import Query, text
from .asked import WINDOW_NS, Asked, Questions, Range

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money
    from warpline_analysis.energy.report import Line

FINDINGS_MAX: Final = 200
JOBS_MAX: Final = 6
"""Jobs with plots of their own: those with findings, then those with most ranks."""
POINTS_MAX: Final = 400
"""Of one job's iteration time."""
WINDOWS_MAX: Final = 144
STAGES_MAX: Final = 64
PHASES_MAX: Final = 60
PHASE_STEPS: Final = 20
"""Phases and collectives are told of so many of the newest steps."""
SIZES_MAX: Final = 200
QUALITY_MAX: Final = 50
LINES_MAX: Final = 20
ENERGY_LINES_MAX: Final = 10_000
NODES_MAX: Final = 20
ACCUSED_MAX: Final = 10_000
"""Nodes of which it is asked what they are accused of."""
TOLD_NS: Final = 3_600 * 10**9
"""How long before the time a source may have told last what holds in it: it tells each round, or when that changes."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Energy:
    """The account of the time: the whole, by job, by node, and by state over time; `trouble` says why there is none."""

    whole: Line | None
    jobs: Sequence[Line]
    nodes: Sequence[Line]
    over_time: Sequence[Row]
    currency: str | None
    trouble: str = ""


@dataclass(frozen=True)
class Told:
    """Everything that a page shows."""

    range: Range
    findings: Sequence[FindingState]
    counts: Mapping[str, int]
    answers: Sequence[Row]
    iterations: Mapping[str, Sequence[Row]]
    stages: Sequence[Row]
    phases: Sequence[Row]
    bandwidth: Sequence[Row]
    energy: Energy
    agents: Sequence[Row]
    sources: Sequence[Row]
    nodes: Sequence[Row]
    asked: Sequence[Asked]
    money: Money

    @property
    def open(self) -> Sequence[FindingState]:
        """Findings that stand at the end of the time, as far as they are shown."""
        return [state for state in self.findings if state.state == OPEN]


def take(query: Query, span: Range, money: Money) -> Told:
    """Ask for everything. Questions that fail leave their part empty and say so in `asked`."""
    questions = Questions(query)
    findings = _findings(questions, span)
    jobs = _jobs(questions, span, findings)
    iterations = _iterations(questions, span, jobs)
    newest = {job: rows[-1] for job, rows in iterations.items()}
    energy = _energy(questions, span, money)
    return Told(
        range=span,
        findings=findings,
        counts=_counts(questions, span),
        answers=questions.rows("answers", _answers(span)),
        iterations=iterations,
        stages=questions.rows("stages", _stages(span, list(newest))) if newest else [],
        phases=questions.rows("phases", _phases(newest)) if newest else [],
        bandwidth=questions.rows("bandwidth", _bandwidth(newest)) if newest else [],
        energy=energy,
        agents=questions.rows("agents", _agents(span)),
        sources=questions.rows("sources", _sources(span)),
        nodes=_nodes(questions, span, energy),
        asked=questions.asked,
        money=money,
    )


def _answers(span: Range) -> str:
    """What the analysis answered last within the time, of the job where one is named: it may say something else now."""
    whose = "TRUE" if span.job is None else f"ends_with(subject, {text(f' of job {span.job}')})"
    return f"""
SELECT subject, state, reason FROM (
  SELECT * FROM source_health WHERE source = 'analysis' AND subject <> 'pass' AND {span.within("time_ns")} AND {whose}
  QUALIFY row_number() OVER (PARTITION BY cluster, node, subject ORDER BY time_ns DESC) = 1
) ORDER BY state, subject LIMIT {QUALITY_MAX}"""


def _sources(span: Range) -> str:
    """How sources fared when the time ended, as they told within it or within an hour before."""
    return f"""
SELECT source, state, count(DISTINCT node) AS nodes, CAST(sum(dropped) AS BIGINT) AS dropped, max(time_ns) AS time_ns,
  arg_max(reason, time_ns) AS reason
FROM (
  SELECT * FROM source_health WHERE source <> 'analysis' AND time_ns >= {span.start_ns - TOLD_NS} AND time_ns < {span.end_ns}
  QUALIFY row_number() OVER (PARTITION BY cluster, node, source, subject ORDER BY time_ns DESC) = 1
) WHERE state <> 'fresh' GROUP BY source, state
ORDER BY nodes DESC, source, state LIMIT {QUALITY_MAX}"""


def _findings(questions: Questions, span: Range) -> list[FindingState]:
    """Those that stood at any moment of the time, as they were at its end; open and grave ones first."""
    rows = questions.rows(
        "findings",
        f"""
SELECT {states.COLUMNS} FROM findings WHERE updated_ns < {span.end_ns} AND {span.of_job()}
{states.NEWEST} AND (state = '{OPEN}' OR updated_ns >= {span.start_ns})
ORDER BY state <> '{OPEN}', severity <> 'critical', severity <> 'warning', updated_ns DESC LIMIT {FINDINGS_MAX}""",
    )
    found = states.read(rows)
    found.sort(key=lambda state: (state.state != OPEN, GRAVITY[state.finding.severity], state.opened_ns))
    return found


def _counts(questions: Questions, span: Range) -> dict[str, int]:
    """How many findings stand at the end by severity, and under `over` how many ended within the time; also those not shown."""
    rows = questions.rows(
        "how many findings",
        f"""
SELECT CASE WHEN state = '{OPEN}' THEN severity ELSE 'over' END AS what, count(*) AS findings FROM (
  SELECT severity, state FROM findings WHERE updated_ns < {span.end_ns} AND {span.of_job()}
  {states.NEWEST} AND (state = '{OPEN}' OR updated_ns >= {span.start_ns})
) GROUP BY what""",
    )
    return {str(row["what"]): int(row["findings"]) for row in rows}


def _steps(span: Range) -> tuple[str, str]:
    """The table that tells of steps in this time, and the SQL condition."""
    if span.long:
        return "step_history", f"{span.within('time_ns')} AND {span.of_job()}"
    timed = f"(clock IS NULL OR clock NOT LIKE 'realtime@%' OR {span.within('start_ns')})"
    return "steps", f"scope = 'step' AND step IS NOT NULL AND {timed} AND {span.of_job()}"


def _jobs(questions: Questions, span: Range, findings: Sequence[FindingState]) -> list[str]:
    source, condition = _steps(span)
    rows = questions.rows(
        "jobs",
        f"""
SELECT job, count(DISTINCT rank) AS ranks FROM {source} WHERE {condition} AND job IS NOT NULL
GROUP BY job ORDER BY ranks DESC, job LIMIT 1000""",
    )
    accused = {state.finding.subject.job for state in findings}
    ordered = sorted(rows, key=lambda row: row["job"] not in accused)  # the order of ranks stays within
    return [str(row["job"]) for row in ordered[:JOBS_MAX]]


def _of(jobs: Sequence[str]) -> str:
    return f"job IN ({', '.join(map(text, jobs))})"


def _iterations(questions: Questions, span: Range, jobs: Sequence[str]) -> dict[str, list[Row]]:
    """Of each job its iteration time, by pieces of few steps: `last_step`, `at_ns`, `seconds` with `low` and `high`.

    Only of the run that goes on at the end: one before it, under the same name, ended at `run_ns`, NULL where there was none.
    """
    if not jobs:
        return {}
    source, condition = _steps(span)
    condition = f"{condition} AND {_of(jobs)} AND duration_ns IS NOT NULL"
    if span.long:
        width_ns = WINDOW_NS * max(-(-(span.end_ns - span.start_ns) // (WINDOW_NS * POINTS_MAX)), 1)
        sql = f"""
WITH {newest_run.told(condition, source, "last_step", "time_ns")}
SELECT s.job, CAST(max(last_step) AS BIGINT) AS last_step, min(time_ns) AS at_ns, max(duration_ns) / 1e9 AS seconds,
  min(min_ns) / 1e9 AS low, max(max_ns) / 1e9 AS high, max(run_ns) AS run_ns
FROM {newest_run.joined(f"(SELECT * FROM {source} WHERE {condition} AND last_step IS NOT NULL) s")}
WHERE (time_ns > run_ns) IS NOT FALSE
GROUP BY s.job, time_ns // {width_ns} ORDER BY s.job, last_step"""
    else:
        sql = f"""
WITH {newest_run.told(condition)}
SELECT job, CAST(max(step) AS BIGINT) AS last_step, min(at_ns) AS at_ns, median(ns) / 1e9 AS seconds, min(ns) / 1e9 AS low,
  max(ns) / 1e9 AS high, max(run_ns) AS run_ns
FROM (
  SELECT *, ntile({POINTS_MAX}) OVER (PARTITION BY job ORDER BY step) AS piece
  FROM (SELECT s.job, s.step, min(start_ns) AS at_ns, max(duration_ns) AS ns, max(run_ns) AS run_ns
        FROM {newest_run.joined(f"(SELECT * FROM {source} WHERE {condition}) s")}
        WHERE {newest_run.ONGOING} GROUP BY s.job, s.step)
) GROUP BY job, piece ORDER BY job, last_step"""
    found: dict[str, list[Row]] = {}
    for row in questions.rows("iterations", sql):
        found.setdefault(row["job"], []).append(row)
    return {job: found[job] for job in jobs if job in found}


def _stages(span: Range, jobs: Sequence[str]) -> str:
    """Of each pipeline stage the mean of each part of a step, in seconds."""
    source, condition = _steps(span)
    parts = ("duration", "compute", "exposed_communication", "idle", "data_wait")
    means = ", ".join(f"avg({each}_ns) / 1e9 AS {each}" for each in parts)
    return f"""
SELECT job, CAST(pp AS BIGINT) AS stage, count(DISTINCT rank) AS ranks, {means}
FROM {source} WHERE {condition} AND {_of(jobs)} GROUP BY job, stage ORDER BY job, stage LIMIT {STAGES_MAX}"""


def _newest_steps(newest: Mapping[str, Row]) -> str:
    """SQL: a row is of the newest steps of these jobs; of an earlier run that had the same numbers it is not."""
    each = []
    for job, row in newest.items():
        last, run_ns = row["last_step"], row["run_ns"]
        later = "" if run_ns is None else f" AND (start_ns > {run_ns}) IS NOT FALSE"
        each.append(f"(job = {text(job)} AND step > {last - PHASE_STEPS} AND step <= {last}{later})")
    return f"({' OR '.join(each)})"


def _phases(newest: Mapping[str, Row]) -> str:
    return f"""
SELECT job, CAST(pp AS BIGINT) AS stage, phase, kind, count(DISTINCT rank) AS ranks,
  sum(duration_ns) / count(DISTINCT (rank, step)) / 1e9 AS seconds_per_step
FROM phases WHERE {_newest_steps(newest)} AND duration_ns IS NOT NULL
GROUP BY job, stage, phase, kind ORDER BY job, stage, seconds_per_step DESC LIMIT {PHASES_MAX}"""


def _bandwidth(newest: Mapping[str, Row]) -> str:
    """Bus bandwidth by operation and size: the time of the rank that came last, which waits for nobody."""
    return f"""
SELECT job, operation, bytes, count(*) AS operations, quantile_cont(bus, 0.05) / 1e9 AS low, median(bus) / 1e9 AS middle,
  quantile_cont(bus, 0.95) / 1e9 AS high
FROM (
  SELECT job, operation, max(message_bytes) AS bytes, max(message_bytes * CASE
      WHEN operation = 'all_reduce' THEN 2.0 * (nranks - 1) / nranks
      WHEN operation IN ('all_gather', 'reduce_scatter', 'all_to_all') THEN 1.0 * (nranks - 1) / nranks
      ELSE 1.0 END) / (min(duration_ns) / 1e9) AS bus
  FROM collectives
  WHERE {_newest_steps(newest)} AND message_bytes > 0 AND duration_ns > 0 AND nranks > 1 AND sequence IS NOT NULL
    AND timing = 'kernel_gpu' AND coalesce(sharing, 1) = 1 AND coalesce(count, 1) = 1
  GROUP BY job, communicator, operation, sequence
) GROUP BY job, operation, bytes ORDER BY job, operation, bytes LIMIT {SIZES_MAX}"""


def _agents(span: Range) -> str:
    """Agents by what was wrong with them, as the collector judged them last in this time."""
    return f"""
SELECT array_to_string(troubles, ', ') AS trouble, count(*) AS agents, CAST(sum(dropped) AS BIGINT) AS dropped,
  CAST(sum(lost) AS BIGINT) AS lost, min(agent) AS agent, arg_min(detail, agent) AS detail
FROM (
  SELECT * FROM agents WHERE time_ns > (SELECT max(time_ns) FROM agents WHERE {span.within("time_ns")}) - {WINDOW_NS}
    AND {span.within("time_ns")} QUALIFY row_number() OVER (PARTITION BY agent ORDER BY time_ns DESC) = 1
) GROUP BY trouble ORDER BY agents DESC, trouble LIMIT {QUALITY_MAX}"""


def _energy(questions: Questions, span: Range, money: Money) -> Energy:
    from warpline_analysis.energy.report import report

    query = questions.query("energy")
    start_ns = span.start_ns - span.start_ns % WINDOW_NS
    currency = money.currency if money.price_per_kwh else None
    try:
        jobs = report(query, "job", start_ns, span.end_ns, money, ENERGY_LINES_MAX)
        nodes = [] if span.job is not None else report(query, "node", start_ns, span.end_ns, money, ENERGY_LINES_MAX)
        wholes = report(query, "all", start_ns, span.end_ns, money)
    except (QueryError, ValueError) as error:
        return Energy(None, [], [], [], currency, str(error))
    if span.job is not None:
        jobs = wholes = [line for line in jobs if line.key == span.job]
    over_time = questions.rows("energy over time", _over_time(span, start_ns)) if wholes else []
    return Energy(wholes[0] if wholes else None, jobs, nodes, over_time, currency)


def _over_time(span: Range, start_ns: int) -> str:
    width_ns = WINDOW_NS * max(-(-(span.end_ns - start_ns) // (WINDOW_NS * WINDOWS_MAX)), 1)
    at = f"window_ns // {width_ns} * {width_ns}"
    return f"""
SELECT {at} AS at_ns, state, sum(joules) / {width_ns / 1e9} AS watts, sum(seconds) / {width_ns / 1e9} AS gpus
FROM energy_states WHERE window_ns >= {start_ns} AND window_ns < {span.end_ns} AND {span.of_job()}
GROUP BY at_ns, state ORDER BY at_ns, state"""


def _nodes(questions: Questions, span: Range, energy: Energy) -> list[Row]:
    """Nodes with most against them: findings that stand, then energy of GPUs that held a program and did nothing."""
    counts: dict[str, Counter[str]] = {}
    accused = questions.rows(
        "findings by node",
        f"""
SELECT node, severity, count(*) AS findings FROM (
  SELECT node, severity, state FROM findings WHERE updated_ns < {span.end_ns} AND {span.of_job()} {states.NEWEST}
) WHERE node IS NOT NULL AND state = '{OPEN}'
GROUP BY node, severity ORDER BY severity <> 'critical', severity <> 'warning', findings DESC, node LIMIT {ACCUSED_MAX}""",
    )
    for row in accused:
        counts.setdefault(row["node"], Counter())[row["severity"]] += int(row["findings"])
    lines = {line.key: line for line in energy.nodes if line.key is not None}
    rows: list[Row] = [
        {
            "node": node,
            **{str(severity): counts.get(node, Counter())[str(severity)] for severity in Severity},
            "kwh": None if node not in lines else lines[node].total_joules / 3.6e6,
            "idle_kwh": None if node not in lines else lines[node].joules["execution_idle"] / 3.6e6,
            "idle_share": None if node not in lines else lines[node].idle_shares()[1],
            "idle_cost": None if node not in lines else lines[node].idle_cost,
        }
        for node in counts.keys() | lines.keys()
    ]
    rows.sort(key=lambda row: (-row["critical"], -row["warning"], -(row["idle_kwh"] or 0), -row["info"], row["node"]))
    return rows[:NODES_MAX]
