"""Is one pipeline stage heavier than the others, whatever the single ranks do?"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.finding import Finding, FindingKind, Onset, Severity, Subject

from .blame import cost_of, percent
from .detector import Reader, literal, show
from .jobs import Job, step_time
from .robust import CHANCE_MAX, Array, by_chance, longest_run, median, share_gate, windows
from .scatter import MEDIAN_VARIANCE, SIGMAS, pooled
from .self_time import SelfTime, cells

STAGE_GATE: Final = 0.05
"""A stage is heavy from this excess over the mean of the other stages on if it certainly has one. The last one has to exceed
this certainly: with the loss it is a little heavier in the usual partitions, as no other one is ..."""
LARGE_GATE: Final = 0.20
"""... and any stage is from this one on, however its ranks scatter."""


@dataclass(frozen=True)
class Stages:
    """Typical compute of each stage in the newest regime: `seconds` by stage, the heaviest, its excess over the others' mean.

    `share` is the share of steps in which it is the heaviest, `first` the step from which on, `peers` the fewest unaccused
    ranks of any stage, `error` the standard error of the excess: chips differ, and a stage has few of them.
    """

    seconds: dict[int, float]
    heaviest: int
    excess: float
    share: float
    steps: int
    first: int
    peers: int
    error: float = 0.0

    @property
    def heavy(self) -> bool:
        """The stages differ by the gates, and not by chance."""
        count = len(self.seconds)
        chance = count * by_chance(round(self.share * self.steps), self.steps, 1 / count)
        least = STAGE_GATE if self.heaviest == max(self.seconds) else 0.0
        sure = self.excess - SIGMAS * self.error >= least or self.excess >= LARGE_GATE
        return sure and self.excess >= STAGE_GATE and self.share >= share_gate(1, count) and chance <= CHANCE_MAX


def compare_stages(times: SelfTime, accused: Collection[int], steps_min: int, window_min: int) -> Stages | None:
    """Stage against stage over the steps that all of them have, accused ranks left out; None without two stages.

    Over the whole window, or over the newest regime in which one stage is heavy if there is one.
    """
    names = sorted({group.stage for group in times.groups if group.stage is not None})
    if len(names) < 2:
        return None
    columns, peers = zip(*(_stage_series(times, stage, accused) for stage in names), strict=True)
    common = sorted(set(columns[0]).intersection(*columns[1:]))
    if len(common) < steps_min or min(peers) < 1:
        return None
    table: Array = np.array([[column[step] for column in columns] for step in common])

    error = _error(times, peers)

    def judge(start: int) -> Stages:
        return _judge(table[start:], names, common[start], min(peers), error)

    judged = [judge(start) for start in windows(len(table), window_min)]
    found = next((stages for stages in judged if stages.heavy), None)
    if found is None:
        return judged[0]
    ratio = _over_others(table, names.index(found.heaviest))
    start, end = longest_run(np.where(ratio >= 1 + found.excess / 2, 1.0, -1.0))
    refined = judge(start) if end - start >= steps_min else found
    return refined if refined.heavy else found


def _over_others(table: Array, stage: int) -> Array:
    ratio: Array = table[:, stage] / np.delete(table, stage, axis=1).mean(axis=1)
    return ratio


def _error(times: SelfTime, peers: Sequence[int]) -> float:
    """Standard error of one stage's excess over the mean of the others, from how much ranks of one group differ."""
    apart = pooled([group.seconds for group in times.groups])
    single = math.sqrt(MEDIAN_VARIANCE) * apart / math.sqrt(min(peers))
    return single * math.sqrt(1 + 1 / (len(peers) - 1))


def _judge(table: Array, names: list[int], first: int, peers: int, error: float) -> Stages:
    typical = median(table, axis=0)
    heaviest = int(np.argmax(typical))
    share = float(np.mean(table[:, heaviest] >= np.delete(table, heaviest, axis=1).max(axis=1)))
    excess = float(np.median(_over_others(table, heaviest))) - 1
    seconds = {stage: float(value) for stage, value in zip(names, typical, strict=True)}
    return Stages(seconds, names[heaviest], excess, share, len(table), first, peers, error)


def _stage_series(times: SelfTime, stage: int, accused: Collection[int]) -> tuple[dict[int, float], int]:
    """Median over the stage's unaccused ranks by step, and how many they are."""
    values: dict[int, list[Array]] = {}
    count = 0
    for group in times.groups:
        if group.stage != stage:
            continue
        kept = [place for place, member in enumerate(group.members) if member.rank not in accused]
        count += len(kept)
        for step, row in zip(group.steps.tolist(), group.seconds[:, kept], strict=True):
            values.setdefault(step, []).append(row)
    medians = {step: float(median(np.concatenate(rows))) for step, rows in values.items()}
    return {step: value for step, value in medians.items() if not np.isnan(value)}, count


def stage_imbalance(reader: Reader, job: Job, times: SelfTime, stages: Stages, largest_excess: float) -> Finding:
    """One stage has more to do: the partition is at fault, no GPU."""
    heavy, mean = stages.seconds[stages.heaviest], float(np.mean(list(stages.seconds.values())))
    listed = ", ".join(f"{stage}: {seconds:.3g} s" for stage, seconds in stages.seconds.items())
    first = stages.first
    place = f"SELECT DISTINCT rank, pp FROM {times.table} WHERE job = {literal(times.job)}"
    return Finding(
        kind=FindingKind.STAGE_IMBALANCE,
        severity=Severity.WARNING,
        confidence=0.9 if stages.peers >= 2 and stages.steps >= 20 else 0.75,
        subject=Subject(job=job.name, stage=stages.heaviest, group=f"all ranks of stage {stages.heaviest}"),
        summary=f"Stage {stages.heaviest} computes {percent(stages.excess)} longer than the mean of the other stages in "
        f"{percent(stages.share)} of {stages.steps} steps since step {first}, on all its replicas alike (seconds a step: "
        f"{listed})",
        next_step=f"Move layers (or the embedding and the loss) away from stage {stages.heaviest}, or give it fewer; no GPU "
        "needs to be replaced",
        onset=Onset(step_time(reader, times.table, job.name, first), first),
        cost=cost_of(job, times, heavy - mean, stages.steps),
        evidence=(
            show(
                reader,
                f"SELECT pp AS stage, round(median(seconds), 6) AS compute_seconds_per_step, count(DISTINCT rank) AS ranks "
                f"FROM ({cells(times.table, times.job, first)}) JOIN ({place}) USING (rank) GROUP BY pp ORDER BY pp",
            ),
        ),
        ruled_out=(
            f"a slow GPU: the replicas of each stage differ by {percent(largest_excess)}",
            "data imbalance: it is the same stage each time",
        ),
    )
