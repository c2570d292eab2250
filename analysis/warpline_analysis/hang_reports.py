"""Hangs that others report: watchdogs and monitors in log_events, and NCCL's RAS with its counts, silent and dead ranks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Check, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from .blame import numbered
from .detector import Reader, literal, show
from .gpu_faults import STILL_FRESH

DETECTOR: Final = "hang"
ROWS_MAX: Final = 100_000
FLAG: Final = "XPU_TIMER_COMMON_HANG"
"""xpu_timer's flag: 1 once no kernel of a rank ends any more."""
_WORK: Final = re.compile(r"SeqNum=(\d{1,18}), OpType=(\w{1,40})")
_COHORT: Final = re.compile(r"\b(\d{1,9}) ranks? ha(?:s|ve) launched up to (?:\w+ )?operation (\d{1,18})")
_MEMBER_COLUMNS: Final = "communicator, communicator_rank, rank, node, device, pid, state, last_enqueued"


@dataclass(frozen=True)
class Told:
    """Ranks of a job whose watchdog or monitor reports a hang."""

    job: str | None
    ranks: tuple[int, ...]
    known: int | None
    nodes: tuple[str, ...]
    first_ns: int | None
    message: str
    sources: tuple[str, ...]
    count: int


def told_hangs(reader: Reader) -> dict[str | None, Told]:
    """By job: who reports a hang, and of how many ranks."""
    rows = reader.query(
        "SELECT job, list(DISTINCT rank ORDER BY rank) FILTER (rank IS NOT NULL) AS ranks, count(*) AS count, "
        "list(DISTINCT node ORDER BY node) FILTER (node IS NOT NULL) AS nodes, min(time_ns) AS first_ns, "
        "arg_min(message, coalesce(time_ns, 0)) AS message, list(DISTINCT source ORDER BY source) AS sources FROM log_events "
        f"WHERE kind = 'hang' AND {STILL_FRESH} GROUP BY job ORDER BY job LIMIT {ROWS_MAX}"
    ).to_pylist()
    sizes = _sizes(reader) if rows else {}
    return {
        row["job"]: Told(
            row["job"],
            tuple(row["ranks"] or ()),
            sizes.get(row["job"]),
            tuple(row["nodes"] or ()),
            row["first_ns"],
            row["message"] or "",
            tuple(source for source in row["sources"] if source),
            row["count"],
        )
        for row in rows
    }


def _sizes(reader: Reader) -> dict[str | None, int]:
    """Ranks of each job, from what is known of it or from the monitor that flags every rank."""
    rows = reader.query(
        "SELECT job, max(size) AS size FROM (SELECT job, world_size AS size FROM jobs UNION ALL SELECT job, "
        f"count(DISTINCT rank) FROM metrics WHERE metric = '{FLAG}' GROUP BY job) WHERE size > 0 GROUP BY job"
    ).to_pylist()
    return {row["job"]: row["size"] for row in rows}


def told_finding(reader: Reader, told: Told) -> Finding:
    """The job hangs; nobody is singled out, because whoever reports is one who waits."""
    everybody = told.known is not None and len(told.ranks) >= told.known
    who = f"All {len(told.ranks)} ranks" if everybody else _capital(numbered(told.ranks)) if told.ranks else "A process"
    of = f" of {told.known}" if told.known and told.ranks and not everybody else ""
    work = _WORK.search(told.message)
    operation = f" in {work[2]} {work[1]}" if work else ""
    several = " report" if everybody or len(told.ranks) > 1 else " reports"
    return Finding(
        kind=FindingKind.HANG,
        severity=Severity.CRITICAL,
        confidence=0.9 if len(told.ranks) > 1 else 0.75,
        subject=Subject(job=told.job, group="all ranks" if everybody else None, node=_alone(told.nodes, everybody)),
        summary=f"{who}{of}{several} that operations no longer end{operation} ({', '.join(told.sources) or 'log'}); those who "
        "report are waiting, so that nobody is singled out",
        next_step="Collect flight-recorder dumps of every rank (write to the pipes of TORCH_NCCL_DEBUG_INFO_PIPE_FILE) and "
        "py-spy dump --pid PID of each process, then analyze them together: the rank without the operation is behind",
        onset=Onset(told.first_ns),
        evidence=(
            show(
                reader,
                "SELECT time_ns, node, rank, source, count, message FROM log_events WHERE kind = 'hang' "
                f"AND job IS NOT DISTINCT FROM {literal(told.job)} ORDER BY time_ns NULLS LAST, rank",
            ),
        ),
        missing=("flight-recorder dumps: who is behind, and in which collective",),
    )


