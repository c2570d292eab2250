"""Does a test that every rank ran apart from training take one of them longer? Then its GPU is slow, whoever waits for whom.

A test gives every rank the same work and nobody to wait for, which is how Greyhound (ATC'25) validates a suspicion. A rank is
slow by it when even its shortest repetition takes longer than the other ranks' median, so that no single sample accuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warpline_proto.finding import (
    Check,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

from ..blame import CRITICAL_EXCESS, percent
from ..detector import Reader, literal, show
from ..jobs import EPOCH_NS_MIN
from ..robust import EXCESS_GATE

DETECTOR: Final = "probes"
RANKS_MIN: Final = 2
FINDINGS_MAX: Final = 8
"""Ranks told of by name; of more, those that are slowest."""
REPEATED: Final = "(min_ns < max_ns OR count > 1)"
"""A row of one repetition is one sample, and accuses nobody."""


@dataclass(frozen=True)
class Tested:
    """One rank in the newest round of a test; `before` is its mean in the round before, None where there was none."""

    rank: int
    node: str | None
    gpu: str | None
    seconds: float
    shortest: float
    peers: float
    before: float | None

    @property
    def excess(self) -> float:
        """By how much the rank takes longer than the median of the others, as a share."""
        return self.shortest / self.peers - 1


def detect(reader: Reader) -> Report:
    """Judge the newest round of each compute test of each job."""
    report = Report()
    rows = reader.query(
        "SELECT DISTINCT job, probe FROM probes WHERE kind = 'compute' AND job IS NOT NULL AND rank IS NOT NULL "
        "AND probe IS NOT NULL AND duration_ns > 0 ORDER BY job, probe"
    ).to_pylist()
    for row in rows:
        report += _probe(reader, row["job"], row["probe"])
    return report


def _condition(job: str, probe: str) -> str:
    return (
        f"FROM probes WHERE job = {literal(job)} AND probe = {literal(probe)} AND duration_ns > 0 AND rank IS NOT NULL"
    )


def _probe(reader: Reader, job: str, probe: str) -> Report:
    tested = _load(reader, job, probe)
    if len(tested) < RANKS_MIN:
        text = f"{probe}: {len(tested)} rank{'s' * (len(tested) != 1)} tested more than once in a round; {RANKS_MIN} needed"
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job, text, (text,)),))
    slow = sorted((each for each in tested if each.excess >= EXCESS_GATE), key=lambda each: -each.excess)
    if not slow:
        worst = max(tested, key=lambda each: each.excess)
        text = f"{probe}: largest excess {percent(max(worst.excess, 0))}, gate {percent(EXCESS_GATE)}, over {len(tested)} ranks"
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job, text),))
    return Report(tuple(_finding(reader, job, probe, each, len(tested)) for each in slow[:FINDINGS_MAX]))


def _load(reader: Reader, job: str, probe: str) -> list[Tested]:
    rows = reader.query(
        "SELECT rank, node, gpu_uuid AS gpu, duration_ns / 1e9 AS seconds, coalesce(min_ns, duration_ns) / 1e9 AS shortest, "
        "lag(duration_ns / 1e9) OVER turns AS before "
        f"{_condition(job, probe)} AND {REPEATED} WINDOW turns AS (PARTITION BY rank ORDER BY coalesce(round, 0), time_ns) "
        "QUALIFY row_number() OVER (PARTITION BY rank ORDER BY coalesce(round, 0) DESC, time_ns DESC) = 1 ORDER BY rank"
    ).to_pylist()
    return _beside(rows)


def _beside(rows: Sequence[dict[str, Any]]) -> list[Tested]:
    """Each rank beside the median of the others: with half of them slow it is still a fast one's, for those that are slow."""
    seconds = np.array([row["seconds"] for row in rows])
    return [
        Tested(
            row["rank"], row["node"], row["gpu"], row["seconds"], row["shortest"],
            float(np.median(np.delete(seconds, place))), row["before"],
        )
        for place, row in enumerate(rows)
        if len(rows) > 1
    ]  # fmt: skip


