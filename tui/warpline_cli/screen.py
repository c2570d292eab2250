"""Opens the terminal screen, and closes it again however it is asked to."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from warpline_cli.asking import Query
from warpline_cli.streams import endings

if TYPE_CHECKING:
    from warpline_tui.app import WarplineApp
    from warpline_tui.power import Prices
    from warpline_tui.settings import Tui


def check() -> None:
    """ConfigError where there is nothing to draw on."""
    from warpline_proto.errors import ConfigError

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
) -> int:
    """Stay until the user leaves -> exit code, 128 and more where a signal ended it; ConfigError without a terminal.

    Of what is `recorded` nothing newer comes. `command` runs a command of warpline for an operator, None for whoever only looks.
    `config` is a file to read [tui] from in the place of those of the system and the user.
    """
    from warpline_tui.app import WarplineApp

    check()
    app = WarplineApp(
        query,
        prices=prices,
        recorded=recorded,
        operator=command is not None,
        command=command,
        settings=_settings(config, theme),
    )
    before = {number: signal.getsignal(number) for number in _ended_by()}
    try:
        asyncio.run(_stay(app))
    finally:
        for number, answer in before.items():  # the loop leaves behind that they kill
            signal.signal(number, answer)
    return app.return_code or 0


def _settings(config: str | None, theme: str | None) -> Tui:
    """Section [tui]. Files that were not named and cannot be read keep no screen from opening."""
    from warpline_cli.streams import tell
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


async def _stay(app: WarplineApp) -> None:
    """Signals become events of the loop: an exception in the middle of it would leave the terminal drawn on."""
    loop = asyncio.get_running_loop()
    for number in _ended_by():
        loop.add_signal_handler(number, app.exit, None, 128 + number)
    await app.run_async()


def _ended_by() -> list[signal.Signals]:
    """Signals that close the screen; it reads Ctrl-C as a key."""
    return [number for number in endings() if number != signal.SIGINT]
