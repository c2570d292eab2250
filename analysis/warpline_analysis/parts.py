"""Rows that are added up part by part: a store whose parts never change answers anew only for those that came since."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .detector import Reader

Numbers = npt.NDArray[np.int64]
DENSE: Final = 8
"""Numbers that span at most so many times their count are put in order by counting."""


@runtime_checkable
class Parted(Protocol):
    """A Reader whose tables come in parts that never change."""

    def by_part(self, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]: ...


def by_part(reader: Reader, table: str, sql: str, skipped: Container[str] = ()) -> Mapping[str, pa.Table]:
    """What `sql` answers for each part of a table by itself, by the parts' names, without those `skipped`.

    `sql` reads that table alone, and is the same text in every pass (neither job nor step in it), for the sake of a reader
    that keeps answers. Where there are no parts the table is one.
    """
    return reader.by_part(table, sql, skipped) if isinstance(reader, Parted) else {"": reader.query(sql)}


def together(parts: Mapping[str, pa.Table]) -> pa.Table:
    """The rows of all parts, one at least, in their order; texts as one dictionary, columns without a value of type null."""
    rows = pa.concat_tables((_coded(each) for each in parts.values()), promote_options="default")
    return rows.unify_dictionaries().combine_chunks()


def _coded(rows: pa.Table) -> pa.Table:
    for at, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            rows = rows.set_column(at, field.name, rows.column(at).dictionary_encode())
    return rows


def codes(column: pa.ChunkedArray) -> tuple[list[str], Numbers]:
    """A column of texts -> its texts in order, and for each row the place of its own among them, -1 where it has none."""
    if pa.types.is_null(column.type):
        return [], np.full(len(column), -1, dtype=np.int64)
    coded = column.combine_chunks()
    coded = coded if pa.types.is_dictionary(coded.type) else coded.dictionary_encode()
    names = coded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.full(len(names) + 1, -1, dtype=np.int64)
    place[order] = np.arange(len(names))
    return [names[at] for at in order], place[pc.fill_null(coded.indices, len(names)).to_numpy()]


def ordered(values: Numbers) -> tuple[Numbers, Numbers]:
    """Whole numbers -> each of them once in order, and the place of every value among these (numpy's unique, faster)."""
    if not len(values):
        return values, values
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span > DENSE * len(values):
        found, place = np.unique(values, return_inverse=True)
        return found, place
    seen = np.zeros(span, dtype=bool)
    seen[values - low] = True
    return np.flatnonzero(seen) + low, (np.cumsum(seen) - 1)[values - low]
