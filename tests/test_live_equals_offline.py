"""The same rows give the same findings, whether a collector took them from agents or `warpline analyze` read the files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from warpline_agent.offline import read_paths
from warpline_proto import service_pb2_grpc, wire
from warpline_proto.batch import Batch, Frame
from warpline_proto.client import QueryClient

AGENTS = 3
ROWS_PER_FRAME = 700
WAIT_SECONDS = 180.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A real collector that analyses all the time."""
    settings = tmp_path / "collector.toml"
    settings.write_text(
        f'[collector]\nlisten = "127.0.0.1:0"\ndirectory = "{tmp_path / "store"}"\n'
        "[collector.analysis]\nperiod_seconds = 0.1\n[collector.store]\nseal_rows = 2000\n"
    )
    command = [sys.executable, "-m", "warpline_cli.main", "collector", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        yield process.stderr.readline().split("listens on ")[1].split(",")[0]
        process.terminate()
        assert process.wait(60) == 0


def dealt(batches: list[Batch]) -> list[list[Batch]]:
    """The rows cut small and dealt out to the agents in turn, so that they arrive mixed."""
    pieces = [
        Batch(batch.table, batch.source, batch.rows.slice(start, ROWS_PER_FRAME))
        for batch in batches
        for start in range(0, batch.rows.num_rows, ROWS_PER_FRAME)
    ]
    return [pieces[agent::AGENTS] for agent in range(AGENTS)]


def push(address: str, agent: int, batches: list[Batch]) -> int:
    """One agent's stream, each piece a frame -> the newest sequence acknowledged."""
    frames = [
        Frame(f"agent-{agent}", "boot", sequence, sequence, (batch,)) for sequence, batch in enumerate(batches, start=1)
    ]
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.WarplineStub(channel)
        acks = list(stub.Push((wire.to_message(frame) for frame in frames), timeout=WAIT_SECONDS))
    assert [ack.refused for ack in acks if ack.refused] == []
    return max(int(ack.sequence) for ack in acks)


def analysed_since(client: QueryClient, moment_ns: int) -> None:
    """Wait for a pass that began after `moment_ns`."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    sql = f"SELECT 1 FROM source_health WHERE source = 'analysis' AND subject = 'pass' AND time_ns - duration_ns > {moment_ns}"
    while client.query(sql).num_rows == 0:
        assert time.monotonic() < end, "no pass of the analysis"
        pause.wait(0.1)


def settled(client: QueryClient, wanted: list[dict[str, Any]]) -> None:
    """Wait until the findings are these: what a pass saw before all rows were there is written anew a little later."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        rows = client.query("SELECT document FROM current_findings").to_pylist()
        if sorted(json.dumps(each) for each in wanted) == sorted(row["document"] for row in rows):
            return
        pause.wait(0.2)


def warpline(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "warpline_cli.main", *words], capture_output=True, text=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("trace", ["AR", "ST"])
def test_a_recorded_run_pushed_by_agents_gives_the_findings_of_analyze(data: Path, address: str, trace: str) -> None:
    """Ids, subjects, figures, evidence and questions answered: all of it, to the last digit."""
    path = data / "G-stragglers" / "bytedance" / f"trace-{trace}.parquet"
    offline = warpline("analyze", "--json", str(path))
    assert offline["findings"]

    parts = dealt(read_paths([path]).batches)
    with ThreadPoolExecutor(AGENTS) as agents:
        newest = list(agents.map(push, [address] * AGENTS, range(AGENTS), parts))
    assert newest == [len(part) for part in parts]
    with QueryClient(address) as client:
        analysed_since(client, time.time_ns())
        settled(client, offline["findings"])
    live = warpline("findings", "--json", "--collector", address)

    assert live["verdict"] == offline["verdict"]
    for found in live["findings"]:
        assert found.pop("state") == "open"
        assert found.pop("opened_ns") <= found.pop("updated_ns")
        assert found.pop("alarms") >= 1
    assert live["findings"] == offline["findings"]
    healthy = {
        f"{check['detector']} of job {check['job']}" for check in offline["checks"] if check["verdict"] == "healthy"
    }
    assert {item["question"] for item in live["healthy"]} == healthy


def test_a_row_answers_sql_as_soon_as_it_is_acknowledged(address: str, make_frame: Any) -> None:
    """The acknowledgement is the promise: the next question, answered by a worker process, sees every row, sealed or not."""
    with grpc.insecure_channel(address) as channel, QueryClient(address) as client:
        for sequence in range(1, 31):
            message = wire.to_message(make_frame(sequence, rows=200))
            acks = list(service_pb2_grpc.WarplineStub(channel).Push(iter([message]), timeout=WAIT_SECONDS))
            assert acks[-1].sequence == sequence
            rows = client.query("SELECT count(*) AS rows, max(step) AS newest FROM steps").to_pylist()
            assert rows == [{"rows": 200 * sequence, "newest": sequence}]
