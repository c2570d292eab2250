"""Puts store, server and analysis together, and takes them apart in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from warpline_analysis.detector import Detector
from warpline_analysis.detectors import DETECTORS
from warpline_proto.notify import Supervisor

from . import continuous, memory, pool, server
from .accounting import Accounting
from .admission import Admission
from .audit import Audit
from .captures import CaptureBoard
from .certificates import Certificates, needed
from .closer_look import CloserLook
from .config import Settings
from .fleet import Fleet
from .history import History
from .ingest import Ingest
from .limits import Limits
from .metrics.door import HttpsDoor
from .metrics.endpoint import Endpoint
from .metrics.snapshot import Watch
from .postgres import endpoint as postgres
from .reader import CatalogReader
from .standing import Keeper
from .stores.tended import TendedStore

WRITER_SECONDS_MAX: Final = 600.0
"""A writer that does not turn for so long will not by itself; the supervisor hears nothing then, and starts it all anew."""
NOBODY: Final = Supervisor({})


async def serve(
    settings: Settings,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    clock: Callable[[], int] = time.time_ns,
    detectors: Mapping[str, Detector] = DETECTORS,
    supervisor: Supervisor = NOBODY,
    watched: Callable[[str], None] = lambda address: None,
    opened: Callable[[str], None] = lambda address: None,
) -> None:
    """Run a collector until `stop`; `ready` is told the address once frames and questions are taken, and `supervisor` too.

    `watched` is told where metrics are served, where they are, and `opened` where PostgreSQL's clients may connect. StoreError
    or ConfigError if it cannot start.
    """
    directory = Path(settings.collector.directory)
    secure = needed(settings.tls, settings.collector.listen)
    https = needed(replace(settings.tls, always=False), settings.metrics.listen, settings.metrics.insecure)
    tls_sql = needed(settings.tls, settings.postgres.listen)
    certificates = Certificates(settings.tls) if secure or https or tls_sql else None
    async with contextlib.AsyncExitStack() as stack:
        store = TendedStore(directory, settings.store, clock, settings.retention)
        stack.callback(store.close)
        audit = Audit(store.write, clock)
        stack.callback(audit.close)
        audit.start()
        workers = pool.WorkerPool(directory, settings.sql, audit)
        stack.callback(workers.close)
        fleet = Fleet()
        keeper = Keeper(fleet, store, settings.agents, clock)
        limits = Limits(settings.limits, clock, fleet.refuse)
        ingest, board = Ingest(store, clock, heard=fleet.hear, sift=limits.sift), CaptureBoard(store, clock=clock)
        storing = asyncio.create_task(ingest.run())
        stack.push_async_callback(_finish, ingest, storing)
        polling = asyncio.create_task(board.run())
        stack.push_async_callback(_cancel, polling)
        admission = Admission(certificates if secure else None, audit, clock)
        service = server.Service(ingest, workers, board, clock, admission, limits)
        stack.callback(service.close)
        rim, address = await server.start(service, settings.collector.listen, certificates if secure else None)
        stack.push_async_callback(rim.stop, server.STOP_SECONDS)
        sql_door = postgres.Endpoint(settings.postgres, workers, audit, directory, certificates if tls_sql else None)
        stack.push_async_callback(sql_door.close)
        for place in await sql_door.start():
            opened(place)
        reader, accounts, histories = (stack.enter_context(CatalogReader(directory)) for _ in range(3))
        closer = CloserLook(store, settings.captures)
        analysis = continuous.Continuous(store, reader, settings.analysis, clock, detectors, closer)
        stack.callback(analysis.close)
        analysis.start()
        accounting = Accounting(store, accounts, settings.energy, clock)
        stack.callback(accounting.close)
        accounting.start()
        history = History(store, histories, clock)
        stack.callback(history.close)
        history.start()
        stack.callback(keeper.close)
        keeper.start()
        held = partial(_held, store, (reader, accounts, histories))
        doors = partial(admission.doors, certificates)
        watch = Watch(directory, ingest, fleet, keeper, analysis, workers, clock, held, doors)
        if settings.metrics.listen:
            door = HttpsDoor(certificates, admission) if https and certificates else None
            endpoint = Endpoint(settings.metrics, watch.take, door=door)
            stack.push_async_callback(endpoint.close)
            watched(await endpoint.start())
        living = asyncio.create_task(_live(supervisor, watch))
        stack.push_async_callback(_cancel, living)
        ready(address)
        supervisor.ready(f"listens on {address}, store {directory}")
        stack.callback(supervisor.stopping)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, storing), return_when=asyncio.FIRST_COMPLETED)
        if storing.done():
            storing.result()


def _held(store: TendedStore, readers: Sequence[CatalogReader]) -> memory.Held:
    return memory.held([*store.connections(), *(reader.connection for reader in readers)])


async def _finish(ingest: Ingest, storing: asyncio.Task[None]) -> None:
    """Store what still waits."""
    await ingest.stop()
    await storing


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _live(supervisor: Supervisor, watch: Watch) -> None:
    """Tell the supervisor that the collector lives, as long as frames can be stored."""
    while supervisor.beat_seconds is not None:
        if watch.writer_seconds <= WRITER_SECONDS_MAX:
            supervisor.beat()
        await asyncio.sleep(supervisor.beat_seconds / 2)
