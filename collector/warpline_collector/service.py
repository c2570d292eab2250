"""Puts store, server and analysis together, and takes them apart in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from warpline_analysis.detector import Detector
from warpline_proto.notify import Supervisor

from . import continuous, memory, pool, server
from .accounting import Accounting
from .admission import Admission, Doors
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
from .notify.couriers import Couriers
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
    detectors: Mapping[str, Detector] | None = None,
    supervisor: Supervisor = NOBODY,
    watched: Callable[[str], None] = lambda address: None,
    opened: Callable[[str], None] = lambda address: None,
) -> None:
    """Run a collector until `stop`; `ready` is told the address once frames and questions are taken, and `supervisor` too.

    `watched` is told where metrics are served, where they are, and `opened` where PostgreSQL's clients may connect. StoreError
    or ConfigError if it cannot start.
    """
    async with contextlib.AsyncExitStack() as stack:
        settings.notify.check_files()
        secured = _secured(settings)
        inside = _inside(stack, settings, clock)
        doors = await _doors(stack, inside, settings, secured, opened)
        watch = _passes(stack, inside, doors, settings, detectors)
        if settings.metrics.listen:
            door = HttpsDoor(secured.metrics, doors.admission) if secured.metrics else None
            endpoint = Endpoint(settings.metrics, watch.take, door=door)
            stack.push_async_callback(endpoint.close)
            watched(await endpoint.start())
        living = asyncio.create_task(_live(supervisor, watch))
        stack.push_async_callback(_cancel, living)
        ready(doors.address)
        supervisor.ready(f"listens on {doors.address}, store {inside.directory}")
        stack.callback(supervisor.stopping)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, inside.storing), return_when=asyncio.FIRST_COMPLETED)
        if inside.storing.done():
            inside.storing.result()


@dataclass(frozen=True)
class _Secured:
    """The collector's certificates, the same for every door that is to speak TLS; None for one that speaks plain text."""

    any: Certificates | None
    rim: Certificates | None
    metrics: Certificates | None
    sql: Certificates | None


@dataclass(frozen=True)
class _Inside:
    """What takes rows in, keeps them and answers questions, whoever comes through which door."""

    directory: Path
    clock: Callable[[], int]
    store: TendedStore
    audit: Audit
    workers: pool.WorkerPool
    fleet: Fleet
    keeper: Keeper
    limits: Limits
    ingest: Ingest
    storing: asyncio.Task[None]
    board: CaptureBoard


@dataclass(frozen=True)
class _Doors:
    """Where callers are let in, and what is known of them."""

    address: str
    admission: Admission
    told: Callable[[], Doors]
    sessions: Callable[[], postgres.Sessions]


def _secured(settings: Settings) -> _Secured:
    rim = needed(settings.tls, settings.collector.listen)
    metrics = needed(replace(settings.tls, always=False), settings.metrics.listen, settings.metrics.insecure)
    sql = needed(settings.tls, settings.postgres.listen)
    certificates = Certificates(settings.tls) if rim or metrics or sql else None
    return _Secured(certificates, *(certificates if door else None for door in (rim, metrics, sql)))


def _inside(stack: contextlib.AsyncExitStack, settings: Settings, clock: Callable[[], int]) -> _Inside:
    directory = Path(settings.collector.directory)
    store = TendedStore(directory, settings.store, clock, settings.retention, accounted=settings.energy.account)
    stack.callback(store.close)
    audit = Audit(store.write, clock)
    stack.callback(audit.close)
    audit.start()
    workers = pool.WorkerPool(directory, settings.sql, audit)
    stack.callback(workers.close)
    fleet = Fleet()
    keeper = Keeper(fleet, store, settings.agents, clock)  # it remembers who was heard before anybody is
    limits = Limits(settings.limits, clock, fleet.refuse, newest_ns=store.newest_ns)
    ingest, board = Ingest(store, clock, heard=fleet.hear, sift=limits.sift), CaptureBoard(store, clock=clock)
    storing = asyncio.create_task(ingest.run())
    stack.push_async_callback(_finish, ingest, storing)
    polling = asyncio.create_task(board.run())
    stack.push_async_callback(_cancel, polling)
    return _Inside(directory, clock, store, audit, workers, fleet, keeper, limits, ingest, storing, board)


async def _doors(
    stack: contextlib.AsyncExitStack,
    inside: _Inside,
    settings: Settings,
    secured: _Secured,
    opened: Callable[[str], None],
) -> _Doors:
    """gRPC and PostgreSQL."""
    admission = Admission(secured.rim, inside.audit, inside.clock)
    service = server.Service(inside.ingest, inside.workers, inside.board, inside.clock, admission, inside.limits)
    rim, address = await server.start(service, settings.collector.listen, secured.rim)
    stack.push_async_callback(rim.stop, server.STOP_SECONDS)
    sql_door = postgres.Endpoint(
        settings.postgres, inside.workers, inside.audit, inside.directory, secured.sql, inside.clock
    )
    stack.push_async_callback(sql_door.close)
    for place in await sql_door.start():
        opened(place)
    return _Doors(address, admission, partial(admission.doors, secured.any), sql_door.sessions)


def _passes(
    stack: contextlib.AsyncExitStack,
    inside: _Inside,
    doors: _Doors,
    settings: Settings,
    detectors: Mapping[str, Detector] | None,
) -> Watch:
    """What goes over the store again and again, each in a thread of its own."""
    directory, store, clock = inside.directory, inside.store, inside.clock
    reader = stack.enter_context(CatalogReader(directory, memory_limit=continuous.READER_MEMORY))
    accounts, histories = (stack.enter_context(CatalogReader(directory)) for _ in range(2))
    closer = CloserLook(store, settings.captures)
    analysis = continuous.Continuous(store, reader, settings.analysis, clock, detectors, closer)
    couriers = Couriers(settings.notify, directory, lambda: analysis.known, store, clock)
    accounting = Accounting(store, accounts, settings.energy, clock)
    for each in (analysis, accounting, History(store, histories, clock), inside.keeper, couriers):
        stack.callback(each.close)
        each.start()
    held = partial(_held, store, (reader, accounts, histories))
    return Watch(
        directory,
        inside.ingest,
        inside.fleet,
        inside.keeper,
        analysis,
        inside.workers,
        clock,
        held,
        doors.told,
        couriers.standings,
        lambda: accounting.newest,
        doors.sessions,
    )


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
