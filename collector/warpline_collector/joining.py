"""Which segments become one, and how several are written as one with a part of them in memory at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warpline_proto.tables import table as declared

from . import parquet
from .segments import Segment

FULL_FILES_MAX: Final = 64
"""So many full segments of one span become one, however few rows they have: each is a file that questions open."""


@dataclass(frozen=True)
class Bounds:
    """Segments of fewer than `small_rows` of one span of time are joined to one of `full_rows`, or where they are `files_max`."""

    span_ns: int
    small_rows: int
    full_rows: int
    files_max: int


def small(listed: Sequence[Segment], bounds: Bounds, now: int | None) -> Sequence[Segment]:
    """The oldest small segments of one span, where they are many, come to one of full size, or the span is before `now`.

    None where it is too early; without `now` it never is.
    """
    spans: dict[int, list[Segment]] = defaultdict(list)
    for segment in listed:
        if segment.rows < bounds.small_rows:
            chosen = spans[segment.sealed_ns // bounds.span_ns]
            chosen.append(segment)
            full = sum(each.rows for each in chosen) >= bounds.full_rows
            if len(chosen) >= bounds.files_max or (len(chosen) > 1 and full):
                return chosen
    over = (chosen for span, chosen in sorted(spans.items()) if now is None or span < now)
    return next((chosen for chosen in over if len(chosen) > 1), ())


def full(listed: Sequence[Segment], span_ns: int, full_rows: int, large_rows: int) -> Sequence[Segment]:
    """The oldest full segments of one span that come to a large one, or are many; none where they are neither."""
    spans: dict[int, list[Segment]] = defaultdict(list)
    for segment in listed:
        if full_rows <= segment.rows < large_rows // 2:
            chosen = spans[segment.sealed_ns // span_ns]
            chosen.append(segment)
            rows = sum(each.rows for each in chosen)
            if len(chosen) >= FULL_FILES_MAX or (len(chosen) > 1 and rows >= large_rows):
                return chosen
    return ()


def joined(directory: Path, place: tuple[int, str], segments: Sequence[Segment]) -> Segment:
    """Write one segment of several that have the columns of this version, a part of them in memory at a time.

    It is not listed yet. OSError or pyarrow.ArrowException if one is damaged or the disk refuses.
    """
    ordinal, path = place
    first, schema = segments[0], declared(segments[0].table_name).schema
    parts = parquet.together((directory / each.path for each in segments), schema)
    size = parquet.write_all(parts, parquet.packed(schema), directory / path, durable=True)
    times = [(each.time_min_ns, each.time_max_ns) for each in segments]
    low = min((low for low, _ in times if low is not None), default=None)
    high = max((high for _, high in times if high is not None), default=None)
    rows, sealed_ns = sum(each.rows for each in segments), max(each.sealed_ns for each in segments)
    return Segment(ordinal, first.table_name, path, rows, size, first.columns, low, high, sealed_ns)
