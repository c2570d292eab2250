"""Diagnoses an episode as it would be live, at growing prefixes, and scores what was said against what is true."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from cluster.episode import SMALL_ADDED, Episode
from cluster.faults import Expectation, accused_ranks, alarms
from cluster.reader import RecordingReader
from cluster.rows import Recording
from cluster.timing import Timeline

from warpline_analysis.runner import run as diagnose
from warpline_proto.finding import Finding

PREFIXES: Final = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 65, 80, 100, 130)
"""Observed steps after the onset at which it is asked anew, until the verdict is right."""
LIKELY: Final = 5
"""Most verdicts come about then: it is asked first."""
VERDICT_SIZE_MIN: Final = 0.2
"""Time to the verdict is measured for faults of this size and more."""
HEALTHY_LOOKS: Final = (0.4, 0.7, 1.0)
"""Parts of a healthy episode after which it is judged; one accusation at any of them counts."""
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
    accused = [finding for finding in loud if not _true(finding, fitting)]
    if episode.kind == "healthy":
        for part in HEALTHY_LOOKS[:-1]:
            accused += [each for each in alarms(judge(recording, int(part * last))) if not _true(each, fitting)]
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


def _called(finding: Finding, expected: Expectation) -> bool:
    """Its kind is right and it accuses no single rank, GPU or communicator."""
    subject = finding.subject
    single = accused_ranks(subject) or subject.gpu is not None or subject.communicator is not None
    return expected.right_kind(finding) and not single


def _detects(loud: Iterable[Finding], expected: Expectation) -> bool:
    return any(expected.names(each) or _called(each, expected) or expected.symptom(each) for each in loud)


def _true(finding: Finding, expected: Sequence[Expectation]) -> bool:
    return any(_detects((finding,), each) or each.coincidence(finding) for each in expected)


def _verdict(episode: Episode, recording: Recording, judge: Judge) -> tuple[int | None, int | None]:
    """Observed and wall steps from the (last) onset to a right verdict; a stop of the job is no matter of steps.

    By halving, from LIKELY steps on: at the count that is returned the verdict was right, and at the one before it was not, so
    that the first right verdict came no later. After all observed steps it is right, or this would not be asked.
    """
    after = recording.observed[recording.observed >= episode.complete]
    if episode.size < VERDICT_SIZE_MIN or not len(after):
        return None, None
    counts = [*(each for each in PREFIXES if each < len(after)), len(after)]
    wrong, right = -1, len(counts) - 1
    middle = min(PREFIXES.index(LIKELY), right - 1)
    while right - wrong > 1:
        loud = alarms(judge(recording, int(after[counts[middle] - 1])))
        if all(_detects(loud, each) for each in episode.expected):
            right = middle
        else:
            wrong = middle
        middle = (wrong + right) // 2
    return counts[right], int(after[counts[right] - 1]) - episode.complete + 1
