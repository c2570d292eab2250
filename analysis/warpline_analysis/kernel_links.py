"""Links judged by communication kernels alone: a group whose shortest launches are longer than its sibling groups'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

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

from .blame import numbered, percent
from .detector import Reader, literal, show
from .jobs import Job, step_time
from .kernel_screen import ARRIVING_MAX
from .kernel_transfers import Group, Transfers, kernels_only, load_transfers
from .robust import Array, Slow, median, slow_members

STEPS_MIN: Final = 5
WINDOW_MIN: Final = 8
TRANSFER_GATE: Final = 1 / 3
"""A transfer is slow from this excess over the sibling groups' median on: a quarter of the bandwidth is gone."""
LEAST_GATE: Final = TRANSFER_GATE / 2
"""... and the shortest launch of its members, in which somebody surely did not wait, by this much at least."""
STRAY_MAX: Final = 0.1
"""Part of the ranks of healthy groups that may be long for reasons of their own."""
STEADY_MAX: Final = 0.15
"""Distance between the quartiles of a group's shortest launches, over their median, up to which they are transfers."""
ALIKE_MAX: Final = 0.2
"""Distance between the shortest launches of healthy sibling groups, over their median."""
BETWEEN_STEPS: Final = 0.5
"""Part of a group's steps in which all its members have to be recorded."""
FINDINGS_MAX: Final = 8


@dataclass(frozen=True)
class Loss:
    """One group whose transfers are long: which kernel, by how much, since when."""

    transfers: Transfers
    place: int
    slow: Slow
    excess: float

    @property
    def group(self) -> Group:
        """Who communicates over the slow link."""
        return self.transfers.groups[self.place]


def judge_links(reader: Reader, job: Job, detector: str) -> Report:
    """Groups of a job whose communication kernels alone are known; nothing to say of other jobs."""
    if job.name not in kernels_only(reader):
        return Report()
    every = load_transfers(reader, job.name)
    known = [each for each in every if _enough(each)]
    if not known:
        text = "communication kernels, but no three groups of the same kind, size and stage with all members recorded"
        missing = ("collectives with their communicators",)
        return Report(checks=(Check(detector, Verdict.UNKNOWN, job.name, text, missing),))
    losses = [loss for transfers in known for loss in _losses(transfers)]
    if not losses:
        steps = max(len(each.steps) for each in known)
        figures = f"gate {percent(TRANSFER_GATE)}, {len(known)} series, {steps} steps"
        text = f"no group's transfers are longer than its siblings': {figures}"
        return Report(checks=(Check(detector, Verdict.HEALTHY, job.name, text),))
    chosen = _chosen(losses)
    left = len(chosen) - FINDINGS_MAX
    rest = (Check(detector, Verdict.UNKNOWN, job.name, f"{left} more groups with long transfers are not listed"),)
    return Report(tuple(_finding(reader, job, each) for each in chosen[:FINDINGS_MAX]), rest if left > 0 else ())


def _enough(transfers: Transfers) -> bool:
    present = np.mean(~np.isnan(transfers.mean), axis=0)
    return len(transfers.steps) >= STEPS_MIN and int(np.sum(present >= BETWEEN_STEPS)) > 2


def _losses(transfers: Transfers) -> list[Loss]:
    slow = slow_members(transfers.mean, STEPS_MIN, WINDOW_MIN)
    if slow is None or slow.stop < len(transfers.steps) - ARRIVING_MAX or 2 * len(slow.members) > len(transfers.groups):
        return []
    regime = slice(slow.start, slow.stop)
    others = [place for place in range(len(transfers.groups)) if place not in slow.members]
    if not _alike(transfers.least[regime][:, others]):
        return []
    found = []
    for place in slow.members:
        excess = _over(transfers.mean[regime], place, others)
        longer = excess >= TRANSFER_GATE and _over(transfers.least[regime], place, others) >= LEAST_GATE
        if longer and _steady(transfers.least[regime, place]) and _of_the_link(transfers, place, slow):
            found.append(Loss(transfers, place, slow, excess))
    return found


def _alike(times: Array) -> bool:
    """Whether the healthy groups take the same: where they do not, what differs is waiting, or they are no siblings."""
    typical = median(times, axis=0)
    return bool(np.nanmax(typical) - np.nanmin(typical) <= ALIKE_MAX * np.nanmedian(typical))


def _steady(times: Array) -> bool:
    """Whether they scatter as transfers do; what a group waits for another one changes from step to step."""
    low, middle, high = np.nanpercentile(times, (25, 50, 75))
    return bool(high - low <= STEADY_MAX * middle)


def _of_the_link(transfers: Transfers, place: int, slow: Slow) -> bool:
    """Whether the group's own link explains who is slow, and nobody's waiting for a member of another kind of group does.

    By kernels alone it is not known which group one synchronises. On a slow link every member's shortest launch is long, and
    nobody else's; where a rank of another group is late, all those that wait for it are long, on both sides of this group.
    """
    shortest = np.fmin.reduce(transfers.own[slow.start : slow.stop], axis=0)
    fast = {rank for at, group in enumerate(transfers.groups) if at not in slow.members for rank in group.ranks}
    usual = float(median(shortest[[rank in fast for rank in transfers.ranks]]))
    long = {rank for rank, each in zip(transfers.ranks, shortest, strict=True) if each >= (1 + LEAST_GATE) * usual}
    own = transfers.groups[place]
    if not long.issuperset(own.ranks) or len(fast & long) > STRAY_MAX * len(fast):
        return False
    kinds = {(group.kind, len(group.ranks)) for group in transfers.every} - {(own.kind, len(own.ranks))}
    return not any(_waits_elsewhere(transfers.every, kind, own.ranks, long) for kind in kinds)


