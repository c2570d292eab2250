"""One finding by its identifier, what else is known of the same job, node and GPU, and fresh facts that stand beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from warpline_proto.errors import ConfigError, QueryError
from warpline_proto.finding import OPEN, FindingState, Subject
from warpline_proto.newest_run import STEPS, since, told
from warpline_proto.plain import plain
from warpline_tui.incident_text import Beside, markdown
from warpline_tui.money import lost

from . import states
from .asking import Query, text
from .finding_names import identifier
from .json_keys import LIFE

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money

RELATED_MAX: Final = 50
PEERS_SHOWN: Final = 8
STEPS_BACK: Final = 50
"""Peers are compared over so many of the newest steps."""
KERNEL_STEPS_BACK: Final = 20
KERNELS_SHOWN: Final = 8
TROUBLES_SHOWN: Final = 10


@dataclass(frozen=True)
class Explained:
    """A finding with its life, other findings that share its job, node or GPU, and facts asked for now."""

    state: FindingState
    related: tuple[FindingState, ...]
    beside: tuple[Beside, ...]
    money: str | None

    def markdown(self) -> str:
        """For a ticket."""
        return markdown(self.state, self.related, self.beside, self.money)

    def to_json(self) -> dict[str, Any]:
        """The finding in its published form, with its life, and what stands beside it."""
        return {
            **lived(self.state),
            "related": [lived(other) for other in self.related],
            "beside": [{"title": each.title, "sql": each.sql, "rows": plain(each.rows)} for each in self.beside],
            "markdown": self.markdown(),
        }


def lived(state: FindingState) -> dict[str, Any]:
    """The finding in its published form, with its life."""
    return state.finding.to_json() | {key: getattr(state, key) for key in LIFE}


def explain(query: Query, wanted: str, prices: Money | None) -> Explained:
    """The finding whose identifier is `wanted`, or begins so; ConfigError where there is none, or more than one."""
    state = _named(query, wanted)
    amount = lost(state.finding.cost, prices, state.finding.onset.time_ns or state.opened_ns)
    money = None if amount is None else str(amount)
    related = tuple(other for other in _related(query, state) if other.finding.id != state.finding.id)
    return Explained(state, related, tuple(_beside(query, state.finding.subject)), money)


def _named(query: Query, wanted: str) -> FindingState:
    name = identifier(query, wanted)
    found = _states(query, f"WHERE id = {text(name)} {states.NEWEST}")
    if not found:
        raise ConfigError(f"finding {name} is kept in a form that this version cannot read", "another version wrote it")
    return found[0]


def _related(query: Query, state: FindingState) -> list[FindingState]:
    """Open ones first, then the last that changed."""
    subject = state.finding.subject
    same = [
        f"{column} = {text(value)}"
        for column, value in (("job", subject.job), ("node", subject.node), ("gpu_uuid", subject.gpu))
        if value is not None
    ]
    if not same:
        return []
    order = f"ORDER BY state <> '{OPEN}', updated_ns DESC LIMIT {RELATED_MAX}"
    return _states(query, f"WHERE {' OR '.join(same)} {states.NEWEST} {order}")


def _states(query: Query, rest: str) -> list[FindingState]:
    return states.read(query(f"SELECT {states.COLUMNS} FROM findings {rest}").to_pylist())


def _beside(query: Query, subject: Subject) -> Iterator[Beside]:
    """What can be asked now; a question that fails leaves its table out."""
    for title, sql in _questions(subject):
        try:
            rows = query(sql).to_pylist()
        except QueryError:
            continue
        if rows:
            yield Beside(title, sql, tuple(rows))


def _questions(subject: Subject) -> Iterator[tuple[str, str]]:
    if subject.job is not None and subject.rank is not None:
        yield f"Its newest {STEPS_BACK} steps beside its peers'", _peers(subject)
        yield "Kernels that take it longer than its peers", _kernels(subject)
    if subject.gpu is not None:
        yield "Its GPU when last read", _gpu(subject.gpu)
    if subject.node is not None:
        yield "What of its node is not fresh", _troubles(subject.node)


def _peers(subject: Subject) -> str:
    stage = "NULL" if subject.stage is None else subject.stage
    of = f"job = {text(subject.job or '')} AND scope = 'step'"
    return f"""
WITH {told(of)}
SELECT s.rank, any_value(node) AS node, count(*) AS steps, round(median(duration_ns) / 1e6, 3) AS step_ms,
  round(median(compute_ns) / 1e6, 3) AS compute_ms, round(median(exposed_communication_ns) / 1e6, 3) AS exposed_communication_ms,
  round(median(idle_ns) / 1e6, 3) AS idle_ms, round(median(data_wait_ns) / 1e6, 3) AS data_wait_ms
FROM {STEPS}
WHERE scope = 'step' AND s.step IS NOT NULL AND pp IS NOT DISTINCT FROM {stage} AND {since(STEPS_BACK)}
GROUP BY s.rank ORDER BY s.rank IS DISTINCT FROM {subject.rank}, compute_ms DESC NULLS LAST, s.rank LIMIT {PEERS_SHOWN}""".strip()


def _kernels(subject: Subject) -> str:
    """Of the newest steps of which its own kernels are told, whatever is told of its peers'."""
    job, stage = text(subject.job or ""), "NULL" if subject.stage is None else subject.stage
    own = f"rank = {subject.rank}"
    return f"""
WITH {told(f"job = {job} AND {own}", "kernel_clusters")}, newest AS (
  SELECT coalesce(runs.step, told.step) AS last, run_ns FROM told LEFT JOIN runs ON told.job = runs.job
)
SELECT coalesce(name, kernel_id::VARCHAR) AS kernel, round(own / 1e3, 2) AS microseconds,
  round(peers / 1e3, 2) AS peers_microseconds, round(own / peers, 3) AS ratio, launches
FROM (
  SELECT kernel_id, sum(sum_ns) FILTER ({own}) / sum(count) FILTER ({own}) AS own,
    sum(sum_ns) FILTER (NOT {own}) / sum(count) FILTER (NOT {own}) AS peers,
    CAST(sum(count) FILTER ({own}) AS BIGINT) AS launches
  FROM kernel_clusters, newest
  WHERE job = {job} AND rank IS NOT NULL AND pp IS NOT DISTINCT FROM {stage} AND category <> 'communication'
    AND step > last - {KERNEL_STEPS_BACK} AND (start_ns > run_ns) IS NOT FALSE
  GROUP BY kernel_id
) LEFT JOIN (SELECT kernel_id, min(name) AS name FROM kernel_names GROUP BY kernel_id) USING (kernel_id)
WHERE own > peers AND peers > 0 ORDER BY (own - peers) * launches DESC, kernel LIMIT {KERNELS_SHOWN}""".strip()


def _gpu(gpu: str) -> str:
    return f"""
SELECT node, gpu_index, gpu_name, make_timestamp(time_ns // 1000) AS read_utc, power_watts, power_limit_watts, sm_clock_mhz,
  sm_clock_max_mhz, temperature_celsius, gpu_utilization_percent, memory_used_bytes, clock_event_reasons
FROM latest_device_samples WHERE gpu_uuid = {text(gpu)} LIMIT 1""".strip()


def _troubles(node: str) -> str:
    return f"""
SELECT source, subject, state, reason FROM source_state
WHERE node = {text(node)} AND state NOT IN ('fresh', 'unsupported') ORDER BY source, subject LIMIT {TROUBLES_SHOWN}""".strip()
