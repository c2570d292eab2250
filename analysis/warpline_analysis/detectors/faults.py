"""What do the logs plainly say: a GPU lost or in error, a failed link, wrong data, a dead process?

One incident a GPU, port, job or node, however often it was repeated. What only follows from another error is counted under it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from warpline_proto.finding import Check, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from ..detector import COUNTED, Reader, literal, show
from ..gpu_faults import STILL_FRESH, Gpu, gpu_findings, load_gpus, program_only, times
from ..network_errors import completion_errors, port_findings
from ..replaced import replaced_findings
from ..wrong_data import wrong_data

DETECTOR: Final = "faults"
KERNEL_LOG: Final = "kernel_log"
NODES_MAX: Final = 1_000
"""Nodes whose dead processes are told in one pass."""
_DIED: Final = {"oom": "killed for want of memory", "segfault": "crashed (segmentation fault)"}


def detect(reader: Reader) -> Report:
    """Everything that a log says outright."""
    gpus = load_gpus(reader)
    found = [*gpu_findings(reader, gpus), *port_findings(reader), *_died(reader), *replaced_findings(reader)]
    checks = _kernel_log(reader, gpus)
    return Report(tuple(found), checks) + completion_errors(reader) + wrong_data(reader)


def _kernel_log(reader: Reader, gpus: Sequence[Gpu]) -> tuple[Check, ...]:
    """Healthy for the nodes whose kernel log was read and holds no GPU fault; unknown where there is none; else nothing."""
    guilty = {gpu.node for gpu in gpus if not program_only(gpu)}
    read = reader.query(
        f"SELECT node, max(events) AS events FROM (SELECT node, count(*) AS events FROM log_events "
        f"WHERE source = '{KERNEL_LOG}' GROUP BY node UNION ALL SELECT node, 0 FROM source_health "
        f"WHERE source = '{KERNEL_LOG}' AND state = 'fresh' GROUP BY node) GROUP BY node"
    ).to_pylist()
    if not read and not guilty:
        reason = "no kernel log was read"
        return (Check(DETECTOR, Verdict.UNKNOWN, None, reason, ("kernel log",)),)
    quiet = [row for row in read if row["node"] not in guilty]
    if not quiet:
        return ()
    events = sum(row["events"] for row in quiet)
    named = f" of {quiet[0]['node']}" if len(quiet) == 1 and quiet[0]["node"] else f" of {len(quiet)} nodes"
    detail = f"no GPU fault in the kernel log{named} ({events} events of other kinds)"
    return (Check(DETECTOR, Verdict.HEALTHY, None, detail),)


def _died(reader: Reader) -> list[Finding]:
    """Processes that the kernel killed or that crashed; a crash inside NVIDIA's libraries weighs more."""
    rows = reader.query(
        f"SELECT node, kind, max(job) AS job, {COUNTED} AS count, min(time_ns) AS first_ns, "
        "max(time_ns) AS last_ns, list(DISTINCT pid) FILTER (pid IS NOT NULL) AS pids, "
        "arg_min(message, coalesce(time_ns, 0)) AS message FROM log_events "
        f"WHERE kind IN ('oom', 'segfault') AND severity IN ('warning', 'critical') AND {STILL_FRESH} "
        f"GROUP BY node, kind ORDER BY node, kind LIMIT {NODES_MAX}"
    ).to_pylist()
    return [_dead_processes(reader, row) for row in rows]


def _dead_processes(reader: Reader, row: Mapping[str, Any]) -> Finding:
    killed = row["kind"] == "oom"
    pids = sorted(row["pids"] or [])
    who = f"{len(pids)} processes" if len(pids) > 1 else f"Process {pids[0]}" if pids else "A process"
    where = f" on {row['node']}" if row["node"] else ""
    step = (
        "see which process took the memory (data loader workers, shared memory, checkpoints) and what its limit is"
        if killed
        else "find the rank by its process id and read its core dump or the last lines of its log"
    )
    return Finding(
        kind=FindingKind.PROCESS_DIED,
        severity=Severity.WARNING,
        confidence=0.9,
        subject=Subject(job=row["job"], node=row["node"], group=_DIED[row["kind"]]),
        summary=f"{who}{where} {_DIED[row['kind']]}, {times(row['count'], row['first_ns'], row['last_ns'])}: {row['message']}",
        next_step=f"{step[0].upper()}{step[1:]}{where}",
        onset=Onset(row["first_ns"]),
        evidence=(
            show(
                reader,
                f"SELECT time_ns, pid, severity, count, message FROM log_events WHERE kind = {literal(row['kind'])} "
                f"AND node IS NOT DISTINCT FROM {literal(row['node'])} ORDER BY time_ns NULLS LAST",
            ),
        ),
        missing=("whether the process belongs to a job",) if row["job"] is None else (),
    )