def _alone(nodes: Sequence[str], everybody: bool) -> str | None:
    """No node is named for a whole job: it is where the job runs, not where it fails."""
    return nodes[0] if len(nodes) == 1 and not everybody else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def flags_down(reader: Reader, hanging: Sequence[str | None]) -> tuple[Check, ...]:
    """Healthy for every job whose hang flags were read and are all down."""
    rows = reader.query(
        f"SELECT job, count(DISTINCT rank) AS ranks, max(value) AS highest FROM metrics WHERE metric = '{FLAG}' "
        f"GROUP BY job ORDER BY job LIMIT {ROWS_MAX}"
    ).to_pylist()
    return tuple(
        Check(DETECTOR, Verdict.HEALTHY, row["job"], f"hang flag down on all {row['ranks']} ranks")
        for row in rows
        if row["highest"] == 0 and row["job"] not in hanging
    )


def ras_reports(reader: Reader, told: Sequence[str | None]) -> Report:
    """Judge every communicator that NCCL's RAS service reported on."""
    rows = reader.query(
        f"SELECT job, nranks, {_MEMBER_COLUMNS} FROM communicators WHERE source = 'nccl_ras' "
        f"ORDER BY job, communicator, communicator_rank LIMIT {ROWS_MAX}"
    ).to_pylist()
    levels = _levels(reader)
    groups: dict[tuple[str | None, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["job"], row["communicator"]), []).append(row)
    report = Report()
    for (job, communicator), members in groups.items():
        report += _communicator(reader, job, communicator, members, levels.get((job, communicator), {}), job in told)
    return report


def _levels(reader: Reader) -> dict[tuple[str | None, str | None], dict[int, int]]:
    """What the text report says of whole cohorts: by job and communicator, operation -> ranks that launched up to it."""
    rows = reader.query(
        f"SELECT job, message FROM log_events WHERE kind = 'ras_mismatch' ORDER BY job, message LIMIT {ROWS_MAX}"
    ).to_pylist()
    found: dict[tuple[str | None, str | None], dict[int, int]] = {}
    for row in rows:
        named = re.search(r"communicator (\S{1,40}):", row["message"] or "")
        cohorts = {int(operation): int(ranks) for ranks, operation in _COHORT.findall(row["message"] or "")}
        if named and cohorts:
            found[row["job"], named[1]] = cohorts
    return found


def _communicator(
    reader: Reader,
    job: str | None,
    communicator: str | None,
    members: Sequence[dict[str, Any]],
    cohorts: dict[int, int],
    told: bool,
) -> Report:
    gone = [row for row in members if row["state"] in ("dead", "missing")]
    if gone:
        return Report((_gone(reader, job, communicator, gone),))
    known = {row["last_enqueued"] for row in members if row["last_enqueued"] is not None} | set(cohorts)
    if len(known) > 1:
        return _behind(reader, job, communicator, members, cohorts, told)
    if known and len(members) > 1:
        detail = f"RAS: all {len(members)} ranks of communicator {communicator} launched up to operation {known.pop()}"
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job, detail),))
    detail = f"RAS: communicator {communicator} gives no counts to compare"
    return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job, detail, ("operation counts of the ranks",)),))


