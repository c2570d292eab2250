"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse

from warpline_cli import asking, screen
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
    from warpline_tui.text import fleet

    with asking.trusted(options) as query:
        if not options.once:
            return screen.show(query)
        snapshot = Feed(query).take()
        if snapshot.error:
            tell(f"warpline top: {snapshot.error}")
            return 1
        print(fleet(snapshot))
        return 0
