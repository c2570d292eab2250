"""A small data-parallel PyTorch job over gloo that uses a made-up CUDA, if one is given; how long its steps took goes to a file.

    torchrun --nproc-per-node 2 own_overhead_job.py STEPS COST_PERCENT FILE

While the stand-in for libcupti records kernels each step is made longer by COST_PERCENT, beside what recording takes in truth.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

WIDTH = 512
LAYERS = 8
BATCH = 64
KERNELS = b"kernels 400 sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64"


def gpu() -> Any:
    """The stand-in's one function once CUDA is initialised; None where there is none."""
    library = os.environ.get("CUDA_INJECTION64_PATH")
    if not library:
        return None
    ctypes.CDLL(library).InitializeInjection()
    found = ctypes.CDLL(os.environ["WARPLINE_CUPTI"]).fake_cupti
    found.argtypes, found.restype = [ctypes.c_char_p], ctypes.c_long
    return found


def spin(seconds: float) -> None:
    """Keep the CPU busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        continue


def main() -> None:
    """One rank from start to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("cost_percent", type=float)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    layers = (part for _ in range(LAYERS) for part in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()))
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    rows, device, taken = torch.randn(BATCH, WIDTH), gpu(), []
    ended = time.perf_counter()
    for _ in range(options.steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        if device is not None:
            device(KERNELS)
            if device(b"enabled"):
                spin((time.perf_counter() - begun) * options.cost_percent / 100)
        optimizer.step()
        begun, ended = ended, time.perf_counter()
        taken.append(ended - begun)
    if dist.get_rank() == 0:
        options.file.write_text(json.dumps(taken))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
