"""A small data-parallel training program on CPUs over gloo, as somebody might write it: torchrun starts it, nothing traces it.

    torchrun --standalone --nproc-per-node 4 unchanged.py --slow RANK --how compute|data

A slow rank computes its forward pass several times over, the results unused, or its data loader sleeps before each batch.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

WIDTH = 512
LAYERS = 4
BATCH = 64
STEPS = 60
AGAIN = 4
"""Forward passes more that a slow rank computes."""
SLEEP_SECONDS = 0.1
"""By which a slow data loader delays each batch."""


class RandomRows(Dataset):  # type: ignore[misc]  # torch is no dependency, and untyped here
    """Rows of noise; the first of each batch of a slow loader comes late."""

    def __init__(self, slow: bool) -> None:
        self._slow = slow

    def __len__(self) -> int:
        return BATCH * STEPS

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._slow and index % BATCH == 0:
            time.sleep(SLEEP_SECONDS)
        return torch.randn(WIDTH)


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


def main() -> None:
    """One rank from start to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=int, default=-1)
    parser.add_argument("--how", choices=("compute", "data"), default="compute")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    slow = dist.get_rank() == options.slow
    model = DistributedDataParallel(Model(AGAIN if slow and options.how == "compute" else 0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for rows in DataLoader(RandomRows(slow and options.how == "data"), batch_size=BATCH):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