def _waits_elsewhere(every: Sequence[Group], kind: tuple[str, int], members: Sequence[int], long: set[int]) -> bool:
    """Whether each member belongs to a group of this kind most of which is long: then the rest of those may be late."""
    others = [group.ranks for group in every if (group.kind, len(group.ranks)) == kind]
    waiting = {rank for ranks in others if 2 * len(long.intersection(ranks)) >= len(ranks) for rank in ranks}
    return waiting.issuperset(members)


def _over(values: Array, place: int, others: Sequence[int]) -> float:
    return float(median(values[:, place] / median(values[:, others], axis=1))) - 1


def _chosen(losses: Sequence[Loss]) -> list[Loss]:
    """One loss for each set of ranks, groups that hold the others first: parts of a slow group are slow with it."""
    ordered = sorted(losses, key=lambda each: (-len(each.group.ranks), -each.excess, each.group.ranks))
    taken: list[Loss] = []
    for loss in ordered:
        if not any(set(loss.group.ranks) <= set(each.group.ranks) for each in taken):
            taken.append(loss)
    return sorted(taken, key=lambda each: -each.excess)


def _finding(reader: Reader, job: Job, loss: Loss) -> Finding:
    group, transfers, slow = loss.group, loss.transfers, loss.slow
    first = int(transfers.steps[slow.start])
    name = _name(reader, transfers.kernel)
    own = transfers.mean[slow.start : slow.stop, loss.place]
    longer = float(median(own)) * loss.excess / (1 + loss.excess) * transfers.launches
    apart = float(median(transfers.apart[slow.start : slow.stop, loss.place]))
    siblings = len(transfers.groups) - len(slow.members)
    gpus = job.world_size or sum(len(each.ranks) for each in transfers.groups)
    ranks = numbered(group.ranks)
    return Finding(
        kind=FindingKind.LINK_DEGRADATION,
        severity=Severity.WARNING,
        confidence=0.7 if siblings >= 4 else 0.6,
        subject=Subject(job=job.name, group=ranks, stage=group.stage, link=group.name, communicator=group.name),
        summary=f"Communication inside {ranks} ({group.kind} group) is slow: {name} takes {percent(loss.excess)} longer than in "
        f"{siblings} sibling groups even on the member that waits least, since step {first}; a typical member takes "
        f"{percent(apart)} longer than that one",
        next_step="Compare PCIe width and generation, NVLink errors and port counters of these ranks' nodes, then run nccl-tests "
        "on halves of the group to find the node whose link is slow; leave the GPUs' compute alone",
        onset=Onset(step_time(reader, "kernel_clusters", job.name, first), first),
        cost=Cost(seconds_per_step=longer, gpu_hours=longer * slow.steps * gpus / 3600),
        evidence=(_evidence(reader, job, loss, first),),
        ruled_out=(
            "a late rank: the shortest launch over all members grew, and whoever arrives last does not wait",
            "a single rank: communication kernels are compared between groups, never between ranks",
        ),
        missing=("collectives with sizes and sequence numbers: what each operation moved is not known",),
    )


def _name(reader: Reader, kernel: int) -> str:
    rows = reader.query("SELECT min(name) AS name FROM kernel_names WHERE kernel_id = ?", (kernel,))
    return str(rows["name"][0].as_py() or f"kernel {kernel}")[:80]


def _evidence(reader: Reader, job: Job, loss: Loss, first: int) -> Evidence:
    """Shortest mean and shortest launch of each sibling group, the slow one first."""
    values = ", ".join(
        f"({rank}, {place})" for place, group in enumerate(loss.transfers.groups[:64]) for rank in group.ranks
    )
    if loss.place >= 64:
        values += "".join(f", ({rank}, {loss.place})" for rank in loss.group.ranks)
    return show(
        reader,
        "SELECT least AS first_rank, count(*) AS steps, round(median(transfer) / 1e3, 2) AS transfer_microseconds, "
        "round(min(shortest) / 1e3, 2) AS shortest_microseconds FROM (SELECT place, step, min(rank) AS least, min(mean) AS "
        "transfer, min(shortest) AS shortest FROM (SELECT place, step, rank, sum(sum_ns) / sum(count) AS mean, min(min_ns) AS "
        f"shortest FROM kernel_clusters JOIN (VALUES {values}) AS members(rank, place) USING (rank) WHERE "
        f"job = {literal(job.name)} AND kernel_id = {loss.transfers.kernel} AND step >= {first} AND count > 0 "
        "GROUP BY place, step, rank) GROUP BY place, step) GROUP BY first_rank ORDER BY transfer_microseconds DESC, first_rank",
    )
