"""Puts store, server and analysis together, and takes them apart in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from warpline_analysis.runner import run
from warpline_proto.defaults import COLLECTOR_ADDRESS, STATE_DIRECTORY

from . import continuous, pool, server
from .captures import CaptureBoard
from .ingest import Ingest
from .reader import CatalogReader
from .stores import duckdb as duckdb_store


@dataclass(frozen=True)
class Config:
    """Settings of the collector: where it listens (loopback unless told otherwise) and where it keeps its store."""

    listen: str = COLLECTOR_ADDRESS
    directory: str = f"{STATE_DIRECTORY}/store"

    def __post_init__(self) -> None:
        if ":" not in self.listen:
            raise ValueError(f"listen {self.listen!r} is not host:port")


@dataclass(frozen=True)
class Settings:
    """Everything a collector is told."""

    collector: Config = field(default_factory=Config)
    store: duckdb_store.Config = field(default_factory=duckdb_store.Config)
    sql: pool.Config = field(default_factory=pool.Config)
    analysis: continuous.Config = field(default_factory=continuous.Config)


def sections() -> dict[str, type[Any]]:
    """Section name -> the dataclass that holds its settings."""
    return {
        "collector": Config,
        "collector.store": duckdb_store.Config,
        "collector.sql": pool.Config,
        "collector.analysis": continuous.Config,
    }


def from_sections(loaded: dict[str, Any]) -> Settings:
    """What `warpline_proto.config.load` gave for `sections()`."""
    return Settings(*(loaded[name] for name in sections()))


async def serve(
    settings: Settings,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    clock: Callable[[], int] = time.time_ns,
    detect: continuous.Detect = run,
) -> None:
    """Run a collector until `stop`; `ready` is told the address once frames and questions are taken.

    StoreError or ConfigError if it cannot start.
    """
    directory = Path(settings.collector.directory)
    async with contextlib.AsyncExitStack() as stack:
        store = duckdb_store.DuckDBStore(directory, settings.store, clock)
        stack.callback(store.close)
        workers = pool.WorkerPool(directory, settings.sql)
        stack.callback(workers.close)
        ingest, board = Ingest(store, clock), CaptureBoard(store)
        storing = asyncio.create_task(ingest.run())
        stack.push_async_callback(_finish, ingest, storing)
        polling = asyncio.create_task(board.run())
        stack.push_async_callback(_cancel, polling)
        service = server.Service(ingest, workers, board, clock)
        stack.callback(service.close)
        rim, address = await server.start(service, settings.collector.listen)
        stack.push_async_callback(rim.stop, server.STOP_SECONDS)
        reader = stack.enter_context(CatalogReader(directory))
        analysis = continuous.Continuous(store, reader, settings.analysis, clock, detect)
        stack.callback(analysis.close)
        analysis.start()
        ready(address)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, storing), return_when=asyncio.FIRST_COMPLETED)
        if storing.done():
            storing.result()


async def _finish(ingest: Ingest, storing: asyncio.Task[None]) -> None:
    """Store what still waits."""
    await ingest.stop()
    await storing


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
