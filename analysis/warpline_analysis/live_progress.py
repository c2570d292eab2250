"""Where the ranks of a job stand now, from table `progress`: what each is at, and how far it is on each communicator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.progress_table import BLOCKED, ENDED, GONE, IN_COLLECTIVE, SILENT

from .detector import Reader, literal
from .flight import Dumps, Group, Key, Pending
from .node_clocks import on_one_clock

WINDOW_NS: Final = 3_600 * 10**9
"""Rows so much older than the newest are not looked at."""
STALE_NS: Final = 90 * 10**9
"""A rank of which nothing was told for so long, while others were, is not watched any more: three of its agent's rounds."""
ROWS_MAX: Final = 200_000
QUIET: Final = (IN_COLLECTIVE, SILENT, BLOCKED)
OVER: Final = (ENDED, GONE)
NOBODY: Final = -1
"""Stands for the members of a communicator that are not watched."""


@dataclass(frozen=True)
class Position:
    """One rank: what it is at, since when, and why that is said."""

    rank: int
    state: str
    since_ns: int | None
    time_ns: int
    reason: str
    node: str | None = None
    gpu: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Newest:
    """The newest of one operation that one rank has enqueued on one communicator."""

    sequence: int
    elements: int | None
    datatype: str | None
    enqueued_ns: int | None


@dataclass(frozen=True)
class Together:
    """One communicator: ranks of it that are watched, how many it has, and of each operation how far each rank is."""

    communicator: str
    name: str | None
    ranks: tuple[int, ...]
    nranks: int | None
    operations: Mapping[str, Mapping[int, Newest]]

    @property
    def whole(self) -> bool:
        """Whether every member is watched."""
        return self.nranks is not None and len(self.ranks) >= self.nranks


@dataclass(frozen=True)
class Live:
    """One job. `unheard` are ranks of which nothing was told of late."""

    job: str
    positions: Mapping[int, Position]
    communicators: Sequence[Together] = ()
    unheard: tuple[int, ...] = ()
    size: int | None = None

    def at(self, *states: str) -> list[int]:
        """Ranks that stand at one of these."""
        return sorted(rank for rank, position in self.positions.items() if position.state in states)


def live_jobs(reader: Reader) -> list[Live]:
    """Every job whose processes are watched."""
    time, since, enqueued = (on_one_clock(reader, column) for column in ("time_ns", "since_ns", "enqueued_ns"))
    rows = reader.query(
        f"WITH placed AS (SELECT * REPLACE ({time} AS time_ns, {since} AS since_ns, {enqueued} AS enqueued_ns) FROM progress) "
        "SELECT job, rank, node, gpu_uuid, pid, time_ns, state, since_ns, reason, step, watched, communicator, nranks, "
        "group_name, operation, sequence, elements, datatype, enqueued_ns FROM placed WHERE job IS NOT NULL AND rank IS NOT "
        f"NULL AND state IS NOT NULL AND time_ns >= (SELECT max(time_ns) FROM placed) - {WINDOW_NS} QUALIFY time_ns = "
        "max(time_ns) OVER (PARTITION BY job, rank, node, pid) ORDER BY job, rank, pid, communicator NULLS FIRST, operation "
        f"LIMIT {ROWS_MAX}"
    ).to_pylist()
    sizes = _sizes(reader) if rows else {}
    by_job: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_job[row["job"]].append(row)
    return [_live(job, found, sizes.get(job)) for job, found in by_job.items()]


def _sizes(reader: Reader) -> dict[str, int]:
    rows = reader.query("SELECT job, max(world_size) AS size FROM jobs WHERE world_size > 0 GROUP BY job").to_pylist()
    return {row["job"]: row["size"] for row in rows}


def _live(job: str, rows: Sequence[Mapping[str, Any]], size: int | None) -> Live:
    heard_ns = max(row["time_ns"] for row in rows) - STALE_NS
    by_rank: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_rank[row["rank"]].append(row)
    chosen = {rank: _process(found, heard_ns) for rank, found in by_rank.items()}
    heard = {rank: found for rank, found in chosen.items() if _heard(found[0], heard_ns)}
    told = [row for found in heard.values() for row in found if row["communicator"] is not None]
    positions = {rank: _position(found[0]) for rank, found in heard.items()}
    return Live(job, positions, _communicators(told), tuple(sorted(chosen.keys() - heard.keys())), size)


