"""What it costs in energy that others wait for a late rank: they spin at full clocks meanwhile.

A rank that waits in a collective counts as active, so that no measure of idleness shows this; it is charged to whom they wait
for. Waiting time comes from the collectives, power from the readings of the waiting ranks' GPUs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .detector import Reader, literal
from .waits import Waits


def joules(reader: Reader, job: str, late: Collection[int], waits: Sequence[Waits]) -> float | None:
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
    return sum(watts[rank] * waiting for rank, waiting in seconds.items())


def _watts(reader: Reader, job: str) -> dict[int, float]:
    """Mean power by rank while its job was seen: what was drawn in waiting alone cannot be told at one reading a second.

    Of whole milliwatts, whose sum is the same in whatever order they are added.
    """
    name = literal(job)
    rows = reader.query(
        "WITH ranks AS (SELECT DISTINCT rank, gpu_uuid FROM communicators "
        f"WHERE job = {name} AND rank IS NOT NULL AND gpu_uuid IS NOT NULL UNION SELECT DISTINCT rank, gpu_uuid FROM steps "
        f"WHERE job = {name} AND rank IS NOT NULL AND gpu_uuid IS NOT NULL) "
        "SELECT rank, avg(round(power_watts * 1e3)::BIGINT) / 1e3 AS watts FROM device_samples JOIN ranks USING (gpu_uuid) "
        f"WHERE power_watts IS NOT NULL AND coalesce(job, {name}) = {name} GROUP BY rank"
    ).to_pylist()
    return {row["rank"]: row["watts"] for row in rows}
