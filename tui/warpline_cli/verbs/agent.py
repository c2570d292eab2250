"""`warpline agent`: read this node and send to a collector, until told to stop."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import time
from types import FrameType
from typing import Any

EXIT_BROKEN = 70
"""The agent ended by itself (EX_SOFTWARE of sysexits.h); a supervisor starts it anew."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; each overrides what files and environment say."""
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
    )
    parser.add_argument("--collector", metavar="HOST:PORT", help="where to send")
    parser.add_argument("--cluster", metavar="NAME", help="cluster this node belongs to")
    parser.add_argument("--node", metavar="NAME", help="name of this node, its host name by default")
    parser.add_argument("--source", metavar="NAME", action="append", dest="sources", help="read only this; repeatable")
    parser.add_argument("--tls", metavar="DIR", help="certificate.pem, key.pem and authority.pem to call with")
    parser.add_argument("--spool-directory", metavar="DIR", help="where frames wait for their acknowledgement")
    parser.epilog = (
        "There is no --json: it prints nothing but what it logs. `warpline status --json` tells how agents fare."
    )


def run(options: argparse.Namespace) -> int:
    """Work until SIGTERM, SIGINT or SIGHUP."""
    from pathlib import Path

    from warpline_agent.agent import Agent, new_boot
    from warpline_agent.capture_watch import CaptureWatch
    from warpline_agent.clock_offset import ClockOffset
    from warpline_agent.config import build_sources, sections
    from warpline_agent.detail import Detail
    from warpline_agent.exporters.collector import CollectorExporter
    from warpline_agent.heap import keep_freed
    from warpline_agent.spool import Spool
    from warpline_cli.streams import endings, tell
    from warpline_proto.config import files, load
    from warpline_proto.notify import Supervisor
    from warpline_proto.tls import SECTION

    keep_freed()
    settings = load(sections(), files(options.config))
    settings["agent"] = config = _override(settings["agent"], options)
    tls = _certificates(settings[SECTION], config, options.tls)
    detail = Detail()
    sources = build_sources(settings, detail)
    spool = Spool(Path(config.spool_directory), config.node, new_boot(), time.time_ns, config.limits())
    clocks = ClockOffset()
    exporter = CollectorExporter(spool, config.collector, clocks=clocks, tls=tls)
    told: list[int] = []
    for number in endings():
        signal.signal(number, lambda received, frame: _note(told, received, frame))
    watch = CaptureWatch(config.node, config.collector, tls=tls)
    agent = Agent(
        config,
        sources,
        spool,
        exporter,
        say=lambda words: tell(f"agent: {words}"),
        requests=watch,
        clocks=clocks,
        detail=detail,
    )
    names = ", ".join(sources) or "nothing"
    tell(f"agent ready: node {config.node} reads {names}, sends to {config.collector}")
    supervisor = Supervisor()
    supervisor.ready(f"node {config.node} reads {names}, sends to {config.collector}")

    def stopping() -> bool:
        # Looked at once: a signal during the sign of life is answered in the next turn, with its word.
        asked = bool(told)
        supervisor.stopping() if asked else supervisor.beat()
        return asked

    return 0 if agent.run(stopping) else EXIT_BROKEN


def _override(config: Any, options: argparse.Namespace) -> Any:
    from warpline_proto.errors import ConfigError

    given = {
        key: value
        for key in ("collector", "cluster", "node", "sources", "spool_directory")
        if (value := getattr(options, key)) is not None
    }
    if "sources" in given:
        given["sources"] = tuple(given["sources"])
    try:
        return dataclasses.replace(config, **given)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _certificates(configured: Any, config: Any, directory: str | None) -> Any:
    """What the agent shows, once it is found to fit; ConfigError where it is missing, or is not this node's."""
    from warpline_proto.dialing import checked
    from warpline_proto.errors import ConfigError
    from warpline_proto.tls import Tls

    tls = configured if directory is None else Tls.within(directory)
    held = checked(config.collector, tls)
    if held is not None and held.told.identity() != ("agent", config.node):
        role, name = held.told.identity() or ("nobody", "")
        hint = f"warpline pki issue --agent {config.node}, or set node in [agent]"
        told = f"{tls.certificate} is the certificate of {role} {name}, and this is node {config.node}"
        raise ConfigError(told, hint)
    return tls


def _note(told: list[int], received: int, frame: FrameType | None) -> None:
    told.append(received)
