"""The view of one node of eight GPUs: `warpline top` beside nvitop and nvtop, each on a terminal of its own, one after the other.

All read tests/fakes/nvml.c as libnvidia-ml.so.1, with the latencies of a real driver. nvitop and nvtop read it themselves;
`warpline top` shows what the agent read and the collector keeps, which are told apart from it: they run whether anybody looks
or not. nvitop is installed from PyPI below `.bench`; nvtop is measured where it is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from collector_load import collector
from peers import python_of
from terminal import Program
from tui_cost import Cost

from warpline_hook.native_build import system_compiler
from warpline_proto.client import QueryClient

FAKE: Final = Path(__file__).parents[1] / "fakes" / "nvml.c"
GPUS: Final = 8
SCRIPT: Final = f"gpus {GPUS}\nlatency on\ngpu * power noise 500 60 1\ngpu * util noise 80 15 2\n"
SIZE: Final = (120, 40)
SETTLE_SECONDS: Final = 5
FIRST_SECONDS_MAX: Final = 60.0
HEARD_SECONDS_MAX: Final = 60.0
AGENT: Final = """
[agent]
node = "node-0"
collector = "{address}"
sources = ["nvml"]
spool_directory = "{folder}/spool"
[sources.nvml]
library_directory = "{folder}"
"""


def node(folder: Path, seconds: int, rounds: int) -> dict[str, Any]:
    """Figures of each program, and why one is missing."""
    folder.mkdir()
    environment = _library(folder)
    figures: dict[str, Any] = {}
    with _watched(folder, environment) as (address, behind):
        words = [sys.executable, "-m", "warpline_cli.main", "top", "--collector", address]
        figures["warpline top"] = _measured(words, environment, lambda text: f"{GPUS} GPUs" in text, seconds, rounds)
        figures |= behind(seconds)
    nvtop = shutil.which("nvtop")
    try:
        nvitop = str(python_of("nvitop-exporter").with_name("nvitop"))
        figures["nvitop"] = _measured([nvitop, "--interval", "1"], environment, _drawn, seconds, rounds)
    except (subprocess.CalledProcessError, OSError) as error:
        figures["nvitop"] = f"cannot be installed: {error}"
    figures["nvtop"] = (
        "not installed" if nvtop is None else _measured([nvtop, "-d", "10"], environment, _drawn, seconds, rounds)
    )
    return figures


def _drawn(text: str) -> bool:
    """Whether something is told of each GPU: percent and watts."""
    return text.count("%") >= GPUS and text.count("W") >= GPUS


def _measured(
    words: Sequence[str], environment: Mapping[str, str], complete: Callable[[str], bool], seconds: int, rounds: int
) -> dict[str, Any] | str:
    firsts = []
    for at in range(rounds):
        program = Program(words, environment, *SIZE)
        shown = program.shows(complete, FIRST_SECONDS_MAX)
        if shown is None:
            program.close()
            return f"shows nothing of {GPUS} GPUs: {program.screen.text().strip()[-200:]}"
        firsts.append(shown - program.started)
        if at < rounds - 1:
            program.close()
    time.sleep(SETTLE_SECONDS)
    before, cost = program.bytes, Cost(program.pid, tree=True)
    time.sleep(seconds)
    told = cost.figures() | {"bytes_a_second": round((program.bytes - before) / seconds)}
    program.close()
    return {"first_screen_s": round(sorted(firsts)[len(firsts) // 2], 2)} | told


def _library(folder: Path) -> dict[str, str]:
    compiler = system_compiler(os.environ) or [sys.executable, "-m", "ziglang", "cc"]
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([*compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(FAKE), "-lpthread"], check=True)
    (folder / "node").write_text(SCRIPT)
    return os.environ | {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML_SCRIPT": str(folder / "node")}


@contextmanager
def _watched(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, Callable[[int], dict[str, Any]]]]:
    """A collector and an agent that has been heard of: the address, and what both cost over so long."""
    with collector(folder) as (pid, address):
        config = folder / "agent.toml"
        config.write_text(AGENT.format(address=address, folder=folder))
        command = [sys.executable, "-m", "warpline_cli.main", "agent", "--config", str(config)]
        with subprocess.Popen(command, env=dict(environment), stderr=subprocess.DEVNULL) as agent:
            try:
                _heard(address)

                def behind(seconds: int) -> dict[str, Any]:
                    costs = {"warpline agent": Cost(agent.pid, tree=True), "warpline collector": Cost(pid, tree=True)}
                    time.sleep(seconds)
                    return {name: cost.figures() for name, cost in costs.items()}

                yield address, behind
            finally:
                agent.terminate()


def _heard(address: str) -> None:
    end = time.monotonic() + HEARD_SECONDS_MAX
    with QueryClient(address) as client:
        while client.query("SELECT count(DISTINCT gpu_uuid) AS n FROM device_samples").to_pylist()[0]["n"] < GPUS:
            if time.monotonic() > end:
                raise RuntimeError("the agent was not heard of")
            time.sleep(0.2)
