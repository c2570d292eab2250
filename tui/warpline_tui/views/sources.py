"""What the sources screen shows: how well data comes in, by source or by node, what is wrong with it, and what capture costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..literal import literal
from ..view import Ask
from . import headline

BY: Final = ("source", "node")
"""What states are counted by, in the order in which a key goes through them."""
STATES: Final = ("dead", "denied", "busy", "stale", "dropped", "refused", "unsupported", "fresh")
"""The worst first. `dropped` and `refused` are told of a moment, the others last until the next word."""
GROUPS_MAX: Final = 500
PARTS_MAX: Final = 200
AGENTS_MAX: Final = 100
COSTS_MAX: Final = 3
TOLD_NS: Final = 2 * 3_600 * 10**9
"""A source tells how it fares at least once in this time, or is gone."""
ASKED_SECONDS: Final = 5.0
"""Of 10,000 GPUs these are tens of thousands of parts: they are counted so rarely."""


@dataclass(frozen=True)
class Group:
    """One source on all nodes, or one node with all its sources: parts by state, and rows that fell off in two hours."""

    key: str
    states: dict[str, int]
    dropped: int
    told_ns: int | None

    @property
    def worst(self) -> str:
        """The worst state that any part is in."""
        return next((state for state in STATES if self.states.get(state)), "-")


@dataclass(frozen=True)
class SourceState:
    """The newest word of a part of one source on one node, or the same word of `nodes` nodes."""

    node: str
    source: str
    subject: str
    state: str
    reason: str
    time_ns: int | None
    dropped: int
    nodes: int


@dataclass(frozen=True)
class Troubled:
    """An agent with which the collector finds something wrong."""

    agent: str
    troubles: tuple[str, ...]
    detail: str
    heard_ns: int | None


@dataclass(frozen=True)
class CaptureCost:
    """What capturing kernels adds to the time of a job; None where it cannot be told yet; `verdict` is within, over, or that."""

    job: str
    mode: str
    overhead_percent: float | None
    low_percent: float | None
    high_percent: float | None
    budget_percent: float | None
    verdict: str
    action: str | None


@dataclass(frozen=True)
class Sources:
    """Groups and parts with the worst first; `now_ns` is what their ages are told against, `agents` how many there are."""

    now_ns: int
    by: str = BY[0]
    groups: tuple[Group, ...] = ()
    parts: tuple[SourceState, ...] = ()
    agents: int = 0
    troubled: tuple[Troubled, ...] = ()
    costs: tuple[CaptureCost, ...] = ()


@dataclass(frozen=True)
class SourcesView:
    """Counted by source or node; `of` is the one whose parts are listed, None for the worst of all."""

    by: str = BY[0]
    of: str | None = None

    def take(self, ask: Ask) -> Sources:
        """Ask for counts, parts, agents and costs."""
        newest = headline.newest(ask, "source_health")
        costs = tuple(CaptureCost(**row) for row in ask.rows(_costs(ask), ASKED_SECONDS).to_pylist())
        if newest is None:
            return Sources(ask.now_ns, self.by, costs=costs)
        known = _known(ask, newest)
        count, troubled = _agents(ask)
        return Sources(
            now_ns=ask.now_ns,
            by=self.by,
            groups=_groups(ask.rows(_counted(known, self.by), ASKED_SECONDS).to_pylist()),
            parts=tuple(
                SourceState(**row) for row in ask.rows(_parts(known, self.by, self.of), ASKED_SECONDS).to_pylist()
            ),
            agents=count,
            troubled=troubled,
            costs=costs,
        )


def _known(ask: Ask, newest_ns: int) -> str:
    """SQL: the newest word of each part, as of whole five seconds, so that the same words are asked for a while."""
    end_ns = -(-newest_ns // (5 * 10**9)) * 5 * 10**9
    return f"""
SELECT coalesce(node, '-') AS node, coalesce(source, '-') AS source, coalesce(subject, '') AS subject,
       coalesce(arg_max(state, time_ns), '-') AS state, arg_max(coalesce(reason, ''), time_ns) AS reason, max(time_ns) AS time_ns,
       sum(coalesce(dropped, 0))::BIGINT AS dropped
FROM source_health WHERE time_ns > {end_ns - TOLD_NS} AND {ask.until()} GROUP BY ALL
"""


_ORDER: Final = f"list_position({[*STATES]}, state)"


def _counted(known: str, by: str) -> str:
    states = ", ".join(f"count(*) FILTER (state = '{state}') AS \"{state}\"" for state in STATES)
    return f"""
WITH known AS ({known})
SELECT {by} AS key, {states}, sum(dropped)::BIGINT AS rows_dropped, max(time_ns) AS told_ns FROM known
GROUP BY key ORDER BY min({_ORDER}), rows_dropped DESC, key LIMIT {GROUPS_MAX}
"""


def _parts(known: str, by: str, of: str | None) -> str:
    """Where many nodes say the same, once."""
    chosen = "TRUE" if of is None else f"{by} = {literal(of)}"
    return f"""
WITH known AS ({known})
SELECT min(node) AS node, source, subject, state, reason, max(time_ns) AS time_ns, sum(dropped)::BIGINT AS dropped,
       count(DISTINCT node) AS nodes
FROM known WHERE {chosen} GROUP BY source, subject, state, reason
ORDER BY {_ORDER}, dropped DESC, nodes DESC, source, subject LIMIT {PARTS_MAX}
"""


def _groups(rows: list[dict[str, Any]]) -> tuple[Group, ...]:
    return tuple(
        Group(row["key"], {state: row[state] for state in STATES if row[state]}, row["rows_dropped"], row["told_ns"])
        for row in rows
    )


def _agents(ask: Ask) -> tuple[int, tuple[Troubled, ...]]:
    """How many were judged in the last ten minutes, and those with which something is wrong."""
    rows = ask.rows(
        f"""
WITH newest AS (
    SELECT agent, troubles, detail, heard_ns FROM agents
    WHERE {ask.until()} AND time_ns > (SELECT max(time_ns) FROM agents WHERE {ask.until()}) - 600000000000
    QUALIFY row_number() OVER (PARTITION BY agent ORDER BY time_ns DESC) = 1
)
SELECT agent, troubles, coalesce(detail, '') AS detail, heard_ns, (SELECT count(*) FROM newest) AS agents FROM newest
ORDER BY len(coalesce(troubles, [])) = 0, agent LIMIT {AGENTS_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    troubled = (row for row in rows if row["troubles"])
    return (rows[0]["agents"] if rows else 0), tuple(
        Troubled(str(row["agent"]), tuple(row["troubles"]), row["detail"], row["heard_ns"]) for row in troubled
    )


def _costs(ask: Ask) -> str:
    return f"""
WITH newest AS (
    SELECT * FROM capture_overhead WHERE {ask.until()}
    QUALIFY row_number() OVER (PARTITION BY job, rank ORDER BY time_ns DESC) = 1
)
SELECT coalesce(job, '-') AS job, coalesce(mode, '-') AS mode, overhead_percent, low_percent, high_percent, budget_percent,
       coalesce(verdict, '') AS verdict, action FROM newest
QUALIFY row_number() OVER (PARTITION BY job ORDER BY overhead_percent DESC NULLS LAST, time_ns DESC) = 1
ORDER BY time_ns DESC LIMIT {COSTS_MAX}
"""
