"""What do processes wait for, as a kernel tracer saw it: does a host leave its GPU without work, or wait for its disk?

A GPU's queue is finite. A process that keeps it busy is sooner or later blocked in a call that waits for it, so one that spends
most of its time outside such calls, and is at work there, is what the GPU waits for. A process that sleeps accuses nobody:
off the CPU by itself says nothing on why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import Check, Evidence, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from ..arrivals import OPERATIONS_MIN, STEPS_MIN
from ..blame import percent
from ..detector import COUNTED, Reader, literal, show
from ..jobs import EPOCH_NS_MIN
from ..starvation import STARVED_GATE

DETECTOR: Final = "process_waits"
HOST_SHARE: Final = 0.8
"""A process leaves its GPU without work when it is at least this part of the time in no call of the GPU's library ..."""
CORES_MIN: Final = 1.0
"""... while its node computes with at least so many cores: an idle session starves nobody."""
CPU_FULL_PERCENT: Final = 90.0
PROCESSES_MAX: Final = 1000
"""Processes looked at, those with most events."""
LOADERS: Final = "pt_data_"
"""How PyTorch names the threads and workers of its data loader."""


@dataclass(frozen=True)
class Process:
    """One process: seconds from its first event to its last, from its first GPU call to its last, and what it did in them."""

    job: str | None
    node: str | None
    pid: int
    name: str | None
    start_ns: int
    seconds: float
    gpu_start_ns: int | None
    gpu_seconds: float
    in_gpu_calls: float
    submissions: int
    waits: int
    disk: float
    disk_events: int

    @property
    def called(self) -> str:
        """As a sentence names it."""
        return f"process {self.pid}" + (f" ({self.name})" if self.name else "")

    @property
    def host_share(self) -> float:
        """Part of the time between its GPU calls that it spends in none; repeated counting of nested calls only excuses."""
        return max(0.0, 1 - self.in_gpu_calls / self.gpu_seconds) if self.gpu_seconds > 0 else 0.0

    @property
    def disk_share(self) -> float:
        """Part of its time that it waits for the disk."""
        return min(1.0, self.disk / self.seconds) if self.seconds > 0 else 0.0

    @property
    def where(self) -> str:
        """WHERE of its rows."""
        place = f"job IS NOT DISTINCT FROM {literal(self.job)} AND node IS NOT DISTINCT FROM {literal(self.node)}"
        return f"{place} AND pid = {self.pid}"


def detect(reader: Reader) -> Report:
    """Judge every process that a tracer told of."""
    return sum((_place(reader, each) for each in _by_place(_processes(reader))), Report())


def _processes(reader: Reader) -> list[Process]:
    single = "coalesce(count, 1) = 1"
    of_gpu = "kind IN ('gpu_wait', 'gpu_submit', 'gpu_memory')"
    rows = reader.query(
        "SELECT job, node, pid, any_value(process) AS name, min(start_ns) AS start_ns, "
        f"(max(start_ns + duration_ns) FILTER ({single}) - min(start_ns) FILTER ({single})) / 1e9 AS seconds, "
        f"min(start_ns) FILTER ({of_gpu} AND {single}) AS gpu_start_ns, "
        f"coalesce(max(start_ns + duration_ns) FILTER ({of_gpu} AND {single}) - min(start_ns) FILTER ({of_gpu} AND {single}), 0) "
        "/ 1e9 AS gpu_seconds, "
        f"coalesce(sum(duration_ns) FILTER ({of_gpu}), 0) / 1e9 AS in_gpu_calls, "
        "least(coalesce(sum(coalesce(count, 1)) FILTER (kind = 'gpu_submit'), 0), 2^53)::BIGINT AS submissions, "
        "least(coalesce(sum(coalesce(count, 1)) FILTER (kind = 'gpu_wait'), 0), 2^53)::BIGINT AS waits, "
        "coalesce(sum(duration_ns) FILTER (kind = 'disk'), 0) / 1e9 AS disk, "
        "least(coalesce(sum(coalesce(count, 1)) FILTER (kind = 'disk'), 0), 2^53)::BIGINT AS disk_events "
        "FROM process_events WHERE pid IS NOT NULL AND start_ns IS NOT NULL AND duration_ns >= 0 GROUP BY job, node, pid "
        f"HAVING seconds > 0 ORDER BY count(*) DESC, job, node, pid LIMIT {PROCESSES_MAX}"
    ).to_pylist()
    return [Process(**row) for row in rows]


def _by_place(processes: list[Process]) -> list[list[Process]]:
    places: dict[tuple[str | None, str | None], list[Process]] = {}
    for each in processes:
        places.setdefault((each.job, each.node), []).append(each)
    return list(places.values())


def _place(reader: Reader, processes: list[Process]) -> Report:
    """The processes of one recording: findings, or one check for all of them."""
    found = [finding for each in processes if (finding := _judge(reader, each)) is not None]
    if found:
        return Report(tuple(found))
    fed = [each for each in processes if _works(each)]
    slowest = max(processes, key=lambda each: each.disk_share)
    disk = f"{slowest.called} waits for the disk for {percent(slowest.disk_share)} of its time, gate {percent(STARVED_GATE)}"
    if not fed:
        text = f"no process gave its GPU enough work to judge whether the host keeps up; {disk}"
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, slowest.job, text, ("work given to a GPU",)),))
    worst = max(fed, key=lambda each: each.host_share)
    text = f"{worst.called} is outside GPU calls for {percent(worst.host_share)} of its time, gate {percent(HOST_SHARE)}; {disk}"
    return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, worst.job, text),))


