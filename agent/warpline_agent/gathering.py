"""Gathering: rows of many sources until they leave together as one frame, or as several where one would grow too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from warpline_proto.batch import Batch
from warpline_proto.tables import CAPTURES
from warpline_proto.wire import one_batch

FRAME_ROWS_MAX: Final = 100_000
"""Rows of one frame; more make another frame."""
FRAME_MEMORY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Arrow bytes of one frame before compression: half of what the wire takes after it."""

Where = tuple[str, str]
"""Table and source."""


@dataclass
class _Heap:
    batches: list[pa.RecordBatch] = field(default_factory=list)
    dropped: int = 0


class Gathering:
    """`add` as rows come, `take` about once a second."""

    def __init__(self) -> None:
        self._heaps: dict[Where, _Heap] = {}
        self.memory_bytes = 0

    def add(self, batch: Batch) -> None:
        """Rows of one source, place stamped in."""
        heap = self._heaps.setdefault((batch.table, batch.source), _Heap())
        heap.batches.append(batch.rows)
        heap.dropped += batch.dropped
        self.memory_bytes += batch.rows.nbytes

    def take(self) -> Iterator[list[Batch]]:
        """Everything gathered, as the contents of as many frames as it needs; then it is empty.

        What is told of captures comes last: whoever reads that one is done finds its rows.
        """
        heaps, self._heaps, self.memory_bytes = self._heaps, {}, 0
        frame: list[Batch] = []
        rows = held_bytes = 0
        for where, heap in sorted(heaps.items(), key=lambda item: item[0][0] == CAPTURES.name):
            for piece in _pieces(where, heap):
                full = rows + piece.rows.num_rows > FRAME_ROWS_MAX
                if frame and (full or held_bytes + piece.rows.nbytes > FRAME_MEMORY_BYTES_MAX):
                    yield frame
                    frame, rows, held_bytes = [], 0, 0
                frame.append(piece)
                rows += piece.rows.num_rows
                held_bytes += piece.rows.nbytes
        if frame:
            yield frame


def halves(batches: list[Batch]) -> list[list[Batch]]:
    """Two smaller lists with the same rows, for a frame that the wire does not take; one row alone gives nothing."""
    if len(batches) > 1:
        middle = len(batches) // 2
        return [batches[:middle], batches[middle:]]
    batch = batches[0]
    if batch.rows.num_rows < 2:
        return []
    middle = batch.rows.num_rows // 2
    first = Batch(batch.table, batch.source, batch.rows.slice(0, middle), batch.dropped)
    return [[first], [Batch(batch.table, batch.source, batch.rows.slice(middle))]]


def _pieces(where: Where, heap: _Heap) -> Iterator[Batch]:
    rows = one_batch(pa.Table.from_batches(heap.batches))
    per_row = max(rows.nbytes // max(rows.num_rows, 1), 1)
    step = max(min(FRAME_ROWS_MAX, FRAME_MEMORY_BYTES_MAX // per_row), 1)
    dropped = heap.dropped
    for start in range(0, max(rows.num_rows, 1), step):
        yield Batch(*where, rows.slice(start, step), dropped)
        dropped = 0
