"""Collectives that returned wrong values: silent data corruption, whatever the bandwidth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from warpline_proto.finding import Check, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from .detector import COUNTED, Reader, literal, show

DETECTOR: Final = "faults"
JOBS_MAX: Final = 1_000


def wrong_data(reader: Reader) -> Report:
    """Judge every job whose results were checked."""
    rows = reader.query(
        "SELECT job, count(*) AS checked, count(*) FILTER (wrong_values > 0) AS wrong, "
        "max(wrong_values) FILTER (wrong_values > 0) AS most, "
        "max(nranks) AS ranks, list(DISTINCT node) FILTER (wrong_values > 0 AND node IS NOT NULL) AS nodes, "
        "list(DISTINCT node) FILTER (node IS NOT NULL) AS every, max(bus_bytes_per_second) AS bandwidth "
        "FROM collectives WHERE wrong_values IS NOT NULL GROUP BY job UNION ALL "
        f"SELECT job, 0, {COUNTED}, NULL, NULL, NULL, NULL, NULL FROM log_events "
        "WHERE kind = 'wrong_data' AND NOT EXISTS (SELECT 1 FROM collectives WHERE wrong_values > 0 "
        f"AND collectives.job IS NOT DISTINCT FROM log_events.job) GROUP BY job ORDER BY job, checked LIMIT {JOBS_MAX}"
    ).to_pylist()
    told = {row["job"] for row in rows if row["wrong"]}
    findings = tuple(_finding(reader, row) for row in rows if row["wrong"])
    return Report(findings, tuple(_check(row) for row in rows if row["job"] not in told))


def _check(row: Mapping[str, Any]) -> Check:
    return Check(DETECTOR, Verdict.HEALTHY, row["job"], f"no wrong value in {row['checked']} checked results")


def _finding(reader: Reader, row: Mapping[str, Any]) -> Finding:
    guilty, every = row["nodes"] or [], row["every"] or []
    node = guilty[0] if len(guilty) == 1 and len(every) > 1 else None
    log = reader.query(
        "SELECT min(time_ns) AS first_ns, max(code) AS counted FROM log_events WHERE kind = 'wrong_data' "
        "AND job IS NOT DISTINCT FROM ?",
        (row["job"],),
    ).to_pylist()[0]
    share = f"{row['wrong']} of {row['checked']} checked results" if row["checked"] else f"{row['wrong']} checks"
    most = f", up to {row['most']:,} wrong values in one" if row["most"] else ""
    most += f"; the check itself counts {log['counted']}" if log["counted"] else ""
    peak = f"; bandwidth looks normal ({row['bandwidth'] / 1e9:.3g} GB/s)" if row["bandwidth"] else ""
    ranks = f" on {row['ranks']} ranks" if row["ranks"] else ""
    return Finding(
        kind=FindingKind.WRONG_DATA,
        severity=Severity.CRITICAL,
        confidence=0.95,
        subject=Subject(job=row["job"], node=node),
        summary=f"Collectives{ranks} return wrong data: {share}{most}{peak}",
        next_step="Do not train on these nodes: repeat the check (nccl-tests with -c 1) on halves of them until one node is "
        "left, take it out, then run memory and NVLink diagnostics (dcgmi diag -r 3) on its GPUs",
        onset=Onset(log["first_ns"]),
        evidence=_evidence(reader, row),
        missing=() if node else ("which rank or link is at fault: the check does not say",),
    )


def _evidence(reader: Reader, row: Mapping[str, Any]) -> tuple[Any, ...]:
    job = f"job IS NOT DISTINCT FROM {literal(row['job'])}"
    if row["checked"]:
        sql = (
            "SELECT operation, message_bytes, nranks, wrong_values, round(bus_bytes_per_second / 1e9, 3) AS bus_gigabytes "
            f"FROM collectives WHERE {job} AND wrong_values > 0 ORDER BY wrong_values DESC, message_bytes"
        )
    else:
        sql = f"SELECT time_ns, node, code, message FROM log_events WHERE {job} AND kind = 'wrong_data'"
    return (show(reader, sql),)
