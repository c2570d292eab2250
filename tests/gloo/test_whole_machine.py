"""The whole machine at once: two nodes of four GPUs, a job over both, agents, a collector, a finding, and who asks for it.

GPUs, CUPTI and NCCL are the stand-ins of tests/fakes at their real boundaries; all the rest is real: torchrun and eight ranks of
PyTorch over gloo with hook and native library in them, an agent with its NVML child on each "node", gRPC, the collector, and the
command line and the screen, by which somebody learns who is slow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from warpline_cli.processes import free_address
from warpline_hook.library import library
from warpline_proto.client import QueryClient

TRAINING = Path(__file__).with_name("pretended_gpus.py")
NODES = ("node-a", "node-b")
GPUS = 4
"""Of each node, and ranks on it."""
RANKS = GPUS * len(NODES)
VICTIM = 5
"""The slowed rank: on the node whose agent is killed."""
HEALTHY_STEPS = 80
MORE_STEPS = 20
WAIT_SECONDS = 150.0
WARPLINE = [sys.executable, "-m", "warpline_cli.main"]
COLLECTOR = """
[collector]
listen = "127.0.0.1:0"
directory = "{folder}/store"
[collector.analysis]
period_seconds = 1
"""
AGENT = """
[agent]
node = "{name}"
collector = "{address}"
sources = ["nvml", "kernels", "hook"]
spool_directory = "{folder}/spool"
[sources.nvml]
library_directory = "{nvml}"
[sources.kernels]
directories = ["{folder}/memory"]
containers = false
[sources.hook]
directories = ["{folder}/memory"]
containers = false
positions = "{folder}/positions.json"
"""
ACCUSED = "SELECT kind, job, rank, node, gpu_uuid FROM current_findings WHERE state = 'open' AND severity <> 'info'"
KEPT = ("steps", "phases", "collectives", "kernel_clusters", "device_samples")
"""Tables in which rows that have been acknowledged are counted."""


def waited(condition: Callable[[], bool], meaning: str, seen: Callable[[], object] = lambda: "") -> None:
    """Until it holds; if it never does, what is `seen` instead is said."""
    pause, end = threading.Event(), time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"never {meaning}: {seen()}"
        pause.wait(0.5)  # each look costs the collector, and all of it shares the cores of this machine


@dataclass
class Node:
    """One node: its GPUs, its agent and where its training processes are read."""

    name: str
    folder: Path
    nvml: Path
    address: str
    agent: subprocess.Popen[str] | None = None

    def prepare(self, bus: int) -> None:
        """Its own GPUs, all busy."""
        (self.folder / "memory").mkdir(parents=True)
        buses = "\n".join(f"gpu {each} bus {bus + each:x}" for each in range(GPUS))
        busy = "gpu * util 96\ngpu * power 640\ngpu * processes 1"
        (self.folder / "gpus").write_text(f"gpus {GPUS}\n{buses}\n{busy}\n")
        self.uuids = [f"GPU-{0xFA4E0000 + each:08x}-0000-4000-8000-{bus + each:012x}" for each in range(GPUS)]

    def start(self) -> None:
        """Start its agent, with what an earlier one has left."""
        settings = self.folder / "agent.toml"
        settings.write_text(AGENT.format(name=self.name, address=self.address, folder=self.folder, nvml=self.nvml))
        with (self.folder / "agent.log").open("a") as said:
            self.agent = subprocess.Popen(
                [*WARPLINE, "agent", "--config", str(settings)],
                env=os.environ | {"FAKE_NVML_SCRIPT": str(self.folder / "gpus")},
                stderr=said,
                text=True,
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.agent is not None
        self.agent.kill()
        self.agent.wait()

    def stop(self) -> int:
        """As a service is stopped; its exit status."""
        assert self.agent is not None
        self.agent.terminate()
        return self.agent.wait(60)


@dataclass
class Job:
    """torchrun on each node."""

    control: Path
    launchers: list[subprocess.Popen[bytes]]

    def end(self) -> dict[int, int]:
        """Let it come to its end; steps of each rank."""
        (self.control / "stop").touch()
        for launcher in self.launchers:
            assert launcher.wait(WAIT_SECONDS) == 0
        return {rank: int((self.control / f"steps-{rank}").read_text()) for rank in range(RANKS)}


@dataclass
class Asked:
    """The collector, as somebody asks it: by its client here, by the command line where `warpline` is called."""

    address: str
    client: QueryClient

    def rows(self, sql: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.query(sql).to_pylist()
        return found

    def one(self, sql: str) -> Any:
        """The only value of the only row."""
        ((value,),) = (row.values() for row in self.rows(sql))
        return value

    def warpline(self, *words: str) -> str:
        command = [*WARPLINE, *words, "--collector", self.address]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS).stdout

    def steps(self, source: str) -> int:
        """Steps that all ranks have told of."""
        told = f"SELECT count(DISTINCT step) AS steps FROM steps WHERE source = '{source}' GROUP BY rank"
        counts = [row["steps"] for row in self.rows(told)]
        return min(counts) if len(counts) == RANKS else 0

    def analysed(self) -> None:
        """Wait for a pass over all that is there now."""
        now = time.time_ns()
        sql = f"SELECT 1 FROM source_health WHERE source = 'analysis' AND subject = 'pass' AND time_ns - duration_ns > {now}"
        waited(lambda: bool(self.rows(sql)), "a pass of the analysis ended")

    def kept(self) -> dict[str, int]:
        """How many rows there are."""
        return {table: self.one(f"SELECT count(*) FROM {table}") for table in KEPT}


@pytest.fixture
def python(hooked_python: Callable[..., Path]) -> Path:
    """A Python that has torch, and the hook as the wheel installs it."""
    base = os.environ.get("WARPLINE_TEST_TORCH")
    if not base:
        pytest.skip("needs PyTorch: set WARPLINE_TEST_TORCH to a Python that has it")
    assert library() is not None, "compile the native library: python -m warpline_hook.native_build"
    return hooked_python(base=base)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Asked]:
    settings = tmp_path / "collector.toml"
    settings.write_text(COLLECTOR.format(folder=tmp_path))
    command = [*WARPLINE, "collector", "--config", str(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split("listens on ")[1].split(",")[0]
        with QueryClient(address) as client:
            yield Asked(address, client)
        process.terminate()
        assert process.wait(60) == 0


@pytest.fixture
def nodes(tmp_path: Path, collector: Asked, compile_fake: Callable[[str, str], Path]) -> Iterator[list[Node]]:
    """Both, their agents running."""
    nvml = compile_fake("nvml", "libnvidia-ml.so.1").parent
    made = [Node(name, tmp_path / name, nvml, collector.address) for name in NODES]
    for number, node in enumerate(made):
        node.prepare(bus=0x10 + 0x40 * number)
        node.start()
    yield made
    for node in made:
        assert node.agent is not None
        if node.agent.poll() is None:
            node.kill()


@pytest.fixture
def job(tmp_path: Path, nodes: list[Node], python: Path, compile_fake: Callable[[str, str], Path]) -> Iterator[Job]:
    """Eight ranks over both nodes, started with `warpline run`."""
    control = tmp_path / "control"
    control.mkdir()
    _, _, port = free_address().rpartition(":")
    fakes = {
        "WARPLINE_CUPTI": str(compile_fake("cupti", "libcupti.so.12")),
        "FAKE_NCCL": str(compile_fake("nccl_host", "libfake_nccl.so")),
        "FAKE_NCCL_API": "5",
        "FAKE_NCCL_VERSION": "22803",
    }
    torchrun = [str(python), "-m", "torch.distributed.run", "--nnodes", str(len(NODES)), "--nproc-per-node", str(GPUS)]
    with ExitStack() as opened:
        launchers = []
        for number, node in enumerate(nodes):
            own = {"WARPLINE_DIRECTORY": str(node.folder / "memory"), "FAKE_UUIDS": ",".join(node.uuids)}
            meeting = ["--node-rank", str(number), "--master-addr", "127.0.0.1", "--master-port", port]
            program = [str(TRAINING), str(control), "--slow", str(VICTIM)]
            launchers.append(
                subprocess.Popen(
                    [*WARPLINE, "run", "--job", "night", "--", *torchrun, *meeting, *program],
                    env=os.environ | fakes | own | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
                    stdout=opened.enter_context((node.folder / "job.log").open("wb")),
                    stderr=subprocess.STDOUT,
                )
            )
        yield Job(control, launchers)
        (control / "stop").touch()
        for launcher in launchers:
            launcher.terminate()  # it ends its ranks
        for launcher in launchers:
            launcher.wait(WAIT_SECONDS)


def test_who_is_slow_is_told_by_name_through_all_of_it_and_nobody_before(
    collector: Asked, nodes: list[Node], job: Job, open_terminal: Callable[..., Any]
) -> None:
    """Healthy first, and nobody accused; then one agent is killed -9, one rank becomes slow, and the agent comes back."""
    screen = open_terminal(140, 40, "top", "--collector", collector.address)
    waited(lambda: collector.steps("kernels") >= HEALTHY_STEPS, "told of enough steps")
    collector.analysed()
    assert collector.rows(ACCUSED) == []
    screen.shows("2 nodes", f"{RANKS} ranks")
    tells_of_every_gpu(collector, nodes)

    nodes[1].kill()
    before = collector.kept()
    far = collector.one("SELECT max(step) FROM steps WHERE node = 'node-a'")
    (job.control / "slow").touch()
    waited(
        lambda: bool(collector.one("SELECT max(step) FROM steps WHERE node = 'node-a'") > far + MORE_STEPS), "went on"
    )
    nodes[1].start()
    told = {
        "kind": "compute_straggler",
        "job": "night",
        "rank": VICTIM,
        "node": "node-b",
        "gpu_uuid": nodes[1].uuids[1],
    }
    waited(lambda: collector.rows(ACCUSED) == [told], "accused the slow rank alone", lambda: collector.rows(ACCUSED))

    screen.press("2")
    screen.shows("compute_straggler", f"rank {VICTIM}", "node-b")
    assert json.loads(collector.warpline("sql", ACCUSED, "--format", "json")) == [told]
    (found,) = json.loads(collector.warpline("findings", "--json"))["findings"]
    assert (found["kind"], found["subject"]["rank"], found["subject"]["node"]) == (
        "compute_straggler",
        VICTIM,
        "node-b",
    )

    steps = job.end()
    loses_nothing(collector, before, steps)
    knows_when_collectives_ran(collector)
    left = partial(_left, nodes)
    waited(lambda: left() == [[], []], "took away the rings of ranks that ended", left)
    assert [node.stop() for node in nodes] == [0, 0]
    assert collector.rows(ACCUSED) == [told]
    screen.press("q")
    screen.shows("left with 0")


def tells_of_every_gpu(collector: Asked, nodes: list[Node]) -> None:
    """Each rank's kernels, operations and power are there, under the GPU and node that it has."""
    places = [(rank, NODES[rank // GPUS], nodes[rank // GPUS].uuids[rank % GPUS]) for rank in range(RANKS)]
    for table in ("steps", "kernel_clusters", "collectives"):
        found = collector.rows(
            f"SELECT DISTINCT rank, node, gpu_uuid FROM {table} WHERE source = 'kernels' ORDER BY rank"
        )
        assert [tuple(row.values()) for row in found] == places, table
    sampled = collector.rows("SELECT DISTINCT node, gpu_uuid FROM device_samples WHERE power_watts = 640 ORDER BY ALL")
    assert sorted(tuple(row.values()) for row in sampled) == sorted(place[1:] for place in places)
    names = collector.rows("SELECT DISTINCT category FROM kernel_names ORDER BY ALL")
    assert [row["category"] for row in names] == ["communication", "compute"]


def loses_nothing(collector: Asked, before: dict[str, int], steps: dict[int, int]) -> None:
    """Rows from before the kill are there still, and every step of every rank arrives."""
    assert len(set(steps.values())) == 1, "all ranks end at one step"
    last = max(steps.values()) - 1
    waited(
        lambda: collector.steps("hook") == last, f"told of all {last} steps"
    )  # all but the first, which nobody saw begin
    told = "SELECT rank, count(DISTINCT step) AS steps, min(step) AS first, max(step) AS last FROM steps WHERE source = 'hook'"
    found = collector.rows(f"{told} GROUP BY rank ORDER BY rank")
    assert found == [{"rank": rank, "steps": last, "first": 1, "last": last} for rank in range(RANKS)]
    after = collector.kept()
    assert all(after[table] >= rows for table, rows in before.items())


def knows_when_collectives_ran(collector: Asked) -> None:
    """Operations of every rank have found the kernels that did them."""
    timed = "SELECT rank, count(*) AS operations FROM collectives WHERE timing = 'kernel_gpu' AND duration_ns > 0"
    found = collector.rows(f"{timed} GROUP BY rank ORDER BY rank")
    assert [row["rank"] for row in found] == list(range(RANKS)), found


def _left(nodes: Sequence[Node]) -> list[list[str]]:
    """Files in the folder of rings of each node."""
    return [[path.name for path in (node.folder / "memory").iterdir()] for node in nodes]
