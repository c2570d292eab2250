"""Runs of a row of `kernel_clusters` told by themselves: how many, what each counts and its mean, in steps of some percent.

Counts are told first, as steps of what a run counts beyond one, and the means are then those over just so many durations as a
reader will have: what is lost in the counts does not add to what is lost in the means.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from .bits import BitReader, BitWriter
from .errors import WireError
from .kernel_book import RUNS_MAX, Flags, Numbers, Reals, Runs, Values

SHAPE_STEP: Final = 0.03
"""Means of runs are told in steps of 3 % of the row's mean duration."""
SHARE_STEP: Final = 0.3
"""Counts of runs are told in such steps of their logarithm; a row's own count is exact."""
STEPS_MAX: Final = 4_096


def write_runs(writer: BitWriter, values: Values) -> Runs:
    """Counts first, as a reader will have them; then the means over just so many durations."""
    runs = _merged(values)
    size = np.diff(runs.offsets)
    several, first, later = _laid_out(size)
    writer.small(size - 1)
    shares = _share_codes(runs.counts)
    writer.signed((shares - _expected_shares(values.count, size)[runs.owner])[several])
    told = replace(runs, counts=_counts(values.count, size, shares))
    code = np.where(several, steps_of(means_within(values.runs, told), values.mean_ns[runs.owner]), 0)
    writer.signed(code[first])
    writer.small(np.diff(code, prepend=0)[later])
    return _from_codes(values, size, shares, code)


def read_runs(reader: BitReader, values: Values) -> Runs:
    size = reader.small(len(values)) + 1
    if (size > values.count).any() or int(size.sum()) > RUNS_MAX:
        raise WireError("a kernel cluster of more runs than kernels")
    several, first, later = _laid_out(size)
    owner = np.repeat(np.arange(size.size), size)
    shares = np.zeros(owner.size, np.int64)
    shares[several] = reader.signed(int(several.sum())) + _expected_shares(values.count, size)[owner][several]
    code = np.zeros(owner.size, np.int64)
    code[first] = reader.signed(first.size)
    code[later] = reader.small(int(later.sum()))
    summed = np.cumsum(code)
    begin = np.cumsum(size) - size
    code = summed - (summed[begin] - code[begin])[owner]
    if code.size and max(-int(code.min()), int(code.max()), int(np.abs(shares).max())) > STEPS_MAX:
        raise WireError("a run with durations beyond all measure")
    return _from_codes(values, size, shares, code)


def _merged(values: Values) -> Runs:
    """Runs whose means are one step apart or more, so that each is worth telling."""
    runs, owner = values.runs, values.runs.owner
    code = steps_of(runs.means_ns, values.mean_ns[owner])
    start = np.flatnonzero(np.concatenate([[True], (owner[1:] != owner[:-1]) | (code[1:] != code[:-1])])[: owner.size])
    counts = np.add.reduceat(runs.counts, start) if start.size else runs.counts
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[start], minlength=len(values)))])
    return Runs(offsets, counts, runs.means_ns[start])


def _laid_out(size: Numbers) -> tuple[Flags, Numbers, Flags]:
    """Of the runs of rows with `size` runs each: those of rows with several, the first of such rows, and the others of them."""
    several = np.repeat(size > 1, size)
    begin = np.cumsum(size) - size
    later = several.copy()
    later[begin] = False
    return several, begin[size > 1], later


def _share_codes(counts: Numbers) -> Numbers:
    """What a run counts beyond one, in SHARE_STEPs: 0 for nothing, so that single durations stay single."""
    return np.where(counts > 1, 1 + np.rint(np.log(np.maximum(counts - 1, 1)) / SHARE_STEP), 0).astype(np.int64)


def _expected_shares(count: Numbers, size: Numbers) -> Numbers:
    return _share_codes(count // size)


def _counts(count: Numbers, size: Numbers, shares: Numbers) -> Numbers:
    """One for each run, and what is left of each row's count in proportion to the shares."""
    owner = np.repeat(np.arange(size.size), size)
    weight = np.where(shares > 0, np.exp((shares - 1) * SHARE_STEP), 1e-9)
    total = np.bincount(owner, weight, minlength=size.size)
    before = np.concatenate([[0.0], np.cumsum(total)[:-1]])
    reached = np.rint((np.cumsum(weight) - before[owner]) / total[owner] * (count - size)[owner]).astype(np.int64)
    reached[np.cumsum(size) - 1] = count - size
    first = np.zeros(owner.size, dtype=bool)
    first[np.cumsum(size) - size] = True
    more: Numbers = np.maximum(np.where(first, reached, np.diff(reached, prepend=0)), 0)
    return 1 + more


def _from_codes(values: Values, size: Numbers, shares: Numbers, code: Numbers) -> Runs:
    """Runs from their shares and their means in steps, scaled so that they add up to the row's sum."""
    counts = _counts(values.count, size, shares)
    owner = np.repeat(np.arange(size.size), size)
    relative = np.exp(code * SHAPE_STEP)
    scale = values.sum_ns / np.maximum(np.bincount(owner, counts * relative, minlength=size.size), 1e-300)
    return Runs(np.concatenate([[0], np.cumsum(size)]), counts, relative * scale[owner])


def steps_of(means_ns: Reals, of_ns: Reals) -> Numbers:
    """Ratio of means in SHAPE_STEPs."""
    return np.rint(np.log(np.maximum(means_ns / of_ns, 1e-9)) / SHAPE_STEP).astype(np.int64)


def means_within(runs: Runs, parts: Runs) -> Reals:
    """Mean of `runs` over the durations that each of `parts` stands for, counted from the shortest of each row."""
    time = np.concatenate([[0.0], np.cumsum(runs.counts * runs.means_ns)])
    below = np.concatenate([[0], np.cumsum(runs.counts)])
    reached = np.interp(np.concatenate([[0], np.cumsum(parts.counts)]), below, time)
    means: Reals = np.diff(reached) / parts.counts
    return means
