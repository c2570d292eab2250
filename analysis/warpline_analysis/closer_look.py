"""What would gain by a closer look at a rank, and which healthy rank to look at beside it: the fourth level, asked of agents.

A capture costs the job something, so that only what is missing is asked for: kernels where compute is slow and no kernel is
known, stacks where a host is late without any, the flight recorder where a job hangs without dumps.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from warpline_proto.capture import FLIGHT_RECORDER, KERNELS, STACKS
from warpline_proto.finding import GRAVITY, Check, Finding, FindingKind, Report, Severity, Verdict

from .detector import Reader

SLOW: Final = frozenset({FindingKind.COMPUTE_STRAGGLER, FindingKind.MASKED_STRAGGLER, FindingKind.PIPELINE_BUBBLE})
TABLES: Final = ("communicators", "steps", "phases", "collectives", "kernel_clusters")
"""Where the place of a rank is looked up, the cheapest first."""


@dataclass(frozen=True)
class Wish:
    """One rank that should be looked at: `reason` is the finding (or the question that could not be answered) that asks."""

    reason: str
    job: str
    rank: int
    what: str
    severity: Severity


@dataclass(frozen=True)
class Places:
    """Nodes of the suspect and of a rank that does the same work; None where they are not known."""

    node: str | None
    peer: int | None
    peer_node: str | None


def wishes(report: Report) -> list[Wish]:
    """The gravest first; findings whose rank is not known can wish nothing."""
    found = [wish for finding in report.findings if (wish := _of_finding(finding))]
    found += [wish for check in report.checks if (wish := _of_check(check))]
    return sorted(found, key=lambda wish: (GRAVITY[wish.severity], wish.reason))


def _of_finding(finding: Finding) -> Wish | None:
    what = _lacks(finding)
    rank = _rank(finding)
    if what is None or rank is None or finding.subject.job is None:
        return None
    return Wish(finding.id, finding.subject.job, rank, what, finding.severity)


def _lacks(finding: Finding) -> str | None:
    """What a closer look could add."""
    shown = " ".join(item.sql for item in finding.evidence)
    if finding.kind in SLOW:
        return None if "kernel_clusters" in shown else KERNELS
    if finding.kind == FindingKind.HOST_STRAGGLER:
        return None if "FROM stacks" in shown else STACKS
    if finding.kind == FindingKind.HANG:
        return FLIGHT_RECORDER if any("flight-recorder dumps" in text for text in finding.missing) else None
    return None


def _rank(finding: Finding) -> int | None:
    """The accused rank; of several the first that the evidence names."""
    if finding.subject.rank is not None:
        return finding.subject.rank
    rows = finding.evidence[0].rows if finding.evidence else ()
    named = rows[0].get("rank") if rows else None
    return named if isinstance(named, int) else None


def _of_check(check: Check) -> Wish | None:
    if check.verdict != Verdict.UNKNOWN or check.job is None or check.rank is None:
        return None
    return Wish(f"{check.detector} of job {check.job}", check.job, check.rank, KERNELS, Severity.INFO)


def places(reader: Reader, wish: Wish, accused: Collection[int]) -> Places:
    """Where the suspect runs, and a rank in its place of another replica, on another node where there is one."""
    for table in TABLES:
        rows = reader.query(
            f"SELECT rank, max(node) AS node, max(pp) AS pp, max(tp) AS tp, max(ep) AS ep FROM {table} WHERE job = ? AND rank IS "
            "NOT NULL AND node IS NOT NULL GROUP BY rank ORDER BY rank",
            (wish.job,),
        ).to_pylist()
        own = next((row for row in rows if row["rank"] == wish.rank), None)
        if own is None:
            continue
        others = [row for row in rows if row["rank"] != wish.rank and row["rank"] not in accused]
        peer = min(others, key=lambda row: (_differs(row, own), row["node"] == own["node"], row["rank"]), default=None)
        return Places(own["node"], peer and peer["rank"], peer and peer["node"])
    return Places(None, None, None)


def _differs(one: dict[str, object], two: dict[str, object]) -> int:
    return sum(one[name] != two[name] for name in ("pp", "ep", "tp"))


def accused_ranks(findings: Sequence[Finding], job: str) -> set[int]:
    """Ranks of a job that some finding accuses: none of them is a healthy one to compare with."""
    return {each.subject.rank for each in findings if each.subject.job == job and each.subject.rank is not None}
