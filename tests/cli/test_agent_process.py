"""What an operator relies on when processes are killed: what was spooled arrives, once, and the end is clean."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from warpline_cli.processes import free_address
from warpline_collector.engine import FILE
from warpline_collector.reader import CatalogReader
from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError

WAIT_SECONDS = 90.0


class Cluster:
    """One real collector and one real agent with the synthetic source, started and killed at will."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = free_address()
        self.spool = folder / "spool"
        self.store = folder / "store"
        self.children: list[subprocess.Popen[str]] = []
        self.settings = folder / "agent.toml"
        self.configure(drain_seconds=2)

    def configure(self, drain_seconds: int) -> None:
        """Of agents that are started from now on."""
        self.settings.write_text(
            f'[agent]\nnode = "node0"\ncollector = "{self.address}"\nspool_directory = "{self.spool}"\n'
            f'drain_seconds = {drain_seconds}\nsources = ["synthetic"]\n'
        )

    def collector(self) -> subprocess.Popen[str]:
        return self.start("collector", "--listen", self.address, "--store", str(self.store))

    def agent(self) -> subprocess.Popen[str]:
        return self.start("agent", "--config", str(self.settings))

    def start(self, *words: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-m", "warpline_cli.main", *words], stderr=subprocess.PIPE, text=True)
        self.children.append(child)
        return child

    def frames(self) -> int:
        """Frames the collector took since its start, 0 while it is away."""
        try:
            with QueryClient(self.address) as client:
                return int(client.status().frames)
        except QueryError:
            return 0

    def spooled(self) -> dict[str, int]:
        """Newest sequence that waits of each boot."""
        newest: dict[str, int] = {}
        for path in self.spool.glob("*.frame"):
            boot, _, sequence = path.stem.rpartition("-")
            newest[boot] = max(newest.get(boot, 0), int(sequence))
        return newest

    def ledger(self) -> list[dict[str, Any]]:
        """What the store knows of each boot, once the collector is gone."""
        with duckdb.connect(str(self.store / FILE), read_only=True) as connection:
            return connection.sql("SELECT * FROM ledger ORDER BY boot").to_arrow_table().to_pylist()  # type: ignore[no-any-return]

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the store, once the collector is gone."""
        with CatalogReader(self.store) as reader:
            rows: list[dict[str, Any]] = reader.query(sql).to_pylist()
        return rows


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for child in made.children:
        if child.poll() is None:
            child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def until(condition: Callable[[], bool]) -> bool:
    """Wait for what another process does, WAIT_SECONDS at most."""
    end = time.monotonic() + WAIT_SECONDS
    pause = threading.Event()
    while not condition() and time.monotonic() < end:
        pause.wait(0.05)
    return condition()


def ready(child: subprocess.Popen[str]) -> str:
    assert child.stderr is not None
    return child.stderr.readline()


def stop(child: subprocess.Popen[str]) -> int:
    child.send_signal(signal.SIGTERM)
    return child.wait(WAIT_SECONDS)


def test_kill_dash_nine_loses_nothing_that_was_spooled_and_stores_nothing_twice(cluster: Cluster) -> None:
    collector, agent = cluster.collector(), cluster.agent()
    assert until(lambda: cluster.frames() >= 2)
    collector.kill()
    collector.wait()
    assert until(lambda: max(cluster.spooled().values(), default=0) >= 6)
    agent.kill()
    agent.wait()
    [(boot, newest)] = cluster.spooled().items()

    cluster.configure(drain_seconds=60)
    collector, second = cluster.collector(), cluster.agent()
    assert until(lambda: boot not in cluster.spooled() and cluster.frames() >= 3)
    assert stop(second) == 0
    assert cluster.spooled() == {}, "a clean end waits for the last acknowledgement"
    assert stop(collector) == 0

    first, last = cluster.ledger()
    assert (first["boot"], first["sequence"]) == (boot, newest)
    for entry in (first, last):
        assert (entry["missing"], entry["lost"], entry["frames"]) == (0, 0, entry["sequence"])
    [twice] = cluster.ask("SELECT count(*) - count(DISTINCT (rank, start_ns)) AS rows FROM steps")
    assert twice["rows"] == 0


def test_the_agent_says_when_it_is_ready_and_ends_cleanly_without_a_collector(cluster: Cluster) -> None:
    agent = cluster.agent()
    assert ready(agent) == f"agent ready: node node0 reads synthetic, sends to {cluster.address}\n"
    assert stop(agent) == 0
    assert cluster.spooled(), "what could not be sent waits for the next start"


def test_flags_override_the_file_and_mistakes_are_one_sentence(cluster: Cluster) -> None:
    named = cluster.start("agent", "--config", str(cluster.settings), "--node", "other", "--source", "host")
    assert ready(named).startswith("agent ready: node other reads host, ")
    wrong = cluster.start("agent", "--config", str(cluster.settings), "--source", "nvmll")
    said = wrong.communicate(timeout=WAIT_SECONDS)[1]
    assert wrong.returncode == 64
    assert said == "warpline agent: [agent] sources: there is no source 'nvmll' (did you mean 'nvml'?)\n"
    assert stop(named) == 0
