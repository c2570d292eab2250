"""One SQL worker as its pool sees it: a child process that is started, asked, and killed where it does not answer in time."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .beside import start
from .desk import RESULT_BYTES_MAX
from .question import CANCELLED, ENDED, Unanswered
from .worker import HEADER, HEADER_BYTES_MAX, send

START_SECONDS_MAX: Final = 30.0
QUERIES_PER_WORKER_MAX: Final = 1_000


class Worker:
    """One child process. It is `usable` until it failed, was killed, or answered its share of questions."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._process, self._link = start("warpline_collector.worker", str(directory), str(memory_bytes))
        self._ready = False
        self._queries = 0
        self.usable = True

    def ask(self, request: Mapping[str, Any], seconds_max: float) -> tuple[dict[str, Any], bytes]:
        """One question; QueryError if there is no answer to it."""
        usable, self.usable = self.usable, False  # until the answer is whole
        try:
            self._await_start()
            send(self._link, dict(request))
            header, payload = self._receive(time.monotonic() + seconds_max)
        except TimeoutError as error:
            said = f"the query ran longer than {seconds_max:g} s and was stopped"
            raise Unanswered(said, "ask for less", CANCELLED) from error
        except (OSError, EOFError) as error:
            raise Unanswered(self._epitaph(), "ask for less", ENDED) from error
        self._queries += 1
        self.usable = usable and not header.get("retire") and self._queries < QUERIES_PER_WORKER_MAX
        _insist(header)
        return header, payload

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """End the process; whoever waits for its answer gets a QueryError."""
        self._process.kill()

    def kill(self) -> None:
        """End the process now, and give everything back."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        self._link.close()

    def _await_start(self) -> None:
        if self._ready:
            return
        header, _ = self._receive(time.monotonic() + START_SECONDS_MAX)
        _insist(header)
        self._ready = True

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        header_size, payload_size = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if header_size > HEADER_BYTES_MAX or payload_size > RESULT_BYTES_MAX:
            raise EOFError("an answer past its bound")
        header: dict[str, Any] = json.loads(self._exactly(header_size, deadline))
        return header, self._exactly(payload_size, deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._link.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = self._link.recv(min(size - len(data), 1024 * 1024))
            if not piece:
                raise EOFError("the worker closed its end")
            data += piece
        return bytes(data)

    def _epitaph(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        if self._process.returncode == -signal.SIGXCPU:
            return "the query used more CPU time than it may and was stopped"
        return "the query ended its worker process: it needs more memory than a worker may have"


def _insist(header: Mapping[str, Any]) -> None:
    if header["error"] is not None:
        raise Unanswered(header["error"], header["hint"], header["sqlstate"])
