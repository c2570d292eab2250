"""What the SQL console asks: one statement of the user's, once; and what there is to ask for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from warpline_proto.errors import WarplineError

from ..console.catalogue import PRESENT, Catalogue, present, tables
from ..view import Ask

CATALOGUE_SECONDS: Final = 3600.0


@dataclass(frozen=True)
class Result:
    """The answer to run `number`: rows, or why there are none. `cut`: there are more; `damaged`: what could not be read."""

    number: int = 0
    rows: pa.Table = field(default_factory=lambda: pa.table({}))
    seconds: float = 0.0
    cut: bool = False
    damaged: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Answered:
    """What the console is told."""

    catalogue: Catalogue
    result: Result | None = None


@dataclass(frozen=True)
class SqlView:
    """Run `number` of the console: `sql`, as the user wrote it; None where nothing is to be run."""

    sql: str | None = None
    number: int = 0

    def take(self, ask: Ask) -> Answered:
        """The rows of a past run are not asked for again, whatever time is looked at: the statement names its own."""
        console = ask.console
        documented = tables() if console is None else console.catalogue()
        try:
            catalogue = present(documented, ask.rows(PRESENT, for_seconds=CATALOGUE_SECONDS))
        except WarplineError:
            catalogue = documented
        if self.sql is None:
            return Answered(catalogue)
        begun = time.perf_counter()
        try:
            rows = (console.query if console is not None else ask.rows)(self.sql)
        except WarplineError as error:
            return Answered(catalogue, Result(self.number, seconds=time.perf_counter() - begun, error=str(error)))
        said: Mapping[bytes, bytes] = rows.schema.metadata or {}
        return Answered(
            catalogue,
            Result(
                self.number,
                rows,
                time.perf_counter() - begun,
                cut=b"truncated" in said,
                damaged=said.get(b"damaged", b"").decode(errors="replace"),
            ),
        )
