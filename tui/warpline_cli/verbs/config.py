"""`warpline config`: print every setting with its value, say where it is read from, or check a file."""

from __future__ import annotations

import argparse
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which file."""
    parser.add_argument(
        "action", choices=("print", "validate", "path"), help="print the settings, check them, or name the files"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
    )


def run(options: argparse.Namespace) -> int:
    """A ConfigError goes to the command's rim: one sentence, exit 64."""
    from warpline_proto.config import files, load, render
    from warpline_proto.defaults import SYSTEM_CONFIG, USER_CONFIG

    paths = files(options.config)
    if options.action == "path":
        print("\n".join(map(str, paths)) or f"no file: {SYSTEM_CONFIG} and {USER_CONFIG} do not exist, defaults hold")
        return 0
    settings = load(sections(), paths)
    if options.action == "print":
        print(render(settings), end="")
    else:
        print(f"valid: {', '.join(map(str, paths)) or 'no file, defaults hold'}")
    return 0


def sections() -> dict[str, type[Any]]:
    """Every section of the file that agent and collector share."""
    from warpline_agent.config import sections as of_agent
    from warpline_collector.config import sections as of_collector

    return {**of_agent(), **of_collector()}
