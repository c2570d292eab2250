"""Whether an agent as it is installed keeps up with training processes: records that found no room, at so many kernels a second.

    python tests/bench/capture_loop.py [--processes N] [--rate R] [--seconds S] [--records N] [--pause S] [--hookless] [--json]

The program of tests/fakes/trainer.c with a fake libcupti and the native library runs 150 kernel names in steps of half a second,
spread over each. The agent is `warpline agent`, with a spool on disk and no collector: records stay in the ring until the frame
that holds them is on disk, and the oldest go sooner where less than half of the ring is free. `--hookless` leaves out the hook's
steps, `--pause` halts the agent for so many seconds, three times. `used_max` is the largest share of a ring that was in use,
`late_ms_max` how late kernels were launched.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil
from capture import FAKES, compiler, program
from capture_agent import NAMES, STEP_NS, UNKNOWN, Trainer

from warpline_agent.frame_file import unpack
from warpline_agent.ring_file import RingFile, open_ring
from warpline_hook import ring
from warpline_hook.library import LIBRARY
from warpline_hook.native_build import compile_library
from warpline_proto.wire import from_message

PATIENCE_SECONDS: Final = 60.0
PAUSES: Final = 3
SETTLE_SECONDS: Final = 6.0
"""What was captured is told by then."""


@contextmanager
def agent(folder: Path) -> Iterator[psutil.Process]:
    """An agent as it is installed, once it is ready."""
    settings = folder / "agent.toml"
    settings.write_text(
        f'[agent]\nnode = "bench"\ncollector = "127.0.0.1:1"\nspool_directory = "{folder / "spool"}"\ndrain_seconds = 0\n'
        f'sources = ["kernels"]\n[sources.kernels]\ndirectories = ["{folder / "rings"}"]\ncontainers = false\nmode = "full"\n'
    )
    command = [sys.executable, "-m", "warpline_cli.main", "agent", "--config", str(settings)]
    with (folder / "agent.log").open("w") as said:
        running = subprocess.Popen(command, stderr=said)
    until(lambda: "agent ready" in (folder / "agent.log").read_text())
    yield psutil.Process(running.pid)
    running.terminate()
    running.wait(PATIENCE_SECONDS)


def until(reached: Any) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError("the agent or a training process does not answer")
        time.sleep(0.02)


def used(file: RingFile) -> float:
    """Share of the lane of kernels that holds records."""
    at = ring.LANES_AT + ring.LANES.index("kernels") * ring.LANE_BYTES
    return (file.number(at + 64) - file.number(at + ring.TAIL_AT)) / file.number(at + 8)


def launch(
    trainers: list[Trainer], rings: list[RingFile], seconds: float, rate: int, *, hooked: bool
) -> dict[str, float]:
    """Run kernels at this rate; how late they were at most, how full rings became, and how many kernels there were."""
    each, begun = int(rate * STEP_NS / 1e9 / NAMES), time.monotonic()
    late = fullest = kernels = 0.0
    for number in range(int(seconds * 1e9 / STEP_NS)):
        for name in range(NAMES):
            due = begun + (number + name / NAMES) * STEP_NS / 1e9
            time.sleep(max(due - time.monotonic(), 0))
            late = max(late, time.monotonic() - due)
            kernels += sum(trainer.ask(f"kernels {each} kernel_{name}_{'x' * 80}") for trainer in trainers)
            fullest = max(fullest, *map(used, rings))
        for trainer in trainers if hooked else ():
            trainer.steps.step(number, 0, (time.time_ns() - STEP_NS, STEP_NS, *UNKNOWN))
    return {"late_ms_max": 1e3 * late, "used_max": fullest, "kernels": kernels, "seconds": time.monotonic() - begun}


def pauses(running: psutil.Process, seconds: float, over: float) -> threading.Thread:
    """Halt the agent for so long, three times over a while."""

    def halt() -> None:
        for _ in range(PAUSES if seconds else 0):
            time.sleep(over / (PAUSES + 1))
            running.suspend()
            time.sleep(seconds)
            running.resume()

    thread = threading.Thread(target=halt)
    thread.start()
    return thread


def told(spool: Path) -> tuple[int, int]:
    """Kernels told in the frames of a spool, and those told as lost."""
    counts = lost = 0
    for path in spool.glob("*.frame"):
        message = unpack(path.read_bytes())
        for batch in from_message(message).batches if message is not None else ():
            if batch.table == "kernel_clusters":
                counts += sum(batch.rows.column("count").to_pylist())
                lost += batch.dropped
    return counts, lost


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one run."""
    fake, library, rings = folder / "libcupti.so.12", folder / LIBRARY, folder / "rings"
    rings.mkdir()
    compile_library(compiler(), library)
    flags = ["-O2", "-shared", "-fPIC", "-o", str(fake), str(FAKES / "cupti.c"), "-lpthread"]
    subprocess.run([*compiler(), *flags], check=True)
    environment = {"FAKE_CUPTI": str(fake), "WARPLINE_CUPTI": str(fake), "CUDA_INJECTION64_PATH": str(library)}
    environment |= {"WARPLINE_DIRECTORY": str(rings), "WARPLINE_RING_RECORDS": str(options.records)}
    tool = program(folder, "trainer")
    with agent(folder) as running:
        trainers = [Trainer(str(tool), rank, environment) for rank in range(options.processes)]
        files = [file for path in rings.glob("*.ring") if (file := open_ring(path)) is not None]
        until(lambda: all(file.standing().capturing & ring.KERNELS for file in files))
        before = running.cpu_times()
        halting = pauses(running, options.pause, options.seconds)
        found = launch(trainers, files, options.seconds, options.rate, hooked=not options.hookless)
        halting.join()
        time.sleep(SETTLE_SECONDS)
        after, memory = running.cpu_times(), running.memory_info().rss
        dropped = sum(file.standing().dropped["kernels"] for file in files)
        for trainer in trainers:
            trainer.end()
    spent = after.user + after.system - before.user - before.system
    counts, lost = told(folder / "spool")
    return {
        **found,
        "dropped": dropped,
        "told": counts,
        "told_as_lost": lost,
        "agent_core_percent_per_process": 100 * spent / (found["seconds"] + SETTLE_SECONDS) / options.processes,
        "agent_rss_mb": memory / (1 << 20),
        "ring_records": files[0].number(ring.LANES_AT + 8),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rate", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--records", type=int, default=131_072)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--hookless", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        found = measure(Path(folder), options)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<32} {value:.2f}" if isinstance(value, float) else f"{name:<32} {value}")


if __name__ == "__main__":
    main()
