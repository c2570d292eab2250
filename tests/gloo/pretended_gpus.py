"""A small data-parallel training program over gloo whose GPUs, CUDA and NCCL are made up; torchrun starts it, on two nodes.

    torchrun --nnodes 2 ... pretended_gpus.py CONTROL --slow RANK

It trains until the file CONTROL/stop is there; from when CONTROL/slow is there, rank RANK computes longer. Kernels "run" on a GPU
that is nothing but a clock: the host waits for their end, and the stand-in for libcupti records them. Gradients really travel
over gloo; NCCL's part, telling its profiler plugin and running a kernel meanwhile, is played beside that.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset

WIDTH = 64
BATCH = 4
FORWARD = ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", 8, 0.016)
BACKWARD = ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_nt_n_tilesize128x256x64", 16, 0.032)
"""Kernel, how many of them, and how long they take together, seconds."""
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
NOISE = 0.02
LONGER = 1.6
"""Times what the slow rank's kernels usually take."""


class Gpu:
    """One GPU with one stream, as CUDA's injection, CUPTI and NCCL's profiler plugin show it to the native library."""

    def __init__(self, rank: int) -> None:
        self._cupti = _function(ctypes.CDLL(os.environ["WARPLINE_CUPTI"]).fake_cupti)
        self._nccl = _function(ctypes.CDLL(os.environ["FAKE_NCCL"]).fake_nccl)
        self._random = random.Random(rank)
        self._free_ns = 0
        self._operations = 0
        self.slowness = 1.0
        _initialise_cuda(int(os.environ["LOCAL_RANK"]))
        self._nccl("datatype ncclFloat32")
        self._communicator = self._nccl(f"comm abcdef {rank} {dist.get_world_size()} 2 default_pg")

    def begin(self) -> None:
        """The host begins to launch; the GPU has nothing left to do."""
        self._free_ns = time.time_ns()

    def compute(self, name: str, count: int, seconds: float) -> None:
        """Run kernels one after the other and wait for the last."""
        for _ in range(count):
            duration = seconds / count * self.slowness * self._random.lognormvariate(0, NOISE)
            self._ran(name, self._free_ns + int(duration * 1e9))
        time.sleep(max(self._free_ns - time.time_ns(), 0) / 1e9)

    def all_reduce(self, values: torch.Tensor) -> None:
        """Sum over the ranks; its kernel waits for the others on the GPU."""
        self._nccl(f"coll {self._communicator} 1 {values.numel()} {self._operations}")
        self._operations += 1
        dist.all_reduce(values)
        self._ran(ALL_REDUCE, max(time.time_ns(), self._free_ns + 1))

    def close(self) -> None:
        """Nothing more is communicated."""
        self._nccl(f"destroy {self._communicator}")

    def _ran(self, name: str, end_ns: int) -> None:
        self._cupti(f"ran {self._free_ns} {name} {end_ns - self._free_ns}")
        self._free_ns = end_ns


def _function(found: Any) -> Any:
    found.argtypes, found.restype = [ctypes.c_char_p], ctypes.c_long
    return lambda line: found(line.encode())


def _initialise_cuda(device: int) -> None:
    """As the driver does it, which loads the library that is to be injected; torch.cuda says which GPU it has."""
    assert ctypes.CDLL(os.environ["CUDA_INJECTION64_PATH"]).InitializeInjection() == 1
    uuid = os.environ["FAKE_UUIDS"].split(",")[device].removeprefix("GPU-")
    torch.cuda.is_initialized = lambda: True
    torch.cuda.current_device = lambda: device
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(uuid=uuid)


class OnGpu(torch.autograd.Function):  # type: ignore[misc]  # torch is no dependency, and untyped here
    """Passes values and gradients through while the GPU is busy with them."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, gpu: Gpu) -> torch.Tensor:
        context.gpu = gpu
        gpu.compute(*FORWARD)
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        context.gpu.compute(*BACKWARD)
        return gradient, None


class Rows(IterableDataset):  # type: ignore[misc]
    """Noise without end."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            yield torch.randn(WIDTH)


class Trainer:
    """One rank. Gradients are summed in the backward pass; with them travels whether it is over, so that all stop at one step."""

    def __init__(self, control: Path, slow: bool) -> None:
        self._control = control
        self._slow = slow
        self._gpu = Gpu(dist.get_rank())
        torch.manual_seed(0)
        self._weight = torch.nn.Parameter(torch.randn(WIDTH, WIDTH))
        self._weight.register_post_accumulate_grad_hook(self._reduce)
        self._optimizer = torch.optim.SGD([self._weight], lr=1e-4)
        self._over = False

    def train(self) -> int:
        """How many steps there were."""
        steps = 0
        for rows in DataLoader(Rows(), batch_size=BATCH):
            self._gpu.begin()
            if self._slow and (self._control / "slow").exists():
                self._gpu.slowness = LONGER
            self._optimizer.zero_grad()
            OnGpu.apply(rows @ self._weight, self._gpu).square().mean().backward()
            self._optimizer.step()
            steps += 1
            if self._over:
                break
        self._gpu.close()
        return steps

    def _reduce(self, weight: torch.Tensor) -> None:
        stop = torch.tensor([float((self._control / "stop").exists())])
        values = torch.cat([weight.grad.flatten(), stop])
        self._gpu.all_reduce(values)
        weight.grad.copy_(values[:-1].view_as(weight) / dist.get_world_size())
        self._over = bool(values[-1] > 0)


def main() -> None:
    """One rank from start to end; CONTROL/steps-RANK then holds how many steps there were."""
    parser = argparse.ArgumentParser()
    parser.add_argument("control", type=Path)
    parser.add_argument("--slow", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    steps = Trainer(options.control, rank == options.slow).train()
    (options.control / f"steps-{rank}").write_text(str(steps))
    dist.barrier()  # else gloo's threads may still hold tensors when the interpreter ends
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
