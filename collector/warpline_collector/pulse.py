"""Who still sends: how long ago the newest row of a job or a node came, by the collector's own clock.

The rows' own times are compared only with themselves: recorded or made-up rows may carry any date, and a node's clock may be set
back, after which its newest row is an old one for a while. So whatever grows counts: times, steps, when frames came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from warpline_analysis.detector import Reader, literal
from warpline_proto.finding import Subject
from warpline_proto.tables import AGENTS, COMMUNICATORS, FINDINGS, JOBS, SOURCE_HEALTH, STEPS, TABLES

LISTEN_NS: Final = 60 * 10**9
"""How often the store is asked."""
FLEET_SILENCE_NS: Final = 3 * LISTEN_NS
"""Where nobody at all was heard of for so long it is this collector that is cut off, and nobody is called silent."""
_TELL: Final = [
    table
    for table in TABLES.values()
    if table.name not in (FINDINGS.name, JOBS.name, COMMUNICATORS.name)
    and any(column.name == "job" for column in table.columns)
]
"""Tables whose rows show that a job runs."""
_AGENTS: Final = f"FROM {SOURCE_HEALTH.name} WHERE source NOT IN ('analysis', 'collector', 'store')"
_FLEET: Final = Subject()


@dataclass(frozen=True)
class _Heard:
    """What the newest rows said when that last changed, and when it was seen."""

    marker: str | None
    since_ns: int


class Pulse:
    """`listen` asks the store, `silence_ns` answers from what was heard. `silent`: who was silent before the start."""

    def __init__(self, silent: Iterable[Subject] = ()) -> None:
        self._silent = {_key(subject) for subject in silent}
        self._heard: dict[Subject, _Heard] = {}
        self._listened_ns: int | None = None

    def listen(self, reader: Reader, subjects: Iterable[Subject], now_ns: int) -> None:
        """Ask for the newest rows of these, at most once in LISTEN_NS; QueryError if the store cannot say."""
        if self._listened_ns is not None and now_ns - self._listened_ns < LISTEN_NS:
            return
        self._listened_ns = now_ns
        keys = {_key(subject) for subject in subjects} | {_FLEET}
        markers = _newest(reader, keys)
        self._heard = {key: self._following(key, markers.get(key), now_ns) for key in keys}

    def silence_ns(self, subject: Subject, now_ns: int) -> int:
        """How long nothing new came of its job, else of its node; 0 where that is not known."""
        key = _key(subject)
        heard, fleet = self._heard.get(key), self._heard.get(_FLEET)
        if key == _FLEET or heard is None or fleet is None or now_ns - fleet.since_ns >= FLEET_SILENCE_NS:
            return 0
        return now_ns - heard.since_ns

    def _following(self, key: Subject, marker: str | None, now_ns: int) -> _Heard:
        before = self._heard.get(key)
        if before is None:
            return _Heard(marker, 0 if key in self._silent else now_ns)
        return before if before.marker == marker else _Heard(marker, now_ns)


def _key(subject: Subject) -> Subject:
    """What is listened to: the job, else the node."""
    return Subject(job=subject.job) if subject.job is not None else Subject(node=subject.node)


def _newest(reader: Reader, keys: Iterable[Subject]) -> dict[Subject, str | None]:
    jobs = sorted({key.job for key in keys if key.job is not None})
    nodes = sorted({key.node for key in keys if key.node is not None})
    parts = [
        f"SELECT NULL AS job, NULL AS node, max(time_ns) AS newest {_AGENTS}",
        f"SELECT NULL, NULL, max(heard_ns) FROM {AGENTS.name}",
    ]
    if nodes:
        listed = ", ".join(map(literal, nodes))
        parts.append(f"SELECT NULL, node, max(time_ns) {_AGENTS} AND node IN ({listed}) GROUP BY node")
        parts.append(f"SELECT NULL, node, max(heard_ns) FROM {AGENTS.name} WHERE node IN ({listed}) GROUP BY node")
    if jobs:
        listed = ", ".join(map(literal, jobs))
        parts += [
            f"SELECT job, NULL, coalesce(max({table.time}), count(*)) FROM {table.name} WHERE job IN ({listed}) GROUP BY job"
            for table in _TELL
        ]
        parts.append(f"SELECT job, NULL, max(step) FROM {STEPS.name} WHERE job IN ({listed}) GROUP BY job")
    sql = f"SELECT job, node, CAST(sum(newest) AS VARCHAR) AS newest FROM ({' UNION ALL '.join(parts)}) GROUP BY job, node"
    return {Subject(job=row["job"], node=row["node"]): row["newest"] for row in reader.query(sql).to_pylist()}
