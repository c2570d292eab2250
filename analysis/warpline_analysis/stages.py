"""Is one pipeline stage heavier than the others, whatever the single ranks do?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np

from warpline_proto.finding import Finding, FindingKind, Onset, Severity, Subject

from .blame import cost_of, percent
from .detector import Reader, show
from .jobs import Job, step_time
from .robust import Array, median, share_gate
from .self_time import SelfTime, cells

STAGE_GATE: Final = 0.20
"""A stage is heavy from this excess over the mean of the other stages on."""


@dataclass(frozen=True)
class Stages:
    """Typical compute of each stage: `seconds` by stage, the heaviest and its excess over the mean of the others.

    `share` is the share of steps in which it is the heaviest, `peers` the fewest unaccused ranks of any stage.
    """

    seconds: dict[int, float]
    heaviest: int
    excess: float
    share: float
    steps: int
    peers: int

    @property
    def heavy(self) -> bool:
        """The stages differ by the gates."""
        return self.excess >= STAGE_GATE and self.share >= share_gate(1, len(self.seconds))


def compare_stages(times: SelfTime, accused: Collection[int], steps_min: int) -> Stages | None:
    """Stage against stage over the steps that all of them have, accused ranks left out; None without two stages."""
    names = sorted({group.stage for group in times.groups if group.stage is not None})
    if len(names) < 2:
        return None
    columns, peers = [], []
    for stage in names:
        by_step, count = _stage_series(times, stage, accused)
        columns.append(by_step)
        peers.append(count)
    common = sorted(set(columns[0]).intersection(*columns[1:]))
    if len(common) < steps_min or min(peers) < 1:
        return None
    table: Array = np.array([[column[step] for column in columns] for step in common])
    typical = median(table, axis=0)
    heaviest = int(np.argmax(typical))
    others = np.delete(table, heaviest, axis=1)
    excess = float(np.median(table[:, heaviest] / others.mean(axis=1))) - 1
    share = float(np.mean(table[:, heaviest] >= others.max(axis=1)))
    seconds = {stage: float(value) for stage, value in zip(names, typical, strict=True)}
    return Stages(seconds, names[heaviest], excess, share, len(common), min(peers))


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
    first = min(int(group.steps[0]) for group in times.groups if len(group.steps))
    place = f"SELECT DISTINCT rank, pp FROM {times.table} WHERE job = '{times.job.replace(chr(39), chr(39) * 2)}'"
    return Finding(
        kind=FindingKind.STAGE_IMBALANCE,
        severity=Severity.WARNING,
        confidence=0.9 if stages.peers >= 2 and stages.steps >= 20 else 0.75,
        subject=Subject(job=job.name, stage=stages.heaviest, group=f"all ranks of stage {stages.heaviest}"),
        summary=f"Stage {stages.heaviest} computes {percent(stages.excess)} longer than the mean of the other stages in "
        f"{percent(stages.share)} of {stages.steps} steps, on all its replicas alike (seconds a step: {listed})",
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
