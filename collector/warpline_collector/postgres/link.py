"""One connection as bytes: messages in, bounded and in time, and bytes out to a client that has to read them."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from . import messages
from .messages import Message, Startup

READ_BYTES: Final = 64 * 1024
SEND_BYTES: Final = 256 * 1024
SEND_SECONDS_MAX: Final = 30.0
"""A client that has not taken the next piece for so long is cut: until then its answer is held in memory."""
WAITING_BYTES_MAX: Final = messages.MESSAGE_BYTES_MAX + READ_BYTES
"""Bytes of a client that are held while its question is answered."""


class Gone(Exception):
    """The client left."""


class Link:
    """Reads and writes one connection. Gone where the client left, TimeoutError where it is too slow, Broken for garbage."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._out = bytearray()

    @property
    def certificate(self) -> dict[str, object]:
        """What the client's certificate says, empty where it showed none."""
        shown = self._writer.get_extra_info("peercert")
        return dict(shown) if shown else {}

    @property
    def end_ns(self) -> int | None:
        """Until when the client's certificate holds, ns since 1970; None where it showed none."""
        until = self.certificate.get("notAfter")
        return ssl.cert_time_to_seconds(until) * 10**9 if isinstance(until, str) else None

    async def startup(self) -> Startup:
        """The first message, and nothing behind it: a client waits for the answer."""
        while (size := messages.startup_size(self._buffer)) is None:
            await self._fill()
        data = self._take(size)
        found = messages.startup(data)
        if self._buffer and found.code in (messages.SSL_REQUEST, messages.GSS_REQUEST):
            raise messages.Broken("bytes came before the connection was made secure")
        return found

    async def message(self) -> Message:
        """The next message."""
        while (size := messages.message_size(self._buffer)) is None:
            await self._fill()
        return messages.message(self._take(size))

    async def left(self) -> None:
        """Returns when the client leaves; what it sends meanwhile is kept, as far as it is bounded."""
        while len(self._buffer) < WAITING_BYTES_MAX:
            try:
                await self._fill()
            except Gone:
                return
        await asyncio.get_running_loop().create_future()

    async def secure(self, context: ssl.SSLContext) -> None:
        """Go on with TLS."""
        await self.send(b"S")
        await self._writer.start_tls(context)

    def write(self, data: bytes) -> None:
        """Keep for the next `flush`."""
        self._out += data

    async def flush(self) -> None:
        """Send what was written."""
        if self._out:
            data, self._out = bytes(self._out), bytearray()
            await self.send(data)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it, a piece at a time: each has to be taken in time."""
        view = memoryview(data)
        for start in range(0, len(view), SEND_BYTES):
            try:
                async with asyncio.timeout(SEND_SECONDS_MAX):
                    self._writer.write(view[start : start + SEND_BYTES])
                    await self._writer.drain()
            except OSError as error:
                raise Gone from error

    def abort(self) -> None:
        """Cut it."""
        self._writer.transport.abort()

    async def _fill(self) -> None:
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._buffer += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data
