"""`warpline top`: the terminal screen over a running collector or a store directory, or its text once."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from warpline_cli import aside, asking, consoles, frugal, prices, screen
from warpline_cli.streams import tell

if TYPE_CHECKING:
    from warpline_tui.view import Ask
    from warpline_tui.views.roster import Roster


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline top`."""
    asking.arguments(parser)
    prices.arguments(parser)
    parser.add_argument(
        "--operator", action="store_true", help="let it send requests for closer looks to the collector, after it asks"
    )
    parser.add_argument("--theme", metavar="NAME", help="warpline-dark, warpline-light, colour-blind or monochrome")
    parser.add_argument("--screen", metavar="NAME", help="which screen comes first: fleet, incidents, power, sql, ...")
    parser.add_argument("--at", metavar="TIME", help="a past moment: 15m (ago), 14:05 or 2026-01-31T12:00:00, in UTC")
    parser.add_argument(
        "--once", action="store_true", help="print the fleet as text and leave; exit 1 if nobody answers"
    )
    parser.add_argument("--json", action="store_true", help="print the fleet as one JSON object and leave")


def run(options: argparse.Namespace) -> int:
    """Open the screen, or print once."""
    from warpline_proto.errors import ConfigError, WarplineError

    frugal.spare()
    frugal.undisturbed()
    if options.operator and options.store is not None:
        raise ConfigError(
            "--operator with --store: a directory takes no requests", "--collector ADDR asks a running one"
        )
    first = _first(options.screen)
    with consoles.opened(options) as (query, console):
        try:
            at_ns = None if options.at is None else _at_ns(options, query)
            if options.once or options.json:
                return _print(options, query, at_ns)
        except ConfigError:
            raise
        except WarplineError as error:
            tell(f"warpline top: {error}")
            return 1
        return screen.show(
            query,
            prices.read(options),
            recorded=options.store is not None,
            command=aside.commands(options) if options.operator else None,
            config=options.config,
            theme=options.theme,
            console=console,
            first=first,
            at_ns=at_ns,
        )


def _first(name: str | None) -> str:
    """The screen that comes first; ConfigError where no key leads to one of that name."""
    from warpline_proto.config import nearest
    from warpline_proto.errors import ConfigError
    from warpline_tui.screens import SCREENS

    known = [each for each, entry in SCREENS.items() if entry.keys]
    if name is not None and name not in known:
        raise ConfigError(f"--screen {name!r}: there is no such screen", f"{nearest(name, known)}; {', '.join(known)}")
    return name or known[0]


def _at_ns(options: argparse.Namespace, query: asking.Query) -> int:
    """The moment that is named; of a directory, before its newest reading."""
    from warpline_tui.travel import moment_ns
    from warpline_tui.views.headline import newest

    now_ns = time.time_ns()
    if options.store is not None:
        now_ns = newest(_ask(query, None)) or now_ns
    is_span = options.at[:-1].isdigit() and options.at[-1:].isalpha()
    return moment_ns(f"-{options.at}" if is_span else options.at, now_ns)


def _ask(query: asking.Query, at_ns: int | None) -> Ask:
    from warpline_tui.answers import Answers
    from warpline_tui.view import Ask, Moment

    return Ask(Answers(query, time.time_ns), time.time_ns(), Moment(at_ns))


def _print(options: argparse.Namespace, query: asking.Query, at_ns: int | None) -> int:
    from warpline_tui.text import fleet
    from warpline_tui.views.roster import ROWS_MAX, RosterView

    ask = _ask(query, at_ns)
    shown = RosterView().take(ask)
    print(json.dumps(_document(shown, ask.now_ns), indent=2) if options.json else fleet(shown))
    for name, listed in (("GPUs", shown.gpus), ("ranks", shown.ranks)):
        if len(listed) >= ROWS_MAX:
            tell(f"only the first {ROWS_MAX} {name}: there may be more")
    return 0


def _document(shown: Roster, now_ns: int) -> dict[str, Any]:
    from dataclasses import asdict

    from warpline_cli.json_keys import LIFE

    return {
        "at_ns": now_ns,
        "gpus": [asdict(gpu) for gpu in shown.gpus],
        "ranks": [asdict(rank) for rank in shown.ranks],
        "findings": [each.finding.to_json() | {key: getattr(each, key) for key in LIFE} for each in shown.incidents],
    }
