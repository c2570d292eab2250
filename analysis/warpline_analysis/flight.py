"""Flight-recorder dumps of one job: what each rank has pending, how far each is on each process group, whose dump is absent.

Process-group ids repeat for disjoint groups, so a group is its id and its ranks. Sends and receives are numbered by each rank
for itself and are never compared by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .detector import Reader, literal

ROWS_MAX: Final = 500_000
"""Rows of one question; a job with more is judged on these, and the finding says so."""
SOURCE: Final = "flight_recorder"
POINT_TO_POINT: Final = ("send", "recv")
BRACKETS: Final = ("nccl:coalesced", "coalesced")

Key = str
"""A group: its id and its ranks."""


@dataclass(frozen=True)
class Group:
    """One process group. `ranks` are those it was made of; where no dump says so, those that were seen in it."""

    key: Key
    communicator: str
    name: str | None
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        kind = f"{self.name}, " if self.name else ""
        return f"{kind}communicator {self.communicator}"


@dataclass(frozen=True)
class Pending:
    """The oldest operation that a rank has pending on a group; of sends and receives, the oldest with each peer."""

    rank: int
    key: Key
    sequence: int
    operation: str | None
    start_ns: int | None
    peer: int | None = None

    @property
    def order(self) -> tuple[bool, int, int]:
        """In the order in which the rank issued them."""
        return self.start_ns is None, self.start_ns or 0, self.sequence


@dataclass(frozen=True)
class Dumps:
    """All dumps of a job.

    `reached` and `completed` give the newest collective that a rank has issued and completed on a group; a rank without an
    entry has said nothing. `issued` says what the ranks issued under one number of one group.
    """

    job: str | None
    groups: Mapping[Key, Group]
    present: frozenset[int]
    pending: tuple[Pending, ...] = ()
    reached: Mapping[tuple[int, Key], int] = field(default_factory=dict)
    completed: Mapping[tuple[int, Key], int] = field(default_factory=dict)
    issued: Mapping[tuple[Key, int], Mapping[int, tuple[Any, ...]]] = field(default_factory=dict)
    counts: Mapping[int, int] = field(default_factory=dict)
    entries: int = 0
    unfinished: int = 0
    cut: bool = False

    @property
    def world(self) -> frozenset[int]:
        """Every rank that a group names or a dump is of."""
        return self.present.union(*(group.ranks for group in self.groups.values()))

    @property
    def absent(self) -> frozenset[int]:
        """Ranks without a dump."""
        return self.world - self.present


def dumped_jobs(reader: Reader) -> list[str | None]:
    """Jobs with flight-recorder dumps."""
    rows = reader.query(
        f"SELECT DISTINCT job FROM communicators WHERE source = '{SOURCE}' UNION "
        f"SELECT DISTINCT job FROM collectives WHERE source = '{SOURCE}' ORDER BY job"
    ).to_pylist()
    return [row["job"] for row in rows]


def _of(job: str | None) -> str:
    return f"source = '{SOURCE}' AND job IS NOT DISTINCT FROM {literal(job)} AND rank IS NOT NULL AND communicator IS NOT NULL"


def _entries(job: str | None) -> str:
    """WITH clause: `members`, one row a rank and group with something pending, and `entries`, one a rank and operation.

    Left out are sends and receives whose peer is not known and the brackets around batches of them: both are numbered by
    each rank for itself and say nothing that can be compared. An operation that the group's own count has passed is done,
    whatever an earlier dump, or a recorder that does not note it, says of it.
    """
    return (
        "WITH members AS (SELECT rank, communicator, communicator || ' ' || hash(any_value(ranks)) AS key, "
        "any_value(ranks) AS ranks, any_value(group_name) AS name, max(last_enqueued) AS enqueued, max(last_completed) AS "
        f"completed FROM communicators WHERE {_of(job)} AND communicator IN (SELECT communicator FROM collectives WHERE "
        f"{_of(job)} AND state != 'completed') GROUP BY rank, communicator), entries AS (SELECT rank, communicator, "
        "coalesce(members.key, communicator || ' ') AS key, sequence, operation, "
        f"CASE WHEN operation IN {POINT_TO_POINT} THEN peer END AS peer, operation IN {POINT_TO_POINT} AS paired, "
        f"bool_or(state = 'completed' OR coalesce(operation NOT IN {POINT_TO_POINT} AND sequence <= members.completed, false)) "
        "AS done, min(start_ns) AS start_ns, max(elements) AS elements, any_value(datatype) AS datatype, "
        "any_value(collectives.group_name) AS name FROM collectives LEFT JOIN members USING (rank, communicator) "
        f"WHERE {_of(job)} AND sequence IS NOT NULL AND state IS NOT NULL AND coalesce(operation, '') NOT IN {BRACKETS} "
        f"AND (peer IS NOT NULL OR coalesce(operation, '') NOT IN {POINT_TO_POINT}) GROUP BY ALL) "
    )


def load_dumps(reader: Reader, job: str | None) -> Dumps:
    """Everything that a judgement on a hang needs, and no more: only the oldest pending operations are fetched one by one."""
    entries = _entries(job)

    def ask(question: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = reader.query(f"{entries}{question} LIMIT {ROWS_MAX}").to_pylist()
        return rows

    ranks = ask(
        "SELECT rank, count(key) AS entries, count(*) FILTER (NOT done) AS pending FROM (SELECT rank, key, done FROM entries "
        f"UNION ALL SELECT DISTINCT rank, NULL, NULL FROM communicators WHERE {_of(job)}) GROUP BY rank ORDER BY rank"
    )
    pending = ask(
        "SELECT rank, key, min(sequence) AS sequence, arg_min(operation, sequence) AS operation, arg_min(start_ns, sequence) AS "
        "start_ns, peer FROM entries WHERE NOT done GROUP BY rank, key, peer, CASE WHEN paired THEN operation END, paired "
        "ORDER BY rank, key, sequence"
    )
    groups = _groups(
        ask(
            "SELECT key, any_value(communicator) AS communicator, any_value(name) AS name, any_value(ranks) AS ranks, "
            "list(DISTINCT rank) AS seen FROM (SELECT key, communicator, name, ranks, rank FROM members UNION ALL "
            "SELECT key, communicator, name, NULL, rank FROM entries) WHERE key IN (SELECT key FROM entries WHERE NOT done) "
            "GROUP BY key ORDER BY key"
        )
    )
    progress = ask(
        "SELECT rank, key, max(reached) AS reached, max(completed) AS completed FROM (SELECT rank, key, enqueued AS reached, "
        "completed FROM members WHERE key NOT IN (SELECT key FROM entries WHERE paired) UNION ALL SELECT rank, key, sequence, "
        "CASE WHEN done THEN sequence END FROM entries WHERE NOT paired) WHERE key IN (SELECT key FROM entries WHERE NOT done) "
        "GROUP BY rank, key ORDER BY rank, key"
    )
    issued = ask(
        "SELECT rank, key, sequence, operation, elements, datatype FROM entries WHERE NOT paired AND (key, sequence) IN "
        "(SELECT (key, min(sequence)) FROM entries WHERE NOT done AND NOT paired GROUP BY rank, key) ORDER BY key, sequence, rank"
    )
    return Dumps(
        job,
        groups,
        frozenset(row["rank"] for row in ranks),
        tuple(Pending(**row) for row in pending),
        {(row["rank"], row["key"]): row["reached"] for row in progress if row["reached"] is not None},
        {(row["rank"], row["key"]): row["completed"] for row in progress if row["completed"] is not None},
        _issued(issued),
        {row["rank"]: row["pending"] for row in ranks},
        sum(row["entries"] for row in ranks),
        sum(row["pending"] for row in ranks),
        max(len(pending), len(progress), len(issued)) >= ROWS_MAX,
    )


def _groups(rows: list[dict[str, Any]]) -> dict[Key, Group]:
    return {
        row["key"]: Group(row["key"], row["communicator"], row["name"], tuple(row["ranks"] or sorted(row["seen"])))
        for row in rows
    }


def _issued(rows: list[dict[str, Any]]) -> dict[tuple[Key, int], dict[int, tuple[Any, ...]]]:
    found: dict[tuple[Key, int], dict[int, tuple[Any, ...]]] = {}
    for row in rows:
        operations = found.setdefault((row["key"], row["sequence"]), {})
        operations[row["rank"]] = (row["operation"], row["elements"], row["datatype"])
    return found


def progress_sql(job: str | None, communicator: str, ranks: tuple[int, ...]) -> str:
    """SELECT of how far each rank of a group is, those behind first."""
    same = f"communicator = {literal(communicator)} AND rank IN ({', '.join(map(str, ranks))})"
    return (
        "SELECT rank, max(last_enqueued) AS last_enqueued, max(last_completed) AS last_completed, coalesce(max(pending), 0) AS "
        "pending, max(oldest_pending) AS oldest_pending FROM communicators LEFT JOIN (SELECT rank, count(*) AS pending, "
        f"min(sequence) AS oldest_pending FROM collectives WHERE {_of(job)} AND {same} AND state != 'completed' "
        f"GROUP BY rank) USING (rank) WHERE {_of(job)} AND {same} GROUP BY rank ORDER BY last_enqueued NULLS FIRST, rank"
    )
