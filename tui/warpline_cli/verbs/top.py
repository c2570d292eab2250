"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from warpline_cli import asking, screen
from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline top`."""
    asking.arguments(parser)
    parser.add_argument("--config", metavar="FILE", help="TOML file with section [power]: price and tariffs")
    parser.add_argument(
        "--once", action="store_true", help="print the fleet as text and leave; exit 1 if nobody answers"
    )


def run(options: argparse.Namespace) -> int:
    """Open the screen, or print once."""
    from warpline_tui.feed import Feed
    from warpline_tui.text import fleet

    with asking.trusted(options) as query:
        if not options.once:
            return screen.show(query, _prices(options))
        snapshot = Feed(query).take()
        if snapshot.error:
            tell(f"warpline top: {snapshot.error}")
            return 1
        print(fleet(snapshot))
        return 0


def _prices(options: argparse.Namespace) -> Money | None:
    """What energy costs, None without a price. Files that were not named and cannot be read keep no screen from opening."""
    from warpline_analysis.energy.money import Money
    from warpline_proto.config import files, load
    from warpline_proto.errors import ConfigError

    try:
        money: Money = load({"power": Money}, files(options.config))["power"]
    except ConfigError as error:
        if options.config is not None:
            raise
        tell(f"warpline top: no price: {error}")
        return None
    return money if money.price_per_kwh else None
