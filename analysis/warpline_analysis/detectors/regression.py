"""Has the iteration time of a job risen for good?

Change points of the iteration time (the first level of ARGUS's progressive diagnosis; Greyhound's gate of 10 %), by medians
and ranks so that checkpoints and evaluations do not count, and only where the series' own past has nothing like it. It says
that and since when a job is slower, and which part of the step grew; it accuses nobody within the job.
A rise too young for a cause to be named (where all ranks became slower alike there is none), or older than the window in
which one could be, is worth knowing and no warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.finding import (
    Check,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    Onset,
    Report,
    Severity,
    Subject,
    Verdict,
)

from ..alike import Alike, grown_alike
from ..blame import percent
from ..detector import Reader, show
from ..iteration import Iterations, jobs_with_steps, load_iterations, told_steps
from ..jobs import WINDOW_STEPS, Job, judge_each, step_time
from ..rises import AFTER_MIN, BEFORE_MIN, Rise
from ..robust import SURE_GATE
from ..self_time import PeerGroup, coverage_of, load
from ..witness import DOUBT_STEPS, Dated, dated_rise

DETECTOR: Final = "regression"
STEPS_MIN: Final = BEFORE_MIN + AFTER_MIN
SETTLED_STEPS: Final = 16
"""Steps after which who or what is slow would have been named, where the ranks did not all become slower alike ..."""
SETTLED_WATCHED: Final = 6
"""... and steps in which ranks were watched, where they are watched in windows only."""
MOST_SHARE: Final = 0.5
"""A part of the step explains a rise when it grew by at least this share of it."""


@dataclass(frozen=True)
class Part:
    """One part of a step: the column that has it, how a sentence names it, and where to look when it grew."""

    column: str
    name: str
    look: str


PARTS: Final = (
    Part(
        "compute_ns",
        "compute",
        "Compare compute per rank: clocks and throttling where it is one rank, batch or sequence length, code and kernels where "
        "it is all of them",
    ),
    Part(
        "exposed_communication_ns",
        "communication that nothing covers, waiting included",
        "Split the collectives into waiting and transfer: waiting leads to a late rank, transfer to a link",
    ),
    Part(
        "idle_ns",
        "time in which the GPU has nothing to do",
        "Look at the hosts: data loader, garbage collection, CPU load, file system; take stacks of the training processes",
    ),
    Part(
        "memcpy_ns",
        "copies",
        "Look at what is copied between host and GPU in each step, and at PCIe width and generation",
    ),
    Part("data_wait_ns", "waiting for the data loader", "Look at the data loader: workers, storage, decoding"),
)
COMPUTE: Final = PARTS[0]
ANYWHERE: Final = (
    "Record kernel times of all ranks over some steps: they tell slow compute from waiting; meanwhile compare what changed at "
    "the onset (checkpoint, data, code, neighbours on the nodes)"
)


def detect(reader: Reader) -> Report:
    """Judge the iteration time of every job that tells of steps."""
    return judge_each(reader, jobs_with_steps(reader), _job)


def _job(reader: Reader, job: Job) -> Report:
    iterations = load_iterations(reader, job.name)
    count = len(iterations.steps)
    if count < STEPS_MIN:
        text = f"iteration times of {count} step{'s' * (count != 1)}; {STEPS_MIN} needed"
        return Report(checks=(Check(DETECTOR, Verdict.UNKNOWN, job.name, text, (text,)),))
    dated = dated_rise(reader, iterations)
    if dated is None:
        text = (
            f"no lasting rise of {percent(SURE_GATE)} or more in {count} steps of {iterations.typical:.3g} s "
            f"(jitter {percent(iterations.jitter)})"
        )
        return Report(checks=(Check(DETECTOR, Verdict.HEALTHY, job.name, text),))
    return Report((_finding(reader, job, iterations, dated),))


def _finding(reader: Reader, job: Job, iterations: Iterations, dated: Dated) -> Finding:
    rise = dated.rise
    step, lasted = int(iterations.steps[rise.start]), len(iterations.steps) - rise.start
    earliest, latest = (int(iterations.steps[at]) for at in (rise.earliest, rise.latest))
    groups = _groups(reader, job)
    watched = sorted({int(step) for group in groups for step in group.steps})
    since = [at for at in watched if at >= step]
    alike = grown_alike(groups, iterations, step)
    settled = lasted >= SETTLED_STEPS and (not watched or len(since) >= SETTLED_WATCHED)
    in_reach = lasted <= WINDOW_STEPS or len(since) < len(watched)
    seen = next((at for at in watched if at >= latest), None)
    grown = _grown(reader, iterations, step)
    part = COMPUTE if alike else _explains(grown, rise)
    lost = rise.after - rise.before
    gpus = job.world_size or iterations.ranks * job.ranks_per_record
    sure = rise.doubt <= DOUBT_STEPS
    return Finding(
        kind=FindingKind.REGRESSION,
        severity=Severity.WARNING if (alike or settled) and in_reach else Severity.INFO,
        confidence=0.9 if rise.scale == 1 and lasted >= 2 * AFTER_MIN else 0.7,
        subject=Subject(job=job.name),
        summary=f"Iteration time rose {percent(rise.share)} for good, from {rise.before:.3g} s to {rise.after:.3g} s, since "
        f"{'' if sure else 'about '}step {step} ({lasted} steps ago{'' if sure else f', between {earliest} and {latest}'})"
        f"{_most(part, grown, alike)}",
        next_step=part.look if part else ANYWHERE,
        onset=Onset(step_time(reader, "steps", job.name, step), step, seen, earliest, latest),
        cost=Cost(seconds_per_step=lost, gpu_hours=lost * lasted * gpus / 3600),
        evidence=(_evidence(reader, iterations, step),),
        ruled_out=_ruled_out(dated, lasted, alike),
        missing=("tokens per step: a larger batch or longer sequences look the same",)
        + (() if part else ("which part of the step grew",)),
    )


def _groups(reader: Reader, job: Job) -> tuple[PeerGroup, ...]:
    """Compute times of ranks, of the steps in which a cause could be named. In a duty cycle they are few, and reach further back
    than WINDOW_STEPS."""
    covered = coverage_of(reader, job.name)
    return load(reader, covered).groups if covered is not None else ()


def _most(part: Part | None, grown: Mapping[str, float], alike: Alike | None) -> str:
    """What of the step grew, in words."""
    if alike:
        return f"; the compute of all {alike.ranks} ranks grew, by {percent(alike.least)} to {percent(alike.most)}"
    return f"; {part.name} grew by {grown[part.column]:.3g} s" if part else ""


def _ruled_out(dated: Dated, lasted: int, alike: Alike | None) -> tuple[str, ...]:
    rise, witness = dated.rise, dated.witness
    varying = (
        f"no {min(lasted, rise.start // 2)} steps in a row before it went half as far from the median"
        if witness is None
        else f"{witness}, which hardly varies from step to step, takes longer from then on too"
    )
    single = f"{lasted} steps in a row are slower at the median"
    return (
        f"checkpoints, evaluations and other single long steps: {single}",
        f"varying work: {varying}",
        *((f"a slow rank or node: the compute of all {alike.ranks} ranks grew alike",) if alike else ()),
    )


def _medians(iterations: Iterations) -> str:
    return ", ".join(f"round(median({part.column}) / 1e9, 6) AS {part.column[:-3]}_seconds" for part in PARTS)


def _evidence(reader: Reader, iterations: Iterations, step: int) -> Evidence:
    """Typical step before and after, as a whole and in parts."""
    return show(
        reader,
        f"SELECT CASE WHEN step < {step} THEN 'before' ELSE 'after' END AS period, count(DISTINCT step) AS steps, "
        f"round(median(duration_ns) / 1e9, 6) AS seconds_per_step, {_medians(iterations)} {told_steps(iterations.job)} "
        f"AND step >= {int(iterations.steps[0])} GROUP BY period ORDER BY period DESC",
    )


def _grown(reader: Reader, iterations: Iterations, step: int) -> dict[str, float]:
    """Seconds by which the median of each known part grew."""
    rows: list[Mapping[str, Any]] = reader.query(
        "SELECT " + ", ".join(
            f"(median({part.column}) FILTER (step >= {step}) - median({part.column}) FILTER (step < {step})) / 1e9 "
            f"AS {part.column}" for part in PARTS
        ) + f" {told_steps(iterations.job)} AND step >= {int(iterations.steps[0])}"
    ).to_pylist()  # fmt: skip
    return {name: value for name, value in rows[0].items() if value is not None}


def _explains(grown: Mapping[str, float], rise: Rise) -> Part | None:
    """The part that grew most, if it makes up most of the rise."""
    known = [part for part in PARTS if part.column in grown]
    most = max(known, key=lambda part: grown[part.column], default=None)
    return most if most and grown[most.column] >= MOST_SHARE * (rise.after - rise.before) else None