def _works(process: Process) -> bool:
    return process.submissions >= OPERATIONS_MIN and process.waits >= STEPS_MIN


def _judge(reader: Reader, process: Process) -> Finding | None:
    if process.disk_share >= STARVED_GATE and process.disk_events >= OPERATIONS_MIN:
        return _at_disk(reader, process)
    if not _works(process) or process.host_share < HOST_SHARE:
        return None
    host = _host(reader, process)
    return _starving(reader, process, host) if host is not None and host["cores"] >= CORES_MIN else None


def _host(reader: Reader, process: Process) -> dict[str, Any] | None:
    """CPU of the node while the process uses its GPU; None where it is not known."""
    row: dict[str, Any] = reader.query(f"SELECT * FROM ({_host_sql(process)})").to_pylist()[0]
    return row if row["cores"] is not None else None


def _host_sql(process: Process) -> str:
    start = process.gpu_start_ns if process.gpu_start_ns is not None else process.start_ns
    return (
        "SELECT round(median(cpu_percent), 1) AS cpu_percent, round(median(cpu_percent * cpu_count) / 100, 2) AS cores, "
        f"count(*) AS readings FROM host_samples WHERE node IS NOT DISTINCT FROM {literal(process.node)} AND time_ns BETWEEN "
        f"{start} AND {start + int(process.gpu_seconds * 1e9)}"
    )


def _starving(reader: Reader, process: Process, host: dict[str, Any]) -> Finding:
    loaders = _loaders(reader, process)
    cause = f"its data loader ({loaders} workers and threads of it were seen)" if loaders else "its host"
    full = "; the CPU is full" if host["cpu_percent"] >= CPU_FULL_PERCENT else ""
    return Finding(
        kind=FindingKind.HOST_STRAGGLER,
        severity=Severity.WARNING,
        confidence=0.8 if loaders else 0.65,
        subject=_subject(process),
        summary=f"The GPU of {process.called} waits for {cause}: in {process.gpu_seconds:.3g} s the process waited "
        f"{process.waits} times for its GPU and was in its calls for {percent(1 - process.host_share)} of the time, while the "
        f"node computed with {host['cores']:.3g} cores ({host['cpu_percent']:.0f} % of its CPU){full}",
        next_step="Prepare batches ahead of the GPU: more data loader workers and prefetching as far as there are cores, cheaper "
        "decoding and indexing (whole batches instead of single samples), less copying; give the process more cores",
        onset=_onset(process.gpu_start_ns),
        evidence=(_evidence(reader, process), show(reader, _host_sql(process))),
        ruled_out=(
            "a slow GPU: whoever waits for its GPU is blocked in a call of its library",
            "an idle session: its node computes meanwhile",
        ),
        missing=("GPU activity", *(() if loaders else ("stacks of the process outside GPU calls",))),
    )


def _loaders(reader: Reader, process: Process) -> int:
    row = reader.query(
        "SELECT count(DISTINCT pid) AS workers FROM process_events WHERE job IS NOT DISTINCT FROM ? AND node IS NOT DISTINCT "
        f"FROM ? AND starts_with(process, '{LOADERS}')",
        (process.job, process.node),
    ).to_pylist()[0]
    return int(row["workers"])


def _at_disk(reader: Reader, process: Process) -> Finding:
    called, traced = process.called, f"{process.seconds:.3g} s"
    return Finding(
        kind=FindingKind.HOST_STRAGGLER,
        severity=Severity.WARNING,
        confidence=0.6 if process.seconds >= 1 else 0.5,
        subject=_subject(process),
        summary=f"{called[0].upper()}{called[1:]} waits for the disk for {percent(process.disk_share)} of the {traced} "
        f"in which it was traced ({process.disk_events} requests)",
        next_step="Find what is read there and what else uses the disk (iostat -x, biotop): read ahead, keep the data in memory "
        "or on faster storage, and move other work off the node",
        onset=_onset(process.start_ns),
        evidence=(_evidence(reader, process),),
        ruled_out=("the GPU: it is not what the process waits for in that time",),
        missing=() if process.submissions else ("the GPU's work: whether it had any meanwhile is not known",),
    )


def _subject(process: Process) -> Subject:
    return Subject(job=process.job, node=process.node, group=process.called)


def _onset(start_ns: int | None) -> Onset:
    return Onset(start_ns if start_ns is not None and start_ns >= EPOCH_NS_MIN else None)


def _evidence(reader: Reader, process: Process) -> Evidence:
    return show(
        reader,
        f"SELECT kind, event, {COUNTED} AS events, "
        "round(sum(duration_ns) / 1e9, 6) AS seconds, "
        f"round(max(coalesce(max_ns, duration_ns)) / 1e6, 3) AS longest_ms FROM process_events WHERE {process.where} "
        "GROUP BY kind, event ORDER BY seconds DESC, event",
    )
