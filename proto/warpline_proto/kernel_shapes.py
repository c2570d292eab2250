"""Which shape a reader is told of each row: its entry's runs scaled, the same bent, or its own, whichever is least and enough."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from .kernel_book import Numbers, Reals, Runs, Values
from .kernel_runs import SHAPE_STEP, STEPS_MAX, means_within, steps_of

DEAD_BAND: Final = 0.031
"""W1 distance between told and own runs that is let be, over the time of the group (kernel, stream, rank, step)."""


def distances(left: Values, right: Values) -> Reals:
    """W1 distance between the runs of each row and those of the same row at the right, both over their mean."""
    sides = []
    for values, sign in ((left, 1.0), (right, -1.0)):
        owner = values.runs.owner
        sides.append(
            (owner, values.runs.means_ns / values.mean_ns[owner], sign * values.runs.counts / values.count[owner])
        )
    owner, value, mass = (np.concatenate(column) for column in zip(*sides, strict=True))
    order = np.lexsort((value, owner))
    owner, value = owner[order], value[order]
    gap = np.where(owner[1:] == owner[:-1], value[1:] - value[:-1], 0.0)
    found: Reals = np.bincount(owner[:-1], np.abs(np.cumsum(mass[order])[:-1]) * gap, minlength=len(left)).astype(
        np.float64
    )
    return found


@dataclass(frozen=True)
class Shapes:
    """Rows whose entry's runs are bent (`bends` are the factors of their runs in SHAPE_STEPs), and rows that send their own."""

    bent: Numbers
    bends: Numbers
    bent_runs: Runs
    own: Numbers


def shape(values: Values, keys: Values, group: Numbers) -> Shapes:
    """The least that keeps every group within DEAD_BAND."""
    bent = beyond(distances(values, keys) * values.sum_ns, group, values.sum_ns)
    chosen = values.take(bent)
    kept = scaled(keys.take(bent), chosen)
    bends = steps_of(means_within(chosen.runs, kept), kept.means_ns)
    told = bend(kept, chosen.sum_ns, bends)
    away = distances(chosen, replace(chosen, runs=told))
    far = beyond(away * chosen.sum_ns, group[bent], chosen.sum_ns)
    near = np.setdiff1d(np.arange(bent.size), far)
    inner = np.isin(kept.owner, near)
    return Shapes(bent[near], bends[inner], told.take(near), bent[far])


def bend(runs: Runs, sum_ns: Numbers, bends: Numbers) -> Runs:
    """Runs times their factors, scaled to the rows' sums, in order of duration again."""
    owner = runs.owner
    means = runs.means_ns * np.exp(np.clip(bends, -STEPS_MAX, STEPS_MAX) * SHAPE_STEP)
    means *= (sum_ns / np.maximum(np.bincount(owner, runs.counts * means, minlength=sum_ns.size), 1e-300))[owner]
    order = np.lexsort((means, owner))
    return Runs(runs.offsets, runs.counts[order], means[order])


def scaled(keys: Values, values: Values) -> Runs:
    """The keys' runs, stretched to the rows' counts and means; runs that become empty are left out."""
    runs, owner = keys.runs, keys.runs.owner
    reached = np.cumsum(runs.counts) - (np.cumsum(keys.count) - keys.count)[owner]
    reached = np.rint(reached / keys.count[owner] * values.count[owner]).astype(np.int64)
    first = np.zeros(reached.size, dtype=bool)
    first[runs.offsets[:-1]] = True
    counts = np.where(first, reached, np.diff(reached, prepend=0))
    means = runs.means_ns * (values.mean_ns / keys.mean_ns)[owner]
    kept = counts > 0
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, kept, minlength=len(keys)))]).astype(np.int64)
    return Runs(offsets, counts[kept], means[kept])


def beyond(away_ns: Reals, group: Numbers, sum_ns: Numbers) -> Numbers:
    """Rows to be told in full, so that the rest of each group lies within DEAD_BAND of its time. Ascending."""
    if not group.size:
        return group
    order = np.lexsort((away_ns, group))
    grouped = group[order]
    reached = np.cumsum(away_ns[order])
    first = np.searchsorted(grouped, np.arange(int(group.max()) + 1))
    before = np.concatenate([[0.0], reached])[first]
    allowed = DEAD_BAND * np.bincount(group, sum_ns)
    return np.sort(order[reached - before[grouped] > allowed[grouped]])
