"""`warpline findings`: what is wrong now, who, since when, what it costs, what to do; or that nobody could tell."""

from __future__ import annotations

import argparse
import json
import sys
import time

from warpline_cli import asking, standing


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline findings`."""
    asking.arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--all", action="store_true", help="also those that are resolved")


def run(options: argparse.Namespace) -> int:
    """Print them; the exit code is 0 whatever is wrong."""
    with asking.trusted(options) as query:
        known = standing.take(query, resolved=options.all)
    if options.json:
        json.dump(known.to_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(standing.text(known, time.time_ns()))
    return 0
