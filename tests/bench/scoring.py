"""Diagnoses an episode as it would be live, at growing prefixes, and scores what was said against what is true."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cluster.durations import durations
from cluster.episode import SMALL_ADDED, Episode, added, record, run
from cluster.faults import Expectation, accused_ranks, alarms
from cluster.reader import RecordingReader
from cluster.rows import Recording
from cluster.timing import Timeline

from warpline_analysis.runner import run as diagnose
from warpline_proto.finding import Finding

PREFIXES: Final = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 65, 80, 100, 130)
"""Observed steps after the onset at which it is asked anew, until the verdict is right."""
VERDICT_SIZE_MIN: Final = 0.2
"""Time to the verdict is measured for faults of this size and more."""
HEALTHY_LOOKS: Final = (0.4, 0.7, 1.0)
"""Parts of a healthy episode after which it is judged; one accusation at any of them counts."""
GOAL_SIZE_MIN: Final = 0.1
Judge = Callable[[Recording, int], tuple[Finding, ...]]


@dataclass(frozen=True)
class Outcome:
    """What was said of one episode.

    `detected`: of every fault the culprit was named, or the fault called by its kind, or a true consequence reported.
    `top1`: the first alarm names a culprit. `classed`: its kind is right. `accused`: alarms that fit no fault. Steps from the
    onset to the first right verdict are None where not measured.
    """

    name: str
    kind: str
    size: float
    ranks: int
    clock_error_ms: float
    added: float
    detected: bool
    top1: bool
    classed: bool
    accused: tuple[str, ...]
    observed_steps: int | None
    wall_steps: int | None
    step_seconds: float
    job_seconds: float
    generate_seconds: float
    diagnose_seconds: float

    @property
    def healthy(self) -> bool:
        """No fault was put in."""
        return self.kind == "healthy"

    @property
    def small(self) -> bool:
        """The fault adds less than SMALL_ADDED to the step (a fault beside the job's steps is never small)."""
        return not self.healthy and self.added < SMALL_ADDED and self.kind not in ("execution_idle", "idle_spin")


def warpline(recording: Recording, step: int) -> tuple[Finding, ...]:
    """All findings on what is known when `step` has ended."""
    reader = RecordingReader(recording.until(step))
    try:
        return diagnose(reader).findings
    finally:
        reader.close()


def examine(episode: Episode) -> Outcome:
    """Make, diagnose and score one episode of the cluster model."""
    real = durations()
    begun = time.perf_counter()
    timeline = run(episode, real)
    recording = record(episode, timeline, real)
    spent = time.perf_counter() - begun
    return score(episode, timeline, recording, added(episode, timeline, real), (), spent)


def score(
    episode: Episode,
    timeline: Timeline,
    recording: Recording,
    longer: float,
    tolerated: tuple[Expectation, ...],
    generate_seconds: float,
    judge: Judge = warpline,
) -> Outcome:
    """What was said of an episode, against its truth."""
    begun = time.perf_counter()
    last = len(timeline.length) - 1
    loud = alarms(judge(recording, last))
    spent = time.perf_counter() - begun
    expected = episode.expected
    first = loud[0] if loud else None
    fitting = expected + tolerated
    accused = [finding for finding in loud if not _fits(finding, fitting)]
    if episode.kind == "healthy":
        for part in HEALTHY_LOOKS[:-1]:
            accused += [each for each in alarms(judge(recording, int(part * last))) if not _fits(each, fitting)]
    found = bool(expected) and all(_detects(loud, each) for each in expected)
    observed, wall = _verdict(episode, recording, judge) if found else (None, None)
    return Outcome(
        name=episode.name,
        kind=episode.kind,
        size=episode.size,
        ranks=episode.layout.ranks,
        clock_error_ms=episode.sight.clock_error_seconds * 1e3,
        added=longer,
        detected=found,
        top1=first is not None and any(each.names(first) for each in fitting),
        classed=first is not None and any(each.right_kind(first) for each in fitting),
        accused=tuple(sorted({f"{finding.kind} {_who(finding)}" for finding in accused})),
        observed_steps=observed,
        wall_steps=wall,
        step_seconds=float(np.median(timeline.length)),
        job_seconds=float(timeline.begin[-1] + timeline.length[-1]),
        generate_seconds=generate_seconds,
        diagnose_seconds=spent,
    )


def _who(finding: Finding) -> str:
    named = {
        key: value for key, value in finding.subject.named().items() if key in ("rank", "group", "link", "gpu", "stage")
    }
    return ", ".join(f"{key} {value}" for key, value in named.items()) or "job"


def _detects(loud: Iterable[Finding], expected: Expectation) -> bool:
    return any(_fits(finding, (expected,)) for finding in loud)


def _called(finding: Finding, expected: Expectation) -> bool:
    """Its kind is right and it accuses no single rank, GPU or communicator."""
    subject = finding.subject
    single = accused_ranks(subject) or subject.gpu is not None or subject.communicator is not None
    return expected.right_kind(finding) and not single


def _fits(finding: Finding, expected: Sequence[Expectation]) -> bool:
    return any(each.names(finding) or _called(finding, each) or each.symptom(finding) for each in expected)


def _verdict(episode: Episode, recording: Recording, judge: Judge) -> tuple[int | None, int | None]:
    """Observed and wall steps from the onset to the first right verdict; a stop of the job is no matter of steps."""
    after = recording.observed[recording.observed >= episode.onset]
    if episode.size < VERDICT_SIZE_MIN or not len(after):
        return None, None
    for count in (*(each for each in PREFIXES if each < len(after)), len(after)):
        step = int(after[count - 1])
        loud = alarms(judge(recording, step))
        if all(_detects(loud, each) for each in episode.expected):
            return count, step - episode.onset + 1
    return None, None


def share(part: int, whole: int) -> float | None:
    """Rounded; None of nothing."""
    return round(part / whole, 4) if whole else None


def row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of faulty episodes: shares of all of them, top-1 and class of those detected."""
    found = [each for each in outcomes if each.detected]
    steps = sorted(each.observed_steps for each in found if each.observed_steps is not None)
    wall = sorted(each.wall_steps for each in found if each.wall_steps is not None)
    return {
        "episodes": len(outcomes),
        "detection_rate": share(len(found), len(outcomes)),
        "top1": share(sum(each.top1 for each in found), len(found)),
        "class_accuracy": share(sum(each.classed for each in found), len(found)),
        "innocent_accused": share(sum(bool(each.accused) for each in outcomes), len(outcomes)),
        "verdict_steps_p50": percentile(steps, 0.5),
        "verdict_steps_p95": percentile(steps, 0.95),
        "verdict_wall_steps_p95": percentile(wall, 0.95),
    }


def percentile(ordered: Sequence[int], part: float) -> int | None:
    """Nearest rank."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else None


def poisson_upper(events: int) -> float:
    """Upper end of the one-sided 95 % interval of a Poisson mean after `events`."""
    low, high = 0.0, 10.0 * (events + 5)
    for _ in range(100):
        middle = (low + high) / 2
        below = sum(math.exp(k * math.log(middle) - middle - math.lgamma(k + 1)) for k in range(events + 1))
        low, high = (middle, high) if below > 0.05 else (low, middle)
    return high


def healthy_row(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of healthy episodes; each was judged at HEALTHY_LOOKS, and job-days are those that the steps took."""
    accused = sum(bool(each.accused) for each in outcomes)
    days = sum(each.job_seconds for each in outcomes) / 86400
    return {
        "healthy_episodes": len(outcomes),
        "healthy_accused": share(accused, len(outcomes)),
        "healthy_accused_count": accused,
        "false_alarms_per_job_day": round(accused / days, 3) if days else None,
        "false_alarms_per_job_day_upper95": round(poisson_upper(accused) / days, 3) if days else None,
        "job_days": round(days, 3),
        "step_seconds_assumed": round(float(np.median([each.step_seconds for each in outcomes])), 2)
        if outcomes
        else None,
    }


def tables(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All figures, broken down, and misses and false accusations by name."""
    faulty = [each for each in outcomes if not each.healthy]
    large = [each for each in faulty if not each.small]
    healthy = [each for each in outcomes if each.healthy]
    goal = [each for each in large if each.size >= GOAL_SIZE_MIN]
    return {
        **row(goal),
        **healthy_row(healthy),
        "by_kind": _by(large, lambda each: each.kind),
        "by_size": _by(large, lambda each: f"{each.size:g}"),
        "by_kind_and_size": _by(large, lambda each: f"{each.kind} {each.size:g}"),
        "by_clock_error_ms": _by(goal, lambda each: f"{each.clock_error_ms:g}"),
        "by_ranks": _by(goal, lambda each: f"{each.ranks:04d}"),
        "added_below_2_percent": row([each for each in faulty if each.small]),
        "misses": [each.name for each in goal if not each.detected],
        "wrong_culprit": [f"{each.name}: {'; '.join(each.accused[:3])}" for each in goal if each.accused],
        "healthy_accused_names": [f"{each.name}: {'; '.join(each.accused[:3])}" for each in healthy if each.accused],
        "seconds_per_episode": {
            "generate": round(float(np.mean([each.generate_seconds for each in outcomes])), 3) if outcomes else None,
            "diagnose": round(float(np.mean([each.diagnose_seconds for each in outcomes])), 3) if outcomes else None,
        },
    }


def _by(outcomes: Sequence[Outcome], key: Callable[[Outcome], str]) -> dict[str, Any]:
    names = sorted({key(each) for each in outcomes})
    return {name: row([each for each in outcomes if key(each) == name]) for name in names}
