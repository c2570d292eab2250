"""Asks the node of a rank for its raw kernels of a time, through the collector, and waits for what comes of it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND, DENIED, DONE, KERNELS, REQUESTED, Capture, to_rows
from warpline_proto.client import QueryClient
from warpline_proto.errors import ConfigError
from warpline_proto.tables import CAPTURES

from .asking import text

ANSWER_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5
_NOTHING_YET: Final[dict[str, Any]] = {"state": REQUESTED, "detail": None, "records": None}


@dataclass(frozen=True)
class Wanted:
    """Kernels of a rank over `seconds` from `start_ns` on, without it up to its newest step; `node` where it is known."""

    job: str
    rank: int
    seconds: float
    start_ns: int | None = None
    node: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came: the furthest state of the capture `id`, the node that was asked, and its words and records."""

    id: str
    node: str
    state: str
    detail: str | None
    records: int | None


def ask(client: QueryClient, wanted: Wanted) -> tuple[Capture, str]:
    """Leave the request with the collector, which hands it to the node; ConfigError where no node or time is known."""
    known = client.query(
        "SELECT node, start_ns + duration_ns AS end_ns FROM steps "
        f"WHERE job = {text(wanted.job)} AND rank = {wanted.rank} AND node IS NOT NULL AND duration_ns IS NOT NULL "
        "ORDER BY start_ns DESC LIMIT 1"
    ).to_pylist()
    if not known and (wanted.start_ns is None or wanted.node is None):
        hint = 'warpline sql "SELECT DISTINCT job, rank, node FROM steps"; or name --node and --from'
        raise ConfigError(f"no step of rank {wanted.rank} of job {wanted.job} is kept", hint)
    duration_ns = int(wanted.seconds * 1e9)
    node = wanted.node or known[0]["node"]
    there_ns = known[0]["end_ns"] - duration_ns if wanted.start_ns is None else wanted.start_ns
    start_ns = there_ns - _ahead_ns(client, node)
    capture = Capture(uuid.uuid4().hex[:16], wanted.job, wanted.rank, KERNELS, start_ns, duration_ns, "by hand")
    now_ns = time.time_ns()
    row = capture.row(REQUESTED, node=node, source=BY_HAND, requested_ns=now_ns, updated_ns=now_ns)
    client.push(Frame(BY_HAND, capture.id, 1, now_ns, (Batch(CAPTURES.name, BY_HAND, to_rows([row])),)))
    return capture, node


def _ahead_ns(client: QueryClient, node: str) -> int:
    """The node's clock, by which rows are dated, less the collector's, by which requests are; 0 where it is not known.

    Of the agent's starts the collector knows the newest; what it is called goes by a clock that may have been set back.
    """
    newest = f"SELECT boot FROM agents WHERE node = {text(node)} ORDER BY time_ns DESC LIMIT 1"
    rows: list[dict[str, int]] = client.query(
        f"SELECT offset_ns FROM node_clocks WHERE node = {text(node)} AND offset_ns IS NOT NULL "
        f"ORDER BY boot = ({newest}) DESC NULLS LAST, boot DESC, steady_ns DESC LIMIT 1"
    ).to_pylist()
    return rows[0]["offset_ns"] if rows else 0


def wait(client: QueryClient, capture: Capture, node: str, seconds: float = ANSWER_SECONDS) -> Answer:
    """The answer, or how far the request got by so long after the end of its time."""
    ahead_seconds = max(capture.start_ns + capture.duration_ns - time.time_ns(), 0) / 1e9
    end = time.monotonic() + seconds + ahead_seconds
    asked = f"SELECT state, detail, records FROM current_captures WHERE id = {text(capture.id)}"
    while True:
        found: list[dict[str, Any]] = client.query(asked).to_pylist()
        answer = Answer(capture.id, node, **(found[0] if found else _NOTHING_YET))
        if answer.state in (DONE, DENIED) or time.monotonic() > end:
            return answer
        time.sleep(POLL_SECONDS)
