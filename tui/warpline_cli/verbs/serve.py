"""`warpline serve`: the terminal screen in a browser, for whoever may see it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from warpline_cli import asking
from warpline_cli.streams import endings, tell
from warpline_proto.defaults import SERVE_ADDRESS
from warpline_proto.errors import ConfigError

if TYPE_CHECKING:
    from warpline_cli.serving.door import Door
    from warpline_proto.tls import Material

HINT: Final = "--https DIR, with what `warpline pki issue --collector HOST` made; or an ssh tunnel to loopback"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `warpline serve`."""
    asking.arguments(parser)
    parser.add_argument("--config", metavar="FILE", help="settings for the screen: [power], [tui], [tls]")
    parser.add_argument("--theme", metavar="NAME", help="as of `warpline top`")
    parser.add_argument(
        "--listen",
        default=SERVE_ADDRESS,
        metavar="HOST:PORT",
        help="where a browser finds it (%(default)s); port 0: a free one",
    )
    parser.add_argument(
        "--https",
        metavar="DIR",
        help="certificate.pem, key.pem and authority.pem to be called with; browsers must show a certificate of that authority",
    )
    parser.add_argument("--operator", action="store_true", help="let operators do what `warpline top --operator` does")
    parser.epilog = (
        "There is no --json: it prints its address and then serves. Where standard output is no terminal, the address with its "
        "token is in a file that it names, and not in what it prints."
    )


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; ConfigError where strangers could come."""
    from warpline_cli.serving.door import Door
    from warpline_proto.tls import Tls, is_local, read

    host, _, port = options.listen.rpartition(":")
    if not (host and port.isdigit() and int(port) < 65_536):
        raise ConfigError(f"--listen {options.listen!r} is no HOST:PORT", f"like {SERVE_ADDRESS}")
    if options.https is None and not is_local(options.listen):
        raise ConfigError(
            f"--listen {options.listen}: other machines could come, and nobody would ask who they are", HINT
        )
    if options.operator and options.store is not None:
        raise ConfigError(
            "--operator with --store: a directory takes no requests", "--collector ADDR asks a running one"
        )
    _check(options)
    material = None if options.https is None else read(Tls.within(options.https))
    door = Door(material is not None, _rights(options), options.operator)
    asyncio.run(_serve(options, door, host.strip("[]"), int(port), material))
    return 0


def _check(options: argparse.Namespace) -> None:
    """What no session could begin with is told here, and not by each session's end."""
    from pathlib import Path

    from warpline_proto.config import files
    from warpline_tui import settings

    if options.config is not None or options.theme is not None:
        settings.read(files(options.config), options.theme)
    if options.store is not None:
        from warpline_collector import catalog

        catalog.read(Path(options.store))


def _rights(options: argparse.Namespace) -> str:
    """What the serving account may see: all of a directory or of a collector on this machine, else what its certificate says."""
    from warpline_cli.serving.door import ADMITTED, OPERATOR
    from warpline_proto.tls import read

    if options.store is not None:
        return OPERATOR
    tls = asking.tls(options)
    if not tls.serves(options.collector):
        return OPERATOR
    role, name = read(tls).told.identity() or ("", "nobody")
    if role not in ADMITTED:
        raise ConfigError(
            f"{tls.certificate} is of {role} {name}, who may ask nothing", "a viewer's or an operator's is needed"
        )
    return role


async def _serve(options: argparse.Namespace, door: Door, host: str, port: int, material: Material | None) -> None:
    import ssl

    from warpline_cli.serving.site import Site, listening
    from warpline_proto.tls import context

    secured = None if material is None else context(material, ssl.PROTOCOL_TLS_SERVER)
    words = _words(options)
    stop = asyncio.Event()
    for number in endings():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with listening(Site(door, words, [*words, "--operator"]), host, port, secured) as bound:
        where = f"{'https' if door.secure else 'http'}://{options.listen.rpartition(':')[0]}:{bound}/"
        with _told(where, "" if door.secure else f"{where}?token={door.token}", bound):
            await stop.wait()


@contextlib.contextmanager
def _told(where: str, opening: str, port: int) -> Iterator[None]:
    """Tell the address; `opening` has the token, and is printed only where a terminal shows it."""
    from warpline_cli.serving.address import file_in, kept

    if not opening or sys.stdout.isatty():
        print(opening or where, flush=True)
        tell("warpline serve: open this address in a browser; whoever has it may look. Ctrl-C ends it")
        yield
        return
    file = file_in(os.environ, port)
    with kept(file, opening):
        print(where, flush=True)
        tell(f"warpline serve: the address with its token, which opens it, is in {file} for this account alone")
        yield


def _words(options: argparse.Namespace) -> list[str]:
    """The program of a session."""
    words = [sys.executable, "-m", "warpline_cli.main", "top"]
    words += ["--collector", options.collector] if options.store is None else ["--store", options.store]
    for name in ("tls", "config", "theme"):
        given = getattr(options, name)
        words += [] if given is None else [f"--{name}", given]
    return words
