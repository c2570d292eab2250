"""One program on the terminal of one browser."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import WSMsgType, web
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from ..processes import end_with_parent

COLUMNS: Final = (20, 500)
LINES: Final = (5, 200)
"""Least and most of a terminal; a browser may say anything."""
STOP_SECONDS: Final = 5.0
"""A program that was told to end and has not by then is killed."""
FRAMES_A_SECOND: Final = "15"


class Session(AppService):
    """`words` are the program, run as it is without a shell."""

    def __init__(self, words: Sequence[str], websocket: web.WebSocketResponse, downloads: DownloadManager) -> None:
        super().__init__(
            "",
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=self._close,
            download_manager=downloads,
        )
        self._words = words
        self._websocket = websocket

    async def serve(self, columns: str, lines: str) -> None:
        """Until the browser is gone or the program has ended."""
        await self.start(within(columns, COLUMNS, 80), within(lines, LINES, 24))
        try:
            async for message in self._websocket:
                if message.type is WSMsgType.TEXT:
                    with contextlib.suppress(
                        ValueError, TypeError, KeyError, AttributeError
                    ):  # not of this page's making
                        await self._heard(*message.json())
        finally:
            await self._end()

    async def _close(self) -> None:
        await self._websocket.close()

    async def _heard(self, kind: str, data: Any = None) -> None:
        if kind == "stdin":
            await self.send_bytes(data.encode())
        elif kind == "resize":
            await self.set_terminal_size(within(data["width"], COLUMNS, 80), within(data["height"], LINES, 24))
        elif kind == "ping":
            await self._websocket.send_json(["pong", data])
        elif kind in ("blur", "focus"):
            await (self.blur() if kind == "blur" else self.focus())

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        environment = {**self._build_environment(width, height), "TEXTUAL_FPS": FRAMES_A_SECOND}
        made = await asyncio.create_subprocess_exec(
            *self._words, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True,
            preexec_fn=end_with_parent,
        )  # fmt: skip
        self._process, self._stdin = made, made.stdin
        return made

    async def _end(self) -> None:
        try:
            await asyncio.wait_for(self.stop(), STOP_SECONDS)
        except TimeoutError:
            pass  # killed below
        finally:
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()


def within(given: object, bounds: tuple[int, int], otherwise: int) -> int:
    """A whole number between the bounds, whatever was given."""
    try:
        return min(max(int(str(given)), bounds[0]), bounds[1])
    except ValueError:
        return otherwise
