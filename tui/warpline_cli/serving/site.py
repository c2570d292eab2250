"""The HTTP side of a served screen: one page, what it is made of, and a websocket for each session."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import textual_serve
from aiohttp import web
from textual_serve.download_manager import DownloadManager

from .door import OPERATOR, Door
from .session import Session, within

SESSIONS_MAX: Final = 16
"""Each is a process of about 120 MB."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""Longest message of a browser: what somebody pastes."""
HEARTBEAT_SECONDS: Final = 15.0
"""A browser that does not answer by then is gone, and its program ends."""
FONT_SIZE: Final = (8, 40)
STATIC: Final = Path(textual_serve.__file__).parent / "static"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """`words` of an operator's or a viewer's program, started anew for each who comes."""

    def __init__(self, door: Door, viewer: Sequence[str], operator: Sequence[str]) -> None:
        self._door = door
        self._viewer, self._operator = viewer, operator
        self._open: set[web.WebSocketResponse] = set()
        self._downloads = DownloadManager()

    def application(self) -> web.Application:
        """What answers."""
        made = web.Application(middlewares=[self._guarded])
        made.add_routes(
            [
                web.get("/", self._index),
                web.get("/page.css", self._style),
                web.get("/ws", self._session),
                web.get("/download/{key}", self._download),
                web.static("/static", STATIC),
            ]
        )
        made.on_shutdown.append(self._close)
        return made

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Answer) -> web.StreamResponse:
        request["role"] = self._door.admit(request)
        return await handler(request)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:  # out of the address line, its history and pictures of it
            moved = web.HTTPSeeOther("/", headers=HEADERS)
            name, token = self._door.cookie(request.headers), self._door.token
            moved.set_cookie(name, token, httponly=True, samesite="Strict", secure=self._door.secure)
            raise moved
        scheme = "wss" if self._door.secure else "ws"
        said = _text("page.html").format(
            websocket=f"{scheme}://{request.host}/ws",
            font_size=within(request.query.get("fontsize"), FONT_SIZE, 16),
        )
        return web.Response(text=said, content_type="text/html", headers=HEADERS)

    async def _style(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=_text("page.css"), content_type="text/css", headers=HEADERS)

    async def _session(self, request: web.Request) -> web.StreamResponse:
        if len(self._open) >= SESSIONS_MAX:
            raise web.HTTPServiceUnavailable(text=f"{SESSIONS_MAX} screens are open: close one first\n")
        websocket = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=MESSAGE_BYTES_MAX)
        self._open.add(websocket)
        try:
            await websocket.prepare(request)
            words = self._operator if request["role"] == OPERATOR else self._viewer
            with contextlib.suppress(ConnectionError):
                await Session(words, websocket, self._downloads).serve(
                    request.query.get("width", ""), request.query.get("height", "")
                )
        finally:
            self._open.discard(websocket)
        return websocket

    async def _download(self, request: web.Request) -> web.StreamResponse:
        key = request.match_info["key"]
        try:
            told = await self._downloads.get_download_metadata(key)
        except KeyError as error:
            raise web.HTTPNotFound(text="that was fetched already\n") from error
        name = (
            "".join(each for each in told.file_name if each.isascii() and (each.isalnum() or each in "._-")) or "result"
        )
        kind = {"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": f'attachment; filename="{name}"'}
        response = web.StreamResponse(headers={**HEADERS, **kind})
        await response.prepare(request)
        async for piece in self._downloads.download(key):
            await response.write(piece)
        await response.write_eof()
        return response

    async def _close(self, application: web.Application) -> None:
        for websocket in tuple(self._open):
            await websocket.close()


@contextlib.asynccontextmanager
async def listening(site: Site, host: str, port: int, secured: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve; gives the port, which is a free one where `port` is 0."""
    runner = web.AppRunner(site.application(), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        place = web.TCPSite(runner, host, port, ssl_context=secured, shutdown_timeout=2.0)
        await place.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
