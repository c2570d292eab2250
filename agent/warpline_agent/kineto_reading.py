"""Reads a Kineto trace into rows, wherever it comes from: a file at hand, a folder that a job writes to, a trace asked for."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from .kernels import clean_name, digest
from .parsers import values
from .parsers.kineto import Trace, read_trace
from .parsers.kineto_cpu import cpu_collective_rows, with_cpu_times
from .parsers.kineto_rows import (
    Distributed,
    communicator_rows,
    distributed,
    group_memberships,
    phase_rows,
    told_collectives,
)
from .raw_rows import recorded_rows
from .source import Input, Origin, Reading, Rows
from .timeline import collective_rows, timeline_facts, timeline_rows

_RANK_IN_NAME: Final = re.compile(r"(?<![A-Za-z])(worker|rank)([-_]?)\d+")
_MOMENT_IN_NAME: Final = re.compile(r"(?<=[._-])\d{10,19}(?=[._-])[._-]")
_HOST_KEYS: Final = ("host_name", "hostname")
_RUN_KEYS: Final = ("run_id", "mast_job_name", "job_id")


def trace_of(candidate: Input) -> Trace:
    """The trace; Refused where it is damaged or none."""
    with candidate.open() as stream:
        return read_trace(stream)


def reading_of(trace: Trace, name: str) -> Reading:
    """Steps, clusters, names, collectives, communicators and phases of a trace from a file called `name`."""
    job = distributed(trace.members)
    content = digest(trace.kernels)
    node = _first(trace.members, _HOST_KEYS)
    clock = clock_of(node, content)
    phases, phases_dropped = phase_rows(trace, job, clock)
    rows = timeline_rows(trace.kernels, with_cpu_times(trace), rank=job.rank, clock=clock, whole=trace.whole)
    told = told_collectives(trace, job)
    rows += [
        collective_rows(trace.kernels, trace.launch_ns, told, rank=job.rank, clock=clock),
        cpu_collective_rows(trace, job, clock),
        Rows("communicators", communicator_rows(job)),
        Rows("phases", phases, phases_dropped + trace.annotations_dropped),
    ]
    origin = Origin(
        run_id=_first(trace.members, _RUN_KEYS),
        rank=job.rank,
        world_size=job.world_size,
        communicators=group_memberships(job),
        node=node,
        content=content,
        sibling=_sibling(name),
    )
    raw = partial(recorded_rows, trace.kernels, clock)
    return Reading([each for each in rows if each.batch.num_rows], _facts(trace, job), origin, _notes(trace), [raw])


def clock_of(node: str | None, content: str | None) -> str | None:
    """Times of one host can be compared. Where no host is named, only times of one and the same trace can."""
    if node is not None:
        return f"trace@{node}"
    return f"trace@{content[:16]}" if content is not None else None


def _first(members: dict[str, Any], keys: tuple[str, ...]) -> str | None:
    found = next((text for key in keys if (text := values.text(members.get(key)))), None)
    return None if found is None else clean_name(found)[:200]


def _sibling(name: str) -> str | None:
    """The name without rank and moment, where it has a rank: `worker3_step_12.1694128201554` -> `worker*_step_12`."""
    if not _RANK_IN_NAME.search(name):
        return None
    return _MOMENT_IN_NAME.sub("", _RANK_IN_NAME.sub(r"\1\2*", name, count=1))


def _facts(trace: Trace, job: Distributed) -> dict[str, Any]:
    properties = trace.members.get("deviceProperties") or trace.members.get("computeProperties")
    named = [values.text(values.mapping(each).get("name")) for each in properties] if values.is_list(properties) else []
    names = [clean_name(each) for each in named if each]
    return {
        "events": trace.events,
        "malformed_events": trace.malformed,
        "rank": job.rank,
        "world_size": job.world_size,
        "steps": len(trace.steps),
        "gpu_names": {each: names.count(each) for each in dict.fromkeys(names)},
        "nccl_version": job.library_version,
    } | timeline_facts(trace.kernels)


def _notes(trace: Trace) -> list[str]:
    notes = []
    if not len(trace.kernels):
        seen = ", ".join(sorted(clean_name(each) for each in trace.categories)[:8]) or "no events with a duration"
        notes.append(f"no GPU activity was recorded (only {seen}): GPU times are not known")
    if trace.malformed:
        notes.append(f"{trace.malformed} events without a name, or with times that are none, were left out")
    if trace.records_dropped:
        notes.append(f"{trace.records_dropped} records of GPU activity beyond the bound were left out")
    if trace.annotations_dropped:
        notes.append(f"{trace.annotations_dropped} annotations beyond the bound were left out")
    return notes
