"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from warpline_tui.feed import Feed, Query


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline top`."""
    from warpline_proto.defaults import COLLECTOR_ADDRESS

    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--collector", default=COLLECTOR_ADDRESS, metavar="ADDR", help="a running collector (%(default)s)"
    )
    where.add_argument("--store", metavar="DIR", help="a store directory; no collector needs to run")
    parser.add_argument("--once", action="store_true", help="print the fleet as text and leave")


def run(options: argparse.Namespace) -> int:
    """Open the screen, or print once."""
    from warpline_tui.feed import Feed

    with _query(options) as query:
        feed = Feed(query)
        if options.once:
            return _once(feed)
        from warpline_tui.app import WarplineApp

        WarplineApp(feed).run()
    return 0


@contextlib.contextmanager
def _query(options: argparse.Namespace) -> Iterator[Query]:
    if options.store is not None:
        from pathlib import Path

        from warpline_collector.reader import CatalogReader

        yield CatalogReader(Path(options.store)).query
        return
    from warpline_proto.client import QueryClient

    with QueryClient(options.collector) as client:
        yield client.query


def _once(feed: Feed) -> int:
    from warpline_tui.text import fleet

    snapshot = feed.take()
    print(fleet(snapshot))
    return 1 if snapshot.error else 0
