"""What a worker process does: makes one episode, has it diagnosed and scores it; answers are plain values for the journal."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
from cluster import transplant
from cluster.durations import durations
from cluster.episode import CLOCK_ERRORS_MS, Episode, added, record, run
from cluster.faults import alarms
from journal import BENCH, ROOT, code_of
from scoring import Outcome, score, warpline

SOURCES: Final = (
    ROOT / "analysis", ROOT / "proto", BENCH / "cluster", BENCH / "scoring.py", BENCH / "trials.py",
)  # fmt: skip


def code() -> str:
    """What an outcome depends on: the sources of the product's analysis, of the model and of the scoring, and the durations."""
    return f"{code_of(*SOURCES)}-{durations().source}"


def examined(episode: Episode) -> dict[str, Any]:
    """The outcome of one episode of the cluster model."""
    real = durations()
    begun = time.perf_counter()
    timeline = run(episode, real)
    recording = record(episode, timeline, real)
    spent = time.perf_counter() - begun
    return asdict(score(episode, timeline, recording, added(episode, timeline, real), (), spent))


def transplanted(job: tuple[str, Episode]) -> dict[str, Any]:
    """The outcome of one recording with a fault put in."""
    source, episode = job
    real = durations()
    begun = time.perf_counter()
    timeline = transplant.run(source, episode, real)
    recording = record(episode, timeline, real)
    spent = time.perf_counter() - begun
    without = transplant.run(source, transplant.healthy_twin(episode), real)
    ratio = timeline.length[episode.onset :] / without.length[episode.onset :]
    longer = float(np.median(ratio)) - 1 if episode.faults else 0.0
    outcome = score(episode, timeline, recording, longer, transplant.tolerated(source), spent)
    return asdict(replace(outcome, name=f"{source}: {outcome.name}"))


def outcome_of(said: dict[str, Any]) -> Outcome:
    """What `examined` and `transplanted` answered, from the journal or not."""
    return Outcome(**said | {"accused": tuple(said["accused"])})


def under_clocks(episode: Episode) -> str:
    """The clock errors, if any, under which the alarms on one and the same run are not those of exact clocks."""
    real = durations()
    timeline = run(episode, real)
    said = []
    for error in CLOCK_ERRORS_MS:
        sight = replace(episode.sight, clock_error_seconds=error / 1e3)
        recording = record(replace(episode, sight=sight), timeline, real)
        loud = alarms(warpline(recording, len(timeline.length)))
        said.append({finding.id for finding in loud})
    differing = [f"{error:g} ms" for error, each in zip(CLOCK_ERRORS_MS, said, strict=True) if each != said[0]]
    return ", ".join(differing)
