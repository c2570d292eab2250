"""The seam: a detector asks a Reader one question and reports findings, or why there are none.

A detector is a function. It must report a Check for each job it looked at without accusing anyone: healthy, with the figure
against its gate, or unknown, with what was missing. It never reads a clock: the newest row is its now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, runtime_checkable

import pyarrow as pa

from warpline_proto.defaults import EVIDENCE_ROWS_MAX
from warpline_proto.finding import Evidence, Report

COUNTED: Final = "least(sum(coalesce(count, 1)), 2^53)::BIGINT"
"""SQL: how many events a group of rows stands for. Bounded, since what one node tells of may add up beyond 64 bits."""


class Reader(Protocol):
    """Asks the stored rows. Tables are those of `warpline_proto.tables`, and all exist, empty or not.

    `parameters` fill `?` in order. Dialect: DuckDB.
    """

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table: ...


class Detector(Protocol):
    """One question."""

    def __call__(self, reader: Reader) -> Report: ...


@runtime_checkable
class Narrowing(Protocol):
    """A Reader that leaves rows out: `narrowed` is what has to be asked elsewhere for the same answer."""

    def narrowed(self, sql: str) -> str: ...


def narrowed(reader: Reader, sql: str) -> str:
    """The question that gives without this Reader what it gives with it."""
    return reader.narrowed(sql) if isinstance(reader, Narrowing) else sql


def show(reader: Reader, sql: str) -> Evidence:
    """Evidence: `sql` (no parameters, so that a user can paste it) and what it returns now."""
    rows: Sequence[Mapping[str, Any]] = reader.query(f"SELECT * FROM ({sql}) LIMIT {EVIDENCE_ROWS_MAX}").to_pylist()
    return Evidence(narrowed(reader, sql), tuple(rows))


def literal(value: str | int | float | None) -> str:
    """A value as it is written in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
