"""The HTTP endpoint: GET /metrics and /healthz, made anew at most once in some seconds, for a bounded number of callers.

The page is made in a thread of its own while frames are taken in; whoever asks meanwhile waits for the same one.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from warpline_proto.errors import ConfigError

from .config import Config
from .door import HttpsDoor
from .families import families
from .snapshot import Health, Snapshot, health
from .text import text

CALLERS_MAX: Final = 16
"""Connections at once; one more is closed."""
REQUEST_BYTES_MAX: Final = 16 * 1024
ANSWER_SECONDS_MAX: Final = 10.0
"""What one caller may take from connecting to having read everything, Prometheus' own bound for a scrape."""
MAKE_SECONDS_MAX: Final = 8.0
GZIP_LEVEL: Final = 1
TEXT: Final = "text/plain; charset=utf-8"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """What is told until it is made anew."""

    made: float
    metrics: bytes
    zipped: bytes
    health: Health


class Endpoint:
    """`start` listens, `close` ends. `take` gives a snapshot and is called in a thread."""

    def __init__(
        self,
        config: Config,
        take: Callable[[], Snapshot],
        monotonic: Callable[[], float] = time.monotonic,
        door: HttpsDoor | None = None,
    ) -> None:
        """`door` lets in those whom it knows; without it anybody may ask."""
        self._config = config
        self._door = door
        self._take = take
        self._monotonic = monotonic
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._making: asyncio.Future[Page] | None = None
        self._callers = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """The address it listens on; ConfigError if that cannot be had."""
        listen = self._config.listen
        try:
            if listen.startswith("unix:"):
                path = Path(listen.removeprefix("unix:"))
                if path.is_socket():
                    path.unlink()  # left by a collector that was killed
                self._server = await asyncio.start_unix_server(self._serve, path, limit=REQUEST_BYTES_MAX)
                return listen
            host, _, port = listen.rpartition(":")
            within = None if self._door is None else self._door.context()
            self._server = await asyncio.start_server(
                self._serve, host.strip("[]"), int(port), limit=REQUEST_BYTES_MAX, ssl=within
            )
        except OSError as error:
            hint = "name another address under [collector.metrics] listen"
            raise ConfigError(f"cannot serve metrics on {listen}: {error.strerror or error}", hint) from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Listen no more; answers under way are cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question and its answer."""
        self._callers += 1
        try:
            if self._callers <= CALLERS_MAX:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    request = await reader.readuntil(b"\r\n\r\n")
                    if why := self._door and self._door.refused(writer):
                        writer.write(_response(HTTPStatus.FORBIDDEN, TEXT, f"{why}\n".encode()))
                    else:
                        writer.write(await self._answer(request.decode("latin-1")))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # a caller that asks nothing, or does not read, is let go
        finally:
            self._callers -= 1
            writer.close()

    async def _answer(self, request: str) -> bytes:
        line, *headers = request.split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"ask with GET\n")
        if path not in ("/metrics", "/healthz"):
            return _response(HTTPStatus.NOT_FOUND, TEXT, b"there are /metrics and /healthz\n", method)
        try:
            page = await asyncio.wait_for(asyncio.shield(self._newest()), MAKE_SECONDS_MAX)
        except TimeoutError:
            told = f"unhealthy\nstale: nothing could be told within {MAKE_SECONDS_MAX:g} s: does the store's disk answer?\n"
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, told.encode(), method)
        except Exception as error:  # the rim: what fails here must not end the collector, nor be silent
            _LOG.exception("metrics could not be made")
            told = f"unhealthy\nstale: nothing can be told: {type(error).__name__}: {error}\n"
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, told.encode(), method)
        if path == "/healthz":
            status = HTTPStatus.SERVICE_UNAVAILABLE if page.health.red else HTTPStatus.OK
            return _response(status, TEXT, page.health.text().encode(), method)
        zips = any(
            name.strip().lower() == "accept-encoding" and "gzip" in value
            for name, _, value in (header.partition(":") for header in headers)
        )
        body = page.zipped if zips else page.metrics
        return _response(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, body, method, zipped=zips)

    def _newest(self) -> asyncio.Future[Page]:
        """The page that is kept, else a new one: one is made at a time, however many ask for it."""
        if self._making is None or (self._making.done() and self._old(self._making)):
            self._making = asyncio.get_running_loop().run_in_executor(self._thread, self._made)
        return self._making

    def _old(self, made: asyncio.Future[Page]) -> bool:
        failed = made.cancelled() or made.exception() is not None
        return failed or self._monotonic() - made.result().made >= self._config.cache_seconds

    def _made(self) -> Page:
        snapshot = self._take()
        metrics: bytes = text(families(snapshot)) + generate_latest(self._registry)
        return Page(self._monotonic(), metrics, gzip.compress(metrics, GZIP_LEVEL), health(snapshot))


def _response(status: HTTPStatus, kind: str, body: bytes, method: str = "GET", zipped: bool = False) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        *(["Content-Encoding: gzip"] if zipped else []),
        *(["Allow: GET, HEAD"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body)
