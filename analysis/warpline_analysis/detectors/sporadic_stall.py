"""Do single steps stall, rarely but again and again?

Short spikes of one phase or of the whole step that averages dilute (fourth case study of ARGUS: just-in-time compilation in
the backward pass, 40 times its usual time). Told with the phase or kernel and the ranks; pauses that come at an equal period on
all ranks and outside any compute are a schedule (checkpoints, evaluation) and no stall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from warpline_proto.finding import Check, Cost, Finding, FindingKind, Onset, Report, Severity, Subject, Verdict

from ..between_windows import Stalls, stalls_between, windows
from ..blame import numbered, percent, subject_of
from ..cpu_compute import SHARED, computes_on_cpus
from ..detector import Reader, show
from ..iteration import Iterations, jobs_with_steps, load_iterations, told_steps
from ..jobs import WINDOW_STEPS, Job, judge_each, step_time
from ..lone_stalls import lone_stalls
from ..schedules import unscheduled
from ..self_time import Member
from ..spikes import (
    PHASE_RATIO,
    STEP_RATIO,
    Series,
    episodes,
    evenly_spaced,
    long_steps,
    part_spikes,
    phase_spikes,
    sporadic,
)
from ..stall_causes import COMPILATION, STEPS_MAX, Cause, find_cause, places, spike_evidence

DETECTOR: Final = "sporadic_stall"
STEPS_MIN: Final = 30
"""Fewer steps cannot hold EPISODES_MIN spikes and be rare."""
EPISODES_MIN: Final = 3
IMPACT_GATE: Final = 0.01
"""Share of the time of all steps that stalls must cost; among many ranks somebody always hiccups."""
COVER_SHARE: Final = 0.8
"""Ranks are named when they have at least this share of the stalls."""
TOGETHER_SHARE: Final = 0.5
"""From this share of the ranks on, a spike is one of all ranks together."""
FINDINGS_MAX: Final = 3
"""Phases told of in one job, costliest first."""


def detect(reader: Reader) -> Report:
    """Judge every job that tells of steps."""
    return judge_each(reader, jobs_with_steps(reader), _job)


def _job(reader: Reader, job: Job) -> Report:
    iterations = load_iterations(reader, job.name, WINDOW_STEPS)
    count = len(iterations.steps)
    if count < STEPS_MIN:
        text = f"iteration times of {count} step{'s' * (count != 1)}; {STEPS_MIN} needed"
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, (text,)),))
    seen = [sporadic(series, count) for series in phase_spikes(reader, job.name)]
    stalls = [series for series in seen if _stalls(series, iterations)]
    explained = {step + shift for series in seen for step in series.steps for shift in (0, 1)}
    rest = {step: excess for step, excess in long_steps(iterations).items() if step not in explained}
    stalls += [series for series in _of_parts(reader, job, iterations, rest) if _stalls(series, iterations)]
    if stalls and computes_on_cpus(reader, job.name):
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, f"single phases stall; {SHARED}"),))
    stalls = stalls or lone_stalls(reader, iterations)[:1]
    if stalls:
        return Report(tuple(_finding(reader, job, iterations, series) for series in stalls[:FINDINGS_MAX]))
    between = stalls_between(reader, load_iterations(reader, job.name))
    if between and not computes_on_cpus(reader, job.name):
        return Report((_found_between(reader, job, iterations, between),))
    return Report(checks=(_check(job, iterations, seen, rest),))


def _of_parts(reader: Reader, job: Job, iterations: Iterations, rest: dict[int, float]) -> list[Series]:
    if len(episodes(sorted(rest))) < EPISODES_MIN:
        return []
    first, count, ranks = int(iterations.steps[0]), len(iterations.steps), iterations.ranks
    return [sporadic(_single(series, ranks), count) for series in part_spikes(reader, job.name, first, rest)]


def _single(series: Series, ranks: int) -> Series:
    """Without the steps in which most of the ranks do the same: pauses of all."""
    many = {
        step
        for step, spikes in Counter(spike.step for spike in series.spikes).items()
        if spikes >= TOGETHER_SHARE * ranks
    }
    return replace(series, spikes=tuple(spike for spike in series.spikes if spike.step not in many))


def _stalls(series: Series, iterations: Iterations) -> bool:
    if len(episodes(series.steps)) < EPISODES_MIN:
        return False
    if series.lost < IMPACT_GATE * float(iterations.seconds.sum()):
        return False
    if not _together(series, iterations):
        return True
    return series.of_phase and (series.kind in ("compute", "optimizer") or not evenly_spaced(series.steps))


def _together(series: Series, iterations: Iterations) -> bool:
    """Whether most of the spikes are on most of the ranks at once."""
    return len(series.spikes) >= TOGETHER_SHARE * iterations.ranks * len(series.steps)


def _check(job: Job, iterations: Iterations, seen: Sequence[Series], rest: dict[int, float]) -> Check:
    count, pauses = len(iterations.steps), len(episodes(sorted(rest)))
    text = (
        f"{len(rest)} of {count} steps took {STEP_RATIO:g} times the median or more, and "
        f"{len({step for series in seen for step in series.steps})} had a phase of {PHASE_RATIO:g} times its own"
    )
    if pauses < EPISODES_MIN:
        return Check(DETECTOR, Verdict.HEALTHY, job.name, text)
    first, last = int(iterations.steps[0]), int(iterations.steps[-1])
    if evenly_spaced(rest) or len(episodes(unscheduled(rest, first, last))) < EPISODES_MIN:
        return Check(
            DETECTOR,
            Verdict.HEALTHY,
            job.name,
            f"{text}; they come at an equal period, as checkpoints and evaluations do",
        )
    missing = ("which rank or phase the long steps are due to",)
    return Check(
        DETECTOR, Verdict.UNKNOWN, job.name, f"{text}; no rank and no phase stands out in the long ones", missing
    )


def _finding(reader: Reader, job: Job, iterations: Iterations, series: Series) -> Finding:
    runs, onset = len(episodes(series.steps)), series.steps[0]
    first = min(int(iterations.steps[0]), onset)
    watched = [step for step in windows(reader, iterations) if step >= first]
    count = len(watched) or len(iterations.steps)
    named, subject = _who(reader, job, iterations, series)
    cause = find_cause(reader, job.name, series, named or tuple(series.ranks), first)
    per_step = series.lost / count
    return Finding(
        kind=FindingKind.SPORADIC_STALL,
        severity=Severity.WARNING,
        confidence=_confidence(series, named, cause, runs),
        subject=subject,
        summary=f"{_called(series, named)} stalls in {runs} of {count} steps{' seen' * bool(watched)}, since step {onset}: "
        f"{_size(series)}, while a typical step takes {iterations.typical:.3g} s{cause.told}",
        next_step=cause.next_step,
        onset=Onset(step_time(reader, "steps", job.name, onset), onset),
        cost=Cost(per_step, series.lost * _gpus(job, iterations) / 3600),
        evidence=(spike_evidence(reader, job.name, series, first, iterations.typical), *cause.evidence),
        ruled_out=_ruled_out(series, count, named),
        missing=cause.missing,
    )


def _gpus(job: Job, iterations: Iterations) -> int:
    return job.world_size or iterations.ranks * job.ranks_per_record


def _found_between(reader: Reader, job: Job, iterations: Iterations, found: Stalls) -> Finding:
    """Of a job that is watched in windows: that it stalls by all steps, and who by those inside windows."""
    onset, count = min(found.longer), len(found.longer)
    named = () if found.rank is None else (found.rank,)
    chosen = ", ".join(map(str, sorted(found.longer)[-STEPS_MAX:]))
    return Finding(
        kind=FindingKind.SPORADIC_STALL,
        severity=Severity.WARNING if found.seen else Severity.INFO,
        confidence=0.75 if named else 0.6 if found.seen else 0.5,
        subject=subject_of(job, places(reader, job.name, named)) if named else Subject(job=job.name),
        summary=f"{count} of {found.steps} steps since step {onset} take {found.typical:.3g} s longer than those around them, at "
        f"no period, while a typical step takes {iterations.typical:.3g} s; {_in_windows(found)}",
        next_step=COMPILATION
        if named
        else f"Watch {found.steps_for(EPISODES_MIN)} steps in a row of all ranks: {EPISODES_MIN} "
        "stalls are due in so many, and then tell who has them",
        onset=Onset(step_time(reader, "steps", job.name, onset), onset),
        cost=Cost(found.lost / found.steps, found.lost * _gpus(job, iterations) / 3600),
        evidence=(
            show(
                reader,
                f"SELECT step, round(median(duration_ns) / 1e9, 6) AS seconds {told_steps(job.name)} AND step IN ({chosen}) "
                "GROUP BY step ORDER BY step",
            ),
        ),
        ruled_out=(
            "a lasting slowdown: the steps between are as ever",
            "checkpoints and evaluations: they come neither at a period of steps nor of time",
            "varying work: next to no steps lie between the usual ones and these",
            *(("pauses of all ranks: in the stalls seen the others do not take longer",) if found.seen else ()),
        ),
        missing=("ranks outside of the capture windows",),
    )


def _in_windows(found: Stalls) -> str:
    """What those inside capture windows tell."""
    count = len(found.seen)
    if not count:
        return "none fell into a capture window, so whether a rank stalls or the work of these steps is larger is not known"
    fell = f"{count} fell into capture windows" if count > 1 else "one fell into a capture window"
    who = f"{fell}, by {found.series.name} on {numbered(found.series.ranks if found.rank is None else (found.rank,))}"
    return who if found.rank is not None else f"{who}, which is no proof of one rank"


def _who(reader: Reader, job: Job, iterations: Iterations, series: Series) -> tuple[tuple[int, ...], Subject]:
    """The few ranks that have nearly all stalls, if any, and the subject."""
    recurring = [rank for rank in series.ranks if len(episodes(series.of(rank))) >= EPISODES_MIN]
    covered = {spike.step for spike in series.spikes if spike.rank in set(recurring)}
    few = len(recurring) == 1 or 4 * len(recurring) <= iterations.ranks
    if recurring and few and len(covered) >= COVER_SHARE * len(series.steps):
        members: list[Member] = places(reader, job.name, recurring)
        return tuple(recurring), subject_of(job, members)
    return (), Subject(job=job.name)


def _called(series: Series, named: Sequence[int]) -> str:
    what = series.name if series.of_phase else f"the step, by {series.name},"
    who = f"on {numbered(named)}" if named else f"on {len(series.ranks)} rank{'s' * (len(series.ranks) > 1)} in turn"
    return f"{what[0].upper()}{what[1:]} {who}"


def _size(series: Series) -> str:
    longest = max(series.spikes, key=lambda spike: spike.excess)
    ratio = f"{longest.ratio:.0f} times its usual time, " if longest.ratio >= STEP_RATIO else ""
    return f"up to {ratio}{longest.excess:.3g} s more"


def _confidence(series: Series, named: Sequence[int], cause: Cause, runs: int) -> float:
    value = 0.6 + 0.1 * bool(named) + 0.1 * series.of_phase + 0.1 * (runs >= 2 * EPISODES_MIN)
    return round(min(value + 0.05 * bool(cause.told), 0.95), 2)


def _ruled_out(series: Series, count: int, named: Sequence[int]) -> tuple[str, ...]:
    rare = len(series.steps) / count
    return (
        f"a lasting slowdown: it happens in {percent(rare)} of steps, the others are as ever",
        "waiting for other ranks: only time in which a rank waits for nobody is counted",
        *(("checkpoints and evaluations: the other ranks do not pause with it",) if named else ()),
    )
