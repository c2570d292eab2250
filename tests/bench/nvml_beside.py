"""What reading eight GPUs once a second costs: warpline's NVML part beside nvitop-exporter and Meta's gcm on the same fake node.

    python tests/bench/nvml_beside.py [--quick] [--json]

All three load tests/fakes/nvml.c as libnvidia-ml.so.1, with the latencies of a real driver, and run at once for five minutes
(20 seconds with --quick) after a start that does not count. CPU time and memory are those of the whole process tree; warpline's
is a process with the source alone, as it lies in the agent, and the child that makes the calls: once with all its counters, at 1
to 60 seconds each, and once for each peer with what that one reads, all of it each second. The peers are installed from PyPI
below `.bench` at the first run; one that cannot be is left out, and it is said. No process uses the fake GPUs, since gcm asks
`sudo` for the environment of each.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
from peers import python_of

from warpline_agent.nvml.counters import COUNTERS
from warpline_agent.sources.nvml import Nvml, NvmlConfig
from warpline_hook.native_build import system_compiler

FAKE: Final = Path(__file__).parents[1] / "fakes" / "nvml.c"
GPUS: Final = 8
NODE: Final = f"gpus {GPUS}\nlatency on\ngpu * power noise 500 60 1\ngpu * util noise 80 15 2\n" + "".join(
    f"gpu * gpm {metric} 40\n" for metric in (2, 5, 10, 11, 12, 13, 20, 21, 60, 61)
)
SECONDS: Final = 300
QUICK_SECONDS: Final = 20
WARM_SECONDS: Final = 10
WARPLINE: Final = "warpline"
MEMORY_SECONDS: Final = 1.0
"""Between two looks at memory."""
PUSH_SECONDS: Final = 10
"""gcm forms its means over so long; what it collects each second is part of its cost, and so is this."""


GCM: Final = (
    *("gpu_utilization_percent", "memory_utilization_percent", "memory_used_bytes", "memory_total_bytes"),
    *("temperature_celsius", "power_watts", "power_limit_watts", "remapped_rows"),
)
NVITOP: Final = (
    *(each for each in GCM if each != "remapped_rows"),
    *("sm_clock_mhz", "memory_clock_mhz", "pcie_tx_bytes", "pcie_rx_bytes", "nvlink_tx_bytes", "nvlink_rx_bytes"),
    "fan_percent",
)
EQUAL: Final = {"gcm": GCM, "nvitop-exporter": NVITOP}
"""Columns that stand for what each peer reads; remapped rows for retired pages, byte counters for throughput."""


@dataclass(frozen=True)
class Cost:
    """CPU time in percent of one core, memory of the whole tree (largest sum), processes, and values told of one GPU a second."""

    core_percent: float
    rss_mb: float
    unshared_mb: float
    processes: int
    values_a_second: float
    beside_warpline: float | None = None


def part(fields_of: str) -> None:
    """Warpline's own: the source, read once a second until standard input ends, then what it told as one JSON object."""
    wanted = EQUAL.get(fields_of, ())
    equal = tuple(replace(each, period_seconds=1) for each in COUNTERS if each.column in wanted)
    told = [each.column for each in equal or COUNTERS if not each.column.startswith("pcie:")]
    config = NvmlConfig(library_directory=os.environ["LD_LIBRARY_PATH"], open_seconds=30)
    source = Nvml(config, counters=equal or COUNTERS)
    source.open()
    values = rows = dropped = 0
    while not select.select([sys.stdin], [], [], source.period_seconds)[0]:
        for table, batch, lost in source.read():
            dropped += lost
            if table == "device_samples":
                rows += batch.num_rows
                values += sum(batch.num_rows - batch.column(name).null_count for name in told)
    source.close()
    print(json.dumps({"rows": rows, "values": values, "dropped": dropped}))


