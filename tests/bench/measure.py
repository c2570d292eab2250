"""Runs a command and measures wall time, CPU time and peak memory of its whole process tree."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """`peak_bytes` is the largest sum of resident memory over the tree, sampled every 20 ms; shared pages count each time."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run to the end; CalledProcessError with the output if it fails."""
    before = os.times()
    started = time.perf_counter()
    with subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(environment or os.environ)
    ) as child:
        peak = _watch(psutil.Process(child.pid), child)
        output, errors = child.communicate()
    after = os.times()
    if child.returncode not in (0, 1, 2, 3):
        raise subprocess.CalledProcessError(child.returncode, list(command), output, errors)
    cpu = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return Cost(time.perf_counter() - started, cpu, peak, output)


def _watch(process: psutil.Process, child: subprocess.Popen[str]) -> int:
    peak = 0
    while child.poll() is None:
        total = 0
        try:
            for each in (process, *process.children(recursive=True)):
                total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(SAMPLE_SECONDS)
    return peak
