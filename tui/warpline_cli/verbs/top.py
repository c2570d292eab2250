"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse
import time

from warpline_cli import aside, asking, prices, screen
from warpline_cli.streams import tell


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline top`."""
    asking.arguments(parser)
    prices.arguments(parser)
    parser.add_argument(
        "--operator", action="store_true", help="let it send requests for closer looks to the collector, after it asks"
    )
    parser.add_argument("--theme", metavar="NAME", help="warpline-dark, warpline-light, colour-blind or monochrome")
    parser.add_argument(
        "--once", action="store_true", help="print the fleet as text and leave; exit 1 if nobody answers"
    )


def run(options: argparse.Namespace) -> int:
    """Open the screen, or print once."""
    from warpline_proto.errors import ConfigError, WarplineError
    from warpline_tui.answers import Answers
    from warpline_tui.text import fleet
    from warpline_tui.view import Ask
    from warpline_tui.views.roster import RosterView

    if options.operator and options.store is not None:
        raise ConfigError(
            "--operator with --store: a directory takes no requests", "--collector ADDR asks a running one"
        )
    with asking.trusted(options) as query:
        if not options.once:
            command = aside.commands(options) if options.operator else None
            return screen.show(
                query,
                prices.read(options),
                recorded=options.store is not None,
                command=command,
                config=options.config,
                theme=options.theme,
            )
        try:
            shown = RosterView().take(Ask(Answers(query, time.time_ns), time.time_ns()))
        except WarplineError as error:
            tell(f"warpline top: {error}")
            return 1
        print(fleet(shown))
        return 0
