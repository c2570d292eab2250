"""What a Kineto trace says of a job that runs on CPUs: compute times of its steps, and its collectives.

Without a GPU the operators on the CPU are the compute. Starting or finishing a collective, and waiting for the data loader,
is none, whatever operators run within; collectives themselves run on threads of their own and are annotated there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from warpline_proto.tables import COLLECTIVES

from ..kernels import NO_STEP, CpuTimes, StepSpan, Times, steps_at, union_ns
from ..source import Rows
from . import nccl
from .kineto import CPU_COLLECTIVES, Annotation, Operators, Trace
from .kineto_rows import Distributed

Spans = tuple[Times, Times]
"""Starts and ends, ns, in order of starts."""
_NEVER: Final = np.zeros(0, dtype=np.int64)


def with_cpu_times(trace: Trace) -> list[StepSpan]:
    """The steps of a trace, with compute and communication where the job runs on CPUs."""
    if trace.operators is None or not len(trace.operators.start_ns):
        return trace.steps
    working, passing = _host(trace.operators, trace.annotations)
    collectives = _spans([each for each in trace.annotations if each.name.startswith(CPU_COLLECTIVES)])
    return [replace(step, cpu=_times(step, working, passing, collectives)) for step in trace.steps]


def _host(operators: Operators, annotations: Sequence[Annotation]) -> tuple[Spans, Spans]:
    """Operators, and what takes their time away: communication calls and the data loader."""
    loading = _spans([each for each in annotations if each.name.startswith("enumerate(")])
    calls = operators.communicates
    working = _ordered(operators.start_ns[~calls], operators.end_ns[~calls])
    start, end = (
        np.concatenate(pair) for pair in zip(loading, (operators.start_ns[calls], operators.end_ns[calls]), strict=True)
    )
    return working, _ordered(start, end)


def _spans(annotations: Sequence[Annotation]) -> Spans:
    start = np.array([each.start_ns for each in annotations], dtype=np.int64)
    return _ordered(start, start + np.array([each.duration_ns for each in annotations], dtype=np.int64))


def _ordered(start: Times, end: Times) -> Spans:
    order = np.argsort(start, kind="stable")
    return start[order], end[order]


def _times(step: StepSpan, working: Spans, passing: Spans, collectives: Spans) -> CpuTimes:
    work, away, sent = (_within(step, each) for each in (working, passing, collectives))
    computed = _covered(work, away) - _covered(away)
    return CpuTimes(
        compute_ns=computed,
        communication_ns=_covered(sent),
        exposed_communication_ns=_covered(sent, work) - _covered(work),
    )


def _within(step: StepSpan, spans: Spans) -> Spans:
    """Those that begin in a step, cut at its end: operators do not reach over steps, a collective may."""
    low, high = step.start_ns, step.start_ns + step.duration_ns
    first, last = np.searchsorted(spans[0], (low, high))
    return spans[0][first:last], np.minimum(spans[1][first:last], high)


def _covered(*spans: Spans) -> int:
    start, end = (np.concatenate([_NEVER, *parts]) for parts in zip(*spans, strict=True))
    return union_ns(start, end)


def cpu_collective_rows(trace: Trace, job: Distributed, clock: str | None) -> Rows:
    """Rows of `collectives` of a CPU backend, in the order in which they began.

    The communicator is known where the job has a single process group: annotations do not name it.
    """
    found = sorted(
        (each for each in trace.annotations if each.name.startswith(CPU_COLLECTIVES)), key=lambda each: each.start_ns
    )
    steps = steps_at(np.array([each.start_ns for each in found], dtype=np.int64), trace.steps)
    told = _communicator(job) | {"rank": job.rank, "clock": clock, "timing": "host", "state": "completed"}
    rows = [
        told | _row(each, number) | {"step": step if step != NO_STEP else None}
        for number, (each, step) in enumerate(zip(found, steps.tolist(), strict=True))
    ]
    return Rows("collectives", COLLECTIVES.from_rows(rows))


def _row(annotation: Annotation, number: int) -> dict[str, Any]:
    operation = annotation.name.split(":", 1)[1]
    return {
        "sequence": number,
        "operation": nccl.operation(operation) or operation,
        "start_ns": annotation.start_ns,
        "duration_ns": annotation.duration_ns,
    }


def _communicator(job: Distributed) -> dict[str, Any]:
    if len(job.groups) != 1:
        return {}
    group = job.groups[0]
    return {
        "communicator": group.key,
        "communicator_rank": group.ranks.index(job.rank) if group.ranks and job.rank in group.ranks else None,
        "group_name": group.description or group.name,
        "nranks": group.nranks,
    }
