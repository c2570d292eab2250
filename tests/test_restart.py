"""A collector that is killed and started again goes on where it was: same findings, same life, and what comes after is judged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
WAIT_SECONDS = 60.0
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
    command = [sys.executable, "-m", "warpline_cli.main", "collector", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process, process.stderr.readline().split("listens on ")[1].split(",")[0]
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
