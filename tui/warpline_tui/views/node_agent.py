"""What is known of a node beside its GPUs: its log, its agent and what that costs, what is not read, what was replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..literal import literal
from ..view import Ask

EVENTS_MAX: Final = 200
EVENTS_NS: Final = 7 * 86_400 * 10**9
"""Lines of the log of a week are shown."""
AGENT_NS: Final = 3_600 * 10**9
"""The collector judges an agent each minute; older words are not shown as if they were of now."""
SOURCES_MAX: Final = 200
SOURCES_NS: Final = 2 * 3_600 * 10**9
"""A source tells how it fares at least once in this time, or is gone."""
PLACES_MAX: Final = 100
ASKED_SECONDS: Final = 5.0
PLACES_SECONDS: Final = 60.0
_AGENT: Final = (
    "agent", "version", "time_ns", "heard_ns", "troubles", "detail", "clock_offset_ns", "clock_error_ns", "clock_jumps",
    "dropped", "lost", "refused_rows", "cpu_percent", "rss_bytes", "waiting_bytes", "detail_level", "kernels_left_out",
)  # fmt: skip
"""Columns of agents, as far as the collector has them: one of an earlier version may be asked."""


@dataclass(frozen=True)
class Event:
    """A line of a log."""

    time_ns: int | None
    kind: str | None
    code: int | None
    severity: str | None
    bus_id: str | None
    link: str | None
    job: str | None
    rank: int | None
    message: str | None
    count: int | None


@dataclass(frozen=True)
class Agent:
    """The agent as the collector saw it last; None where it does not tell."""

    agent: str | None = None
    version: str | None = None
    time_ns: int | None = None
    heard_ns: int | None = None
    troubles: tuple[str, ...] = ()
    detail: str | None = None
    clock_offset_ns: int | None = None
    clock_error_ns: int | None = None
    clock_jumps: int | None = None
    dropped: int | None = None
    lost: int | None = None
    refused_rows: int | None = None
    cpu_percent: float | None = None
    rss_bytes: int | None = None
    waiting_bytes: int | None = None
    detail_level: int | None = None
    kernels_left_out: int | None = None


@dataclass(frozen=True)
class Unread:
    """A source, or a part of one, that is not fresh."""

    source: str
    subject: str
    state: str
    reason: str
    time_ns: int | None
    dropped: int


@dataclass(frozen=True)
class Sources:
    """How many are fresh, and those that are not; `cpu_percent` is what the agent itself says that it takes of one core."""

    fresh: int = 0
    unread: tuple[Unread, ...] = ()
    cpu_percent: float | None = None
    rss_bytes: int | None = None


@dataclass(frozen=True)
class Tenure:
    """What was in a place of the node, from when to when; `until_ns` is None for what is there."""

    kind: str
    slot: str | None
    gpu_index: int | None
    gpu_name: str | None
    identity: str | None
    from_ns: int | None
    until_ns: int | None
    replaced_by: str | None


def events(ask: Ask, node: str) -> tuple[Event, ...]:
    """The newest first."""
    rows = ask.rows(
        f"""
SELECT time_ns, kind, code, severity, bus_id, link, job, rank, message, "count" FROM log_events
WHERE node = {literal(node)} AND {ask.until()} AND (time_ns IS NULL OR time_ns >= {_floored(ask, EVENTS_NS)})
ORDER BY time_ns DESC NULLS LAST LIMIT {EVENTS_MAX}
""",
        ASKED_SECONDS,
    )
    return tuple(Event(**row) for row in rows.to_pylist())


def _floored(ask: Ask, length_ns: int) -> int:
    """The start of a time that ends now, on whole minutes, so that the same words are asked for a while."""
    minute_ns = 60 * 10**9
    return (ask.now_ns - length_ns) // minute_ns * minute_ns


def agent(ask: Ask, node: str, end_ns: int) -> Agent | None:
    """None where no collector judged one in the last hour."""
    columns = "|".join(_AGENT)
    rows = ask.rows(
        f"""
SELECT COLUMNS('^({columns})$') FROM agents
WHERE node = {literal(node)} AND {ask.until()} AND time_ns >= {end_ns - AGENT_NS} ORDER BY time_ns DESC LIMIT 1
""",
        ASKED_SECONDS,
    ).to_pylist()
    return Agent(**rows[0] | {"troubles": tuple(rows[0].get("troubles") or ())}) if rows else None


def sources(ask: Ask, node: str, end_ns: int) -> Sources:
    """The newest word of each source of the node, and the cost of the agent by its own count."""
    rows = ask.rows(
        f"""
SELECT source, subject, coalesce(arg_max(state, time_ns), '-') AS state, arg_max(coalesce(reason, ''), time_ns) AS reason,
       max(time_ns) AS time_ns, sum(coalesce(dropped, 0))::BIGINT AS dropped, arg_max(rss_bytes, time_ns) AS rss_bytes,
       (arg_max(cpu_ns, time_ns) - arg_min(cpu_ns, time_ns)) * 100 / nullif(max(time_ns) - min(time_ns), 0) AS cpu_percent
FROM source_health WHERE node = {literal(node)} AND {ask.until()} AND time_ns >= {end_ns - SOURCES_NS}
GROUP BY source, subject ORDER BY arg_max(state, time_ns) = 'unsupported', source, subject LIMIT {SOURCES_MAX}
""",
        ASKED_SECONDS,
    ).to_pylist()
    own: dict[str, Any] = next((row for row in rows if (row["source"], row["subject"]) == ("own", "agent")), {})
    unread = tuple(
        Unread(**{name: row[name] for name in Unread.__dataclass_fields__}) for row in rows if row["state"] != "fresh"
    )
    cpu = own.get("cpu_percent")
    return Sources(len(rows) - len(unread), unread, cpu if cpu is None or cpu >= 0 else None, own.get("rss_bytes"))


def tenures(ask: Ask, node: str) -> tuple[Tenure, ...]:
    """What was and is in each place in which something was replaced by then, the newest first."""
    rows = ask.rows(
        f"""
SELECT kind, slot, gpu_index, gpu_name, identity, from_ns, until_ns, replaced_by FROM places
WHERE node = {literal(node)} AND {ask.until("from_ns")}
QUALIFY count(*) OVER (PARTITION BY source, kind, slot) > 1
ORDER BY from_ns DESC LIMIT {PLACES_MAX}
""",
        PLACES_SECONDS,
    )
    return tuple(Tenure(**row) for row in rows.to_pylist())
