"""What capture costs: a kernel record and an NCCL operation in the training process, and the agent that reads them.

`python tests/bench/capture.py [--quick] [--json]`. The native library is compiled as an installation compiles it; what stands for
CUPTI and NCCL are the tests' fakes, so the figures are this project's own cost and hold nothing of NVIDIA's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from warpline_agent.capture_duty import PLANS, Level
from warpline_agent.ring_file import RingFile, open_ring
from warpline_hook.library import LIBRARY
from warpline_hook.native_build import FLAGS, SOURCES, compile_library, system_compiler

FAKES: Final = Path(__file__).parents[1] / "fakes"
RECORD_BYTES: Final = (200, 208, 216, 248)
"""Kernel records of CUPTI 11.8, 12, 13.0 and 13.5."""
NAMES: Final = 150
"""Different kernels in a step of a transformer, about."""
BATCH: Final = 60_000
"""Records between two looks of the agent: a full ring, nearly."""
GPUS: Final = 8
READS_A_SECOND: Final = 4
OPERATIONS: Final = 8_000
"""NCCL operations between two looks: what its lane holds, nearly."""


@dataclass(frozen=True)
class Costs:
    """Medians over rounds; nanoseconds of wall time in the trainer, of CPU time in the agent.

    `ns_per_record` is the worst of RECORD_BYTES with room in the ring, `ns_per_dropped_record` without;
    `ns_per_record_zeroed` is spent on the flush thread beside it. `ring_read_ns_per_record` is reading and releasing alone; the
    agent's figures are those of its source with clusters and raw ring, for 8 GPUs at 50,000 kernels a second each, read four
    times a second; in windows it has records in 3 steps of 50 and looks in vain in the others.
    """

    ns_per_record: float
    ns_per_record_by_bytes: dict[int, float]
    ns_per_dropped_record: float
    ns_per_record_zeroed: float
    ns_per_nccl_op: float
    ns_per_dropped_nccl_op: float
    ring_read_ns_per_record: float
    agent_ns_per_record: float
    agent_core_percent_per_gpu: float
    agent_core_percent_per_gpu_in_windows: float
    agent_rss_mb: float
    records: int
    dropped: int


def compiler() -> list[str]:
    """The C compiler of this machine, or ziglang."""
    return system_compiler(os.environ) or [sys.executable, "-m", "ziglang", "cc"]


def program(folder: Path, name: str, *sources: str) -> Path:
    """Compile a program of tests/fakes with the flags of the library."""
    target = folder / name
    files = [FAKES / f"{name}.c", *(SOURCES / source for source in sources)]
    flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC", "-Wl,-z,nodelete")]
    command = [*compiler(), *flags, "-rdynamic", "-I", str(SOURCES), "-o", str(target), *map(str, files)]
    subprocess.run([*command, "-lpthread", "-ldl"], check=True, capture_output=True, text=True)
    return target


def decode(tool: Path, folder: Path, record_bytes: int, rounds: int) -> tuple[float, float, float]:
    """Nanoseconds a record: with room, without, zeroing."""
    done = subprocess.run(
        [str(tool), str(record_bytes), str(NAMES), str(rounds)],
        check=True,
        capture_output=True,
        text=True,
        env={"WARPLINE_DIRECTORY": str(folder)},
    )
    columns = zip(*(map(float, line.split()) for line in done.stdout.splitlines()), strict=True)
    room, full, zeroed = map(statistics.median, columns)
    return room, full, zeroed


class Asked:
    """A program of tests/fakes that answers line by line, and its ring."""

    def __init__(self, tool: Path, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        folder.mkdir()
        told = {"WARPLINE_DIRECTORY": str(folder), **environment}
        self._process = subprocess.Popen(
            [str(tool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=told
        )

    def ask(self, line: str) -> int:
        """Its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ring(self) -> RingFile:
        """Its ring."""
        (path,) = self.folder.glob("*.ring")
        opened = open_ring(path)
        assert opened is not None
        return opened

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


