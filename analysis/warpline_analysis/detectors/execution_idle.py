"""Do GPUs with a program on them do nothing, and what does that cost?

Execution-idle as Lei et al. (2026) define it: computing, device memory and links all low for five seconds on end while a
program is resident. Without word on residency a GPU may as well be empty: then both bounds are given and nobody is accused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.execution_idle import PERCENT_MAX
from warpline_proto.finding import Check, Cost, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from ..blame import percent
from ..detector import Reader, literal, show
from ..devices import KEY
from ..energy.account import RESIDENCY
from ..energy.states import GAP_SECONDS_MAX, THRESHOLDS
from ..idleness import DEFINED, Idle, load_idle

DETECTOR: Final = "execution_idle"
SHARE_GATE: Final = 0.10
"""Part of the execution time from which idling is reported: a third of the jobs studied were above it."""
CRITICAL_SHARE: Final = 0.5
CRITICAL_JOULES: Final = 3.6e6
"""A kilowatt-hour."""
OBSERVED_SECONDS_MIN: Final = 30.0
"""Shorter observation says nothing about a share."""
NAMED_MAX: Final = 64
"""GPUs named in the query that shows the evidence."""


@dataclass(frozen=True)
class Group:
    """GPUs told together: of one job, or one GPU by itself."""

    job: str | None
    gpus: tuple[Idle, ...]

    @property
    def name(self) -> str:
        """How the sentence calls it."""
        first = self.gpus[0]
        index = f"GPU {first.index}" if first.index is not None else f"GPU {first.gpu}"
        return index if len(self.gpus) == 1 else f"{len(self.gpus)} GPUs"


def detect(reader: Reader) -> Report:
    """Judge every GPU that was sampled, together with the others of its job."""
    gpus = load_idle(reader)
    floors = _floors(gpus)
    checks: list[Check] = []
    idle: list[Idle] = []
    for group in _grouped(gpus, one_by_one=False):
        why = _blind(group.gpus)
        if why:
            checks.append(Check(DETECTOR, Verdict.UNKNOWN, group.job, f"{_where(group)}: {why}", (why,)))
            continue
        accused = [gpu for gpu in group.gpus if gpu.shares()[DEFINED] >= SHARE_GATE]
        idle += accused
        rest = Group(group.job, tuple(gpu for gpu in group.gpus if gpu not in accused))
        if rest.gpus:
            checks.append(_check(rest))
    return Report(tuple(_finding(reader, group, floors) for group in _grouped(idle, one_by_one=True)), tuple(checks))


def _grouped(gpus: Iterable[Idle], one_by_one: bool) -> list[Group]:
    """GPUs of a job together; those of no known job by node, or each by itself."""
    groups: dict[tuple[str | None, ...], list[Idle]] = {}
    for gpu in gpus:
        alone = (None, gpu.node, gpu.gpu) if one_by_one else (None, gpu.node)
        groups.setdefault((gpu.job,) if gpu.job else alone, []).append(gpu)
    return [Group(key[0], tuple(members)) for key, members in groups.items()]


def _floors(gpus: Iterable[Idle]) -> dict[str | None, float]:
    """Watts without a program, by model, as measured here."""
    measured: dict[str | None, list[float]] = {}
    for gpu in gpus:
        if gpu.deep_watts is not None:
            measured.setdefault(gpu.name, []).append(gpu.deep_watts)
    return {name: float(np.median(watts)) for name, watts in measured.items()}


def _blind(gpus: Sequence[Idle]) -> str:
    """Why nothing can be said of them, or nothing."""
    if min(gpu.blind for gpu in gpus) > 0.5:
        return "neither SM activity nor utilisation was sampled"
    if min(gpu.period for gpu in gpus) > GAP_SECONDS_MAX:
        return f"samples {min(gpu.period for gpu in gpus):.3g} s apart; {GAP_SECONDS_MAX:.0f} s at most needed"
    longest = max(gpu.observed for gpu in gpus)
    if longest < OBSERVED_SECONDS_MIN:
        return f"{longest:.0f} s observed; {OBSERVED_SECONDS_MIN:.0f} needed"
    return ""


def _where(group: Group) -> str:
    nodes = {gpu.node for gpu in group.gpus}
    node = nodes.pop() if len(nodes) == 1 else None
    return f"{group.name} on {node}" if node else group.name


def _side_by_side(shares: Sequence[Sequence[float]]) -> str:
    typical = [float(np.median([share[at] for share in shares])) for at in range(len(THRESHOLDS))]
    return ", ".join(
        f"{percent(share)} from {least:.0f} s on" for share, least in zip(typical, THRESHOLDS, strict=True)
    )


def _check(group: Group) -> Check:
    worst = max(group.gpus, key=lambda gpu: gpu.shares("upper")[DEFINED])
    upper = worst.shares("upper")[DEFINED]
    if upper >= SHARE_GATE:
        detail = (
            f"{_where(group)}: residency unknown: execution-idle for {percent(worst.shares()[DEFINED])} of the time if no "
            f"program was resident, up to {_side_by_side([worst.shares('upper')])} if one was"
        )
        return Check(DETECTOR, Verdict.UNKNOWN, group.job, detail, worst.missing)
    detail = f"{_where(group)}: execution-idle for at most {percent(upper)} of the time, gate {percent(SHARE_GATE)}"
    return Check(DETECTOR, Verdict.HEALTHY, group.job, detail, worst.missing)


def _finding(reader: Reader, group: Group, floors: dict[str | None, float]) -> Finding:
    seconds = sum(gpu.idle[DEFINED] for gpu in group.gpus)
    joules, above = _joules(group.gpus, floors)
    shares = [gpu.shares() for gpu in group.gpus]
    share = float(np.median([value[DEFINED] for value in shares]))
    critical = share >= CRITICAL_SHARE and (joules or 0) >= CRITICAL_JOULES
    first = [gpu.first_ns for gpu in group.gpus if gpu.first_ns is not None]
    count = sum(gpu.intervals for gpu in group.gpus)
    known = RESIDENCY not in {name for gpu in group.gpus for name in gpu.missing}
    return Finding(
        kind=FindingKind.EXECUTION_IDLE,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        confidence=0.9 if known and not group.gpus[0].missing else 0.8,
        subject=_subject(group),
        summary=f"{_where(group)} did nothing for {percent(share)} of the time with a program resident, in {count} intervals "
        f"({_side_by_side(shares)})" + (f"; {joules / 1e3:.3g} kJ {above}" if joules is not None else ""),
        next_step="Look at what the program waits for in these intervals (data loading, checkpoints, requests, a debugger); if "
        "it idles by design, pack other work onto the GPU or lower its clocks meanwhile",
        onset=Onset(time_ns=min(first, default=None)),
        cost=Cost(gpu_hours=seconds / 3600, joules=joules),
        evidence=(
            show(
                reader,
                "SELECT node, coalesce(gpu_uuid, gpu_index::VARCHAR) AS gpu, CAST(date_trunc('minute', make_timestamp("
                "time_ns // 1000)) AS VARCHAR) AS minute, count(*) AS readings, count(*) FILTER (coalesce(sm_active_percent, "
                f"gpu_utilization_percent) < {PERCENT_MAX:.0f}) AS idle_readings, round(avg(power_watts)) AS watts "
                f"FROM device_samples WHERE {KEY} IN "
                f"({', '.join(literal(gpu.gpu) for gpu in group.gpus[:NAMED_MAX])}) GROUP BY ALL ORDER BY idle_readings DESC, "
                "minute, gpu",
            ),
        ),
        ruled_out=(
            "an empty GPU: a program was resident in all of it",
            "waiting in a collective: that spins and counts as active",
        ),
        missing=tuple(sorted({name for gpu in group.gpus for name in gpu.missing})),
    )


def _joules(gpus: Sequence[Idle], floors: dict[str | None, float]) -> tuple[float | None, str]:
    """Joules of the intervals above what an empty GPU draws, and how the sentence calls them: an upper bound of the saving."""
    total, grounded = 0.0, True
    for gpu in gpus:
        joules = gpu.idle_joules
        if joules is None:
            return None, ""
        floor = floors.get(gpu.name)
        grounded = grounded and floor is not None
        total += max(joules - (floor or 0.0) * gpu.idle[DEFINED], 0.0)
    name = "above the draw of an empty GPU" if grounded else "in all (the draw of an empty GPU was not measured)"
    return total, f"{name}, of which at most that much can be saved"


def _subject(group: Group) -> Subject:
    nodes = {gpu.node for gpu in group.gpus}
    node = nodes.pop() if len(nodes) == 1 else None
    if len(group.gpus) == 1:
        return Subject(job=group.job, node=node, gpu=group.gpus[0].gpu)
    return Subject(job=group.job, node=node, group="its GPUs")
