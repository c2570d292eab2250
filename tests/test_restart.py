"""A collector that is killed and started again goes on where it was: same findings, same life, and what comes after is judged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import grpc
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from cluster.durations import summary
from cluster.episode import episode, record, run
from cluster.layout import Layout
from cluster.reader import RecordingReader
from cluster.rows import Recording

from warpline_analysis.runner import run as diagnose
from warpline_proto import service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient

FRAME_ROWS = 900
WAIT_SECONDS = 180.0
SETTINGS = """
[collector]
listen = "127.0.0.1:0"
directory = "{folder}/store"
[collector.analysis]
period_seconds = 0.1
[collector.store]
seal_rows = 3000
"""


@contextmanager
def collector(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real collector over the store of `folder`, killed -9 at the end -> the process and its address."""
    settings = folder / "collector.toml"
    settings.write_text(SETTINGS.format(folder=folder))
    with started("collector", settings) as (process, said):
        yield process, said.split("listens on ")[1].split(",")[0]


@contextmanager
def started(verb: str, settings: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real process and the first line that it says; killed -9 at the end if it still runs."""
    command = [sys.executable, "-m", "warpline_cli.main", verb, "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process, process.stderr.readline()
        finally:
            process.send_signal(signal.SIGKILL)


def push(address: str, boot: str, tables: Mapping[str, pa.Table]) -> None:
    """All rows as frames of one agent, tables mixed."""
    pieces = [
        (start, Batch(name, "test", batch))
        for name, rows in tables.items()
        for start in range(0, rows.num_rows, FRAME_ROWS)
        for batch in rows.slice(start, FRAME_ROWS).combine_chunks().to_batches()
    ]
    ordered = [piece for _, piece in sorted(pieces, key=lambda item: item[0])]
    frames = [Frame("agent", boot, sequence, sequence, (piece,)) for sequence, piece in enumerate(ordered, start=1)]
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.WarplineStub(channel)
        acks = list(stub.Push((wire.to_message(frame) for frame in frames), timeout=WAIT_SECONDS))
    assert acks[-1].sequence == len(frames)
    assert [ack.refused for ack in acks if ack.refused] == []


def offline(tables: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Id -> finding in its published form, of one pass over rows in memory."""
    reader = RecordingReader(tables)
    found = {each.id: json.loads(json.dumps(each.to_json())) for each in diagnose(reader).findings}
    reader.close()
    return found


def told(client: QueryClient) -> tuple[dict[str, Any], dict[str, int]]:
    """Open findings by id as they stand in the store, and when they were opened."""
    rows = client.query("SELECT id, document, opened_ns FROM current_findings").to_pylist()
    return {row["id"]: json.loads(row["document"]) for row in rows}, {row["id"]: row["opened_ns"] for row in rows}


def settled(client: QueryClient, wanted: dict[str, Any]) -> dict[str, int]:
    """Wait until the findings are these -> when they were opened."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        found, opened = told(client)
        if found == wanted:
            return opened
        pause.wait(0.2)
    assert told(client)[0] == wanted
    raise AssertionError("unreachable")


def passes_since(client: QueryClient, moment_ns: int, count: int) -> None:
    """Wait for so many passes that began after `moment_ns`."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    sql = f"SELECT 1 FROM source_health WHERE source = 'analysis' AND subject = 'pass' AND time_ns - duration_ns > {moment_ns}"
    while client.query(sql).num_rows < count:
        assert time.monotonic() < end, "no pass of the analysis"
        pause.wait(0.1)


def new_rows(recording: Recording, first: int, last: int) -> dict[str, pa.Table]:
    """What became known after step `first`, up to step `last`."""
    before = recording.until(first)
    return {name: rows.slice(before[name].num_rows) for name, rows in recording.until(last).items()}


@pytest.mark.parametrize("kind", ["compute_straggler", "link_degradation"])
def test_a_killed_collector_goes_on_with_its_findings(tmp_path: Path, kind: str) -> None:
    """Killed -9 with a finding open, started again, and sent the rest: what an uninterrupted analysis of all rows says."""
    real = summary()
    made = episode(12, kind, 0.5, 0, (Layout(16),))
    recording = record(made, run(made, real), real)
    half, last = made.onset + 40, 10**9
    before, after = offline(recording.until(half)), offline(recording.until(last))
    assert before
    assert before.keys() == after.keys(), "the same fault, seen for longer"
    with collector(tmp_path) as (_, address), QueryClient(address) as client:
        push(address, "boot-1", recording.until(half))
        opened = settled(client, before)
    with collector(tmp_path) as (_, address), QueryClient(address) as client:
        passes_since(client, time.time_ns(), 2)
        assert told(client) == (before, opened)
        push(address, "boot-2", new_rows(recording, half, last))
        assert settled(client, after) == opened
        closed = client.query("SELECT id FROM findings WHERE state <> 'open'").to_pylist()
        assert not before.keys() & {row["id"] for row in closed}, "it was never taken back"


FLEET = """
[agent]
node = "{node}"
sources = ["synthetic"]
spool_directory = "{folder}/spool-{node}"
collector = "{address}"
drain_seconds = 60
[sources.synthetic]
node = "{node}"
replicas = 2
stages = 1
ranks_per_node = 1
node_index = {index}
step_seconds = 0.05
"""


@contextmanager
def agent(folder: Path, node: str, index: int, address: str) -> Iterator[subprocess.Popen[str]]:
    """A real agent with made-up ranks; killed -9 at the end if it still runs."""
    settings = folder / f"{node}.toml"
    settings.write_text(FLEET.format(node=node, folder=folder, address=address, index=index))
    with started("agent", settings) as (process, said):
        assert "agent ready" in said
        yield process


def ended(process: subprocess.Popen[str]) -> None:
    """As a supervisor ends it."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0


def heard(client: QueryClient, since: int) -> int:
    """Wait until the collector has steps of both nodes behind this number of rows -> the rows."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    sql = "SELECT min(rows) AS rows, count(*) AS nodes FROM (SELECT node, count(*) AS rows FROM steps GROUP BY node)"
    while (found := client.query(sql).to_pylist()[0])["nodes"] < 2 or found["rows"] <= since:
        assert time.monotonic() < end, "nothing comes"
        pause.wait(0.1)
    return int(found["rows"])


def test_a_rolling_restart_of_everything_loses_nothing(tmp_path: Path) -> None:
    """The collector ends and starts anew, then one agent after the other: no frame is missing, none is there twice."""
    with ExitStack() as stack:
        process, address = stack.enter_context(collector(tmp_path))
        client = stack.enter_context(QueryClient(address))
        one, two = (stack.enter_context(agent(tmp_path, name, at, address)) for at, name in enumerate(("one", "two")))
        seen = heard(client, 0)
        settings = tmp_path / "collector.toml"
        settings.write_text(settings.read_text().replace('"127.0.0.1:0"', f'"{address}"'))
        ended(process)
        process = stack.enter_context(restarted(settings))
        client = stack.enter_context(QueryClient(address))
        seen = heard(client, seen)
        ended(one)
        one = stack.enter_context(agent(tmp_path, "one", 0, address))
        seen = heard(client, seen)
        ended(two)
        two = stack.enter_context(agent(tmp_path, "two", 1, address))
        heard(client, seen)
        ended(one)
        ended(two)
        gaps = client.query("SELECT subject, reason FROM source_health WHERE state IN ('dropped', 'refused')")
        assert gaps.to_pylist() == []
        twice = "SELECT node, rank, start_ns FROM steps GROUP BY ALL HAVING count(*) > 1"
        assert client.query(twice).to_pylist() == []
        ended(process)
    with duckdb.connect(str(tmp_path / "store" / "warpline.duckdb"), read_only=True) as store:
        ledger = store.sql("SELECT agent, sequence, frames, missing, lost FROM ledger").fetchall()
    assert sorted(row[0] for row in ledger) == ["one", "one", "two", "two"]
    assert [row for row in ledger if row[1] != row[2] or row[3] or row[4]] == [], (
        "every frame that was made is there once"
    )
    assert not list(tmp_path.glob("spool-*/*.frame"))


@contextmanager
def restarted(settings: Path) -> Iterator[subprocess.Popen[str]]:
    """The collector again, at the address that it had."""
    with started("collector", settings) as (process, said):
        assert "listens on" in said
        yield process
