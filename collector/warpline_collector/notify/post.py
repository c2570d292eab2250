"""One POST over HTTP or HTTPS with a bound on everything: time, what is read of the answer, where it may be sent on to."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

ANSWER_BYTES_MAX: Final = 16 * 1024
"""Of an answer so much is read; the rest is left to whoever sends it."""
ANSWER_CHARS_MAX: Final = 200
SECRET_CHARS_MIN: Final = 8
"""A piece of a URL so long may be a password."""
REDIRECTS_MAX: Final = 3
_KEPT: Final = (307, 308)
"""Redirects that mean the same POST once more; others would make a GET of it."""
_BETWEEN: Final = re.compile("[/&=]")
_PORTS: Final = {"http": 80, "https": 443}


class PostError(Exception):
    """It is not known to have been taken. The words never hold the URL."""


@dataclass(frozen=True)
class Answer:
    """What the other side said; `retry_seconds` where it asks to be left alone for so long."""

    status: int
    words: str = ""
    retry_seconds: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the message is the other side's from now on."""
        return 200 <= self.status < 300


class Poster:
    """`post`, one at a time; `cut` ends it from another thread."""

    def __init__(self, context: ssl.SSLContext | None = None, clock: Callable[[], float] = time.time) -> None:
        """Servers are checked against the system's trust unless `context` knows better; `clock` gives seconds since 1970."""
        self._context = context or ssl.create_default_context()
        self._clock = clock
        self._connection: http.client.HTTPConnection | None = None

    def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """The answer within `seconds` once connected; PostError where there is none, or where it leads elsewhere."""
        try:
            return self._followed(url, body, headers, seconds)
        except ValueError as error:  # a port of a proxy or a redirect that is none; what it says may hold the URL
            raise PostError(f"cannot be reached: {type(error).__name__}") from None

    def cut(self) -> None:
        """End what is under way."""
        connection = self._connection
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _followed(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        for _ in range(REDIRECTS_MAX + 1):
            answer, onward = self._once(urlsplit(url), body, headers, seconds)
            if onward is None:
                return answer
            following = urljoin(url, onward)
            if _origin(urlsplit(following)) != _origin(urlsplit(url)):
                raise PostError(f"answered {answer.status}: it leads to another host, and is not followed there")
            url = following
        raise PostError(f"answered with more than {REDIRECTS_MAX} redirects")

    def _end(self, late: threading.Event) -> None:
        late.set()
        self.cut()

    def _once(
        self, parts: SplitResult, body: bytes, headers: Mapping[str, str], seconds: float
    ) -> tuple[Answer, str | None]:
        connection, target, extra = self._connect(parts, seconds)
        self._connection = connection
        # Each read has its own bound; one that drips a byte at a time is ended by this.
        late = threading.Event()
        deadline = threading.Timer(seconds, self._end, (late,))
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            if late.is_set():  # there was nothing to cut while it was still being connected
                raise TimeoutError
            connection.request(
                "POST", target, body, {**headers, **extra, **_basic("Authorization", parts), "Connection": "close"}
            )
            reply = connection.getresponse()
            text = reply.read(ANSWER_BYTES_MAX)
            onward = reply.getheader("Location") if reply.status in _KEPT else None
            retry_seconds = _retry_seconds(reply.getheader("Retry-After"), self._clock())
            return Answer(reply.status, _words(text, _secrets(parts, headers)), retry_seconds), onward
        except ssl.SSLCertVerificationError as error:
            raise PostError(f"its certificate is not trusted: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if late.is_set() or isinstance(error, TimeoutError):  # whichever of the two bounds was first
                raise PostError(f"did not answer within {seconds:g} s") from None
            words = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise PostError(f"cannot be reached: {words}") from None
        finally:
            deadline.cancel()
            self._connection = None
            connection.close()

    def _connect(self, parts: SplitResult, seconds: float) -> tuple[http.client.HTTPConnection, str, Mapping[str, str]]:
        """A connection that is not open yet, through the environment's proxy where there is one; what to ask it for, and how."""
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        proxy = urlsplit("" if _near(host) or proxy_bypass(host) else getproxies().get(parts.scheme, ""))
        if not proxy.hostname:
            return self._to(parts.scheme, host, port, seconds), target, {}
        through = self._to(parts.scheme, proxy.hostname, proxy.port or _PORTS["http"], seconds)
        known = _basic("Proxy-Authorization", proxy)
        if parts.scheme == "https":
            through.set_tunnel(host, port, known)
            return through, target, {}
        return through, f"http://{parts.netloc.rpartition('@')[2]}{target}", known

    def _to(self, scheme: str, host: str, port: int, seconds: float) -> http.client.HTTPConnection:
        if scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._context)
        return http.client.HTTPConnection(host, port, timeout=seconds)


def _near(host: str) -> bool:
    """Whether it is this machine, which no proxy reaches."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _basic(header: str, parts: SplitResult) -> dict[str, str]:
    """Name and password of a URL as a header."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _secrets(parts: SplitResult, headers: Mapping[str, str]) -> list[str]:
    """What must not be told of a request: the URL behind its host, each long piece of that, passwords; the longest first."""
    pieces = [each for each in _BETWEEN.split(f"{parts.path}/{parts.query}") if len(each) >= SECRET_CHARS_MIN]
    pieces += [parts.password or "", headers.get("Authorization", "").partition(" ")[2], parts.path, parts.query]
    return sorted(
        {secret for each in pieces for secret in (each, unquote(each)) if len(secret) > 1}, key=len, reverse=True
    )


def _words(text: bytes, secrets: Sequence[str]) -> str:
    """The first line of an answer, without what is secret of what was asked."""
    line = next(iter(text.decode("utf-8", "replace").strip().splitlines()), "")
    for secret in secrets:
        line = line.replace(secret, "...")
    return "".join(each if each.isprintable() else " " for each in line)[:ANSWER_CHARS_MAX]


def _retry_seconds(header: str | None, now: float) -> float | None:
    """Seconds, or a date of HTTP; None for anything else."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
