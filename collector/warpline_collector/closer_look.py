"""Asks agents for a closer look where findings would gain by one, within a budget: what a capture costs, the job pays.

Everything it knows is in the table `captures`, so that a restart neither forgets a request nor makes it twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from warpline_analysis.closer_look import Wish, accused_ranks, places, wishes
from warpline_analysis.detector import Reader
from warpline_proto.batch import Batch
from warpline_proto.capture import EXPIRED, OPEN_STATES, REQUESTED, Capture, to_rows
from warpline_proto.finding import Report
from warpline_proto.tables import CAPTURES, SOURCE_HEALTH

from .store import Store

SOURCE: Final = "analysis"
SUBJECT: Final = "captures"
"""Subject of the rows of source_health that tell what was not asked for, and why."""
HOUR_NS: Final = 3_600 * 10**9
QUESTION_REPEAT_NS: Final = 6 * HOUR_NS
"""A question that could not be answered asks again after so long; a finding asks once in its life."""
REMEMBERED_NS: Final = 7 * 24 * HOUR_NS
"""Requests looked back on: a finding that has stood for longer may ask once more."""
REFRESH_NS: Final = 60 * 10**9
"""What is not asked for is told anew at most so often."""
LOOKUPS_MAX: Final = 32
"""Wishes of one pass whose ranks are looked up."""
WAITING_MAX: Final = 10_000
"""Wishes remembered as counted."""
_NEWEST: Final = """
SELECT id, node, job, rank, what, start_ns, duration_ns, reason, requested_ns, state FROM current_captures
WHERE requested_ns >= {since}
"""


@dataclass(frozen=True)
class Config:
    """Budget of closer looks that are asked for by themselves; `enabled` false asks for none.

    A look is one suspect and one healthy peer. `per_job_per_hour` counts looks, `per_node_at_once` and `at_once` the captures
    that were not answered yet; `seconds` is how long each lasts, `answer_seconds` how long the answer may take after that.
    """

    enabled: bool = True
    per_job_per_hour: int = 4
    per_node_at_once: int = 2
    at_once: int = 16
    seconds: float = 5.0
    answer_seconds: float = 120.0

    def __post_init__(self) -> None:
        if min(self.per_job_per_hour, self.per_node_at_once, self.at_once) < 1:
            raise ValueError(
                "per_job_per_hour, per_node_at_once and at_once are at least 1; set enabled to false for none"
            )
        if self.seconds <= 0 or self.answer_seconds <= 0:
            raise ValueError("seconds and answer_seconds are more than 0")


Row = Mapping[str, Any]


@dataclass
class _Spent:
    """What of the budget is in use."""

    config: Config
    looks: Counter[str] = field(default_factory=Counter)
    nodes: Counter[str] = field(default_factory=Counter)

    def why_not(self, job: str, nodes: Sequence[str] = ()) -> str | None:
        """The bound that another look would break."""
        config = self.config
        if self.looks[job] >= config.per_job_per_hour:
            return f"{config.per_job_per_hour} looks per job and hour (per_job_per_hour)"
        if sum(self.nodes.values()) + len(nodes) > config.at_once:
            return f"{config.at_once} captures at once (at_once)"
        if any(self.nodes[node] + nodes.count(node) > config.per_node_at_once for node in nodes):
            return f"{config.per_node_at_once} captures of one node at once (per_node_at_once)"
        return None

    def take(self, job: str, nodes: Sequence[str]) -> None:
        """One look is asked for."""
        self.looks[job] += 1
        self.nodes.update(nodes)


class CloserLook:
    """One for a collector; `turn` once a pass."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config
        self._counted: dict[str, None] = {}
        self._told: tuple[str, int] = ("", 0)

    def turn(self, reader: Reader, report: Report, opened_ns: Callable[[str], int | None], now_ns: int) -> list[Batch]:
        """Rows to store: new requests, those that expired, and what was not asked for and why.

        `opened_ns` says since when a finding is open, None where it is not.
        """
        known = self._store.query(_NEWEST.format(since=now_ns - REMEMBERED_NS)).to_pylist()
        known = [_expired(row, now_ns) if self._overdue(row, now_ns) else row for row in known]
        rows = [row for row in known if row["state"] == EXPIRED and row.get("updated_ns") == now_ns]
        kept: Counter[str] = Counter()
        if self._config.enabled:
            asked, kept = self._asked(reader, report, opened_ns, known, now_ns)
            rows += asked
        batches = [Batch(CAPTURES.name, SOURCE, to_rows(rows))] if rows else []
        return batches + self._tell(kept, now_ns)

    def _overdue(self, row: Row, now_ns: int) -> bool:
        begun_ns = row["start_ns"] or row["requested_ns"]
        end_ns = max(begun_ns + (row["duration_ns"] or 0), row["requested_ns"])  # kernels may be asked for of the past
        return row["state"] in OPEN_STATES and now_ns > end_ns + self._config.answer_seconds * 1e9

    def _asked(
        self, reader: Reader, report: Report, opened_ns: Callable[[str], int | None], known: Sequence[Row], now_ns: int
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        """Requests of wishes that are new and fit the budget; why the others do not, by reason."""
        spent = _spent(self._config, known, now_ns)
        rows: list[dict[str, Any]] = []
        kept: Counter[str] = Counter()
        lookups = 0
        for wish in wishes(report):
            if _already(wish, known, opened_ns(wish.reason), now_ns):
                continue
            why = spent.why_not(wish.job) or (
                "its turn (more wishes than one pass looks up)" if lookups >= LOOKUPS_MAX else None
            )
            if why is None:
                lookups += 1
                found, why = self._requests(reader, report, wish, spent, now_ns)
                rows += found
            if why is not None:
                kept[why] += 1
                self._count(wish)
        return rows, kept

    def _requests(
        self, reader: Reader, report: Report, wish: Wish, spent: _Spent, now_ns: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The suspect and a healthy peer over the same time, or why not."""
        place = places(reader, wish, accused_ranks(report.findings, wish.job))
        if place.node is None:
            return [], "the node of the rank, which no row names"
        beside = [(place.peer, place.peer_node)] if place.peer is not None and place.peer_node is not None else []
        chosen = [(wish.rank, place.node), *beside]
        nodes = [node for _, node in chosen]
        why = spent.why_not(wish.job, nodes)
        if why is not None:
            return [], why
        spent.take(wish.job, nodes)
        return [self._request(wish, rank, node, now_ns) for rank, node in chosen], None

    def _request(self, wish: Wish, rank: int, node: str, now_ns: int) -> dict[str, Any]:
        name = hashlib.blake2b(f"{wish.reason} {wish.what} {rank} {now_ns}".encode(), digest_size=8).hexdigest()
        capture = Capture(name, wish.job, rank, wish.what, now_ns, int(self._config.seconds * 1e9), wish.reason)
        return capture.row(REQUESTED, node=node, source=SOURCE, requested_ns=now_ns, updated_ns=now_ns)

    def _count(self, wish: Wish) -> None:
        self._counted.setdefault(f"{wish.reason} {wish.what}")
        while len(self._counted) > WAITING_MAX:
            del self._counted[next(iter(self._counted))]

    def _tell(self, kept: Counter[str], now_ns: int) -> list[Batch]:
        """A row when what waits changed in kind, or after a while; `dropped` counts all that ever had to wait."""
        why = "; ".join(f"{count} wait for {reason}" for reason, count in sorted(kept.items()))
        kinds = "; ".join(sorted(kept))
        before, told_ns = self._told
        if kinds == before and (not kinds or now_ns - told_ns < REFRESH_NS):
            return []
        self._told = (kinds, now_ns)
        row = {
            "source": SOURCE, "time_ns": now_ns, "subject": SUBJECT, "state": "refused" if kinds else "fresh",
            "reason": f"closer looks not asked for: {why}" if kinds else None, "dropped": len(self._counted),
        }  # fmt: skip
        return [Batch(SOURCE_HEALTH.name, SOURCE, SOURCE_HEALTH.from_rows([row]))]


def _spent(config: Config, known: Sequence[Row], now_ns: int) -> _Spent:
    spent = _Spent(config)
    recent = {
        (row["job"], row["reason"], row["requested_ns"]) for row in known if row["requested_ns"] > now_ns - HOUR_NS
    }
    spent.looks.update(job for job, _, _ in recent)
    spent.nodes.update(row["node"] for row in known if row["state"] in OPEN_STATES)
    return spent


def _already(wish: Wish, known: Sequence[Row], opened_ns: int | None, now_ns: int) -> bool:
    """Whether it was asked for in this life of the finding, or not long ago by the question."""
    since_ns = now_ns - QUESTION_REPEAT_NS if opened_ns is None else opened_ns
    return any(
        row["reason"] == wish.reason and row["what"] == wish.what and row["requested_ns"] >= since_ns for row in known
    )


def _expired(row: Row, now_ns: int) -> dict[str, Any]:
    taken = row["state"] != REQUESTED
    detail = (
        "the agent took it and did not answer in time" if taken else "no agent of this node asked for requests in time"
    )
    return {**row, "state": EXPIRED, "detail": detail, "source": SOURCE, "updated_ns": now_ns}
