"""A small data-parallel training job on CPUs over gloo, traced with torch.profiler; run by itself, one process a rank.

    python training.py FOLDER --slow RANK --how compute|data

Every rank trains the same model on its own random data and writes one trace to FOLDER. A slow rank either computes more in
its forward pass (the same layers once again, their result unused), or its data loader sleeps before each batch. Nothing of
warpline is imported, and nothing but the trace is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.data import DataLoader, Dataset

RANKS = 4
WIDTH = 768
LAYERS = 4
BATCH = 128
WARM_UP_STEPS = 5
STEPS = 30
"""Steps that are traced."""
AGAIN = 6
"""Forward passes more that a slow rank computes: as much again as twice its forward and backward pass."""
SLEEP_SECONDS = 0.2
"""By which a slow data loader delays each batch."""


class RandomRows(Dataset):  # type: ignore[misc]  # torch is no dependency, and untyped here
    """Rows of noise; the first of each batch of a slow loader comes late."""

    def __init__(self, rank: int, slow: bool) -> None:
        self._generator = torch.Generator().manual_seed(rank)
        self._slow = slow

    def __len__(self) -> int:
        return BATCH * (WARM_UP_STEPS + STEPS + 2)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._slow and index % BATCH == 0:
            time.sleep(SLEEP_SECONDS)
        return torch.randn(WIDTH, generator=self._generator)


class Model(torch.nn.Module):  # type: ignore[misc]
    """A stack of linear layers; `again` runs it that many times more than its result needs."""

    def __init__(self, again: int) -> None:
        super().__init__()
        self._again = again
        self.layers = torch.nn.Sequential(
            *(part for _ in range(LAYERS) for part in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()))
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for _ in range(self._again):
            with torch.no_grad():
                self.layers(rows)
        return self.layers(rows)


def train(rank: int, options: argparse.Namespace) -> None:
    """One rank from start to trace."""
    torch.set_num_threads(1)
    meeting = Path(options.folder).resolve() / "meeting"
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=RANKS)
    slow = rank == options.slow
    torch.manual_seed(0)
    model = DistributedDataParallel(Model(AGAIN if slow and options.how == "compute" else 0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loader = DataLoader(RandomRows(rank, slow and options.how == "data"), batch_size=BATCH)
    trace = str(Path(options.folder) / f"rank{rank}.json")
    plan = schedule(wait=0, warmup=WARM_UP_STEPS, active=STEPS, repeat=1)
    with profile(
        activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=lambda each: each.export_chrome_trace(trace)
    ) as profiler:
        for rows in _batches(loader):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
            profiler.step()
    dist.destroy_process_group()


def _batches(loader: DataLoader) -> Iterator[torch.Tensor]:
    for number, rows in enumerate(loader):
        if number == WARM_UP_STEPS + STEPS:
            return
        yield rows


def main() -> None:
    """Start the ranks and wait for them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--slow", type=int, default=-1)
    parser.add_argument("--how", choices=("compute", "data"), default="compute")
    processes.start_processes(train, args=(parser.parse_args(),), nprocs=RANKS, start_method="fork")


if __name__ == "__main__":
    main()
