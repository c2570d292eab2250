"""What it costs in energy that others wait for a late rank: they spin at full clocks meanwhile.

A rank that waits in a collective counts as active, so that no measure of idleness shows this; it is charged to whom they wait
for. Waiting time comes from the collectives, power from the readings of the waiting ranks' GPUs. Where the energy account has
seen such a GPU wait in that time, no more is claimed of it than was drawn then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from warpline_proto.finding import Finding

from .detector import Reader, literal
from .energy.states import STATES, State
from .jobs import EPOCH_NS_MIN
from .waits import WINDOW_OPERATIONS, Waits, timed


def charged(
    reader: Reader, finding: Finding, job: str, late: Collection[int], waits: Sequence[Waits], since: int
) -> Finding:
    """The finding with the joules of those who wait for the late ranks; `waits` are of steps from `since` on."""
    return replace(finding, cost=replace(finding.cost, joules=joules(reader, job, late, waits, since)))


def joules(reader: Reader, job: str, late: Collection[int], waits: Sequence[Waits], since: int) -> float | None:
    """Energy that the other ranks drew while they waited in the collectives that the late ranks take part in.

    None where nobody waits, or where the power of one that waits is not known.
    """
    seconds: dict[int, float] = {}
    for each in waits:
        mine = np.isin(each.ranks, list(late))
        if not mine.any():
            continue
        for rank, waiting in zip(each.ranks[~mine].tolist(), each.waiting[~mine].tolist(), strict=True):
            seconds[rank] = seconds.get(rank, 0.0) + waiting * each.operations
    watts = _watts(reader, job) if seconds else {}
    if not seconds or any(rank not in watts for rank in seconds):
        return None
    seen = _measured(reader, job, since)
    return sum(min(watts[rank] * waiting, seen.get(rank, np.inf)) for rank, waiting in seconds.items())


def _watts(reader: Reader, job: str) -> dict[int, float]:
    """Mean power by rank while its job was seen: what was drawn in waiting alone cannot be told at one reading a second.

    Of whole milliwatts, whose sum is the same in whatever order they are added.
    """
    rows = reader.query(
        f"WITH ranks AS ({_ranks_sql(job)}) "
        "SELECT rank, avg(round(power_watts * 1e3)::BIGINT) / 1e3 AS watts FROM device_samples JOIN ranks USING (gpu_uuid) "
        f"WHERE power_watts IS NOT NULL AND coalesce(job, {literal(job)}) = {literal(job)} GROUP BY rank"
    ).to_pylist()
    return {row["rank"]: row["watts"] for row in rows}


def _measured(reader: Reader, job: str, since: int) -> dict[int, float]:
    """Joules by rank that its GPU drew in busy-wait, in the time of the collectives that are looked at.

    Of ranks whose GPU was seen to wait at all: single waits that are much shorter than a second are not.
    """
    newest = f"{timed(job, WINDOW_OPERATIONS)} AND coalesce(step, {since}) >= {since} AND start_ns >= {EPOCH_NS_MIN}"
    [time] = reader.query(
        f"SELECT min(start_ns) AS start_ns, max(start_ns + duration_ns) AS end_ns {newest}"
    ).to_pylist()
    if time["start_ns"] is None:
        return {}
    from_ns, to_ns = time["start_ns"], time["end_ns"]
    within = f"(least(end_ns, {to_ns}) - greatest(start_ns, {from_ns})) / (end_ns - start_ns)"
    rows = reader.query(
        f"WITH ranks AS ({_ranks_sql(job)}), account AS (SELECT gpu_uuid, state, joules, start_ns, end_ns FROM energy_intervals "
        f"WHERE gpu_uuid IN (SELECT gpu_uuid FROM ranks) AND end_ns > {from_ns} AND start_ns < {to_ns} "
        "QUALIFY updated_ns = max(updated_ns) OVER (PARTITION BY node, gpu_uuid, window_ns)) "
        f"SELECT rank, sum(round(joules * {within} * 1e3)::BIGINT) / 1e3 AS joules FROM account JOIN ranks USING (gpu_uuid) "
        f"WHERE state = {literal(STATES[State.BUSY_WAIT])} AND joules IS NOT NULL AND end_ns > start_ns GROUP BY rank"
    ).to_pylist()
    return {row["rank"]: row["joules"] for row in rows}


def _ranks_sql(job: str) -> str:
    """Rank and GPU of each rank of a job."""
    known = f"WHERE job = {literal(job)} AND rank IS NOT NULL AND gpu_uuid IS NOT NULL"
    return f"SELECT DISTINCT rank, gpu_uuid FROM communicators {known} UNION SELECT DISTINCT rank, gpu_uuid FROM steps {known}"
