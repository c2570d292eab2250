"""Answers a closer look at the kernels of a rank from its raw ring: the records of a time range, and what is missing of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from warpline_proto.capture import Capture
from warpline_proto.errors import Denied
from warpline_proto.tables import RAW_KERNELS

from .identity import stamp
from .kernels import Kernels, name_rows
from .raw_block import Process
from .raw_ring import RawRing
from .raw_rows import ROWS_A_BATCH, raw_rows
from .raw_segments import Block
from .source import Delivered, Rows

RANKS_NAMED_MAX: Final = 8
"""Ranks named where another was asked for."""


@dataclass
class _Found:
    """Records that overlap the range, in blocks ordered by time.

    `lost` could not be written, `left_out` are of another grade, `gone` could not be read, `beyond` are past the bound.
    """

    lost: int
    left_out: int
    parts: list[tuple[Process, Kernels]] = field(default_factory=list)
    records: int = 0
    gone: int = 0
    beyond: int = 0
    end_ns: int | None = None


def deliver(ring: RawRing, request: Capture) -> Iterator[Rows | Delivered]:
    """Rows of `raw_kernels` and `kernel_names`, earliest first; Denied where nothing of the range is held.

    A record is of the range when any of its time is. Of a range with more than `capture_records_max` records the end is
    left out.
    """
    ring.flush(everything=True)
    blocks = ring.blocks(request.job or None, request.rank)
    start_ns, end_ns = request.start_ns, request.start_ns + request.duration_ns
    if not blocks:
        raise Denied(f"no raw kernels of rank {request.rank} of job {request.job} are held", _others(ring))
    first_ns, last_ns = _span(blocks)
    if end_ns <= first_ns:
        why = f"{ring.dropped} older records fell off" if ring.dropped else "recording began then"
        raise Denied(f"that time is not held: the oldest record is {_seconds(first_ns - end_ns)} later", why)
    if start_ns >= last_ns:
        raise Denied(f"nothing is recorded of that time: the newest record is {_seconds(start_ns - last_ns)} older")
    found = _find(ring, blocks, start_ns, end_ns)
    yield from _rows(found, request.id)
    covered = max(start_ns, first_ns), min(end_ns, last_ns) if found.end_ns is None else found.end_ns
    missing_ns = end_ns - start_ns - (covered[1] - covered[0])
    note = _note(ring, found, (covered[0] - start_ns, end_ns - last_ns))
    if found.gone + found.beyond:
        yield Rows(RAW_KERNELS.name, RAW_KERNELS.empty(), found.gone + found.beyond)
    yield Delivered(found.records, *covered, missing_ns, note)


def _find(ring: RawRing, blocks: Sequence[Block], start_ns: int, end_ns: int) -> _Found:
    """Blocks are read in order of time and no further than needed; what lies beyond is counted."""
    wanted = sorted(
        (each for each in blocks if each.told.last_ns >= start_ns and each.told.first_ns < end_ns),
        key=lambda block: block.told.first_ns,
    )
    found = _Found(sum(each.told.lost for each in wanted), sum(each.told.left_out for each in wanted))
    for position, block in enumerate(wanted):
        kernels = ring.read(block)
        if kernels is None:
            found.gone += block.told.records
            continue
        within = (kernels.start_ns < end_ns) & (np.maximum(kernels.end_ns, kernels.start_ns + 1) > start_ns)
        chosen = kernels.select(within)
        if found.end_ns is not None:
            found.beyond += len(chosen)
            continue
        found.parts.append((block.told.process, chosen))
        found.records += len(chosen)
        if found.records > ring.config.capture_records_max:
            later = [each.told.first_ns for each in wanted[position + 1 :]]
            _cut(found, ring.config.capture_records_max, min(later, default=end_ns))
    return found


def _cut(found: _Found, records_max: int, later_ns: int) -> None:
    """Keep the earliest records, none that started when or after the first that is left out did."""
    starts = np.sort(np.concatenate([part.start_ns for _, part in found.parts]))
    found.end_ns = min(int(starts[records_max]), later_ns)
    before = found.records
    found.parts = [(process, part.select(part.start_ns < found.end_ns)) for process, part in found.parts]
    found.records = sum(len(part) for _, part in found.parts)
    found.beyond += before - found.records


def _rows(found: _Found, capture_id: str) -> Iterator[Rows]:
    for process, part in found.parts:
        ordered = part.select(np.argsort(part.start_ns, kind="stable"))
        yield Rows("kernel_names", name_rows(ordered))
        for start in range(0, len(ordered), ROWS_A_BATCH):
            batch = raw_rows(ordered.select(np.arange(start, min(start + ROWS_A_BATCH, len(ordered)))), process.clock)
            yield Rows(RAW_KERNELS.name, stamp(batch, capture_id=capture_id, **dict(process.place)))


def _span(blocks: Sequence[Block]) -> tuple[int, int]:
    return min(block.told.first_ns for block in blocks), max(block.told.last_ns for block in blocks)


def _note(ring: RawRing, found: _Found, missing: tuple[int, int]) -> str:
    """What of the time asked for is missing, before and after what is held (ns), and which records within it."""
    fell = f" ({ring.dropped} older records fell off)" if ring.dropped else ""
    told = {
        f"the first {_seconds(missing[0])} are not held{fell}": missing[0] > 0,
        f"the last {_seconds(missing[1])} are not recorded": missing[1] > 0,
        f"{found.beyond} records beyond capture_records_max left out": found.beyond,
        f"{found.gone} records could not be read": found.gone,
        f"{found.lost} records around that time could not be written": found.lost,
        f"{found.left_out} records around that time are not of grade {ring.config.grade}": found.left_out,
    }
    return "; ".join(words for words, true in told.items() if true) or "all of the time asked for"


def _others(ring: RawRing) -> str:
    known = {f"{process.get('job')}: {process.get('rank')}" for process in ring.processes()}
    named = sorted(known)[:RANKS_NAMED_MAX]
    return f"held are ranks of {', '.join(named)}{' and others' if len(known) > len(named) else ''}" if named else ""


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.3g} s"
