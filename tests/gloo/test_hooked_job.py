"""A real PyTorch job that nobody changed, started with `warpline run`: what slows it ends as a finding at the collector.

Real processes all the way: torchrun and four ranks over gloo, a warpline agent that reads their files, a collector.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from warpline_proto.client import QueryClient

TRAINING = Path(__file__).with_name("unchanged.py")
RANKS = 4
STEPS = 59
"""All steps but the first, of which nobody knows when it began."""
WAIT_SECONDS = 240.0
COLLECTOR = """
[collector]
listen = "127.0.0.1:0"
directory = "{folder}/store"
[collector.analysis]
period_seconds = 5
"""
AGENT = """
[agent]
node = "node0"
collector = "{address}"
sources = ["hook"]
spool_directory = "{folder}/spool"
[sources.hook]
directories = ["{folder}/memory"]
containers = false
positions = "{folder}/positions.json"
"""


@pytest.fixture
def python(hooked_python: Callable[..., Path]) -> Path:
    """A Python that has torch, and the hook as the wheel installs it."""
    base = os.environ.get("WARPLINE_TEST_TORCH")
    if not base:
        pytest.skip("needs PyTorch: set WARPLINE_TEST_TORCH to a Python that has it")
    return hooked_python(base=base)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A collector, and an agent that reads what the ranks record -> where to ask."""
    (tmp_path / "memory").mkdir()
    collector = started(tmp_path, "collector", COLLECTOR)
    assert collector.stderr is not None
    found = collector.stderr.readline().split("listens on ")[1].split(",")[0]
    agent = started(tmp_path, "agent", AGENT, address=found)
    yield found
    for process in (agent, collector):
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        process.stderr.close()


def started(folder: Path, verb: str, settings: str, **more: str) -> subprocess.Popen[str]:
    path = folder / f"{verb}.toml"
    path.write_text(settings.format(folder=folder, **more))
    command = [sys.executable, "-m", "warpline_cli.main", verb, "--config", str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def train(python: Path, folder: Path, *flags: str) -> None:
    """One run of the job."""
    launcher = [str(python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    variables = {"WARPLINE_DIRECTORY": str(folder / "memory"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "warpline_cli.main", "run", "--job", "night", "--", *launcher, str(TRAINING), *flags],
        env=os.environ | variables,
        check=True,
        timeout=WAIT_SECONDS,
        capture_output=True,
    )


def judged(client: QueryClient) -> list[dict[str, Any]]:
    """Findings that would wake somebody, once a pass has seen every step of every rank.

    That the whole job became slower is true where other work of the machine begins meanwhile, and accuses nobody.
    """
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    while client.query("SELECT 1 FROM steps").num_rows < RANKS * STEPS:
        assert time.monotonic() < end, "the steps did not all arrive"
        pause.wait(0.2)
    seen_ns = time.time_ns()
    passed = f"SELECT 1 FROM source_health WHERE source = 'analysis' AND subject = 'pass' AND time_ns - duration_ns > {seen_ns}"
    while client.query(passed).num_rows == 0:
        assert time.monotonic() < end, "no pass of the analysis has ended"
        pause.wait(0.2)
    rows: list[dict[str, Any]] = client.query(
        "SELECT kind, rank, job FROM current_findings WHERE state = 'open' AND severity IN ('warning', 'critical') AND "
        "kind <> 'regression'"
    ).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--slow", "2", "--how", "compute"], [{"kind": "compute_straggler", "rank": 2, "job": "night"}]),
        (["--slow", "1", "--how", "data"], [{"kind": "host_straggler", "rank": 1, "job": "night"}]),
        ([], []),
    ],
    ids=["compute", "data", "healthy"],
)
def test_the_slowed_rank_is_named_and_nobody_of_a_healthy_job(
    python: Path, address: str, tmp_path: Path, flags: list[str], told: list[dict[str, Any]]
) -> None:
    """By one finding each, of the kind by which it was slowed."""
    train(python, tmp_path, *flags)
    with QueryClient(address) as client:
        found = judged(client)
        summaries = client.query("SELECT summary FROM current_findings").to_pylist()
        assert found == told, summaries
        places = client.query("SELECT DISTINCT rank, node, clock FROM steps ORDER BY rank").to_pylist()
    assert [row["rank"] for row in places] == list(range(RANKS))
    assert {row["node"] for row in places} == {"node0"}
    assert not list((tmp_path / "memory").iterdir()), "files of ranks that ended are taken away"
