"""`warpline power guard`: lower the clocks of GPUs that hold a program and do nothing; a dry run unless told otherwise."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
from types import FrameType
from typing import Final

from warpline_cli.streams import endings, tell

EXIT_DENIED: Final = 77
"""Clocks may not be set (EX_NOPERM of sysexits.h): starting again does not help."""
EXIT_ENDED: Final = 75
"""The guard ended by itself, clocks restored (EX_TEMPFAIL); a supervisor starts it anew."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; everything else is in `[agent.guard]`."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with section [agent.guard]")
    parser.add_argument(
        "--live", action="store_true",
        help="set clocks, on a node that [agent.guard] nodes names; else a dry run, which tells and sets nothing",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="store_true",
        help="lower memory clocks too: idle power falls to that of an empty GPU, and the first requests after it take "
        "longer (p95 latency +160 %% instead of +29 %% in the study that proposed it)",
    )  # fmt: skip
    parser.epilog = (
        "NVML does not tell whether clocks were locked before: restoring unlocks them. GPUs that somebody else locks belong in "
        "[agent.guard] locked_gpus. Needs root or CAP_SYS_ADMIN where it sets clocks. There is no --json: it prints nothing but "
        "what it logs; table guard_actions has what it did."
    )


def run(options: argparse.Namespace) -> int:
    """Guard until SIGTERM, SIGINT or SIGHUP."""
    from pathlib import Path

    from warpline_agent.config import sections
    from warpline_agent.guard.guarding import Guard, counters
    from warpline_agent.guard.record import prepared
    from warpline_agent.sources.nvml import Nvml
    from warpline_proto.config import files, load
    from warpline_proto.errors import Denied, SourceError

    settings = load(sections(), files(options.config))
    config, node, nvml = settings["agent.guard"], settings["agent"].node, settings["sources.nvml"]
    config = dataclasses.replace(config, memory=config.memory or options.memory)
    live = options.live and node in config.nodes
    if options.live and not live:
        tell(f"guard: a dry run: [agent.guard] nodes does not name {node}")
    directory = prepared(Path(config.state_directory))
    source = Nvml(dataclasses.replace(nvml, period_seconds=config.period_seconds), counters=counters())
    told: list[int] = []
    for number in endings():
        signal.signal(number, lambda received, frame: _note(told, received, frame))
    what = "SM and memory clocks" if config.memory else "SM clocks"
    tell(f"guard {os.getpid()} ready: node {node}, {what}, {'live' if live else 'dry run'}")
    guard = Guard(config, directory, source, nvml.library_directory, live, lambda words: tell(f"guard: {words}"))
    try:
        guard.run(lambda: bool(told))
    except Denied as error:
        tell(f"guard: {error}")
        return EXIT_DENIED
    except SourceError as error:
        tell(f"guard: {error}")
        return EXIT_ENDED
    return 0


def _note(told: list[int], received: int, frame: FrameType | None) -> None:
    told.append(received)
