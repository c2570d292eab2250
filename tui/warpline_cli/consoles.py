"""Where the terminal screen asks: its own questions, and apart from them what its user writes in SQL."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from warpline_cli import asking

if TYPE_CHECKING:
    import pyarrow as pa

    from warpline_collector.pool import WorkerPool
    from warpline_collector.question import Question
    from warpline_tui.console.catalogue import Catalogue, Console

ROWS_MAX: Final = 10_000
"""Rows of a user's question; what is more is cut, and it is said."""


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[tuple[asking.Query, Console]]:
    """Both, to a collector, which looks at every statement itself, or to a directory, where a worker does so for the user's."""
    from warpline_tui.console.catalogue import Console

    if options.store is None:
        with asking.client(options) as client, asking.client(options) as own:
            yield client.query, Console(partial(own.query, rows_max=ROWS_MAX), documented, own.stop)
        return
    with asking.trusted(options) as query, contextlib.closing(_Worker(Path(options.store))) as worker:
        yield query, Console(worker.query, documented, worker.stop)


@cache
def documented() -> Catalogue:
    """Tables and views with their columns, as `warpline sql --describe` tells them."""
    from warpline_collector.described import columns, sentence, views
    from warpline_proto.tables import TABLES
    from warpline_tui.console.catalogue import Relation

    return {name: Relation(sentence(name), columns(name)) for name in (*TABLES, *views())}


class _Worker:
    """A worker over a directory, started when there is a first question: most who look ask none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pool: WorkerPool | None = None
        self._question: Question | None = None

    def query(self, sql: str) -> pa.Table:
        """Rows of one statement; QueryError if it is refused or fails."""
        from warpline_collector.pool import Config, WorkerPool
        from warpline_collector.question import Question

        if self._pool is None:
            self._pool = WorkerPool(self._directory, Config(workers=1))
        self._question = Question()
        return self._pool.query(sql, rows_max=ROWS_MAX, question=self._question).rows()

    def stop(self) -> None:
        """End the question that is under way; nothing happens where there is none."""
        if self._question is not None:
            self._question.cancel()

    def close(self) -> None:
        """End it."""
        if self._pool is not None:
            self._pool.close()
