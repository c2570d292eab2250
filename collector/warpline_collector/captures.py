"""Requests to look closer, from the table `captures` to the agents of the nodes they name; marked as sent once taken."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from warpline_proto import service_pb2
from warpline_proto.batch import Batch
from warpline_proto.capture import REQUESTED, SENT, to_message, to_rows
from warpline_proto.errors import WarplineError
from warpline_proto.tables import CAPTURES

from .store import Store

POLL_SECONDS: Final = 1.0
WATCHERS_MAX: Final = 20_000
"""Agents that wait for requests; a node has one."""
WATCHERS_OF_NODE_MAX: Final = 4
"""More of one node let the oldest go: it is what an agent left that is no more, or one agent would take the room of all."""
PENDING_MAX: Final = 1_000
"""Requests looked at in one round; the oldest come first."""
SOURCE: Final = "collector"
_LOG = logging.getLogger(__name__)
_PENDING: Final = f"""
SELECT id, cluster, node, job, rank, what, start_ns, duration_ns, reason, requested_ns FROM captures
WHERE state = '{REQUESTED}' AND id NOT IN (SELECT id FROM captures WHERE state <> '{REQUESTED}' AND id IS NOT NULL)
ORDER BY requested_ns LIMIT {PENDING_MAX}
"""


class CaptureBoard:
    """Asks the store once a round for everybody who watches; nobody watching costs nothing."""

    def __init__(
        self, store: Store, poll_seconds: float = POLL_SECONDS, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._pending: dict[str, list[dict[str, Any]]] = {}
        self._watchers = 0
        self._places: dict[str, deque[object]] = {}
        self._round = asyncio.Condition()

    @property
    def has_room(self) -> bool:
        """Whether one more may watch."""
        return self._watchers < WATCHERS_MAX

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            if self._watchers:
                pending = await asyncio.to_thread(self._ask)
                async with self._round:
                    self._pending = pending
                    self._round.notify_all()

    async def watch(self, node: str, alive: Callable[[], bool]) -> AsyncIterator[service_pb2.CaptureRequest]:
        """Each request for `node` once, as it comes, while `alive`; one that was taken is marked as sent."""
        sent: set[str] = set()
        place = object()
        places = self._places.setdefault(node, deque(maxlen=WATCHERS_OF_NODE_MAX))
        places.append(place)
        self._watchers += 1
        try:
            while alive() and place in places:
                async with self._round:
                    await self._round.wait()
                    pending = self._pending.get(node, [])
                for row in pending:
                    if row["id"] not in sent:
                        yield to_message(row)
                        await asyncio.to_thread(self._mark, row)
                sent = {row["id"] for row in pending}
        finally:
            self._watchers -= 1
            if place in places:
                places.remove(place)
            if not places and self._places.get(node) is places:
                del self._places[node]

    def _ask(self) -> dict[str, list[dict[str, Any]]]:
        try:
            found: list[dict[str, Any]] = self._store.query(_PENDING).to_pylist()
        except WarplineError as error:
            _LOG.warning("captures could not be looked up, tried again in a moment: %s", error)
            return {}
        by_node: dict[str, list[dict[str, Any]]] = {}
        for row in found:
            by_node.setdefault(row["node"], []).append(row)
        return by_node

    def _mark(self, row: dict[str, Any]) -> None:
        """An unmarked one is handed over again after a restart; agents take an identifier once."""
        sent = row | {"state": SENT, "source": SOURCE, "updated_ns": self._clock()}
        try:
            self._store.write([Batch(CAPTURES.name, SOURCE, to_rows([sent]))])
        except WarplineError as error:
            _LOG.warning("a request that was sent could not be marked: %s", error)
