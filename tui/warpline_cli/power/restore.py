"""`warpline power restore`: unlock the clocks that a guard left low; for after its end and before its start."""

from __future__ import annotations

import argparse
import json
from typing import Final

from warpline_cli.streams import tell

EXIT_LEFT: Final = 75
"""Some are not restored (EX_TEMPFAIL); they stay in the record."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where the record is, and how much to unlock."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with section [agent.guard]")
    parser.add_argument(
        "--all", action="store_true",
        help="unlock SM and memory clocks of every GPU of this node, whoever locked them, not only those in the record",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: argparse.Namespace) -> int:
    """Restore; exit 0 if nothing is left low, also where nothing was."""
    from pathlib import Path

    from warpline_agent.config import sections
    from warpline_agent.guard.orders import Hand
    from warpline_agent.guard.record import guard_lock, prepared
    from warpline_agent.guard.restoring import Restoring
    from warpline_proto.config import files, load

    settings = load(sections(), files(options.config))
    config = settings["agent.guard"]
    directory = prepared(Path(config.state_directory))
    lock = guard_lock(directory, "restore")
    hand = Hand(directory, settings["sources.nvml"].library_directory, config.call_seconds)
    restoring = Restoring(directory, hand, "warpline power restore")
    try:
        restoring.everything() if options.all else restoring.recorded()
    finally:
        hand.close()
        lock.give_back()
    if options.json:
        print(json.dumps({"restored": list(restoring.restored), "left": dict(restoring.left)}))
    for uuid in restoring.restored:
        tell(f"{uuid}: clocks unlocked")
    for uuid, why in restoring.left.items():
        tell(f"{uuid}: not restored: {why}")
    return EXIT_LEFT if restoring.left else 0
