"""Requests to look closer, from the table `captures` to the agents of the nodes they name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from warpline_proto import service_pb2
from warpline_proto.errors import WarplineError

from .store import Store

POLL_SECONDS: Final = 1.0
PENDING_MAX: Final = 1_000
"""Requests looked at in one round; the oldest come first."""
_LOG = logging.getLogger(__name__)
_PENDING: Final = f"""
SELECT id, node, job, rank, what, start_ns, duration_ns, reason FROM captures
WHERE state = 'requested' AND id NOT IN (SELECT id FROM captures WHERE state <> 'requested')
ORDER BY requested_ns LIMIT {PENDING_MAX}
"""


class CaptureBoard:
    """Asks the store once a round for everybody who watches; nobody watching costs nothing."""

    def __init__(self, store: Store, poll_seconds: float = POLL_SECONDS) -> None:
        self._store = store
        self._poll_seconds = poll_seconds
        self._pending: list[dict[str, Any]] = []
        self._watchers = 0
        self._round = asyncio.Condition()

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
        """Each request for `node` once, as it comes, while `alive`."""
        sent: set[str] = set()
        self._watchers += 1
        try:
            while alive():
                async with self._round:
                    await self._round.wait()
                    pending = self._pending
                for row in pending:
                    if row["node"] == node and row["id"] not in sent:
                        yield _request(row)
                sent = {row["id"] for row in pending}
        finally:
            self._watchers -= 1

    def _ask(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._store.query(_PENDING).to_pylist()
        except WarplineError as error:
            _LOG.warning("captures could not be looked up, tried again in a moment: %s", error)
            return []
        return found


def _request(row: dict[str, Any]) -> service_pb2.CaptureRequest:
    known = {key: value for key, value in row.items() if value is not None and key != "node"}
    return service_pb2.CaptureRequest(**known)
