"""What a GPU drew from one sample to the next: by its energy counter where there is one, else by its power."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .signals import Numbers, Reals, Samples

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    """By span (from a sample to the next of its GPU). `joules` is NaN where nothing is known of it.

    `counted`: by the counter, `read`: which was read at both ends, `reset`: which began anew.
    """

    joules: Reals
    counted: Flags
    read: Flags
    reset: Flags


def drawn(samples: Samples, place: Numbers, close: Flags) -> Drawn:
    """Joules of the spans that begin at `place`. Where the ends are not `close`, only a counter tells anything.

    Where the counter is read more rarely than the samples are taken, its growth is spread by power, so that the joules of a
    GPU's spans add up to it.
    """
    watts = (samples.watts[place] + samples.watts[place + 1]) / 2
    integrated = watts * (samples.time_ns[place + 1] - samples.time_ns[place]) / 1e9
    counter = _between_readings(samples)
    grown = counter[place + 1] - counter[place]
    with np.errstate(invalid="ignore"):
        counted, reset = grown >= 0, grown < 0
    read = counted & ~np.isnan(samples.joules[place]) & ~np.isnan(samples.joules[place + 1])
    return Drawn(np.where(counted, grown, np.where(close, integrated, np.nan)), counted, read, reset)


def _between_readings(samples: Samples) -> Reals:
    """The counter at every sample between two of its readings; NaN before the first, after the last and over a reset."""
    known = ~np.isnan(samples.joules)
    if known.all() or not known.any():
        return samples.joules
    place = np.arange(len(known))
    before = np.maximum.accumulate(np.where(known, place, 0))
    after = np.minimum.accumulate(np.where(known, place, len(known) - 1)[::-1])[::-1]
    share = _weight(samples)
    passed, whole = share - share[before], share[after] - share[before]
    same = (samples.gpu[before] == samples.gpu) & (samples.gpu[after] == samples.gpu) & known[before] & known[after]
    rising = same & (samples.joules[after] >= samples.joules[before]) & (whole > 0)
    part = np.divide(passed, whole, out=np.zeros_like(passed), where=rising)
    filled = samples.joules[before] + part * (samples.joules[after] - samples.joules[before])
    return np.where(known, samples.joules, np.where(rising, filled, np.nan))


def _weight(samples: Samples) -> Reals:
    """Energy by power, summed from sample to sample over all GPUs; by time alone where power is not known throughout."""
    passed = np.append(0.0, np.diff(samples.time_ns) / 1e9)
    passed[1:][samples.gpu[1:] != samples.gpu[:-1]] = 0.0
    if np.isnan(samples.watts).any():
        return np.cumsum(passed)
    mean = np.append(0.0, (samples.watts[1:] + samples.watts[:-1]) / 2)
    return np.cumsum(passed * mean)
