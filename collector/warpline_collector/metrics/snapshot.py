"""Everything that is told at one moment, and whether it makes a healthy collector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from warpline_proto.errors import StoreError

from ..admission import Doors
from ..continuous import Continuous, Pass
from ..fleet import Fleet
from ..ingest import Ingest
from ..memory import Held
from ..notify.courier import Standing as Receiver
from ..pool import Tally, WorkerPool
from ..postgres.endpoint import Sessions
from ..standing import LATE, Keeper, Standing
from .disk import Disk, Size

STUCK_SECONDS: Final = 60.0
"""The writer turns about once a second, and longer only while it compacts or its disk does not answer."""
PASS_SECONDS_MIN: Final = 120.0
PASSES: Final = 2.0
"""A pass of the analysis is overdue after both: this time, and so many times what the one before took with the rest after it."""
CERTIFICATE_DAYS: Final = 30
"""A certificate that ends sooner should be renewed."""
DAY_NS: Final = 86_400 * 10**9
NAMED_MAX: Final = 10
"""Agents that are named in a sentence about many."""


@dataclass(frozen=True)
class Snapshot:
    """`size` is None, and `unreadable` says why, where the store cannot be looked at. Times are ns of the collector's clock.

    `tallies`: the questions of each door; `sessions`: the clients of PostgreSQL's, None where there is no such door.
    `receivers`: how those fare who are told of incidents. `watts`: power by state, over the newest time that was accounted.
    """

    now_ns: int
    started_ns: int
    frames: int
    rows: int
    refused: int
    streams: int
    queue_bytes: int
    writer_seconds: float
    standings: Sequence[Standing]
    left_out: int
    size: Size | None
    unreadable: str
    newest: Pass | None
    pass_failures: int
    workers: int
    workers_busy: int
    questions: int
    questions_failed: int
    questions_waiting: int = 0
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    sessions: Sessions | None = None
    held: Held | None = None
    doors: Doors | None = None
    receivers: Sequence[Receiver] = ()
    watts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """`red`: why what the collector shows is stale or wrong; `amber`: what else somebody should look at."""

    red: Sequence[str]
    amber: Sequence[str]

    def text(self) -> str:
        """A line each, the worst first."""
        lines = [f"stale: {each}" for each in self.red] + [f"look: {each}" for each in self.amber]
        return "\n".join(["unhealthy" if self.red else "ok", *lines]) + "\n"


class Watch:
    """`take` a snapshot, in any thread; it waits for nobody who takes frames in."""

    def __init__(
        self,
        directory: Path,
        ingest: Ingest,
        fleet: Fleet,
        keeper: Keeper,
        analysis: Continuous,
        workers: WorkerPool,
        clock: Callable[[], int],
        held: Callable[[], Held],
        doors: Callable[[], Doors],
        receivers: Callable[[], Sequence[Receiver]] = tuple,
        watts: Callable[[], Mapping[str, float]] = dict,
        sessions: Callable[[], Sessions | None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = Disk(directory)
        self._ingest = ingest
        self._fleet = fleet
        self._keeper = keeper
        self._analysis = analysis
        self._workers = workers
        self._clock = clock
        self._held = held
        self._doors = doors
        self._receivers = receivers
        self._watts = watts
        self._sessions = sessions
        self._monotonic = monotonic
        self._started_ns = clock()

    def take(self) -> Snapshot:
        """Everything as it is now."""
        size, unreadable = self._size()
        counts = self._ingest.counts
        return Snapshot(
            now_ns=self._clock(),
            started_ns=self._started_ns,
            frames=counts.frames,
            rows=counts.rows,
            refused=counts.refused,
            streams=self._ingest.streams,
            queue_bytes=self._ingest.waiting_bytes,
            writer_seconds=self.writer_seconds,
            standings=self._keeper.standings(),
            left_out=self._fleet.left_out,
            size=size,
            unreadable=unreadable,
            newest=self._analysis.newest,
            pass_failures=self._analysis.failures,
            workers=self._workers.workers,
            workers_busy=self._workers.busy,
            questions=self._workers.asked,
            questions_failed=self._workers.failed,
            questions_waiting=self._workers.waiting,
            tallies=self._workers.tallies,
            sessions=self._sessions(),
            held=self._held(),
            doors=self._doors(),
            receivers=self._receivers(),
            watts=self._watts(),
        )

    @property
    def writer_seconds(self) -> float:
        """Since the writer last turned."""
        return max(self._monotonic() - self._ingest.turned, 0.0)

    def _size(self) -> tuple[Size | None, str]:
        try:
            return self._disk.size(), ""
        except StoreError as error:
            return None, str(error)


def health(snapshot: Snapshot) -> Health:
    """Whether what the collector shows can be believed."""
    return Health(tuple(_red(snapshot)), tuple(_amber(snapshot)))


def _red(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.writer_seconds > STUCK_SECONDS:
        yield f"nothing was stored for {snapshot.writer_seconds:.0f} s: does the store's disk answer?"
    if snapshot.size is None:
        yield snapshot.unreadable
    late = [each for each in snapshot.standings if LATE in each.troubles]
    if late and len(late) == len(snapshot.standings):
        heard_ns = max(each.seen.heard_ns for each in late)
        age = (snapshot.now_ns - heard_ns) / 1e9
        yield f"no agent of {len(late)} was heard of for {age:.0f} s: is this collector cut off from them?"
    newest = snapshot.newest
    age = (snapshot.now_ns - (newest.ended_ns if newest else snapshot.started_ns)) / 1e9
    usual = newest.seconds + newest.rest_seconds if newest else 0.0
    if age > max(PASS_SECONDS_MIN, PASSES * usual):
        yield f"no pass of the analysis ended for {age:.0f} s: findings are as old as that"
    if newest is not None and newest.failed:
        yield f"the newest pass of the analysis failed: {newest.failed}"


def _amber(snapshot: Snapshot) -> Iterator[str]:
    if not snapshot.standings:
        yield "no agent was heard of yet"
    for trouble in sorted({trouble for each in snapshot.standings for trouble in each.troubles}):
        names = [each.seen.agent for each in snapshot.standings if trouble in each.troubles]
        more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
        listed = ", ".join(names[:NAMED_MAX])
        yield f"{len(names)} of {len(snapshot.standings)} agents {trouble.replace('_', ' ')}: {listed}{more}"
    for receiver in snapshot.receivers:
        if receiver.failure:
            yield f"receiver {receiver.receiver} {receiver.failure}; incidents that it was not told of: {receiver.waiting}"
    yield from _certificate(snapshot)
    if snapshot.size is not None and snapshot.size.damaged:
        yield f"{snapshot.size.damaged} files of the store are damaged and left out"


def _certificate(snapshot: Snapshot) -> Iterator[str]:
    doors = snapshot.doors
    if doors is None or doors.end_ns is None:
        return
    if doors.failure:
        yield f"the certificate on disk is not taken, the one before stays in use: {doors.failure}"
    if (days := (doors.end_ns - snapshot.now_ns) // DAY_NS) < CERTIFICATE_DAYS:
        yield f"the collector's certificate ends in {days} days" if days >= 0 else "the collector's certificate is over"
    heard = {each.seen.agent for each in snapshot.standings}
    soon = snapshot.now_ns + CERTIFICATE_DAYS * DAY_NS
    ending = sorted(node for node, end_ns in doors.agents.items() if end_ns < soon and node in heard)
    if ending:
        more = f" and {len(ending) - NAMED_MAX} more" if len(ending) > NAMED_MAX else ""
        listed = ", ".join(ending[:NAMED_MAX])
        yield f"certificates of {len(ending)} agents end within {CERTIFICATE_DAYS} days: {listed}{more}"
