"""Is a job as a whole starved by its data loaders? The one thing about a host that can be told without a peer."""

from __future__ import annotations

from typing import Any, Final

from warpline_proto.finding import Check, Cost, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from .arrivals import STEPS_MIN
from .blame import percent
from .detector import Reader, literal, show
from .iteration import GPU_WITHOUT_WORK, TOLD, Iterations, jobs_with_steps, load_iterations, told_steps
from .jobs import WINDOW_STEPS, Job, step_time
from .remembered import once

DETECTOR: Final = "host_straggler"
STARVED_GATE: Final = 0.20
"""A job is starved when at least this share of a typical step is spent waiting for data with the GPU idle."""


def unknown(job: Job, text: str, missing: tuple[str, ...] = ()) -> Report:
    """What could not be told of a job's hosts; `missing` is the text itself where nothing better is known."""
    return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, missing or (text,)),))


def judge_starvation(reader: Reader, job: Job, iterations: Iterations) -> Report:
    """All ranks alike, or a single process: how much of a typical step goes into waiting for data."""
    condition = f"{told_steps(job.name)} AND step >= {int(iterations.steps[0])}"
    row = _waiting(reader)[job.name]
    idle = "" if row["idle"] is None else f", for {percent(row['idle'])} of a typical step its GPU has nothing to do"
    if not row["steps"]:
        return unknown(
            job, f"{_ranks(iterations)}{idle}", ("ranks that do the same work", "waiting for the data loader")
        )
    wasted = min(row["waiting"], row["waiting"] if row["idle"] is None else row["idle"])
    figures = f"{percent(row['waiting'])} of a typical step is waiting for data, gate {percent(STARVED_GATE)}{idle}"
    if row["steps"] < STEPS_MIN:
        text = f"{row['steps']} step{'s' * (row['steps'] > 1)}; {STEPS_MIN} needed"
        return unknown(job, f"{text}; {figures}", (text,))
    if wasted < STARVED_GATE:
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job.name, figures),))
    return Report((_starvation(reader, job, iterations, condition, row),))


@once
def _waiting(reader: Reader) -> dict[str, dict[str, Any]]:
    """Of each job that tells of steps: how many of the newest tell of waiting for data, and the medians of that."""
    firsts = ", ".join(
        f"({literal(name)}, {int(load_iterations(reader, name, WINDOW_STEPS).steps[0])})"
        for name in jobs_with_steps(reader)
        if len(load_iterations(reader, name, WINDOW_STEPS).steps)
    )
    rows = reader.query(
        "SELECT job, count(DISTINCT step) FILTER (data_wait_ns IS NOT NULL) AS steps, median(data_wait_ns / duration_ns) AS "
        f"waiting, median({GPU_WITHOUT_WORK} / duration_ns) AS idle, median(data_wait_ns) / 1e9 AS seconds FROM steps JOIN "
        f"(VALUES {firsts}) AS newest(job, first) USING (job) WHERE {TOLD} AND step >= first GROUP BY job"
    ).to_pylist()
    return {row["job"]: row for row in rows}


def _ranks(iterations: Iterations) -> str:
    return f"{iterations.ranks} rank{'s' * (iterations.ranks > 1)} without peers to compare with"


def _starvation(reader: Reader, job: Job, iterations: Iterations, condition: str, row: dict[str, Any]) -> Finding:
    first, gpus = int(iterations.steps[0]), job.world_size or iterations.ranks * job.ranks_per_record
    who = "Every rank" if iterations.ranks > 1 else "The process"
    idle = "" if row["idle"] is None else f"; its GPU has nothing to do for {percent(row['idle'])} of it"
    return Finding(
        kind=FindingKind.HOST_STRAGGLER,
        severity=Severity.WARNING,
        confidence=0.6 if row["idle"] is None else 0.85,
        subject=Subject(job=job.name),
        summary=f"{who} waits for its data loader in {percent(row['waiting'])} of a typical step ({row['seconds']:.3g} s of "
        f"{iterations.typical:.3g} s, over {row['steps']} steps){idle}",
        next_step="Give the data loader more workers and prefetching (num_workers, prefetch_factor, pin_memory), then look at "
        "storage and decoding; with workers enough the wait all but disappears",
        onset=Onset(step_time(reader, "steps", job.name, first), first),
        cost=Cost(row["seconds"], row["seconds"] * row["steps"] * gpus / 3600),
        evidence=(
            show(
                reader,
                "SELECT step, round(median(duration_ns) / 1e9, 6) AS seconds, round(median(data_wait_ns) / 1e9, 6) AS "
                f"data_wait_seconds, round(median(busy_ns) / 1e9, 6) AS gpu_busy_seconds {condition} GROUP BY step ORDER BY step",
            ),
        ),
        ruled_out=("one slow host: no rank waits persistently longer than its peers",) if iterations.ranks > 1 else (),
        missing=("stacks of the training process",) + (("GPU activity",) if row["idle"] is None else ()),
    )
