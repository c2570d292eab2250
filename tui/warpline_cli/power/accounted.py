"""Which part of the account `warpline power report` and `plan` look at, and in which form they print: the same words for both."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from warpline_cli import asking

if TYPE_CHECKING:
    from warpline_analysis.energy.money import Money

SINCE_DEFAULT: Final = "24h"


@dataclass(frozen=True)
class Span:
    """What is asked for, `start_ns` at the beginning of a window, and between which moments anything is accounted."""

    start_ns: int
    end_ns: int
    first_ns: int | None
    last_ns: int | None

    @property
    def first_window_ns(self) -> int | None:
        """Where the first window begins that holds anything."""
        from warpline_proto.power_tables import WINDOW_NS

        return None if self.first_ns is None else self.first_ns - self.first_ns % WINDOW_NS


def arguments(parser: argparse.ArgumentParser, line: str) -> None:
    """Where to ask, over which time, at which prices, and how to print it; `line` is what one line of CSV stands for."""
    asking.arguments(parser)
    parser.add_argument(
        "--since", default=SINCE_DEFAULT, metavar="WHEN",
        help="from when on: a span such as 30m, 24h or 7d before now, or a moment (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--until", metavar="WHEN", help="to when: the same (now)")
    parser.add_argument("--config", metavar="FILE", help="TOML file with section [power]: price, tariffs, carbon")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--csv", action="store_true", help=f"a header line, then one line each{line}")


def money(options: argparse.Namespace) -> Money:
    """Prices as they are set; ConfigError if they cannot be read."""
    from warpline_analysis.energy.money import Money
    from warpline_proto.config import files, load

    prices: Money = load({"power": Money}, files(options.config))["power"]
    return prices


def span(options: argparse.Namespace, query: asking.Query) -> Span:
    """The time that `options` name: before now, or before the end of the account where a store is read that nobody feeds."""
    from warpline_analysis.energy.report import accounted
    from warpline_proto.power_tables import WINDOW_NS

    first_ns, last_ns = accounted(query)
    now_ns = time.time_ns()
    base_ns = now_ns if options.store is None else last_ns or now_ns
    start_ns = asking.since_ns(options.since, base_ns, "--since")
    end_ns = base_ns if options.until is None else asking.since_ns(options.until, base_ns, "--until")
    return Span(start_ns - start_ns % WINDOW_NS, end_ns, first_ns, last_ns)
