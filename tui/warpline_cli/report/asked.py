"""What a report asks: which time, which job, and every question with what became of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from warpline_proto.errors import QueryError

from ..asking import Query, text

if TYPE_CHECKING:
    import pyarrow as pa

LONG_NS: Final = 3 * 3600 * 10**9
"""Longer times are told from what is kept by ten minutes."""
WINDOW_NS: Final = 600 * 10**9


@dataclass(frozen=True)
class Range:
    """From and to before, ns since 1970, and the job that alone is looked at, None for all."""

    start_ns: int
    end_ns: int
    job: str | None = None

    @property
    def long(self) -> bool:
        """Whether single steps are too many."""
        return self.end_ns - self.start_ns > LONG_NS

    def within(self, column: str) -> str:
        """SQL: a time lies in it."""
        return f"({column} >= {self.start_ns} AND {column} < {self.end_ns})"

    def of_job(self, column: str = "job") -> str:
        """SQL: a row is of the job, where one is named."""
        return "TRUE" if self.job is None else f"{column} = {text(self.job)}"


@dataclass(frozen=True)
class Asked:
    """One question, how many rows came, or why none did."""

    title: str
    sql: str
    rows: int | None
    milliseconds: float
    trouble: str = ""


class Questions:
    """Asks, and keeps what was asked. A question that fails is told in the report and costs only its own part of it."""

    def __init__(self, query: Query, clock: Callable[[], float] = time.monotonic) -> None:
        self._query = query
        self._clock = clock
        self.asked: list[Asked] = []

    def rows(self, title: str, sql: str) -> list[dict[str, Any]]:
        """Rows of one SELECT, none where it failed."""
        try:
            found: list[dict[str, Any]] = self.query(title)(sql).to_pylist()
        except QueryError:
            return []
        return found

    def query(self, title: str) -> Query:
        """What asks under a title; QueryError where there is no answer."""
        return functools.partial(self._asked, title)

    def _asked(self, title: str, sql: str) -> pa.Table:
        begun, sql = self._clock(), sql.strip()
        try:
            found = self._query(sql)
        except QueryError as error:
            self.asked.append(Asked(title, sql, None, 1e3 * (self._clock() - begun), str(error)))
            raise
        self.asked.append(Asked(title, sql, found.num_rows, 1e3 * (self._clock() - begun)))
        return found


def newest_ns(query: Query) -> int | None:
    """Just after the newest reading, step or finding of a store, ns since 1970; None where it has none with a time."""
    [row] = query("""
SELECT max(at_ns) AS newest_ns FROM (
  SELECT max(time_ns) AS at_ns FROM device_samples UNION ALL SELECT max(end_ns) FROM energy_intervals
  UNION ALL SELECT max(start_ns) FROM steps WHERE clock LIKE 'realtime@%' UNION ALL SELECT max(time_ns) FROM step_history
  UNION ALL SELECT max(updated_ns) FROM findings
)""").to_pylist()
    return None if row["newest_ns"] is None else int(row["newest_ns"]) + 1
