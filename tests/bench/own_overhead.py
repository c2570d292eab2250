"""Whether warpline knows what it costs: a real PyTorch job without it and with it, in turn, beside its own estimate.

    WARPLINE_TEST_TORCH=/path/to/python/with/torch python tests/bench/own_overhead.py [--rounds N] [--cost PERCENT] [--json]

Two processes on CPUs over gloo with a made-up GPU: `tests/bench/own_overhead_job.py`. Each round runs it three times, by turns:
without warpline, with the hook and kernels captured all the time, and with capture as it is by default, in which the agent
measures it. `step_overhead_percent` is how much longer the median step of the second is than that of the first, the median
over rounds; `own_estimate` is what the third says, from steps of one and the same run. --cost makes steps longer by so much while
kernels are recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from hook import ROOT, environment

from warpline_agent.sources.kernels import KernelsConfig, TrainingKernels
from warpline_hook.library import LIBRARY
from warpline_hook.native_build import compile_library, system_compiler

STEPS: Final = 800
FIRST_STEPS: Final = 64
"""Passed over: they warm up."""
READ_SECONDS: Final = 0.25
RUN_SECONDS_MAX: Final = 240


class Bench:
    """What all runs share: a Python with torch and the hook, the native library, a stand-in for libcupti."""

    def __init__(self, folder: Path, base: str, cost_percent: float) -> None:
        compiler = system_compiler(os.environ)
        if compiler is None:
            sys.exit("there is no C compiler")
        self.folder, self.cost_percent = folder, cost_percent
        self.python = environment(folder, base)
        hook = folder / "agent" / "warpline_hook"
        shutil.copytree(ROOT / "agent" / "warpline_hook", hook)
        compile_library(compiler, hook / LIBRARY)
        (paths,) = (folder / "env").glob("lib/python*/site-packages/_paths.pth")
        paths.write_text(paths.read_text().replace(str(ROOT / "agent"), str(folder / "agent")))
        self.library, self.cupti = hook / LIBRARY, folder / "libcupti.so.12"
        flags = ["-O2", "-shared", "-fPIC", "-o", str(self.cupti), str(ROOT / "tests/fakes/cupti.c"), "-lpthread"]
        subprocess.run([*compiler, *flags], check=True)

    def run(self, mode: str | None) -> tuple[float, list[dict[str, Any]]]:
        """Median seconds of a step of one run, and what the agent in `mode` tells of its cost; no warpline where that is None."""
        with tempfile.TemporaryDirectory(dir="/dev/shm") as rings:
            taken = Path(rings) / "taken.json"
            job = [str(ROOT / "tests/bench/own_overhead_job.py"), str(STEPS), str(self.cost_percent), str(taken)]
            launcher = [str(self.python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            variables = {
                "PATH": os.environ["PATH"],
                "OMP_NUM_THREADS": "1",
                "WARPLINE_HOOK": "0",
                "GLOO_SOCKET_IFNAME": "lo",
            }
            if mode is not None:
                variables |= {"WARPLINE_HOOK": "1", "WARPLINE_DIRECTORY": rings, "WARPLINE_JOB": "bench",
                              "CUDA_INJECTION64_PATH": str(self.library), "WARPLINE_CUPTI": str(self.cupti)}  # fmt: skip
            with (self.folder / "job.log").open("wb") as said:
                process = subprocess.Popen([*launcher, *job], env=variables, stdout=said, stderr=said)
                rows = watch(process, rings, mode)
            if process.returncode:
                sys.exit(f"the job failed: {(self.folder / 'job.log').read_text()[-2000:]}")
            return statistics.median(json.loads(taken.read_text())[FIRST_STEPS:]), rows


def watch(process: subprocess.Popen[bytes], rings: str, mode: str | None) -> list[dict[str, Any]]:
    """Be the agent until the job has ended; its rows of what capture costs."""
    end = time.monotonic() + RUN_SECONDS_MAX
    if mode is None:
        process.wait(RUN_SECONDS_MAX)
        return []
    source = TrainingKernels(KernelsConfig(directories=(rings,), containers=False, mode=mode, overhead_percent_max=100))
    source.open()
    rows: list[dict[str, Any]] = []
    while process.poll() is None and time.monotonic() < end:
        for table, batch, _ in source.read():
            rows += batch.to_pylist() if table == "capture_overhead" else []
        time.sleep(READ_SECONDS)
    process.wait(1)
    source.close()
    return rows


def measured(base: str, rounds: int, cost_percent: float) -> dict[str, Any]:
    """Figures of all rounds."""
    seconds: dict[str | None, list[float]] = {None: [], "full": [], "auto": []}
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), base, cost_percent)
        for number in range(rounds):
            order = list(seconds)
            for mode in order[number % 3 :] + order[: number % 3]:
                step_seconds, rows = bench.run(mode)
                seconds[mode].append(step_seconds)
                known = [row for row in rows if row["overhead_percent"] is not None and row["rank"] == 0]
                told += known[-1:] if mode == "auto" else []
    slower = [100 * (full / bare - 1) for full, bare in zip(seconds["full"], seconds[None], strict=True)]
    estimates = [{name: round(row[f"{name}_percent"], 2) for name in ("overhead", "low", "high")} for row in told]
    return {
        "step_overhead_percent": round(statistics.median(slower), 2),
        "step_overhead_percent_by_round": [round(each, 2) for each in slower],
        "step_ms_without": round(1e3 * statistics.median(seconds[None]), 2),
        "own_estimate": estimates,
        "own_estimate_percent": round(statistics.median(each["overhead"] for each in estimates), 2)
        if estimates
        else None,
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cost", type=float, default=0.0, metavar="PERCENT")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    base = os.environ.get("WARPLINE_TEST_TORCH")
    if not base:
        sys.exit("set WARPLINE_TEST_TORCH to a Python that has PyTorch")
    figures = measured(base, options.rounds, options.cost)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:32} {value}")


if __name__ == "__main__":
    main()
