"""Opens the terminal screen, and closes it again however it is asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Final

from warpline_cli import frugal
from warpline_cli.asking import Query
from warpline_cli.streams import endings, tell

if TYPE_CHECKING:
    from warpline_tui.ahead import Ahead
    from warpline_tui.app import WarplineApp
    from warpline_tui.console.catalogue import Console
    from warpline_tui.power import Prices
    from warpline_tui.settings import Tui


LEAVE_SECONDS: Final = 5.0
"""What closing may take after a signal, each time before it is given again."""
LEAVE_TRIES: Final = 4
BEGUN_SECONDS: Final = 3.0
"""After so long what a screen needs is loaded."""
SWITCH_SECONDS: Final = 0.0005
"""How long the thread that reads an answer may compute while a key, or what was drawn for it, waits for its turn."""


def check() -> None:
    """ConfigError where there is nothing to draw on."""
    from warpline_proto.errors import ConfigError

    if "TEXTUAL_DRIVER" in os.environ:  # a browser draws
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):  # Textual draws on standard error
        raise ConfigError("this is no terminal to draw on", "`warpline top --once` prints the fleet as text")


def show(
    query: Query,
    prices: Prices | None = None,
    *,
    recorded: bool = False,
    command: Callable[[Sequence[str]], str] | None = None,
    config: str | None = None,
    theme: str | None = None,
    console: Console | None = None,
    first: str = "fleet",
    at_ns: int | None = None,
) -> int:
    """Stay until the user leaves -> exit code, 128 and more where a signal ended it; ConfigError without a terminal.

    Of what is `recorded` nothing newer comes. `command` runs a command of warpline for an operator, None for whoever only looks.
    `config` is a file to read [tui] from in the place of those of the system and the user. SQL of the user's goes to `console`.
    It begins with the screen `first`, at the past moment `at_ns` where one is given.
    """
    from importlib.util import find_spec

    if find_spec("textual") is None:  # told before anybody is asked, and before that there is no terminal
        raise ModuleNotFoundError(name="textual")
    check()
    frugal.undisturbed()
    sys.setswitchinterval(SWITCH_SECONDS)
    ahead = None if recorded else _ahead(query, first, at_ns)
    from warpline_tui.app import WarplineApp

    app = WarplineApp(
        query,
        prices=prices,
        recorded=recorded,
        operator=command is not None,
        command=command,
        settings=_settings(config, theme),
        console=console,
        first=first,
        at_ns=at_ns,
        ahead=ahead,
    )
    before = {number: signal.getsignal(number) for number in _ended_by()}
    try:
        asyncio.run(_stay(app))
    finally:
        frugal.ended()
        for number, answer in before.items():  # the loop leaves behind that they kill
            signal.signal(number, answer)
        for words, where in app.faults.kept.items():
            tell(f"warpline top: {words}: this is a fault of warpline: please report it\n{where}")
    return app.return_code or 0


def _ahead(query: Query, first: str, at_ns: int | None) -> Ahead:
    """Ask a collector before the screen is loaded. A directory is read by this process, which has enough to do then."""
    from warpline_tui.ahead import Ahead
    from warpline_tui.view import Moment

    return Ahead(query, first, Moment(at_ns))


def _settings(config: str | None, theme: str | None) -> Tui:
    """Section [tui]. Files that were not named and cannot be read keep no screen from opening."""
    from warpline_proto.config import files
    from warpline_proto.errors import ConfigError
    from warpline_tui.settings import read

    try:
        return read(files(config), theme)
    except ConfigError as error:
        if config is not None or theme is not None:
            raise
        tell(f"warpline: settings of the screen are left out: {error}")
        return read(())


class _Leaving:
    """Answers a signal. A first one lets the app close; where the terminal is gone drawing may wait for ever, so the signal is
    given again until that is broken off, and at last the process ends."""

    def __init__(self, app: WarplineApp) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._heard = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._heard += 1
        code = 128 + number
        if self._heard == 1:
            self._loop.call_soon_threadsafe(self._app.exit, None, code)
            threading.Thread(target=self._insist, args=(number,), daemon=True).start()
        elif self._heard < LEAVE_TRIES:
            raise SystemExit(code)
        else:
            os._exit(code)

    def _insist(self, number: int) -> None:
        waiting = threading.Event()
        while not waiting.wait(LEAVE_SECONDS):
            signal.pthread_kill(self._thread, number)


async def _stay(app: WarplineApp) -> None:
    """A signal is no exception in the midst of drawing, which would leave the terminal drawn on."""
    asyncio.get_running_loop().call_later(BEGUN_SECONDS, frugal.begun)
    leaving = _Leaving(app)
    for number in _ended_by():
        signal.signal(number, leaving)
    await app.run_async()


def _ended_by() -> list[signal.Signals]:
    """Signals that close the screen; it reads Ctrl-C as a key."""
    return [number for number in endings() if number != signal.SIGINT]
