"""All that can be typed, as one tree of parsers: what completions and manual pages are made from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from warpline_cli.main import VERBS, verb_of

ABOUT = "Always-on GPU tracing and diagnosis: which GPU, rank, link or host costs time or power, since when, and what to do."


def whole() -> argparse.ArgumentParser:
    """The parser of the whole command, every verb and subverb filled.

    A verb whose library is not installed here is there with its name and meaning alone.
    """
    parser = argparse.ArgumentParser(prog="warpline", description=ABOUT)
    parser.add_argument("--version", action="store_true", help="the version")
    added = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, meaning in VERBS.items():
        one = added.add_parser(name, help=_printed(meaning), description=_printed(meaning))
        try:
            verb_of(name).arguments(one)
            for below in children(one).values():
                fill = getattr(below, "fill", None)
                if fill is not None:
                    fill()
        except ModuleNotFoundError as error:
            one.epilog = f"Not installed here: it needs {error.name}."
    return parser


def children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Verbs of a parser, by name; none where it has no further ones."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Parsers that do something: those without further verbs."""
    below = children(parser)
    if not below:
        yield parser
    for each in below.values():
        yield from leaves(each)


def options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Flags and words that a parser takes, in the order in which they were declared; --help and verbs are left out."""
    for action in parser._actions:
        if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            yield action


def _printed(text: str) -> str:
    return text.replace("%", "%%")
