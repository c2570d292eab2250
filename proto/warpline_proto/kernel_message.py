"""Rows of `kernel_clusters` as packed columns, each the difference to its entry in the book: how they are written and read.

Behind version and serial come the windows with the exact count and sum of each, which anybody can read; then the columns that
need the book: entries, counts, sums, extremes, shapes, and which rows take the place of their entries from now on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .bits import WIDTH_MAX, BitReader, BitWriter, bit_length
from .errors import WireError
from .kernel_book import Flags, Numbers, Values
from .kernel_runs import read_runs, write_runs
from .kernel_shapes import Shapes, bend, scaled

WIDTHS: Final = (2, 6, 20)
"""LOG_STEPs between the extremes of an entry at which the next class of rows begins."""
_LOG_STEPS_MAX: Final = 860
"""More than 2 ** 61 ns."""
_COUNT_MAX: Final = 2**31 - 1


@dataclass(frozen=True)
class Windows:
    """Step, start and end (ns) of each window; `stepless` where there is no step."""

    moments: Numbers
    stepless: Flags


def write(
    writer: BitWriter,
    windows: Windows,
    window: Numbers,
    entry: Numbers,
    values: Values,
    keys: Values,
    shapes: Shapes,
    sum_bits: Numbers,
) -> Values:
    """Windows and values; returns the values as a reader gets them."""
    size = np.bincount(window, minlength=len(windows.moments))
    held = np.flatnonzero(size)
    totals = [np.bincount(window, column, minlength=size.size)[held].astype(np.int64) for column in (values.count,)]
    sums = np.concatenate([[0], np.cumsum(values.sum_ns)])
    ends = np.cumsum(size)
    totals.append((sums[ends] - sums[ends - size])[held])
    writer.number(held.size)
    writer.small(windows.stepless[held].astype(np.int64))
    step, start, end = windows.moments[held].T
    for column in (np.diff(step, prepend=0), np.diff(start, prepend=0), end - start):
        writer.sized(column, np.zeros(held.size, np.int64))
    writer.small(size[held] - 1)
    for column in totals:
        writer.sized(column, np.zeros(held.size, np.int64))
    writer.small(_steps(entry, size[held]))
    writer.signed(values.count - keys.count)
    off_ns = values.sum_ns - expected_sum(keys, values.count)
    slack = max(int(np.median(sum_bits - length_of(off_ns))), 0)
    writer.number(slack)
    writer.sized(off_ns, np.maximum(sum_bits - slack, 1))
    for wide in _by_width(keys):
        writer.signed((values.low - keys.low)[wide])
        writer.signed((values.high - keys.high)[wide])
    writer.chosen(shapes.bent)
    writer.signed(shapes.bends)
    writer.chosen(shapes.own)
    runs = scaled(keys, values).put(shapes.bent, shapes.bent_runs)
    runs = runs.put(shapes.own, write_runs(writer, values.take(shapes.own)))
    return Values(values.count, values.sum_ns, values.low, values.high, runs)


def write_renewal(writer: BitWriter, adopted: Numbers, old_bits: Numbers, sum_bits: Numbers | None) -> None:
    """Rows that take the place of their entries, and lengths to be expected from now on."""
    writer.chosen(adopted)
    writer.number(0 if sum_bits is None else 1)
    if sum_bits is not None:
        writer.signed(sum_bits - old_bits)


def read_renewal(reader: BitReader, old_bits: Numbers) -> tuple[Numbers, Numbers | None]:
    """What `write_renewal` wrote."""
    adopted = reader.chosen(old_bits.size)
    return adopted, np.clip(old_bits + reader.signed(old_bits.size), 1, WIDTH_MAX) if reader.number() else None


def length_of(off: Numbers) -> Numbers:
    """Bits that `BitWriter.sized` takes for a number."""
    return bit_length(2 * np.abs(off) + 1)


def read_header(reader: BitReader, rows_max: int) -> tuple[Windows, Numbers, list[Numbers]]:
    """Windows, rows of each, and their total count and sum."""
    count = reader.number()
    if count > rows_max:
        raise WireError("kernel clusters of more windows than rows")
    nothing = np.zeros(count, np.int64)
    stepless = reader.small(count) > 0
    step, start, length = (reader.sized(count, nothing) for _ in range(3))
    size = reader.small(count) + 1
    if size.size and (int(size.max()) > rows_max or int(size.sum()) > rows_max):
        raise WireError("more kernel clusters than the part speaks of")
    totals = [reader.sized(count, nothing) for _ in range(2)]
    start = np.cumsum(start)
    return Windows(np.column_stack([np.cumsum(step), start, start + length]), stepless), size, totals


def read_values(reader: BitReader, keys: Values, sum_bits: Numbers) -> Values:
    """Values of rows whose entries are `keys`."""
    rows = len(keys)
    count = keys.count + reader.signed(rows)
    expected = np.maximum(sum_bits - reader.number(), 1)
    if rows and not 1 <= int(count.min()) <= int(count.max()) <= _COUNT_MAX:
        raise WireError("a kernel cluster of no kernel, or of too many")
    total = expected_sum(keys, count) + reader.sized(rows, expected)
    if rows and int(total.min()) < 1:
        raise WireError("a kernel cluster that took no time")
    low, high = keys.low.copy(), keys.high.copy()
    for wide in _by_width(keys):
        low[wide] += reader.signed(wide.size)
        high[wide] += reader.signed(wide.size)
    if rows and not 0 <= int(min(low.min(), high.min())) <= int(max(low.max(), high.max())) <= _LOG_STEPS_MAX:
        raise WireError("a kernel cluster with durations beyond all measure")
    base = Values(count, total, low, high, keys.runs)
    runs = scaled(keys, base)
    bent = reader.chosen(rows)
    kept = runs.take(bent)
    runs = runs.put(bent, bend(kept, base.sum_ns[bent], reader.signed(kept.counts.size)))
    own = reader.chosen(rows)
    runs = runs.put(own, read_runs(reader, base.take(own)))
    return Values(count, total, low, high, runs)


def _by_width(keys: Values) -> list[Numbers]:
    """Rows by how far the extremes of their entries lie apart: the wider, the more they move."""
    steps = keys.high - keys.low
    edges = np.digitize(steps, WIDTHS)
    return [np.flatnonzero(edges == each) for each in range(len(WIDTHS) + 1)]


def _steps(entry: Numbers, size: Numbers) -> Numbers:
    """Entries of each window, ascending, as the distance to the one before, less one."""
    steps = np.diff(entry, prepend=-1) - 1
    first = np.cumsum(size) - size
    steps[first] = entry[first]
    return steps


def running(steps: Numbers, size: Numbers) -> Numbers:
    """The way back from `_steps`."""
    first = np.cumsum(size) - size
    summed = np.cumsum(steps + 1)
    before = np.concatenate([[0], summed])[first]
    entry: Numbers = summed - np.repeat(before, size) - 1
    return entry


def expected_sum(keys: Values, count: Numbers) -> Numbers:
    """Only operations that every machine rounds alike."""
    return np.rint(np.minimum(keys.sum_ns / keys.count * count, 2.0**61)).astype(np.int64)
