"""Network errors that NCCL met: the earliest completion error that is no mere consequence names the link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from warpline_proto.finding import Check, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from .detector import COUNTED, Reader, literal, show
from .gpu_faults import STILL_FRESH, times, when
from .jobs import jobs_of_nodes

DETECTOR: Final = "faults"
FLUSHED: Final = 5
"""IBV_WC_WR_FLUSH_ERR: this request fell because another one had failed before it."""
JOBS_MAX: Final = 1_000
"""Jobs, and link names of the kernel log, told in one pass."""
PATH: Final = (
    "check both ends of {link}: port state and error counters (ibstat, perfquery), cable and switch port; take the node whose "
    "port is down or counts errors out and restart the job"
)
MEMORY: Final = (
    "this is refused memory, not a broken cable: check GPUDirect RDMA (nvidia_peermem or dma-buf), ulimit -l, driver and "
    "firmware on both ends of {link}"
)
STATUS: Final[Mapping[int, tuple[str, str]]] = {
    1: ("local length error", MEMORY),
    2: ("local queue error", MEMORY),
    4: ("local protection error", MEMORY),
    9: ("remote end refused the request", MEMORY),
    10: ("remote access error", MEMORY),
    11: ("remote operation error", PATH),
    12: ("retries exceeded: peer or path is dead", PATH),
    13: ("receiver never ready: peer is stuck or dead", PATH),
}
"""What a completion status means (ibv_wc_status)."""


def completion_errors(reader: Reader) -> Report:
    """One finding a job whose connections failed; unknown where only consequences are on record."""
    rows = reader.query(
        f"SELECT job, count(*) FILTER (code != {FLUSHED}) AS roots, count(*) FILTER (code = {FLUSHED}) AS flushed, "
        "count(*) FILTER (code IS NULL) AS closed FROM log_events WHERE kind = 'net_error' "
        f"AND {STILL_FRESH} GROUP BY job ORDER BY job LIMIT {JOBS_MAX}"
    ).to_pylist()
    report = Report()
    for row in rows:
        if row["roots"]:
            report += Report((_root(reader, row["job"], row["flushed"]),))
        else:
            report += Report(checks=(_consequences(row),))
    return report


def _consequences(row: Mapping[str, Any]) -> Check:
    detail = (
        f"{row['flushed']} flushed completions and {row['closed']} closed connections, all of them consequences: "
        "the error before them is not in the logs that were read"
    )
    return Check(DETECTOR, Verdict.UNKNOWN, row["job"], detail, ("NCCL logs of the other ranks",))


def _failures(job: str | None) -> str:
    return f"kind = 'net_error' AND code != {FLUSHED} AND job IS NOT DISTINCT FROM {literal(job)} AND {STILL_FRESH}"


def _root(reader: Reader, job: str | None, flushed: int) -> Finding:
    first = reader.query(
        f"SELECT node, rank, time_ns, code, link, message FROM log_events WHERE {_failures(job)} "
        "ORDER BY time_ns NULLS LAST, link IS NULL, node, rank LIMIT 1"
    ).to_pylist()[0]
    total = reader.query(
        f"SELECT {COUNTED} AS errors, count(DISTINCT link) AS links, "
        f"count(DISTINCT node) AS nodes FROM log_events WHERE {_failures(job)}"
    ).to_pylist()[0]
    meaning, step = STATUS.get(first["code"], (f"status {first['code']}", PATH))
    link = first["link"] or "a link that the log does not name"
    by = f"rank {first['rank']}" if first["rank"] is not None else "a rank"
    by += f" on {first['node']}" if first["node"] else ""
    at = f" at {when(first['time_ns'])}" if first["time_ns"] is not None else ""
    after = f"; {total['errors'] - 1} more errors" if total["errors"] > 1 else ""
    after += f" on {total['links']} links in all" if total["links"] > 1 else ""
    after += f"; {flushed} flushed requests are its consequence" if flushed else ""
    missing = (() if first["time_ns"] is not None else ("times of the errors: which came first",)) + (
        () if first["link"] else ("both ends of the connection",)
    )
    return Finding(
        kind=FindingKind.NETWORK_DEGRADATION,
        severity=Severity.CRITICAL,
        confidence=round(0.85 - 0.15 * len(missing) - 0.1 * (total["links"] > 1), 2),
        subject=Subject(job=job, link=first["link"], node=None if job else first["node"]),
        summary=f"Link {link} failed: {meaning} (status {first['code']}), first met by {by}{at}{after}",
        next_step=_sentence(step.format(link=link)),
        onset=Onset(first["time_ns"]),
        evidence=(
            show(
                reader,
                f"SELECT time_ns, node, rank, code, link, count, message FROM log_events WHERE kind = 'net_error' "
                f"AND job IS NOT DISTINCT FROM {literal(job)} ORDER BY time_ns NULLS LAST, code = {FLUSHED}, node, rank",
            ),
        ),
        ruled_out=(f"flushed requests (status {FLUSHED}): they follow another error",) if flushed else (),
        missing=missing,
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


LINK_EVENTS: Final = (
    f"SELECT node, link, kind, bus_id, {COUNTED} AS count, min(time_ns) AS first_ns, "
    "max(time_ns) AS last_ns, arg_min(message, coalesce(time_ns, 0)) AS message, max(severity = 'critical') AS fatal, "
    "any_value(code) AS code, arg_max(job, coalesce(time_ns, 0)) AS job FROM log_events "
    f"WHERE kind IN ('sxid', 'link_event') AND severity IN ('warning', 'critical') AND {STILL_FRESH} "
    "GROUP BY node, link, kind, bus_id"
)
"""What kernels, the fabric manager and NCCL said of ports and switches, grouped by port."""


def port_findings(reader: Reader) -> list[Finding]:
    """One finding a port or NVSwitch link; never more than a warning unless an NVSwitch error was fatal."""
    rows = reader.query(f"{LINK_EVENTS} ORDER BY fatal DESC, node, link, kind, bus_id LIMIT {JOBS_MAX}").to_pylist()
    jobs = jobs_of_nodes(reader, (row["node"] for row in rows))
    return [_port(reader, row, jobs.get(row["node"])) for row in rows]


def _port(reader: Reader, row: Mapping[str, Any], job: str | None) -> Finding:
    switch = row["kind"] == "sxid"
    name = row["link"] or row["bus_id"] or "(not named)"
    label = f"NVSwitch link {name}" if switch else f"Port {name}"
    fatal = switch and row["fatal"]
    code = f"SXid {row['code']} ({'fatal' if fatal else 'non-fatal'}): " if switch else ""
    where = f" on {row['node']}" if row["node"] else ""
    step = (
        "read nvidia-smi nvlink -e and the fabric manager's log; drain and reset all GPUs of the node together if it is fatal "
        "or returns"
        if switch
        else "read state, counters and module temperature of the port (ibstat, mlxlink, ethtool -m) and reseat cable or module"
    )
    same = " AND ".join(
        f"{name} IS NOT DISTINCT FROM {literal(row[name])}" for name in ("node", "link", "kind", "bus_id")
    )
    return Finding(
        kind=FindingKind.LINK_DEGRADATION if switch else FindingKind.NETWORK_DEGRADATION,
        severity=Severity.CRITICAL if fatal else Severity.WARNING,
        confidence=0.8 if fatal else 0.6,
        subject=Subject(job=row["job"] or job, node=row["node"], link=row["link"] or row["bus_id"]),
        summary=f"{label}{where}: {code}{row['message'] or row['kind']}, "
        f"{times(row['count'], row['first_ns'], row['last_ns'])}",
        next_step=_sentence(step),
        onset=Onset(row["first_ns"]),
        evidence=(
            show(
                reader,
                f"SELECT time_ns, code, severity, link, count, message FROM log_events WHERE {same} "
                "ORDER BY time_ns NULLS LAST",
            ),
        ),
        missing=("traffic over this link: whether the job slowed down",),
    )
