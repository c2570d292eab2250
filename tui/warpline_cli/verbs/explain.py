"""`warpline explain ID`: one finding as Markdown: what happened, who, since when, what to do, on which evidence."""

from __future__ import annotations

import argparse
import json
import sys

from warpline_cli import asking, prices


def arguments(parser: argparse.ArgumentParser) -> None:
    """Which finding, and where to ask."""
    parser.add_argument(
        "id", metavar="ID", help="as `warpline findings` prints it; its beginning is enough where one has it"
    )
    asking.arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    prices.arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Print it; exit 0 whatever it says."""
    from warpline_cli.explaining import explain

    with asking.trusted(options) as query:
        told = explain(query, options.id, prices.read(options))
    if options.json:
        json.dump(told.to_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(told.markdown())
    return 0
