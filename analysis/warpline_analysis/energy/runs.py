"""Runs: states that last, and what was drawn in each. The joules of all runs of a GPU are its counter's growth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from .joules import Drawn, drawn
from .signals import Numbers, Reals, Samples
from .states import DEFINED_SECONDS, GAP_SECONDS_MAX, SPIN_SECONDS, THRESHOLDS, Flags, State, told

COUNTER_SECONDS: Final = 0.1
"""How far behind an energy counter may be: what was drawn in that time may belong to the state next to it."""
AVERAGE_SECONDS: Final = 1.0
"""A power that is an average looks back so far."""
METHODS: Final = ("counter", "integrated", "mixed")
"""`joules_method` by its number; -1 is none."""
_LOW: Final = (State.EXECUTION_IDLE, State.LOW_UNKNOWN)


@dataclass(frozen=True)
class Runs:
    """Runs in order of GPU and time; `first` is the place of the first sample.

    `joules` is NaN where neither counter nor power is known at all, `unmeasured_seconds` how long they are not. `run_seconds`
    is of the run as it is in all samples, `continued` whether it had begun before `start_ns`. `method` counts in METHODS.
    """

    gpu: Numbers
    job: Numbers
    state: npt.NDArray[np.int8]
    first: Numbers
    start_ns: Numbers
    end_ns: Numbers
    joules: Reals
    unmeasured_seconds: Reals
    error_joules: Reals
    method: npt.NDArray[np.int8]
    run_seconds: Reals
    continued: Flags
    short_seconds: Reals
    short_joules: Reals
    samples: Numbers
    resets: Numbers
    sm_clock_mhz: Reals

    def __len__(self) -> int:
        return len(self.gpu)

    @property
    def seconds(self) -> Reals:
        """Length of each."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class _Spans:
    """From each sample to the next of its GPU; `drawn` as in `joules`."""

    place: Numbers
    state: npt.NDArray[np.int8]
    seconds: Reals
    drawn: Drawn


def runs(
    samples: Samples,
    floors: Mapping[str | None, float],
    start_ns: int | None = None,
    end_ns: int | None = None,
    owner: Numbers | None = None,
) -> Runs:
    """What each GPU did in samples taken from `start_ns` to before `end_ns`; those around tell how long a run is in all.

    Runs are cut where the job of the samples changes; where `owner`, a number by sample, is given, where that changes.
    """
    spans = _spans(samples, floors)
    gpu, job = samples.gpu[spans.place], samples.job[spans.place]
    state, length = _settled(spans, gpu)
    short = _short(spans, gpu)
    within = np.ones(len(spans.place), dtype=bool)
    began = samples.time_ns[spans.place]
    within &= began >= start_ns if start_ns is not None else True
    within &= began < end_ns if end_ns is not None else True
    kept = np.flatnonzero(within)
    held = (job if owner is None else owner[spans.place])[kept]
    breaks = _breaks(gpu[kept], state[kept], np.where(state[kept] == State.DEEP_IDLE, -1, held))
    first = kept[breaks]
    whole = _starts(gpu, state)
    return Runs(
        gpu=gpu[first],
        job=job[first],
        state=state[first],
        first=spans.place[first],
        start_ns=began[first],
        end_ns=samples.time_ns[spans.place[_lasts(kept, breaks)] + 1],
        joules=_known_sum(spans.drawn.joules[kept], breaks),
        unmeasured_seconds=_summed(np.where(np.isnan(spans.drawn.joules), spans.seconds, 0.0)[kept], breaks),
        error_joules=_errors(samples, spans, kept, breaks),
        method=_methods(spans, kept, breaks),
        run_seconds=length[first],
        continued=whole[first] < first,
        short_seconds=_summed(np.where(short, spans.seconds, 0.0)[kept], breaks),
        short_joules=_summed(np.where(short, np.nan_to_num(spans.drawn.joules), 0.0)[kept], breaks),
        samples=np.diff(np.append(breaks, len(kept))),
        resets=_summed(spans.drawn.reset[kept].astype(float), breaks).astype(np.int64),
        sm_clock_mhz=_means(samples.sm_clock_mhz[spans.place[kept]], breaks),
    )


def _spans(samples: Samples, floors: Mapping[str | None, float]) -> _Spans:
    place = np.flatnonzero(samples.gpu[1:] == samples.gpu[:-1])
    seconds = (samples.time_ns[place + 1] - samples.time_ns[place]) / 1e9
    return _Spans(place, told(samples, floors)[place], seconds, drawn(samples, place, seconds <= GAP_SECONDS_MAX))