def nccl(tool: Path, library: Path, folder: Path, rounds: int) -> tuple[float, float]:
    """Nanoseconds of start and stop of one collective, with room and without."""
    host = Asked(tool, folder, {"FAKE_NCCL_API": "6", "NCCL_PROFILER_PLUGIN": str(library)})
    host.ask("comm 1 0 8 1 world")
    reader = host.ring()
    room = []
    for _ in range(rounds):
        while len(reader.read("nccl")):
            pass
        reader.release()
        room.append(host.ask(f"cost {OPERATIONS}") / 100)
    host.ask(f"cost {OPERATIONS}")
    full = [host.ask(f"cost {OPERATIONS}") / 100 for _ in range(rounds)]
    reader.close()
    host.end()
    return statistics.median(room), statistics.median(full)


def reading(tool: Path, folder: Path, rounds: int) -> tuple[float, int, int]:
    """CPU nanoseconds of the agent for one record, records, and how many were dropped."""
    writer = Asked(tool, folder, {})
    writer.ask("open")
    reader = writer.ring()
    costs = []
    records = 0
    for each in range(rounds):
        writer.ask(f"kernels {BATCH} {each * BATCH}")
        before = time.process_time_ns()
        taken = len(reader.read("kernels"))
        reader.release()
        costs.append((time.process_time_ns() - before) / taken)
        records += taken
    dropped = reader.standing().dropped["kernels"]
    reader.close()
    writer.end()
    return statistics.median(costs), records, dropped


def agent(folder: Path, library: Path, steps: int) -> dict[str, float]:
    """CPU nanoseconds of the source `kernels` for one record, its memory, records, and how many were dropped."""
    rings, fake = folder / "agent", folder / "libcupti.so.12"
    rings.mkdir()
    trainer = program(folder, "trainer")
    flags = ["-O2", "-shared", "-fPIC", "-o", str(fake), str(FAKES / "cupti.c"), "-lpthread"]
    subprocess.run([*compiler(), *flags], check=True, capture_output=True, text=True)
    command = [sys.executable, str(Path(__file__).with_name("capture_agent.py")), str(trainer), str(fake)]
    done = subprocess.run(
        [*command, str(library), str(rings), str(steps), "finest"], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(folder: Path, quick: bool) -> Costs:
    """Measure everything with rings in `folder`."""
    rounds = 20 if quick else 100
    library = folder / LIBRARY
    compile_library(compiler(), library)
    cost = program(folder, "capture_cost", "ring.c", "decode.c")
    decoded = {size: decode(cost, folder, size, rounds) for size in RECORD_BYTES}
    operation, dropped_operation = nccl(program(folder, "nccl_host"), library, folder / "nccl", rounds)
    read, records, dropped = reading(program(folder, "ring_writer", "ring.c"), folder / "ring", rounds)
    source = agent(folder, library, 6 if quick else 40)
    percent = source["ns_per_record"] * 50_000 / 1e9 * 100
    window, period = PLANS[Level.WINDOWS].steps
    idle = source["idle_ns_per_read"] * READS_A_SECOND / GPUS / 1e9 * 100
    by_bytes = {size: room for size, (room, _, _) in decoded.items()}
    return Costs(
        ns_per_record=max(by_bytes.values()),
        ns_per_record_by_bytes=by_bytes,
        ns_per_dropped_record=max(full for _, full, _ in decoded.values()),
        ns_per_record_zeroed=max(zeroed for _, _, zeroed in decoded.values()),
        ns_per_nccl_op=operation,
        ns_per_dropped_nccl_op=dropped_operation,
        ring_read_ns_per_record=read,
        agent_ns_per_record=source["ns_per_record"],
        agent_core_percent_per_gpu=percent,
        agent_core_percent_per_gpu_in_windows=percent * window / period + idle,
        agent_rss_mb=source["rss_mb"],
        records=records + int(source["records"]),
        dropped=dropped + int(source["dropped"]),
    )


def main() -> None:
    """Print the costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 rounds in place of 100")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        costs = asdict(measure(Path(folder), options.quick))
    if options.json:
        print(json.dumps(costs))
        return
    for name, value in costs.items():
        print(f"{name:<34} {value:.2f}" if isinstance(value, float) else f"{name:<34} {value}")
    print("at 50,000 kernels a second; no GPU, CUPTI and NCCL are fakes")


if __name__ == "__main__":
    main()
