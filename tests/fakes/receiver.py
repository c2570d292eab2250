"""A receiver of notifications: a real HTTP server in a thread that keeps what it is told and answers as it is bidden."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """An answer with this code."""

    def give(to: BaseHTTPRequestHandler) -> None:
        to.send_response(code)
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    return give


def hang_up(to: BaseHTTPRequestHandler) -> None:
    """The connection ends without an answer."""
    to.close_connection = True


def huge(to: BaseHTTPRequestHandler) -> None:
    """200, and more than anybody wants to read."""
    to.send_response(200)
    to.send_header("Content-Length", str(1 << 40))
    to.end_headers()
    to.close_connection = True
    try:
        while True:
            to.wfile.write(b"x" * (1 << 16))
    except OSError:
        return


def dripping(to: BaseHTTPRequestHandler) -> None:
    """A header that never ends, a byte at a time."""
    pause = threading.Event()
    to.close_connection = True
    try:
        while True:
            to.wfile.write(b"H")
            pause.wait(0.02)
    except OSError:
        return


@dataclass
class Told:
    """One POST."""

    path: str
    headers: dict[str, str]
    document: Any


@dataclass
class Listening:
    """Where it listens, what it was told, and how it answers the next ones (200 after these)."""

    url: str
    told: list[Told] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    heard: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def wait(self, count: int = 1, seconds: float = 60) -> None:
        """Until so many more POSTs came."""
        for _ in range(count):
            assert self.heard.acquire(timeout=seconds)


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[Listening]:
    """A receiver on a free port of loopback."""

    class Ask(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.told.append(Told(self.path, dict(self.headers), json.loads(body)))
            answer = here.answers.pop(0) if here.answers else status(200, b"ok")
            here.heard.release()
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Callers who go away are no failure."""

    server = Server(("127.0.0.1", 0), Ask)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "http" if context is None else "https"
    here = Listening(f"{scheme}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
