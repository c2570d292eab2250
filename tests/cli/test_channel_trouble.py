"""What an operator sees where a training process gives nothing: busy by whom, denied why, dead; in SQL and from the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.main import main
from warpline_cli.processes import free_address
from warpline_proto.client import QueryClient
from warpline_proto.errors import QueryError

WAIT_SECONDS = 90.0
STATES = {"busy": (2, "CUPTI has room for one and is held by Nsight Systems"), "denied": (3, "there is no libcupti"),
          "dead": (4, "CUPTI goes on delivering damaged records")}  # fmt: skip


@pytest.fixture
def start() -> Iterator[Callable[..., None]]:
    """Start a verb of warpline beside the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> None:
        command = [sys.executable, "-m", "warpline_cli.main", *words]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))

    yield begin
    for each in started:
        each.kill()
        each.communicate()


def ask(address: str, sql: str) -> list[dict[str, Any]]:
    try:
        with QueryClient(address) as client:
            rows: list[dict[str, Any]] = client.query(sql).to_pylist()
            return rows
    except QueryError:
        return []


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.2)


def test_a_channel_that_gives_nothing_is_a_row_and_the_doctor_names_it(
    compile_program: Callable[..., Path],
    drive: Callable[..., Any],
    start: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, address = compile_program("ring_writer", "ring.c"), free_address()
    (tmp_path / "rings").mkdir()
    settings = tmp_path / "agent.toml"
    settings.write_text(
        f'[agent]\nnode = "gpu\'7"\ncollector = "{address}"\nspool_directory = "{tmp_path / "spool"}"\n'
        f'sources = ["kernels"]\n[sources.kernels]\ndirectories = ["{tmp_path / "rings"}"]\ncontainers = false\n'
    )
    expected = {}
    for state, (number, why) in STATES.items():
        process = drive([program], {"WARPLINE_DIRECTORY": str(tmp_path / "rings")})
        process.ask("open")
        process.ask(f"state 0 {number} {why}")
        expected[f"kernels of pid {process.pid}"] = (state, why)
    start("collector", "--listen", address, "--store", str(tmp_path / "store"))
    start("agent", "--config", str(settings))

    def told() -> dict[str, tuple[str, str]]:
        rows = ask(
            address, "SELECT subject, state, reason FROM source_state WHERE source = 'kernels' AND state <> 'fresh'"
        )
        return {row["subject"]: (row["state"], row["reason"]) for row in rows}

    until(lambda: told() == expected)
    assert main(["doctor", "--json", "--collector", address, "--config", str(settings)]) >= 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    said = {each["detail"] for each in checks if each["id"] == "agent.kernels"}
    assert said == {f"{subject}: {state}: {why}" for subject, (state, why) in expected.items()}
