"""`warpline notify`: who is told of incidents by the settings here, and a made-up incident to see that they hear."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from warpline_cli.main import EXIT_USAGE

if TYPE_CHECKING:
    from warpline_collector.notify.config import Config, Receiver

EXIT_NOT_TAKEN = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline notify`."""
    parser.add_argument(
        "--test", metavar="RECEIVER", nargs="?", const="", help="send a made-up incident, to one receiver or to all"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
    )
    parser.add_argument("--json", action="store_true", help="an array of objects, one a receiver")
    parser.epilog = "Exit 1: a receiver did not take the made-up incident."


def run(options: argparse.Namespace) -> int:
    """0, 1 where a receiver did not take the made-up incident, 64 where who is told cannot be read; no collector is asked."""
    from warpline_collector.config import sections
    from warpline_proto.config import files, load

    config: Config = load(sections(), files(options.config))["collector.notify"]
    chosen = _chosen(config, options.test)
    told = [_listed(each) if options.test is None else _tried(each, config) for each in chosen]
    if options.json:
        json.dump(told, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif not told:
        print("nobody is told of incidents: [[collector.notify.receivers]] names who is")
    else:
        print("\n".join(f"{each['receiver']}: {each['words']}" for each in told))
    if options.test is None:
        return EXIT_USAGE if any(each["host"] is None for each in told) else 0
    return EXIT_NOT_TAKEN if any(not each["taken"] for each in told) else 0


def _chosen(config: Config, name: str | None) -> Sequence[Receiver]:
    from warpline_proto.config import nearest
    from warpline_proto.errors import ConfigError

    if not name:
        return config.receivers
    chosen = [each for each in config.receivers if each.name == name]
    if not chosen:
        names = [each.name for each in config.receivers]
        hint = nearest(name, names) if names else "[[collector.notify.receivers]] names them"
        raise ConfigError(f"there is no receiver {name!r}", hint)
    return chosen


def _listed(receiver: Receiver) -> dict[str, Any]:
    """Who is told of what; of a URL its host alone, and None with the reason where it is in a file that cannot be used."""
    from urllib.parse import urlsplit

    from warpline_proto.errors import ConfigError

    try:
        host = urlsplit(receiver.address()).hostname
        words = [f"{receiver.kind} at {host}"]
    except ConfigError as error:
        host, words = None, [f"{receiver.kind}: {error}"]
    words += [f"severity {receiver.severity} and above"]
    words += [f"kinds {', '.join(receiver.kinds)}"] if receiver.kinds else []
    words += [f"jobs {', '.join(receiver.jobs)}"] if receiver.jobs else []
    return {"receiver": receiver.name, "kind": receiver.kind, "host": host, "words": ", ".join(words)}


def _tried(receiver: Receiver, config: Config) -> dict[str, Any]:
    from warpline_collector.notify.post import PostError
    from warpline_collector.notify.trial import tried
    from warpline_proto.errors import ConfigError

    begun = time.monotonic()
    try:
        answer = tried(receiver, config.cluster, time.time_ns())
    except (ConfigError, PostError) as error:
        return {"receiver": receiver.name, "taken": False, "status": None, "words": str(error)}
    words = f"answered {answer.status}{': ' if answer.words else ''}{answer.words}"
    if answer.taken:
        words = f"taken in {time.monotonic() - begun:.1f} s, {words}"
    return {"receiver": receiver.name, "taken": answer.taken, "status": answer.status, "words": words}
