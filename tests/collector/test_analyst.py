"""The detectors' own process: it says what they say, may die at any time, and is gone with the collector."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from patience import until

from warpline_analysis.runner import ask
from warpline_collector.analyst import Analyst
from warpline_collector.continuous import Continuous
from warpline_collector.reader import CatalogReader
from warpline_collector.stores.duckdb import DuckDBStore
from warpline_proto.batch import Batch
from warpline_proto.errors import StoreError
from warpline_proto.tables import DEVICE_SAMPLES, LOG_EVENTS

NOW_NS = 1_700_000_000 * 10**9
BUS = "0000:1b:00.0"
KILLED = """
import os, pathlib, signal, sys
import psutil
from warpline_collector.analyst import Analyst
analyst = Analyst(pathlib.Path(sys.argv[1]))
analyst.reports()
print(psutil.Process().children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
STATES = "SELECT state, reason FROM source_health WHERE subject = 'pass' ORDER BY time_ns"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDBStore]:
    """A store with a GPU that told of a memory error."""
    store = DuckDBStore(tmp_path, clock=lambda: NOW_NS)
    row = {"node": "node-1", "time_ns": NOW_NS, "bus_id": BUS}
    gpu = row | {"source": "nvml", "gpu_uuid": "GPU-1", "gpu_index": 3}
    log = row | {
        "source": "kernel_log",
        "kind": "xid",
        "code": 48,
        "severity": "critical",
        "message": "Xid 48",
        "count": 1,
    }
    store.write([Batch(DEVICE_SAMPLES.name, "nvml", DEVICE_SAMPLES.from_rows([gpu]))])
    store.write([Batch(LOG_EVENTS.name, "kernel_log", LOG_EVENTS.from_rows([log]))])
    yield store
    store.close()


@pytest.fixture
def analyst(store: DuckDBStore) -> Iterator[Analyst]:
    analyst = Analyst(store.directory)
    yield analyst
    analyst.close()


def processes() -> list[psutil.Process]:
    """Those of the analysis that this process started."""
    return [each for each in psutil.Process().children() if "warpline_collector.analyst" in each.cmdline()]


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_says_what_the_detectors_say(store: DuckDBStore, analyst: Analyst) -> None:
    """Each finding with its evidence and each check, in every pass, by one and the same process."""
    with CatalogReader(store.directory) as reader:
        here = ask(reader)
    there = analyst.reports()
    assert [finding.subject.gpu for report in there.values() for finding in report.findings] == ["GPU-1"]
    assert {name: [finding.to_json() for finding in report.findings] for name, report in there.items()} == {
        name: [finding.to_json() for finding in report.findings] for name, report in here.items()
    }
    assert {name: report.checks for name, report in there.items()} == {
        name: report.checks for name, report in here.items()
    }
    first = processes()
    assert analyst.reports() == there
    assert processes() == first and len(first) == 1


def test_a_process_that_was_killed_costs_one_pass(store: DuckDBStore, analyst: Analyst) -> None:
    analyst.reports()
    (process,) = processes()
    process.kill()
    with pytest.raises(StoreError, match="ended in the midst of a pass"):
        analyst.reports()
    assert [finding.subject.gpu for report in analyst.reports().values() for finding in report.findings] == ["GPU-1"]


def test_a_killed_process_is_told_and_the_next_pass_is_whole(store: DuckDBStore, tmp_path: Path) -> None:
    """As rows of the analysis' own health; the finding stays open meanwhile."""
    with CatalogReader(tmp_path) as reader:
        analysis = Continuous(store, reader, clock=time.time_ns)
        try:
            analysis.one_pass()
            processes()[0].kill()
            analysis.start()
            until(lambda: [row["state"] for row in store.query(STATES).to_pylist()][:2] == ["fresh", "dead"])
        finally:
            analysis.close()
    assert "the process of the analysis ended" in store.query(STATES).to_pylist()[1]["reason"]
    assert store.query("SELECT state FROM findings").to_pylist() == [{"state": "open"}]
    assert processes() == []


def test_stopping_ends_the_process_in_the_midst_of_a_pass(store: DuckDBStore, tmp_path: Path) -> None:
    """Whatever the detectors are at, and without a word of failure."""
    with CatalogReader(tmp_path) as reader:
        analysis = Continuous(store, reader)
        analysis.start()
        until(lambda: bool(processes()))
        processes()[0].suspend()
        analysis.close()
    assert processes() == []
    assert store.query("SELECT state FROM source_health WHERE state = 'dead'").num_rows == 0


def test_it_ends_with_a_collector_that_was_killed(store: DuckDBStore) -> None:
    told = subprocess.run([sys.executable, "-c", KILLED, str(store.directory)], stdout=subprocess.PIPE, text=True)
    assert told.returncode == -signal.SIGKILL
    until(lambda: not runs(int(told.stdout)))
