"""One SQL worker process: limits itself, opens the catalog, locks the engine's settings, then answers until told to stop.

`python -P -m warpline_collector.worker FD DIRECTORY MEMORY_BYTES`: requests and answers travel over the socket FD, each a
length, a JSON header and, in an answer, its rows.
"""

from __future__ import annotations

import json
import math
import resource
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, Final

import duckdb

from warpline_proto.errors import WarplineError

from .desk import Desk, sqlstate
from .heap import give_way

HEADER: Final = struct.Struct("!II")
"""Lengths of the JSON header and of the payload behind it."""
HEADER_BYTES_MAX: Final = 1024 * 1024
CPU_GRACE_SECONDS: Final = 2
OOM_SCORE_ADJ: Final = 1_000
"""Where memory is short the kernel ends this process before any other: a question is lost, and the collector is not."""
ENGINE_SHARE: Final = 0.25
"""Part of the process's memory that the engine may plan with; the rest is for what it allocates beside its own limit."""


def send(link: socket.socket, header: dict[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message."""
    encoded = json.dumps(header).encode()
    link.sendall(HEADER.pack(len(encoded), len(payload)) + encoded)
    link.sendall(payload)


def main(arguments: list[str]) -> int:
    """Serve one socket until its other end closes it."""
    descriptor, directory, memory_bytes = int(arguments[0]), Path(arguments[1]), int(arguments[2])
    link = socket.socket(fileno=descriptor)
    _limit(memory_bytes)
    try:
        desk = Desk(directory, int(memory_bytes * ENGINE_SHARE))
    except (WarplineError, duckdb.Error, OSError, MemoryError) as error:
        send(link, _failure(f"the SQL worker cannot start: {error or 'not enough memory'}", "57P03"))
        return 1
    send(link, {"error": None})
    with link.makefile("rb") as requests:
        while prefix := requests.read(HEADER.size):
            size, _ = HEADER.unpack(prefix)
            _serve(link, desk, json.loads(requests.read(size)))
    return 0


def _limit(memory_bytes: int) -> None:
    give_way(OOM_SCORE_ADJ)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve(link: socket.socket, desk: Desk, request: dict[str, Any]) -> None:
    """Answer one request. `retire` asks for a fresh process: this one's memory may be in pieces."""
    _allow_cpu(request["seconds_max"])
    try:
        header, payload = desk.answer(request)
        send(link, {"error": None, **header}, payload)
    except RecursionError:
        send(link, _failure("the statement is nested too deeply", "54001", retire=True))
    except MemoryError:
        send(link, _failure("the query needs more memory than a worker may have", "53200", retire=True))
    except WarplineError as error:
        told = _failure(error.message, sqlstate(error), hint=error.hint)
        send(link, told | {"retire": isinstance(error.__cause__, duckdb.OutOfMemoryException)})


def _failure(error: str, state: str, hint: str = "", retire: bool = False) -> dict[str, Any]:
    return {"error": error, "hint": hint, "sqlstate": state, "retire": retire}


def _allow_cpu(seconds: float) -> None:
    """CPU for one more request; past it the kernel ends the process, whatever the engine does."""
    soft = math.ceil(time.process_time() + seconds) + CPU_GRACE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
