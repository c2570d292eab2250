"""One SQL worker process: limits itself, opens the catalog, locks the engine's settings, then answers until told to stop.

`python -P -m warpline_collector.worker FD DIRECTORY MEMORY_BYTES`: requests and answers travel over the socket FD, each a
length, a JSON header and, in an answer, an Arrow IPC stream.
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

from warpline_proto.errors import QueryError, WarplineError
from warpline_proto.wire import to_ipc

from .reader import CatalogReader
from .schema import text
from .statements import judge, parse

HEADER: Final = struct.Struct("!II")
"""Lengths of the JSON header and of the payload behind it."""
HEADER_BYTES_MAX: Final = 1024 * 1024
RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Largest answer, as Arrow IPC."""
CPU_GRACE_SECONDS: Final = 2
ENGINE_SHARE: Final = 0.25
"""Part of the process's memory that the engine may plan with; the rest is for what it allocates beside its own limit."""


def send(link: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
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
        reader = _open(directory, int(memory_bytes * ENGINE_SHARE))
    except (WarplineError, duckdb.Error, OSError, MemoryError) as error:
        send(link, {"error": f"the SQL worker cannot start: {error or 'not enough memory'}"})
        return 1
    send(link, {"error": None})
    with link.makefile("rb") as requests:
        while prefix := requests.read(HEADER.size):
            size, _ = HEADER.unpack(prefix)
            _serve(link, reader, json.loads(requests.read(size)))
    return 0


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _open(directory: Path, engine_bytes: int) -> CatalogReader:
    reader = CatalogReader(directory, memory_limit=f"{engine_bytes}B", threads=1)
    for setting in (
        "temp_directory = ''",
        f"allowed_directories = [{text(str(reader.directory) + '/')}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        reader.connection.execute(f"SET {setting}")
    return reader


def _serve(link: socket.socket, reader: CatalogReader, request: dict[str, Any]) -> None:
    """Answer one request. `retire` asks for a fresh process: this one's memory may be in pieces."""
    _allow_cpu(request["seconds_max"])
    try:
        statement, rows_max = parse(request["sql"]), request["rows_max"]
        judge(statement, reader.query)
        found = reader.query(statement.sql, rows_max=rows_max + 1)
        rows = found.slice(0, rows_max)
        if reader.damaged:
            rows = rows.replace_schema_metadata({"damaged": "; ".join(f"{i.path} {i.reason}" for i in reader.damaged)})
        payload = to_ipc(rows.schema, rows.to_batches())
        if len(payload) > RESULT_BYTES_MAX:
            raise QueryError(f"the answer is {len(payload)} bytes, the bound is {RESULT_BYTES_MAX}", "ask for less")
        send(link, {"error": None, "truncated": found.num_rows > rows_max}, payload)
    except RecursionError:
        send(link, {"error": "the statement is nested too deeply", "retire": True})
    except MemoryError:
        send(link, {"error": "the query needs more memory than a worker may have", "retire": True})
    except WarplineError as error:
        send(link, {"error": str(error), "retire": isinstance(error.__cause__, duckdb.OutOfMemoryException)})


def _allow_cpu(seconds: float) -> None:
    """CPU for one more request; past it the kernel ends the process, whatever the engine does."""
    soft = math.ceil(time.process_time() + seconds) + CPU_GRACE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