def _process(rows: Sequence[Mapping[str, Any]], heard_ns: int) -> list[Mapping[str, Any]]:
    """Rows of the one process that trains, of several that bear the same rank: children of it, or an earlier one."""
    by_pid: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        by_pid[row["node"], row["pid"]].append(row)

    def trains(found: Sequence[Mapping[str, Any]]) -> tuple[bool, bool, bool, bool, int]:
        first = found[0]
        lives = first["state"] not in OVER
        return _heard(first, heard_ns), lives, bool(first["watched"]), first["step"] is not None, first["time_ns"]

    return max(by_pid.values(), key=trains)


def _heard(row: Mapping[str, Any], heard_ns: int) -> bool:
    """Whether something was told of late; that a process is over is told once."""
    return bool(row["time_ns"] >= heard_ns or row["state"] in OVER)


def _position(row: Mapping[str, Any]) -> Position:
    return Position(
        row["rank"], row["state"], row["since_ns"], row["time_ns"], row["reason"] or "", row["node"], row["gpu_uuid"],
        row["pid"],
    )  # fmt: skip


def _communicators(rows: Sequence[Mapping[str, Any]]) -> list[Together]:
    """Those of more than one rank: on one of a single rank nobody waits."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["nranks"] != 1:
            found[row["communicator"]].append(row)
    return [_together(name, members) for name, members in found.items()]


def _together(communicator: str, rows: Sequence[Mapping[str, Any]]) -> Together:
    operations: dict[str, dict[int, Newest]] = defaultdict(dict)
    for row in rows:
        if row["operation"] is not None and row["sequence"] is not None:
            newest = Newest(row["sequence"], row["elements"], row["datatype"], row["enqueued_ns"])
            operations[row["operation"]][row["rank"]] = newest
    sizes = {row["nranks"] for row in rows if row["nranks"] is not None}
    name = next((row["group_name"] for row in rows if row["group_name"]), None)
    ranks = tuple(sorted({row["rank"] for row in rows}))
    return Together(communicator, name, ranks, sizes.pop() if len(sizes) == 1 else None, operations)


def as_dumps(live: Live) -> Dumps:
    """The same as flight-recorder dumps of one moment, for the graph of who waits for whom.

    NCCL numbers each operation of a communicator by itself, so that each is a group of its own here. Whoever is ahead of
    another member waits in the first operation that the other has not enqueued; where all have enqueued the same, none is
    pending as far as this shows.
    """
    groups: dict[Key, Group] = {}
    pending: list[Pending] = []
    reached: dict[tuple[int, Key], int] = {}
    issued: dict[tuple[Key, int], dict[int, tuple[Any, ...]]] = {}
    for each in live.communicators:
        for operation, newest in each.operations.items():
            key = key_of(each.communicator, operation)
            groups[key] = Group(key, each.communicator, each.name, each.ranks if each.whole else (*each.ranks, NOBODY))
            reached |= {(rank, key): newest[rank].sequence if rank in newest else -1 for rank in each.ranks}
            lowest = min(reached[rank, key] for rank in each.ranks)
            for rank, at in newest.items():
                if at.sequence > lowest:
                    pending.append(Pending(rank, key, lowest + 1, operation, at.enqueued_ns))
                if at.sequence == lowest + 1:
                    issued.setdefault((key, lowest + 1), {})[rank] = (operation, at.elements, at.datatype)
    present = frozenset(live.positions)
    return Dumps(live.job, groups, present, tuple(pending), reached, {}, issued, unfinished=len(pending))


def key_of(communicator: str, operation: str) -> Key:
    """Of one operation of one communicator."""
    return f"{communicator} {operation}"


def newest_sql(job: str, communicator: str | None = None) -> str:
    """SELECT of where each rank stands, or of how far each is on one communicator, those behind first."""
    of = f"job = {literal(job)} AND communicator {'IS NULL' if communicator is None else '= ' + literal(communicator)}"
    return (
        "SELECT rank, node, pid, state, operation, sequence, enqueued_ns, since_ns, time_ns, reason FROM progress WHERE "
        f"{of} QUALIFY time_ns = max(time_ns) OVER (PARTITION BY rank) ORDER BY sequence NULLS FIRST, rank, operation"
    )
