"""A store with a few rows and the PostgreSQL door before it, in a thread of its own; and a client that speaks its bytes."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from warpline_collector.audit import Audit
from warpline_collector.certificates import Certificates
from warpline_collector.pool import Config as SqlConfig
from warpline_collector.pool import WorkerPool
from warpline_collector.postgres.config import Config
from warpline_collector.postgres.endpoint import Endpoint
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.tables import STEPS

ROWS = [{"job": "j", "rank": rank, "step": step, "duration_ns": 1_000 + rank} for rank in range(3) for step in range(4)]

LISTEN = Config(listen="127.0.0.1:0")
ONE_WORKER = SqlConfig(workers=1, seconds_max=100.0)


class Door:
    """Where to connect, and what is behind it."""

    def __init__(self, endpoint: Endpoint, pool: WorkerPool, store: DuckDBStore, audit: Audit, folder: Path) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.store = store
        self.audit = audit
        self.folder = folder
        self.port = 0

    def connect(self) -> socket.socket:
        """A connection on which nothing was said yet."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.settimeout(60)
        return connection


@contextmanager
def opened(
    folder: Path,
    config: Config = LISTEN,
    sql: SqlConfig = ONE_WORKER,
    certificates: Certificates | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Iterator[Door]:
    """A door on a free port of loopback, and on a socket in `folder`."""
    store = DuckDBStore(folder)
    store.write([Batch(STEPS.name, "test", STEPS.from_rows(ROWS))])
    audit = Audit(store.write)
    audit.start()
    pool = WorkerPool(folder, sql, audit)
    loop = asyncio.new_event_loop()
    endpoint = Endpoint(config, pool, audit, folder, certificates, clock)
    door = Door(endpoint, pool, store, audit, folder)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        places = asyncio.run_coroutine_threadsafe(endpoint.start(), loop).result(60)
        door.port = next((int(place.rpartition(":")[2]) for place in places if not place.startswith("unix:")), 0)
        yield door
    finally:
        asyncio.run_coroutine_threadsafe(_ended(endpoint), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
        pool.close()
        audit.close()
        store.close()


async def _ended(endpoint: Endpoint) -> None:
    await endpoint.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=60)


def startup(user: bytes) -> bytes:
    """How a client begins."""
    said = b"user\0" + user + b"\0\0"
    return struct.pack("!II", 8 + len(said), 196_608) + said


STARTUP = startup(b"me")


def told(kind: bytes, body: bytes) -> bytes:
    """One message of a client."""
    return kind + struct.pack("!I", len(body) + 4) + body


def heard(connection: socket.socket, until: bytes) -> list[tuple[bytes, bytes]]:
    """Messages of the server up to the first of kind `until`, or the end of the connection."""
    found: list[tuple[bytes, bytes]] = []
    while not found or found[-1][0] != until:
        head = exactly(connection, 5)
        if len(head) < 5:
            break
        found.append((head[:1], exactly(connection, struct.unpack("!I", head[1:])[0] - 4)))
    return found


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes, fewer where the connection ends."""
    data = b""
    while len(data) < size:
        try:
            piece = connection.recv(size - len(data))
        except ConnectionError:
            break
        if not piece:
            break
        data += piece
    return data


def begun(door: Door, user: bytes = b"me") -> socket.socket:
    """A connection that may ask."""
    connection = door.connect()
    connection.sendall(startup(user))
    assert heard(connection, b"Z")[-1] == (b"Z", b"I")
    return connection