def _gone(reader: Reader, job: str | None, communicator: str | None, gone: Sequence[dict[str, Any]]) -> Finding:
    dead = [row for row in gone if row["state"] == "dead"]
    said = "considered dead" if len(dead) == len(gone) else "not answering"
    process = ", ".join(f"process {row['pid']} on {row['node']}" for row in gone[:4] if row["pid"] is not None)
    return Finding(
        kind=FindingKind.HANG,
        severity=Severity.CRITICAL,
        confidence=0.9 if len(dead) == len(gone) else 0.7,
        subject=_subject(job, communicator, gone),
        summary=f"{_ranks(gone)} of communicator {communicator} {'is' if len(gone) == 1 else 'are'} {said}"
        + (f" ({process})" if process else ""),
        next_step=f"See whether {process or 'the process'} still lives (ps, dmesg for Xid and out-of-memory kills, nvidia-smi); "
        "if it does, take its stack with py-spy dump --pid PID",
        evidence=(_members_shown(reader, job, communicator),),
        missing=("global ranks: RAS counts within its communicator",) if gone[0]["rank"] is None else (),
    )


def _behind(
    reader: Reader,
    job: str | None,
    communicator: str | None,
    members: Sequence[dict[str, Any]],
    cohorts: dict[int, int],
    told: bool,
) -> Report:
    """Ranks that have launched fewer operations, if they are the smaller part and are named."""
    counted = {row["last_enqueued"] for row in members if row["last_enqueued"] is not None}
    front = max(counted | set(cohorts))
    behind = [row for row in members if row["last_enqueued"] is not None and row["last_enqueued"] < front]
    total = sum(cohorts.values()) or len(members)
    if not behind or 2 * len(behind) > total:
        detail = (
            f"RAS: ranks of communicator {communicator} differ, but the report does not name a minority that is behind"
        )
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job, detail, ("counts of every rank",)),))
    at = sorted({row["last_enqueued"] for row in behind})
    return Report(
        (
            Finding(
                kind=FindingKind.HANG,
                severity=Severity.CRITICAL if told else Severity.WARNING,
                confidence=0.85 if told else 0.6,
                subject=_subject(job, communicator, behind),
                summary=f"{_ranks(behind)} of communicator {communicator} launched up to operation "
                f"{', '.join(map(str, at))}, the other {total - len(behind)} up to {front}",
                next_step="Ask RAS again (from 2.27.3 on; older versions can crash the job): if the counts stand still, take the "
                f"stacks of these processes ({', '.join(str(row['pid']) for row in behind[:8])}) with py-spy dump --pid PID",
                evidence=(_members_shown(reader, job, communicator),),
                ruled_out=(f"the {total - len(behind)} ranks that are further: they wait for these",),
                missing=("a second report: counts of a running job differ for a moment",) if not told else (),
            ),
        )
    )


def _ranks(members: Sequence[dict[str, Any]]) -> str:
    ranks = [row["communicator_rank"] for row in members if row["communicator_rank"] is not None]
    return _capital(numbered(ranks)) if ranks else f"{len(members)} ranks"


def _subject(job: str | None, communicator: str | None, members: Sequence[dict[str, Any]]) -> Subject:
    nodes = {row["node"] for row in members}
    rank = members[0]["rank"] if len(members) == 1 else None
    return Subject(
        job=job,
        rank=rank,
        group=None if rank is not None else f"{_ranks(members)} of the communicator",
        node=nodes.pop() if len(nodes) == 1 else None,
        communicator=communicator,
    )


def _members_shown(reader: Reader, job: str | None, communicator: str | None) -> Any:
    return show(
        reader,
        f"SELECT {_MEMBER_COLUMNS} FROM communicators WHERE source = 'nccl_ras' AND job IS NOT DISTINCT FROM {literal(job)} "
        f"AND communicator IS NOT DISTINCT FROM {literal(communicator)} ORDER BY last_enqueued NULLS FIRST, communicator_rank",
    )
