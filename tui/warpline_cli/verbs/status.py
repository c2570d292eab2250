"""`warpline status`: the fleet: which agents are late, dropping, skewed or over budget, of which version; and what is open."""

from __future__ import annotations

import argparse
import json
import sys
import time

from warpline_cli import asking, fleet


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline status`."""
    asking.arguments(parser)
    parser.add_argument("--all", action="store_true", help="also agents with which nothing is wrong")
    parser.add_argument("--json", action="store_true", help="one JSON object, with all agents")


def run(options: argparse.Namespace) -> int:
    """Print it; the exit code is 0 whatever is wrong."""
    with asking.trusted(options) as query:
        known = fleet.take(query)
    if options.store is None:
        with asking.client(options) as client:
            known = known.of(client.status(), options.collector)
    if options.json:
        json.dump(known.to_json(), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(fleet.text(known, time.time_ns(), everyone=options.all))
    return 0
