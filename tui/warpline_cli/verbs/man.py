"""`warpline man [VERB]`: manual pages, made from what the verbs take."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Whose page."""
    parser.add_argument("of", nargs="?", metavar="VERB", help="of this verb; without one, of the command")
    parser.epilog = "`warpline man findings | man -l -` shows it. There is no --json: it prints a page for man(1)."


def run(options: argparse.Namespace) -> int:
    """Print it."""
    from importlib.metadata import version

    from warpline_cli.manual import command, verb
    from warpline_cli.parsers import children, whole
    from warpline_proto.config import nearest
    from warpline_proto.errors import ConfigError

    verbs = children(whole())
    if options.of is not None and options.of not in verbs:
        raise ConfigError(f"there is no verb {options.of!r}", nearest(options.of, verbs))
    told = command(verbs, version("warpline")) if options.of is None else verb(verbs[options.of], version("warpline"))
    print(told, end="")
    return 0
