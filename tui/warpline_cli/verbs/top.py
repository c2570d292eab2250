"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse

from warpline_cli import asking
from warpline_cli.streams import tell


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline top`."""
    asking.arguments(parser)
    parser.add_argument(
        "--once", action="store_true", help="print the fleet as text and leave; exit 1 if nobody answers"
    )


def run(options: argparse.Namespace) -> int:
    """Open the screen, or print once."""
    from warpline_tui.feed import Feed

    with asking.trusted(options) as query:
        feed = Feed(query)
        if not options.once:
            from warpline_tui.app import WarplineApp

            WarplineApp(feed).run()
            return 0
        from warpline_tui.text import fleet

        snapshot = feed.take()
        if snapshot.error:
            tell(f"warpline top: {snapshot.error}")
            return 1
        print(fleet(snapshot))
        return 0
