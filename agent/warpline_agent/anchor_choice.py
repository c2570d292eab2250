"""Which of the kinds that recur marks the end of a step: the longest period that is steady and carries weight.

Micro-batches and layers recur too, more often; a loss that is logged or an evaluation recurs more rarely and carries nothing.
Of NCCL operations those carry weight that reduce gradients; among kernels an optimizer's must recur with them. Where a rare
light operation may as well be the norm of accumulated gradients as a loss that is logged, nothing is chosen: no step is better
than a wrong one.

The method is a refinement of the detection of iterations in Greyhound (ATC 2025), which looks for the period of all operations.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .anchors import DEPTH, Flags, Floats, Habits, Keys

GAPS_MIN: Final = 6
"""Gaps that make a habit."""
SAME_PERIOD: Final = 0.12
"""Periods that differ by less are one."""
LONGER: Final = 1.5
"""A period that is longer by so much is another."""
ACCUMULATION_MAX: Final = 64
"""Micro-batches of a step that are thought of: what recurs still more rarely is no end of a step."""
FRESH_PERIODS: Final = 12.0
"""A kind that has not been seen for so many of its periods belongs to the past."""
SURE_PERIODS: Final = 8
"""Periods of what can be nothing but a step."""
USUAL_PERIODS: Final = 24
WATCHED_PERIODS: Final = 70
"""Of what could be a micro-batch: by then the end of a step of 32 of them has been seen."""
WATCHED_NS: Final = 120_000_000_000
"""And so long, or a part of it: layers recur too, hundreds of times within a step."""
USUAL_NS_MIN: Final = 20_000_000
ALONE: Final = 1.3
"""Occurrences in a period below which a kind is alone in it."""
ALIKE: Final = 16
"""A reduction of gradients is at least the largest of its communicator over this: smaller ones belong to a loss."""
SHARE_MIN: Final = 2e-4
"""Share of GPU time below which kernels carry no weight: the optimizer takes more, a loss that is logged less."""
RUNNING_NS_MIN: Final = 2_000_000
"""Kernels that recur sooner belong to one burst."""
BINS: Final = 16
"""Bins of a period in which the rest of the stream is compared with itself."""
AGREEMENT_MIN: Final = 0.2
"""Correlation of the rest of the stream with itself one period later."""
COMPANIONS_MAX: Final = 8


class Choice(NamedTuple):
    """The kind that ends steps, how long they take (ns), and others that recur with it."""

    number: int
    period_ns: float
    companions: tuple[int, ...]


class _Stream(NamedTuple):
    """The habits of one process with what they are compared with; `alive` is seen of late, `steady` alive and steady."""

    keys: Keys
    habits: Habits
    alive: Flags
    steady: Flags

    def column(self, name: str, kind: Any) -> npt.NDArray[Any]:
        return np.array([getattr(each, name) for each in self.keys.kinds], dtype=kind)


def _stream(keys: Keys) -> _Stream | None:
    if not len(keys):
        return None
    habits = keys.habits()
    now_ns = int(habits.last_ns.max())
    with np.errstate(invalid="ignore"):
        alive = (habits.gaps >= 1) & (now_ns - habits.last_ns <= FRESH_PERIODS * habits.period_ns)
    return _Stream(keys, habits, alive, alive & habits.steady & (habits.gaps >= GAPS_MIN))


def from_operations(keys: Keys) -> Choice | None:
    """The end of steps among NCCL operations; None where nothing is sure."""
    stream = _stream(keys)
    if stream is None:
        return None
    heavy, counts = stream.column("heavy", bool), stream.column("counts", bool)
    period = _longest(stream, heavy)
    if period is None or _pending(stream, period, heavy):
        return None
    same = stream.steady & _near(stream.habits.period_ns, period)
    begun = int(stream.habits.begun[same & heavy].max())
    if begun < _needed(stream, period, same, heavy, counts):
        return None
    return _chosen(stream, period, same & counts)


def from_kernels(keys: Keys, all_ns: int) -> Choice | None:
    """The end of steps among kernels that took `all_ns` together; None where nothing is sure."""
    stream = _stream(keys)
    if stream is None or not all_ns:
        return None
    share, named = keys.weight / all_ns, stream.column("heavy", bool)
    period = _longest_running(stream, share, named)
    if period is None or _rarer(stream, period, named | (share >= SHARE_MIN / 4)):
        return None
    same = stream.steady & _near(stream.habits.period_ns, period)
    sure = bool((same & named).any())  # without an optimizer it may be a micro-batch, or a layer
    enough = stream.habits.begun[same].max() >= SURE_PERIODS and keys.watched_ns >= WATCHED_NS / 12
    return _chosen(stream, period, same) if sure and enough else None


def _rarer(stream: _Stream, period: float, heavy: Flags) -> bool:
    """Whether something that weighs recurs more rarely, and not steadily or not often enough to say."""
    habits = stream.habits
    seen_ns = float(habits.last_ns.max() - habits.first_ns.min())
    apart = _apart(habits)
    fresh = habits.last_ns.max() - habits.last_ns <= FRESH_PERIODS * np.maximum(apart, period)
    rarer = apart * stream.keys.watched_ns > LONGER * period * seen_ns  # by the time in which it could be seen
    return bool((heavy & ~stream.steady & (habits.begun >= 2) & fresh & rarer).any())


def _longest_running(stream: _Stream, share: Floats, named: Flags) -> float | None:
    """The longest period at which kernels of some weight recur."""
    periods = stream.habits.period_ns
    for period in np.unique(periods[stream.steady & (periods >= RUNNING_NS_MIN)])[::-1]:
        same = stream.steady & _near(periods, period)
        if share[same].sum() >= SHARE_MIN or (same & named).any():
            return float(np.median(periods[same]))
    return None


def near(keys: Keys, period_ns: float) -> Choice | None:
    """The kind of a period that something else has told."""
    stream = _stream(keys)
    if stream is None:
        return None
    same = stream.steady & _near(stream.habits.period_ns, period_ns) & stream.column("counts", bool)
    return _chosen(stream, period_ns, same) if same.any() else None


def _near(periods: Floats, period: float) -> Flags:
    with np.errstate(invalid="ignore"):
        found: Flags = np.abs(periods / period - 1) <= SAME_PERIOD
    return found


def _longest(stream: _Stream, heavy: Flags) -> float | None:
    periods = stream.habits.period_ns[stream.steady & heavy]
    if not periods.size:
        return None
    return float(np.median(periods[_near(periods, float(periods.max()))]))


def _pending(stream: _Stream, period: float, heavy: Flags) -> bool:
    """Whether something that weighs recurs more rarely, and has not been seen often enough to say how steadily."""
    habits = stream.habits
    apart = _apart(habits)
    rarer = heavy & (habits.begun >= 2) & (habits.gaps < GAPS_MIN) & (apart > LONGER * period)
    return bool((rarer & (apart < 2 * ACCUMULATION_MAX * period)).any())


def _needed(stream: _Stream, period: float, same: Flags, heavy: Flags, counts: Flags) -> float:
    """How many periods must have been seen until this one can be nothing but a step; infinite where it may be none."""
    habits, group = stream.habits, stream.column("group", np.int64)
    size, gathers = stream.column("size", np.int64), stream.column("gathers", bool)
    own = np.isin(group, group[same & heavy])
    per_period = habits.seen * period / np.maximum(habits.last_ns - habits.first_ns, period)
    companion = bool((same & counts & ~heavy & ~gathers & (per_period <= ALONE)).any())
    inner = stream.alive & ~own & (heavy | gathers | ~counts) & (habits.begun >= GAPS_MIN) & (per_period >= LONGER)
    alone = same & heavy & (per_period <= ALONE) & (size * ALIKE >= size[own & (heavy | gathers)].max())
    sharded = bool((own & gathers).any())
    if inner.any() and alone.any() and (companion or not sharded):
        return max(SURE_PERIODS, WATCHED_NS / 12 / period)
    if companion and alone.any():
        return max(WATCHED_PERIODS, WATCHED_NS / 4 / period)
    if alone.any() and not sharded and period >= USUAL_NS_MIN:
        return max(USUAL_PERIODS, WATCHED_NS / 4 / period)
    return np.inf


def _apart(habits: Habits) -> Floats:
    """Mean time between beginnings of each kind, ns."""
    return (habits.last_ns - habits.first_ns) / np.maximum(habits.begun - 1, 1)


def _chosen(stream: _Stream, period: float, same: Flags) -> Choice | None:
    """The kind that is most alike on all ranks; None where the rest of the stream does not repeat with it."""
    numbers = np.flatnonzero(same)
    if not numbers.size or not _repeats(stream, period, same):
        return None
    habits, kinds = stream.habits, stream.keys.kinds
    bursts = habits.seen / np.maximum(habits.begun, 1) > ALONE
    first = min(numbers.tolist(), key=lambda each: (bool(bursts[each]), kinds[each].order, each))
    others = [each for each in numbers.tolist() if each != first]
    return Choice(first, float(habits.period_ns[first]), tuple(others[:COMPANIONS_MAX]))


def _repeats(stream: _Stream, period: float, same: Flags) -> bool:
    """Whether what else runs, in bins of time, looks alike one period later; true where nothing else runs."""
    keys, habits = stream.keys, stream.habits
    with np.errstate(invalid="ignore"):
        others = stream.alive & ~same & (habits.begun >= GAPS_MIN) & (habits.period_ns < period)
    known = [keys.beginnings(int(each))[0] for each in np.flatnonzero(others)]
    long = [times for times in known if times.size >= 2 and times[-1] - times[0] >= 4 * period]
    long = [times for times in long if not keys.crosses(int(times[0]), int(times[-1]))]
    if not long:
        return True
    begin, end = max(int(times[0]) for times in long), max(int(times[-1]) for times in long)
    bins = min(int((end - begin) * BINS / period), DEPTH * BINS)
    if bins < 4 * BINS:
        return True
    counts, _ = np.histogram(np.concatenate(long), bins=bins, range=(end - bins * period / BINS, end))
    smooth = np.convolve(counts - counts.mean(), (0.25, 0.5, 0.25), "same")
    power = float((smooth * smooth).sum())
    lags = [float((smooth[:-lag] * smooth[lag:]).sum()) for lag in range(BINS - 2, BINS + 3)]
    return power == 0 or max(lags) >= AGREEMENT_MIN * power * (1 - BINS / smooth.size)