class Running:
    """One tool and its tree."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log_name: str) -> None:
        self.log = folder / log_name
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(environment),
                cwd=folder,
            )
        self._tree = psutil.Process(self._process.pid)
        self._begun = (0.0, 0.0)
        self.rss_bytes = self.unshared_bytes = self.processes = 0

    def begin(self) -> None:
        """From here on it counts."""
        self._begun = (time.monotonic(), self._cpu_seconds())

    def look(self) -> None:
        """Memory now."""
        listed = self._all()
        rss = unshared = 0
        for each in listed:
            try:
                told = each.memory_full_info()
            except psutil.NoSuchProcess:
                continue
            rss, unshared = rss + told.rss, unshared + told.uss
        self.rss_bytes, self.unshared_bytes = max(self.rss_bytes, rss), max(self.unshared_bytes, unshared)
        self.processes = max(self.processes, len(listed))

    def core_percent(self) -> float:
        """CPU time since `begin`."""
        at, cpu = self._begun
        return 100 * (self._cpu_seconds() - cpu) / (time.monotonic() - at)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self) -> str:
        """What it said at its end; one that does not heed the end of its input is terminated."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.stdin = None
        try:
            return self._process.communicate(timeout=5)[0].decode()
        except subprocess.TimeoutExpired:
            self._process.terminate()
            return self._process.communicate(timeout=30)[0].decode()

    def _all(self) -> list[psutil.Process]:
        return [self._tree, *self._tree.children(recursive=True)]

    def _cpu_seconds(self) -> float:
        """Of the tree as it is, and of those of it that have ended and were waited for."""
        total = 0.0
        for each in self._all():
            try:
                times = each.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def commands(folder: Path, port: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """What to run, by tool; and why a tool is left out."""
    own = [sys.executable, str(Path(__file__).resolve()), "--part"]
    found = {WARPLINE: [*own, "all"]}
    wanted = {
        "nvitop-exporter": ["--hostname", "fake", "--port", str(port), "--interval", "1"],
        "gcm": [
            *("nvml_monitor", "--cluster", "fake", "--sink", "file", "-o", f"file_path={folder / 'gcm.json'}"),
            *("--collect-interval", "1", "--push-interval", str(PUSH_SECONDS), "--interval", str(PUSH_SECONDS)),
            *("--log-folder", str(folder / "gcm")),
        ],
    }
    missing = {}
    for name, arguments in wanted.items():
        try:
            found[name] = [str(python_of(name).with_name(name)), *arguments]
            found[f"{WARPLINE}, fields of {name}"] = [*own, name]
        except (subprocess.CalledProcessError, OSError) as error:
            missing[name] = f"cannot be installed: {error}"
    return found, missing


def told_by_nvitop(port: int) -> float:
    """Values of one GPU that are there, not NaN; it reads all of them each second."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines: list[str] = answer.read().decode().splitlines()
    return sum(line.startswith("gpu_") and not line.endswith("NaN") for line in lines) / GPUS


def told_by_gcm(path: Path) -> float:
    """Numbers in what it writes of one GPU; it reads all of them each second."""
    lines = path.read_text().splitlines() if path.exists() else []
    found: list[dict[str, int]] = [json.loads(line)["int"] for line in lines if '"gpu_id"' in line]
    return float(len(found[-1].keys() - {"job_id", "gpu_id"})) if found else 0.0


def cost(tool: Running, percent: float, values: float, warpline: float) -> Cost:
    """Rounded as it is told."""
    return Cost(
        core_percent=round(percent, 3),
        rss_mb=round(tool.rss_bytes / 2**20, 1),
        unshared_mb=round(tool.unshared_bytes / 2**20, 1),
        processes=tool.processes,
        values_a_second=round(values, 1),
        beside_warpline=round(percent / warpline, 2) if warpline else None,
    )


def start(folder: Path, listed: Mapping[str, Sequence[str]]) -> dict[str, Running]:
    """All tools, over a fake library that is compiled here."""
    library = folder / "libnvidia-ml.so.1"
    compiler = system_compiler(os.environ) or [sys.executable, "-m", "ziglang", "cc"]
    subprocess.run([*compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(FAKE), "-lpthread"], check=True)
    (folder / "node").write_text(NODE)
    (folder / "gcm").mkdir()
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML_SCRIPT": str(folder / "node")}
    return {
        name: Running(command, environment, folder, f"{at}.log") for at, (name, command) in enumerate(listed.items())
    }


def watch(running: dict[str, Running], seconds: float, missing: dict[str, str]) -> None:
    """Look at all of them for so long; one that ends moves to `missing`."""
    time.sleep(WARM_SECONDS)
    end = time.monotonic() + seconds
    for each in running.values():
        each.begin()
    while time.monotonic() < end:
        time.sleep(MEMORY_SECONDS)
        for name, each in list(running.items()):
            if each.running():
                each.look()
                continue
            said = each.log.read_text(errors="replace").strip().splitlines()
            missing[name] = f"ended by itself: {said[-1] if said else 'without a word'}"
            del running[name]


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Run all of them at once."""
    port = free_port()
    listed, missing = commands(folder, port)
    load_before = os.getloadavg()
    running = start(folder, listed)
    watch(running, seconds, missing)
    percent = {name: each.core_percent() for name, each in running.items()}
    values = {"nvitop-exporter": told_by_nvitop(port)} if "nvitop-exporter" in running else {}
    ended = {name: each.end() for name, each in running.items()}
    if WARPLINE not in ended:
        raise RuntimeError(missing[WARPLINE])
    values["gcm"] = told_by_gcm(folder / "gcm.json")
    own: dict[str, dict[str, int]] = {name: json.loads(ended[name]) for name in ended if name.startswith(WARPLINE)}
    values |= {name: said["values"] / max(1, said["rows"]) for name, said in own.items()}
    costs = {name: cost(each, percent[name], values[name], percent[WARPLINE]) for name, each in running.items()}
    return {
        "seconds": seconds,
        "gpus": GPUS,
        "dropped": sum(said["dropped"] for said in own.values()),
        "load_before": round(load_before[0], 2),
        "load_after": round(os.getloadavg()[0], 2),
        "tools": {name: asdict(cost) for name, cost in costs.items()},
        "not_measured": missing,
    }


def table(figures: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    lines = [
        "| 8 GPUs, once a second | % of a core | beside warpline | RSS, MiB | of it unshared | values of a GPU a second |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, cost in figures["tools"].items():
        lines.append(
            f"| {name} | {cost['core_percent']:.2f} | {cost['beside_warpline']} | {cost['rss_mb']:.0f} "
            f"| {cost['unshared_mb']:.0f} | {cost['values_a_second']:.0f} |"
        )
    lines += [f"\n{name} is not measured: {why}" for name, why in figures["not_measured"].items()]
    told = f"load of the machine {figures['load_before']} before and {figures['load_after']} after"
    return "\n".join(
        [*lines, f"\n{figures['seconds']:.0f} s, all at once; {told}; {figures['dropped']} samples dropped"]
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS} seconds in place of {SECONDS}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--part", choices=("all", *EQUAL), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part(options.part)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), QUICK_SECONDS if options.quick else SECONDS)
    print(json.dumps(figures) if options.json else table(figures))


if __name__ == "__main__":
    main()
