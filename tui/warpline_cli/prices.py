"""What energy costs, for verbs that tell of money besides: without prices they tell the rest."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money


def arguments(parser: argparse.ArgumentParser) -> None:
    """--config."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with section [power]: price and tariffs")


def read(options: argparse.Namespace) -> Money | None:
    """Prices as they are set, None where neither energy nor GPU time has one."""
    money = settings(options)
    return money if money.price_per_kwh or money.price_per_gpu_hour else None


def settings(options: argparse.Namespace) -> Money:
    """Section [power]. Files that were not named and cannot be read only leave money out."""
    from warpline_analysis.energy.money import Money
    from warpline_proto.config import files, load
    from warpline_proto.errors import ConfigError

    try:
        money: Money = load({"power": Money}, files(options.config))["power"]
    except ConfigError as error:
        if options.config is not None:
            raise
        tell(f"no price: {error}")
        return Money()
    return money