def _finding(reader: Reader, job: str, probe: str, slow: Tested, ranks: int) -> Finding:
    since = slow.before is not None and slow.before <= slow.peers * (1 + EXCESS_GATE)
    changed = f"; the same test took it {slow.before * 1e3:.4g} ms in the round before" if since and slow.before else ""
    iterations = _iterations(reader, job)
    return Finding(
        kind=FindingKind.COMPUTE_STRAGGLER,
        severity=Severity.CRITICAL if slow.excess >= CRITICAL_EXCESS else Severity.WARNING,
        confidence=round(0.8 + 0.1 * (ranks > 2) + 0.05 * since, 2),
        subject=Subject(job=job, rank=slow.rank, node=slow.node, gpu=slow.gpu),
        summary=f"Rank {slow.rank} takes {slow.seconds * 1e3:.4g} ms for the test {probe}, the other {ranks - 1} ranks "
        f"{slow.peers * 1e3:.4g} ms: its GPU computes {slow.seconds / slow.peers:.3g} times as long by itself{changed}",
        next_step=f"Take the GPU of rank {slow.rank} out of the job; before that read its clocks and clock-event reasons "
        "(nvidia-smi -q -d PERFORMANCE), temperature, ECC and which other processes use it",
        onset=iterations.onset if iterations else Onset(),
        cost=Cost(iterations.lost, None) if iterations else Cost(),
        evidence=(_evidence(reader, job, probe), *((iterations.evidence,) if iterations else ())),
        ruled_out=(
            "waiting for others: in this test a rank works alone",
            "uneven work: all ranks are given the same",
            *_network(reader, job),
        ),
        missing=() if iterations else ("iteration times: what it costs the job is not known",),
    )


def _evidence(reader: Reader, job: str, probe: str) -> Evidence:
    return show(
        reader,
        "SELECT rank, round, round(duration_ns / 1e6, 3) AS mean_ms, round(min_ns / 1e6, 3) AS shortest_ms, "
        f"round(max_ns / 1e6, 3) AS longest_ms {_condition(job, probe)} ORDER BY round DESC, duration_ns DESC",
    )


def _network(reader: Reader, job: str) -> tuple[str, ...]:
    """What tests between the same two ranks say, in the newest round beside the first."""
    row = reader.query(
        "SELECT count(*) AS pairs, max(newest / oldest) - 1 AS worst FROM (SELECT rank, peer, "
        "arg_max(duration_ns, round) AS newest, arg_min(duration_ns, round) AS oldest, max(round) AS rounds FROM probes "
        f"WHERE job = {literal(job)} AND kind = 'communication' AND duration_ns > 0 GROUP BY rank, peer) WHERE rounds > 0"
    ).to_pylist()[0]
    if not row["pairs"]:
        return ()
    return (
        f"network: tests between pairs of ranks take at most {percent(max(row['worst'], 0))} longer than in the first round",
    )


@dataclass(frozen=True)
class _Iterations:
    """How much longer iterations take than at first, by estimates of whoever ran the tests."""

    lost: float
    onset: Onset
    evidence: Evidence


def _iterations(reader: Reader, job: str) -> _Iterations | None:
    sql = (
        "SELECT time_ns, round(median(value), 6) AS iteration_seconds, count(*) AS ranks FROM metrics WHERE "
        f"job = {literal(job)} AND metric = 'iteration_seconds' AND time_ns IS NOT NULL GROUP BY time_ns ORDER BY time_ns"
    )
    rows = reader.query(sql).to_pylist()
    usual = float(np.median([row["iteration_seconds"] for row in rows])) if len(rows) > 2 else 0.0
    lost = rows[-1]["iteration_seconds"] - usual if usual else 0.0
    if lost <= 0:
        return None
    risen = [row["time_ns"] for row in rows if row["iteration_seconds"] >= usual * (1 + EXCESS_GATE)]
    since = risen[0] if risen and risen[0] >= EPOCH_NS_MIN else None
    return _Iterations(lost, Onset(since), show(reader, sql))
