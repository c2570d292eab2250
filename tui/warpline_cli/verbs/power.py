"""`warpline power`: reports of energy and money, and what can be done about it; a file of `warpline_cli.power` each."""

from __future__ import annotations

import argparse
import importlib
from typing import Final, Protocol, cast

SUBVERBS: Final = {
    "report": "who drew what in which state, and what it cost",
    "plan": "what lower clocks, fewer active GPUs or a cap would have saved, and at which price",
    "guard": "lower the clocks of GPUs that hold a program and do nothing; tells only, unless told to set them",
    "restore": "unlock the clocks that a guard left low",
}


class _Subverb(Protocol):
    def arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: argparse.Namespace) -> int: ...


class _Later(argparse.ArgumentParser):
    """The parser of a subverb, filled when it is asked: to restore clocks takes nothing of what a report needs."""

    def fill(self) -> None:
        """Add its flags."""
        _subverb(self.prog.split()[-1]).arguments(self)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]  # as argparse has it
        self.fill()
        return super().parse_known_args(args, namespace)


def arguments(parser: argparse.ArgumentParser) -> None:
    """One parser a subverb, of the same kind as this one."""
    kind: type[argparse.ArgumentParser] = type("Later", (_Later, type(parser)), {})
    added = parser.add_subparsers(dest="subverb", metavar="SUBVERB", required=True, parser_class=kind)
    for name, meaning in SUBVERBS.items():
        added.add_parser(name, help=meaning, description=meaning)


def run(options: argparse.Namespace) -> int:
    """Run the subverb."""
    return _subverb(options.subverb).run(options)


def _subverb(name: str) -> _Subverb:
    return cast(_Subverb, importlib.import_module(f"warpline_cli.power.{name}"))
