"""Why a host is late: data loader, garbage collection or a CPU that is not its own, each only where the rows say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Evidence

from .detector import Reader, literal, show
from .host_gaps import COLLECTION, LOADER
from .node_clocks import on_one_clock

EXPLAINS: Final = 0.5
"""A cause explains a gap when it takes the accused at least this share of it longer than the peers."""
IOWAIT_POINTS: Final = 10.0
STEAL_POINTS: Final = 5.0
CPU_POINTS: Final = 20.0
"""Percentage points of all cores by which a node must stand above the job's other nodes."""
CPU_FULL_PERCENT: Final = 90.0
"""CPU in use is contention only from here on."""


@dataclass(frozen=True)
class Cause:
    """What makes the host late: `name` as a sentence says it, the figures, the rows, and what to do."""

    name: str
    figures: str
    next_step: str
    evidence: tuple[Evidence, ...] = ()


UNKNOWN_HOST: Final = Cause(
    "its host",
    "",
    "Take stacks of the training process on this rank over some steps (py-spy dump): they tell data loading, garbage "
    "collection, compilation and locks apart; compare CPU frequency, other processes and NUMA binding with a peer's node",
)
LOADER_STEP: Final = (
    "Compare data loader workers, prefetching, storage and decoding with a peer's; a rank's shard on slow storage and too few "
    "workers look like this"
)


@dataclass(frozen=True)
class Accused:
    """Who is late, beside whom, since when, and by how many seconds a step."""

    job: str
    rank: int
    node: str | None
    peers: tuple[int, ...]
    first_step: int
    since_ns: int | None
    excess_seconds: float


def find_cause(reader: Reader, accused: Accused) -> Cause:
    """The first cause that the rows show; `UNKNOWN_HOST` where they show none."""
    return _loader(reader, accused) or _collection(reader, accused) or _contention(reader, accused) or UNKNOWN_HOST


def _loader(reader: Reader, accused: Accused) -> Cause | None:
    told = (
        _excess(reader, accused, "steps", "scope = 'step' AND data_wait_ns IS NOT NULL", "avg(data_wait_ns)"),
        _excess(
            reader, accused, "phases", "duration_ns IS NOT NULL", f"coalesce(sum(duration_ns) FILTER ({LOADER}), 0)"
        ),
    )
    found = max((each for each in told if each), key=lambda each: each[0], default=None)
    if found is None or found[0] < EXPLAINS * accused.excess_seconds:
        return None
    return Cause(
        "its data loader", f"it waits {found[0]:.3g} s a step longer for data than its peers", LOADER_STEP, (found[1],)
    )


def _collection(reader: Reader, accused: Accused) -> Cause | None:
    gap = f"coalesce(sum(duration_ns) FILTER ({COLLECTION}), 0)"
    found = _excess(reader, accused, "phases", "duration_ns IS NOT NULL", gap)
    if found is None or found[0] < EXPLAINS * accused.excess_seconds:
        return None
    return Cause(
        "garbage collection",
        f"it collects garbage {found[0]:.3g} s a step longer than its peers",
        "Switch automatic garbage collection off and collect on all ranks together every few hundred steps (gc.disable, "
        "gc.collect, gc.freeze after start-up)",
        (found[1],),
    )


def _excess(reader: Reader, accused: Accused, table: str, rows: str, gap: str) -> tuple[float, Evidence] | None:
    """Seconds a step that the accused spends longer than the median peer, and the rows that show it."""
    ranks = ", ".join(str(rank) for rank in (accused.rank, *accused.peers))
    sql = (
        f"SELECT rank, round(median(gap), 6) AS seconds_per_step, count(*) AS steps FROM (SELECT rank, step, {gap} / 1e9 AS gap "
        f"FROM {table} WHERE job = {literal(accused.job)} AND {rows} AND rank IN ({ranks}) AND step >= {accused.first_step} "
        "GROUP BY rank, step) GROUP BY rank ORDER BY seconds_per_step DESC, rank"
    )
    typical = reader.query(
        f"SELECT median(seconds_per_step) FILTER (rank = {accused.rank}) AS own, "
        f"median(seconds_per_step) FILTER (rank <> {accused.rank}) AS peers FROM ({sql})"
    ).to_pylist()[0]
    if typical["own"] is None or typical["peers"] is None:
        return None
    return typical["own"] - typical["peers"], show(reader, sql)


def _contention(reader: Reader, accused: Accused) -> Cause | None:
    if accused.node is None:
        return None
    since = "" if accused.since_ns is None else f" AND {on_one_clock(reader)} >= {accused.since_ns}"
    nodes = f"SELECT DISTINCT node FROM steps WHERE job = {literal(accused.job)} UNION SELECT {literal(accused.node)}"
    evidence = show(
        reader,
        "SELECT node, round(median(cpu_percent), 1) AS cpu_percent, round(median(cpu_iowait_percent), 1) AS iowait_percent, "
        f"round(median(cpu_steal_percent), 1) AS steal_percent, count(*) AS readings FROM host_samples WHERE node IN ({nodes})"
        f"{since} GROUP BY node ORDER BY node = {literal(accused.node)} DESC, node",
    )
    own = next((row for row in evidence.rows if row["node"] == accused.node), None)
    others = [row for row in evidence.rows if row["node"] != accused.node]
    figures = _standing_out(own, others) if own else None
    if figures is None:
        return None
    return Cause(
        "contention for the CPU of its node",
        figures,
        f"On {accused.node}: find what else uses its CPU or disks (other jobs, monitoring, a noisy virtual neighbour where steal "
        "is high), and check that the training processes are pinned to their cores",
        (evidence,),
    )


def _standing_out(own: Any, others: Sequence[Any]) -> str | None:
    for column, points, name in (
        ("steal_percent", STEAL_POINTS, "taken by the hypervisor"),
        ("iowait_percent", IOWAIT_POINTS, "waiting for input and output"),
        ("cpu_percent", CPU_POINTS, "in use"),
    ):
        beside = sorted(row[column] for row in others if row[column] is not None)
        if own[column] is None or not beside:
            continue
        usual = beside[len(beside) // 2]
        full = column != "cpu_percent" or own[column] >= CPU_FULL_PERCENT
        if full and own[column] >= usual + points:
            return f"{own[column]:.0f} % of its node's CPU is {name}, {usual:.0f} % on the job's other nodes"
    return None
