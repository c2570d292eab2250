"""The processes of a soak: a collector and agents as a user starts them, over a fake NVML library, and what all of them take."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from warpline_hook.native_build import system_compiler

FAKE: Final = Path(__file__).parents[1] / "fakes" / "nvml.c"
NODE: Final = "gpus 4\ngpu * power noise 500 80 7\ngpu * util noise 90 9 3\ngpu * temperature 61\ngpu * processes 1\n"
COLLECTOR: Final = """
[collector.store]
seal_seconds = {seal}
compact_files = 4
grace_seconds = {grace}
[collector.metrics]
listen = "127.0.0.1:{page}"
cache_seconds = 1.0
[collector.retention]
kernel_clusters = "{short}, 40 MB"
collectives = "{short}, 10 MB"
phases = "{short}"
steps = "{medium}"
device_samples = "{medium}"
host_samples = "{short}"
link_counters = "{short}"
source_health = "{short}"
metrics = "{short}"
agents = "{medium}"
raw_kernels = "{short}"
device_history = "{long}"
steps_history = "{long}"
energy_intervals = "{long}"
findings = "{medium}"
jobs = "{long}"
captures = "{medium}"
communicators = "{medium}"
log_events = "{medium}"
process_events = "{medium}"
other = "{short}"
"""
AGES: Final = {"short": "5 minutes", "medium": "15 minutes", "long": "40 minutes", "seal": 20.0, "grace": 30.0}
QUICK_AGES: Final = {"short": "1 minute", "medium": "1 minute", "long": "2 minutes", "seal": 2.0, "grace": 2.0}
AGENT: Final = """
[agent]
node = "{node}"
cluster = "soak"
collector = "{address}"
sources = ["synthetic", "nvml", "host"]
spool_directory = "{folder}/spool"
[sources.nvml]
library_directory = "{library}"
[sources.synthetic]
job = "soak-made-up"
node = "{node}"
node_index = {index}
replicas = 8
ranks_per_node = 4
step_seconds = 2.0
start_ns = {start_ns}
origin_ns = {start_ns}
"""
STOP_SECONDS: Final = 30.0
START_SECONDS: Final = 60.0
LIFE_SECONDS: Final = (150.0, 400.0)


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Child:
    """One program with a log of its own; `life` is its number of starts."""

    def __init__(self, name: str, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.starts = 0
        self._words = [sys.executable, *words]
        self._log = folder / f"{name}.log"
        self._environment = os.environ | environment
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin, or begin again."""
        self.starts += 1
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    def end(self, number: signal.Signals = signal.SIGTERM) -> int | None:
        """Its exit status; None where it had to be killed."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None

    @property
    def alive(self) -> bool:
        """It runs."""
        return self.process is not None and self.process.poll() is None

    def taken(self) -> dict[str, float]:
        """What it and its children take now."""
        assert self.process is not None
        return tree(self.process.pid)


def tree(pid: int) -> dict[str, float]:
    """Memory in MB, descriptors, threads, processes and CPU seconds of a process alone (`own_`) and with its children."""
    told = dict.fromkeys(("rss_mb", "pss_mb", "fds", "threads", "processes", "cpu_seconds"), 0.0)
    own: dict[str, float] = {}
    try:
        listed = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {}
    for process in listed:
        one = _one(process)
        own = own or one
        for name, value in one.items():
            told[name] += value
    return {
        name: round(value, 2) for name, value in (told | {f"own_{name}": value for name, value in own.items()}).items()
    }


def _one(process: psutil.Process) -> dict[str, float]:
    try:
        with process.oneshot():
            memory, times = process.memory_full_info(), process.cpu_times()
            return {
                "rss_mb": memory.rss / 2**20,
                "pss_mb": memory.pss / 2**20,
                "fds": process.num_fds(),
                "threads": process.num_threads(),
                "processes": 1.0,
                "cpu_seconds": times.user + times.system,
            }
    except psutil.Error:
        return {}


def on_disk(folder: Path) -> dict[str, float]:
    """Files and MB below a folder."""
    sizes = []
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size if path.is_file() else 0)
        except OSError:
            continue
    return {"files": float(sum(size > 0 for size in sizes)), "mb": round(sum(sizes) / 1e6, 3)}


class Cast:
    """All processes of one run; `turn` restarts what is due."""

    def __init__(self, folder: Path, streams: int, seed: int, job_seconds: float, *, quick: bool) -> None:
        self.folder, self.seed = folder, seed
        self.address, self.page = f"127.0.0.1:{free_port()}", free_port()
        self.restarts = 0
        self.deaths: list[str] = []
        self._chance = random.Random(f"{seed} restarts")
        self._quick = quick
        library = folder / "library"
        environment = {"FAKE_NVML_SCRIPT": str(folder / "node.txt")}
        config = folder / "collector.toml"
        config.write_text(COLLECTOR.format(page=self.page, **(QUICK_AGES if quick else AGES)))
        words = ["-m", "warpline_cli.main"]
        self.collector = Child(
            "collector",
            [*words, "collector", "--config", str(config), "--store", str(folder / "store"), "--listen", self.address],
            folder,
            {},
        )
        start_ns = time.time_ns()
        self.agents = [
            Child(
                name, [*words, "agent", "--config", str(self._agent(name, at, library, start_ns))], folder, environment
            )
            for at, name in enumerate(("steady", "restarted"))
        ]
        here = Path(__file__).parent / "soak_streams.py"
        self.status = folder / "streams.json"
        self.status.unlink(missing_ok=True)
        self.streams = Child(
            "streams",
            [str(here), self.address, str(streams), str(seed), str(job_seconds), str(self.status)],
            folder,
            {},
        )
        self._due = 0.0

    def start(self) -> None:
        """The collector, and the others once it answers."""
        (self.folder / "node.txt").write_text(NODE)
        self._compile()
        self.collector.start()
        end = time.monotonic() + START_SECONDS
        while not (_listens(self.address) and _listens(f"127.0.0.1:{self.page}")):
            if not self.collector.alive or time.monotonic() > end:
                raise RuntimeError(f"the collector did not start: {self.folder / 'collector.log'}")
            time.sleep(0.1)
        for child in (*self.agents, self.streams):
            child.start()
        self._next()

    def turn(self) -> None:
        """Stop or kill the agent whose time it is, and start it again; note who died unasked."""
        for child in (self.collector, *self.agents, self.streams):
            if not child.alive:
                self.deaths.append(child.name)
                child.start()
        if time.monotonic() >= self._due:
            self.agents[1].end(self._chance.choice((signal.SIGTERM, signal.SIGKILL)))
            self.agents[1].start()
            self.restarts += 1
            self._next()

    def end(self) -> dict[str, int | None]:
        """Exit statuses."""
        running = [child for child in (self.streams, *self.agents, self.collector) if child.alive]
        return {child.name: child.end() for child in running}

    def _next(self) -> None:
        self._due = time.monotonic() + (20.0 if self._quick else self._chance.uniform(*LIFE_SECONDS))

    def _agent(self, name: str, index: int, library: Path, start_ns: int) -> Path:
        path = self.folder / f"{name}.toml"
        (self.folder / name).mkdir(exist_ok=True)
        path.write_text(
            AGENT.format(
                node=name,
                address=self.address,
                folder=self.folder / name,
                library=library,
                index=index,
                start_ns=start_ns,
            )
        )
        return path

    def _compile(self) -> None:
        folder = self.folder / "library"
        folder.mkdir(exist_ok=True)
        compiler = system_compiler(os.environ) or [sys.executable, "-m", "ziglang", "cc"]
        target = folder / "libnvidia-ml.so.1"
        subprocess.run([*compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(FAKE), "-lpthread"], check=True)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as one:
        one.settimeout(1.0)
        return one.connect_ex((host, int(port))) == 0
