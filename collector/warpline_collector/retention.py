"""How long rows are kept: settings by table, which segments have to go, and the DELETEs of small tables.

A segment's age counts from when it was sealed, by the collector's clock: rows may bear any date. Small tables have no such
mark, so theirs counts back from their own newest row, or from now where that is later than now.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from warpline_proto.table import Table
from warpline_proto.tables import CAPTURES, FINDINGS, KERNEL_NAMES, TABLES

from .schema import quoted
from .segments import Segment

DAY_NS: Final = 86_400 * 10**9
ROWS_LOOK_NS: Final = 3_600 * 10**9
"""Rows of small tables and of the ledger are looked at as often as this at least."""
FINDING_STATES_MAX: Final = 50
"""States of one finding, the newest; more is a flapping one, of which no more is to be learned."""
SPAN_SHARE: Final = 10
"""Segments are merged as long as one spans no more than this part of its time of keeping, a day at least: they go whole.

What is kept for less than a day spans no more than that time."""
_RULE: Final = re.compile(
    r"(?:(?P<age>[0-9]{1,6}) (?P<span>day|hour|minute)s?|forever)(?:, (?P<size>[0-9]{1,6}) ?(?P<unit>[MGT])B)?"
)
_SPANS: Final = {"minute": 60 * 10**9, "hour": 3_600 * 10**9, "day": DAY_NS}
_UNITS: Final = {"M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Rule:
    """Nanoseconds and bytes of one table; None is no bound."""

    age_ns: int | None
    bytes_max: int | None

    def outlasts(self, other: Rule) -> bool:
        """Whether by age what this rule keeps stays as long as what the other keeps."""
        return self.age_ns is None or (other.age_ns is not None and self.age_ns >= other.age_ns)

    def times(self, factor: int) -> Rule:
        """The rule with wider bounds."""
        return Rule(
            None if self.age_ns is None else factor * self.age_ns,
            None if self.bytes_max is None else factor * self.bytes_max,
        )


@dataclass(frozen=True)
class Config:
    """How long each table is kept: "N days" (hours, minutes), "N days, N GB" (MB, TB; its files) or "forever".

    What is found and what was drawn stays for years, kernels and steps for weeks, readings for two, what was captured raw for
    three days; ten-minute histories outlive readings and steps. `account_merge_days` old rows of the energy account are merged
    by the hour, `history_days` old states of findings go but for the newest of each, and an agent that sent nothing for
    `agent_days` is one line of the ledger.
    """

    findings: str = "1095 days, 1 GB"
    audit: str = "1095 days, 1 GB"
    energy_intervals: str = "1095 days, 50 GB"
    guard_actions: str = "1095 days, 1 GB"
    inventory: str = "1095 days, 1 GB"
    jobs: str = "1095 days, 1 GB"
    communicators: str = "365 days, 1 GB"
    captures: str = "365 days, 1 GB"
    device_history: str = "730 days, 20 GB"
    steps_history: str = "730 days, 20 GB"
    kernels_history: str = "365 days, 50 GB"
    log_events: str = "365 days, 1 GB"
    probes: str = "365 days, 1 GB"
    capture_overhead: str = "30 days, 1 GB"
    gpu_processes: str = "90 days, 5 GB"
    process_events: str = "30 days, 5 GB"
    kernel_clusters: str = "28 days, 100 GB"
    steps: str = "28 days, 20 GB"
    kernel_names: str = "forever, 1 GB"
    device_samples: str = "14 days, 50 GB"
    host_samples: str = "14 days, 10 GB"
    link_counters: str = "14 days, 20 GB"
    source_health: str = "14 days, 5 GB"
    agents: str = "90 days, 5 GB"
    node_clocks: str = "90 days, 5 GB"
    metrics: str = "14 days, 20 GB"
    phases: str = "14 days, 20 GB"
    collectives: str = "14 days, 50 GB"
    progress: str = "7 days, 5 GB"
    stacks: str = "7 days, 5 GB"
    raw_kernels: str = "3 days, 20 GB"
    other: str = "14 days, 10 GB"
    account_merge_days: int = 60
    history_days: int = 90
    agent_days: int = 90

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and not _RULE.fullmatch(value):
                raise ValueError(f'{field.name} {value!r} is neither "N days", "N days, N GB" nor "forever"')
            if isinstance(value, str) and (rule := _rule(value)) and 0 in (rule.age_ns, rule.bytes_max):
                raise ValueError(f"{field.name} {value!r} keeps nothing: at least 1 minute and 1 MB")
        if min(self.account_merge_days, self.history_days, self.agent_days) < 1:
            raise ValueError("account_merge_days, history_days and agent_days are at least 1")

    def rule(self, table: str) -> Rule:
        """What holds for `table`."""
        return _rule(getattr(self, table, self.other))

    def span_ns(self, table: str) -> int:
        """How much time one merged segment of `table` may span."""
        age_ns = self.rule(table).age_ns
        return DAY_NS if age_ns is None else max(min(DAY_NS, age_ns), age_ns // SPAN_SHARE)

    @property
    def rows_look_ns(self) -> int:
        """How often rows of small tables are held against what is to be kept: within the shortest of their ages."""
        ages = [self.rule(table.name).age_ns for table in TABLES.values() if not table.large]
        return min([ROWS_LOOK_NS, *(age for age in ages if age is not None)])


@dataclass(frozen=True)
class Going:
    """Segments that have to go, with the reason in words."""

    segments: Sequence[Segment]
    reason: str

    @property
    def rows(self) -> int:
        """Rows in them."""
        return sum(segment.rows for segment in self.segments)

    @property
    def bytes(self) -> int:
        """Bytes of their files."""
        return sum(segment.bytes for segment in self.segments)


def going(segments: Sequence[Segment], rule: Rule, now_ns: int) -> list[Going]:
    """What of one table has to go, the oldest first: by age, then by bytes."""
    listed = sorted(segments, key=lambda segment: (segment.sealed_ns, segment.ordinal))
    found: list[Going] = []
    if rule.age_ns is not None:
        edge_ns = now_ns - rule.age_ns
        if old := [segment for segment in listed if segment.sealed_ns < edge_ns]:
            found.append(Going(old, f"older than {_age(rule.age_ns)}"))
            listed = listed[len(old) :]
    if rule.bytes_max is not None:
        over = sum(segment.bytes for segment in listed) - rule.bytes_max
        surplus: list[Segment] = []
        while over > 0:
            surplus.append(listed[len(surplus)])
            over -= surplus[-1].bytes
        if surplus:
            found.append(Going(surplus, f"beyond {rule.bytes_max / 1e6:g} MB"))
    return found


def surplus(table: Table, config: Config, now_ns: int, bytes_held: int, rows_held: int) -> list[tuple[str, str]]:
    """Conditions of rows of a small table that have to go, each with its reason; `bytes_held` as its files have."""
    rule = config.rule(table.name)
    name, at = quoted(table.name), quoted(table.time)
    found: list[tuple[str, str]] = []
    if table.name == FINDINGS.name:
        found.append((_earlier_states(now_ns - config.history_days * DAY_NS), "earlier states of findings"))
    if table.name == KERNEL_NAMES.name:
        found.append((f"rowid NOT IN (SELECT min(rowid) FROM {name} GROUP BY kernel_id)", "said twice"))
    if rule.age_ns is not None:
        edge = f"least({now_ns}, (SELECT max({at}) FROM {name})) - {rule.age_ns}"
        found.append((f"{at} < {edge}{_STANDING.get(table.name, '')}", f"older than {_age(rule.age_ns)}"))
    if rule.bytes_max is not None and bytes_held > rule.bytes_max:
        over = rows_held - int(rows_held * rule.bytes_max / bytes_held)
        oldest = f"SELECT rowid FROM {name} ORDER BY {at} NULLS FIRST, rowid LIMIT {over}"
        found.append((f"rowid IN ({oldest})", f"beyond {rule.bytes_max / 1e6:g} MB"))
    return found


def _earlier_states(edge_ns: int) -> str:
    """Those behind the newest of each finding that are old, or too many."""
    back = "row_number() OVER (PARTITION BY id ORDER BY updated_ns DESC, rowid DESC) AS back"
    return (
        f"rowid IN (SELECT place FROM (SELECT rowid AS place, updated_ns, {back} FROM {FINDINGS.name}) "
        f"WHERE back > 1 AND (back > {FINDING_STATES_MAX} OR updated_ns < {edge_ns}))"
    )


_STANDING: Final = {
    FINDINGS.name: " AND NOT (state = 'open' AND rowid IN (SELECT arg_max(rowid, updated_ns) FROM findings GROUP BY id))",
    CAPTURES.name: " AND state NOT IN ('requested', 'sent')",
}
"""What stays however old it is: a finding that is open, a request that waits."""


def _rule(words: str) -> Rule:
    match = _RULE.fullmatch(words)
    if match is None:
        raise ValueError(f"{words!r} is no rule")
    age, size = match["age"], match["size"]
    return Rule(
        None if age is None else int(age) * _SPANS[match["span"]],
        None if size is None else int(size) * _UNITS[match["unit"]],
    )


def _age(age_ns: int) -> str:
    """In words, in the largest unit that divides it."""
    name, span_ns = next((name, span_ns) for name, span_ns in reversed(_SPANS.items()) if age_ns % span_ns == 0)
    return f"{age_ns // span_ns} {name}{'s' * (age_ns != span_ns)}"
