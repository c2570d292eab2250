"""What the agent's source `kernels` costs beside eight training processes; prints one JSON object. `capture.py` runs it.

`python tests/bench/capture_agent.py PROGRAM FAKE LIBRARY FOLDER STEPS GRADE`: the program of tests/fakes/trainer.c, a fake
libcupti, the native library, a folder on memory. Each process runs 25,000 kernels of 150 names a step, as fast as it can; CPU
time is that of `read`, over the records it told.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import warpline_hook.step_ring
from warpline_agent.kernel_budget import KernelBudget, KernelBudgetConfig
from warpline_agent.raw_ring import RawRing, RawRingConfig
from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_hook import layout, ring
from warpline_hook.process import Process, start_ticks
from warpline_hook.step_ring import StepRing, create

GPUS: Final = 8
NAMES: Final = 150
KERNELS_OF_A_NAME: Final = 167
STEP_NS: Final = 500_000_000
"""25,000 kernels in half a second are 50,000 a second."""
UNKNOWN: Final = [layout.UNKNOWN] * (len(layout.TIMES) - 2 + len(layout.STARTS))
IDLE_READS: Final = 100
READS_A_STEP: Final = 2
"""Four a second."""
PATIENCE_SECONDS: Final = 60.0


class Trainer:
    """One training process and the file of its steps."""

    def __init__(self, program: str, rank: int, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ask("cuda")
        its = Process(self._process.pid, start_ticks(self._process.pid), Path("/proc/self/ns/pid").stat().st_ino)
        setattr(warpline_hook.step_ring, "this_process", lambda: its)  # noqa: B010  # the hook writes in its own process
        self.steps: StepRing = create(environment["WARPLINE_DIRECTORY"], None, time.time_ns())
        self.steps.identify({"job": "bench", "evidence": "a benchmark", "rank": rank, "world_size": GPUS})

    def ask(self, line: str) -> int:
        """Its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def step(self, number: int) -> int:
        """One step; how many kernels it had."""
        begun = time.time_ns()
        kernels = sum(self.ask(f"kernels {KERNELS_OF_A_NAME} kernel_{name}_{'x' * 80}") for name in range(NAMES))
        self.steps.step(number, 0, (begun, time.time_ns() - begun, *UNKNOWN))
        return kernels

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


class Watched:
    """The source, its CPU time, and a clock on which each step takes STEP_NS more."""

    def __init__(self, folder: Path, grade: str) -> None:
        self.ahead_ns = self.cpu_ns = self.rows = self.dropped = 0
        config = KernelsConfig(directories=(str(folder),), containers=False, mode="full")
        self.source = TrainingKernels(config, clock_ns=lambda: time.time_ns() + self.ahead_ns)
        limit = 1e9 if grade == "finest" else 1e-9
        self.source.tell_within(KernelBudget(KernelBudgetConfig(cpu_percent_max=limit)))
        self.source.keep_raw_in(RawRing(RawRingConfig(), folder / "raw"))
        self.source.open()

    def read(self) -> None:
        """One round."""
        before = time.process_time_ns()
        for _, batch, dropped in self.source.read():
            self.rows += batch.num_rows
            self.dropped += dropped
        self.cpu_ns += time.process_time_ns() - before

    def standing(self, name: str) -> list[int]:
        """A counter of each ring."""
        return [each.file.standing().counters[name] for each in self.source._followed.values()]

    def capturing(self) -> bool:
        """Whether all processes capture."""
        found = [each.file.standing().capturing for each in self.source._followed.values()]
        return len(found) == GPUS and all(mask & ring.KERNELS for mask in found)


def until(reached: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until it is so."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError("the training processes do not answer")
        time.sleep(0.005)
        meanwhile()


def measure(program: str, fake: str, library: str, folder: Path, steps: int, grade: str) -> dict[str, Any]:
    """CPU nanoseconds a record, and memory."""
    told = {"FAKE_CUPTI": fake, "WARPLINE_CUPTI": fake, "CUDA_INJECTION64_PATH": library}
    environment = {**told, "WARPLINE_DIRECTORY": str(folder)}
    trainers = [Trainer(program, rank, environment) for rank in range(GPUS)]
    watched = Watched(folder, grade)
    until(watched.capturing, watched.read)
    watched.cpu_ns = 0
    records = 0
    for number in range(steps):
        for trainer in trainers:
            records += trainer.step(number)
        until(lambda records=records: sum(watched.standing("records")) >= records)  # type: ignore[misc]
        for _ in range(READS_A_STEP):
            watched.ahead_ns += STEP_NS // READS_A_STEP
            watched.read()
    watched.ahead_ns += 60_000_000_000
    watched.read()
    spent_ns = watched.cpu_ns
    for _ in range(IDLE_READS):
        watched.read()
    idle_ns = (watched.cpu_ns - spent_ns) / IDLE_READS
    watched.source.close()
    for trainer in trainers:
        trainer.end()
    return {
        "ns_per_record": spent_ns / records,
        "idle_ns_per_read": idle_ns,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "records": records,
        "dropped": watched.dropped,
    }


if __name__ == "__main__":
    program, fake, library, folder, steps, grade = sys.argv[1:]
    print(json.dumps(measure(program, fake, library, Path(folder), int(steps), grade)))
