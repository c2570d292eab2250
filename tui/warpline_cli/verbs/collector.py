"""`warpline collector`: take frames in, keep them, answer SQL, run the analysis, until told to stop."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

SWITCH_SECONDS: Final = 0.0002
"""How long a thread may compute while another waits for its turn. The one that takes frames in gives its turn away some thirty
times a frame, to unpack and to check: beside one busy thread a frame takes 2 to 3 ms so, and 75 to 100 at Python's own 5 ms."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags; each overrides what files and environment say."""
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file to read instead of those of the system and the user"
    )
    parser.add_argument("--tls", metavar="DIR", help="certificate.pem, key.pem and authority.pem to be called with")
    parser.add_argument("--store", metavar="DIR", help="directory of the store, made if it is not there")
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="where to take frames and questions; port 0: any free one"
    )
    parser.epilog = (
        "There is no --json: it prints nothing but what it logs. `warpline status --json` asks how it fares."
    )


def run(options: argparse.Namespace) -> int:
    """Work until SIGTERM, SIGINT or SIGHUP."""
    import asyncio
    import logging

    from warpline_collector.config import sections
    from warpline_collector.heap import share
    from warpline_proto.config import files, load
    from warpline_proto.tls import SECTION, Tls

    share()
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    loaded = load(sections(), files(options.config))
    loaded["collector"] = _override(loaded["collector"], options)
    if options.tls is not None:
        loaded[SECTION] = Tls.within(options.tls)
    asyncio.run(_serve(loaded))
    return 0


async def _serve(loaded: dict[str, Any]) -> None:
    import asyncio

    from warpline_cli.streams import endings, tell
    from warpline_collector.config import from_sections
    from warpline_collector.service import serve
    from warpline_proto.notify import Supervisor

    stop = asyncio.Event()
    for number in endings():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = from_sections(loaded)
    directory = settings.collector.directory

    def ready(address: str) -> None:
        tell(f"collector ready: listens on {address}, store {directory}")

    def watched(address: str) -> None:
        tell(f"collector serves /metrics and /healthz on {address}")

    def opened(address: str) -> None:
        if not address.startswith("unix:"):  # the socket in the store's directory is there for whoever looks
            tell(f"collector answers PostgreSQL's clients on {address}")

    await serve(settings, ready, stop, supervisor=Supervisor(), watched=watched, opened=opened)


def _override(config: Any, options: argparse.Namespace) -> Any:
    import dataclasses

    from warpline_proto.errors import ConfigError

    given = {"directory": options.store, "listen": options.listen}
    try:
        return dataclasses.replace(config, **{key: value for key, value in given.items() if value is not None})
    except ValueError as error:
        raise ConfigError(str(error)) from error