def _settled(spans: _Spans, gpu: Numbers) -> tuple[npt.NDArray[np.int8], Reals]:
    """States once it is known how long each lasts, and the length of the run of each span.

    Low activity that does not last is active, whether or not a program is known to be resident; spinning that does not last
    is a wait. Low activity is one run also where word of residency comes in the midst of it.
    """
    state = spans.state.copy()
    low = np.isin(state, _LOW)
    state[low & (_lengths(spans, gpu, low.astype(np.int8)) < DEFINED_SECONDS)] = State.ACTIVE
    spins = state == State.SPINNING
    state[spins & (_lengths(spans, gpu, spins.astype(np.int8)) < SPIN_SECONDS)] = State.BUSY_WAIT
    return state, _lengths(spans, gpu, state)


def _short(spans: _Spans, gpu: Numbers) -> Flags:
    """Low activity of the least threshold and more that is not long enough to count."""
    low = np.isin(spans.state, _LOW)
    length = _lengths(spans, gpu, low.astype(np.int8))
    short: Flags = low & (length >= THRESHOLDS[0]) & (length < DEFINED_SECONDS)
    return short


def _breaks(*columns: npt.NDArray[np.int64] | npt.NDArray[np.int8]) -> Numbers:
    """Where a new run begins: one of the columns differs from the row before."""
    count = len(columns[0])
    fresh = np.ones(count, dtype=bool)
    if count:
        fresh[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return np.flatnonzero(fresh)


def _starts(gpu: Numbers, state: npt.NDArray[np.int8]) -> Numbers:
    """Of each span, the place among spans of the first of its run."""
    breaks = _breaks(gpu, state)
    return np.repeat(breaks, np.diff(np.append(breaks, len(gpu))))


def _lengths(spans: _Spans, gpu: Numbers, key: npt.NDArray[np.int8]) -> Reals:
    """Of each span, the seconds of the run of equal keys around it."""
    breaks = _breaks(gpu, key)
    return np.repeat(_summed(spans.seconds, breaks), np.diff(np.append(breaks, len(gpu))))


def _lasts(kept: Numbers, breaks: Numbers) -> Numbers:
    return kept[np.append(breaks[1:], len(kept)) - 1] if len(breaks) else kept


def _summed(values: Reals, breaks: Numbers) -> Reals:
    return np.asarray(np.add.reduceat(values, breaks)) if len(breaks) else values[:0]


def _known_sum(values: Reals, breaks: Numbers) -> Reals:
    known = ~np.isnan(values)
    return np.where(_summed(known.astype(float), breaks) > 0, _summed(np.where(known, values, 0.0), breaks), np.nan)


def _means(values: Reals, breaks: Numbers) -> Reals:
    count = _summed((~np.isnan(values)).astype(float), breaks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_known_sum(values, breaks) / count)


def _methods(spans: _Spans, kept: Numbers, breaks: Numbers) -> npt.NDArray[np.int8]:
    known, counts = ~np.isnan(spans.drawn.joules[kept]), spans.drawn.counted[kept]
    counted = _summed((counts & known).astype(float), breaks)
    integrated = _summed((~counts & known).astype(float), breaks)
    method = np.select([(counted > 0) & (integrated > 0), counted > 0, integrated > 0], [2, 0, 1], default=-1)
    return method.astype(np.int8)


def _errors(samples: Samples, spans: _Spans, kept: Numbers, breaks: Numbers) -> Reals:
    """What may belong to a neighbour: at both edges, what a late counter or an average smears; within, half of each slope."""
    place = spans.place[kept]
    change = np.abs(np.nan_to_num(samples.watts[place + 1] - samples.watts[place]))
    slope = np.where(spans.drawn.read[kept], 0.0, change / 2 * spans.seconds[kept])
    lag = np.where(spans.drawn.counted[kept], COUNTER_SECONDS, np.where(samples.averaged[place], AVERAGE_SECONDS, 0.0))
    edge = lag * change
    before = np.where(place > 0, samples.gpu[np.maximum(place - 1, 0)] == samples.gpu[place], False)
    rise = np.where(before, np.abs(np.nan_to_num(samples.watts[place] - samples.watts[np.maximum(place - 1, 0)])), 0.0)
    if not len(breaks):
        return slope
    lasts = np.append(breaks[1:], len(kept)) - 1
    return np.asarray(_summed(slope, breaks) + (lag * rise)[breaks] + edge[lasts])
