"""One courier on a store of its own, with hands on all its clocks, and incidents to tell of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from receiver import Listening

from warpline_collector.incidents import Incident, Incidents
from warpline_collector.notify.config import Config, Receiver
from warpline_collector.notify.courier import Courier
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.finding import (
    OPEN,
    Cost,
    Evidence,
    Finding,
    FindingKind,
    FindingState,
    Onset,
    Severity,
    Subject,
)

SECOND = 10**9
NOW = 1_700_000_000 * SECOND
SLOW = Finding(
    FindingKind.COMPUTE_STRAGGLER,
    Severity.CRITICAL,
    0.9,
    Subject(job="train", rank=3, node="node-7", gpu="GPU-1"),
    "rank 3 computes 40 % longer than its peers <!channel>",
    "drain node-7 and look at its clocks",
    Onset(NOW - 60 * SECOND, 120),
    Cost(0.4, 12.5),
    (Evidence("SELECT 1", ({"a": 1},)),),
)
OTHER = replace(SLOW, severity=Severity.WARNING, subject=Subject(job="train", rank=5), summary="rank 5 is late")


def incidents(*findings: Finding, state: str = OPEN, opened_ns: int = NOW, updated_ns: int = NOW) -> Incidents:
    """What a pass of the analysis left."""
    return {each.id: Incident(FindingState(each, state, opened_ns, updated_ns, "straggler")) for each in findings}


class Bench:
    """One courier on a store of its own, with hands on all its clocks."""

    def __init__(self, folder: Path, receiver: Receiver, **settings: Any) -> None:
        self.folder = folder
        self.receiver = receiver
        self.config = Config(**{"group_seconds": 0.0, "closed_seconds": 0.0, **settings}, receivers=(receiver,))
        self.known: Incidents = {}
        self.now_ns = NOW
        self.seconds = 0.0
        self.store = DuckDBStore(folder / "store")
        self.courier = self.start()

    def start(self) -> Courier:
        """The courier of a collector that was just started."""
        self.courier = Courier(
            self.receiver, self.config, self.folder / "store", lambda: self.known, self.store, lambda: self.now_ns,
            lambda: self.seconds, lambda: 0.0,
        )  # fmt: skip
        return self.courier

    def turn(self, seconds: float = 0.0) -> None:
        """One pass, so much later."""
        self.now_ns += int(seconds * SECOND)
        self.seconds += seconds
        self.courier.one_pass()

    def health(self) -> list[tuple[str, str]]:
        rows = self.store.query(
            "SELECT state, reason FROM source_health WHERE subject LIKE 'notify %' ORDER BY time_ns"
        ).to_pylist()
        return [(row["state"], row["reason"]) for row in rows]


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """Make one; its store is closed at the end."""
    made: list[Bench] = []

    def make(receiver: Receiver, **settings: Any) -> Bench:
        made.append(Bench(tmp_path, receiver, **settings))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


MakeBench = Callable[..., Bench]


def webhook(here: Listening, **settings: Any) -> Receiver:
    return Receiver(**{"name": "ops", "kind": "webhook", "url": f"{here.url}/hook", **settings})


def slack(here: Listening, folder: Path) -> Receiver:
    path = folder / "slack-url"
    path.write_text(f"{here.url}/services/T0/SECRET\nwritten by hand\n")
    return Receiver(name="chat", kind="slack", url_file=str(path))
