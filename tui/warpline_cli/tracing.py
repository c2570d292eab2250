"""Asks the nodes of some ranks for traces of the same time, so that all of them trace the same steps."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from warpline_proto.batch import Batch, Frame
from warpline_proto.capture import BY_HAND, REQUESTED, TRACE, Capture, to_rows
from warpline_proto.client import QueryClient
from warpline_proto.errors import ConfigError
from warpline_proto.tables import CAPTURES

from .asking import text

AHEAD_SECONDS: Final = 15.0
"""From now to the first step of the trace: a request takes up to two seconds to its node, a process asks there each five, and its
profiler prepares itself for a few."""
ANSWER_SECONDS: Final = 120.0
"""After its end a trace is written, waited for, and read."""
STEPS_MAX: Final = 10
SECONDS_MAX: Final = 30.0
SECONDS_MIN: Final = 1.0
SLOWER: Final = 1.5
"""A step that is traced may take so many times as long as usual."""
RANKS_MAX: Final = 64
"""Ranks of one request: each trace is a file of some 10 MB a second, and slows its rank."""
RECENT_NS: Final = 600 * 10**9
"""Steps from which the usual one is taken, up to the newest of the job."""


@dataclass(frozen=True)
class Wanted:
    """Traces of some ranks of a job: of `seconds`, or without them of as long as `steps` steps take."""

    job: str
    ranks: Sequence[int]
    steps: int
    seconds: float | None = None


def ask(client: QueryClient, wanted: Wanted) -> list[tuple[Capture, str]]:
    """Leave the requests with the collector: each capture, and the node it is for. ConfigError where a rank is not known."""
    if not 1 <= len(wanted.ranks) <= RANKS_MAX:
        raise ConfigError(f"{len(wanted.ranks)} ranks", f"1 to {RANKS_MAX}; each traced rank is slower for that time")
    known = _known(client, wanted)
    lacking = [rank for rank in wanted.ranks if rank not in known]
    if lacking:
        hint = 'warpline sql "SELECT DISTINCT job, rank, node FROM steps"'
        raise ConfigError(f"no step of rank {', '.join(map(str, lacking))} of job {wanted.job} is kept", hint)
    seconds = _seconds(wanted, max(row["usual_ns"] for row in known.values()) / 1e9)
    now_ns = time.time_ns()
    start_ns = now_ns + int(AHEAD_SECONDS * 1e9)
    asked = [
        (
            Capture(uuid.uuid4().hex[:16], wanted.job, rank, TRACE, start_ns, int(seconds * 1e9), "by hand"),
            known[rank]["node"],
        )
        for rank in wanted.ranks
    ]
    rows = [
        capture.row(REQUESTED, node=node, source=BY_HAND, requested_ns=now_ns, updated_ns=now_ns)
        for capture, node in asked
    ]
    client.push(Frame(BY_HAND, asked[0][0].id, 1, now_ns, (Batch(CAPTURES.name, BY_HAND, to_rows(rows)),)))
    return asked


def _known(client: QueryClient, wanted: Wanted) -> dict[int, dict[str, Any]]:
    """Node and usual step (ns) of each rank, by its newest steps."""
    mine = f"job = {text(wanted.job)} AND scope = 'step' AND duration_ns IS NOT NULL AND node IS NOT NULL"
    rows = client.query(
        f"SELECT rank, arg_max(node, start_ns) AS node, median(duration_ns)::DOUBLE AS usual_ns FROM steps WHERE {mine} "
        f"AND rank IN ({', '.join(str(int(rank)) for rank in wanted.ranks)}) "
        f"AND start_ns > (SELECT max(start_ns) FROM steps WHERE {mine}) - {RECENT_NS} GROUP BY rank"
    )
    return {row["rank"]: row for row in rows.to_pylist()}


def _seconds(wanted: Wanted, usual_seconds: float) -> float:
    """How long is traced: at whatever moment of a step that begins, `steps` whole ones lie in it."""
    seconds = wanted.seconds
    if seconds is None:
        seconds = max((wanted.steps + 1.25) * SLOWER * usual_seconds, SECONDS_MIN)
    if not 0 < seconds <= SECONDS_MAX:
        takes = f"a step takes {usual_seconds:.3g} s"
        raise ConfigError(f"{seconds:.3g} s of trace", f"more than 0 and at most {SECONDS_MAX:g}; {takes}")
    return seconds
