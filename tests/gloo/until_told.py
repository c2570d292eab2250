"""A small data-parallel training program on CPUs over gloo that goes on until it is told: run by torchrun, one process a rank.

    torchrun --standalone --nproc-per-node 2 until_told.py FILE [--profiled]

It ends once FILE is there, all ranks after the same step. With --profiled a torch.profiler of its own runs all the time.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS_MAX = 20_000
PAUSE_SECONDS = 0.02
"""What a step waits, so that the trace of a second is small."""


def main() -> None:
    """Train until told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--profiled", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    own = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) if options.profiled else None
    with own or contextlib.nullcontext():
        for _ in range(STEPS_MAX):
            told = torch.tensor([float(options.file.exists())])
            dist.all_reduce(told)
            if told.item():
                break
            time.sleep(PAUSE_SECONDS)
            optimizer.zero_grad()
            model(torch.randn(8, 64)).square().mean().backward()
            optimizer.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
