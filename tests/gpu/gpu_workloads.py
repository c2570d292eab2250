"""What runs on the GPU while it is measured: training steps of a transformer, large and small, and CUDA graphs of them.

`eager` is a training step whose kernels are long, `launches` one whose kernels are so short that launching them is all; `decode`
replays a CUDA graph of a forward pass of one token, `graph` one of short kernels with a copy and a set among them.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any, Final, Protocol

FAKE_KERNELS: Final = 300
FAKE_STEP_SECONDS: Final = 0.0005
"""Of a step of a dry run."""


@dataclass(frozen=True)
class Shape:
    """Of a transformer and its batch."""

    width: int
    layers: int
    sequence: int
    batch: int


SHAPES: Final = {
    "eager": Shape(1024, 16, 1024, 8),
    "launches": Shape(256, 12, 64, 4),
    "decode": Shape(1024, 16, 1, 1),
    "graph": Shape(256, 1, 16, 1),
}
ON_CPU: Final = Shape(32, 1, 8, 2)
GRAPHS: Final = ("decode", "graph")
GRAPH_KERNELS: Final = 500
"""In the graph of `graph`."""


class Workload(Protocol):
    """Something that is run step by step."""

    def step(self) -> None:
        """Enqueue one step."""

    def finish(self) -> None:
        """Wait for the GPU."""


class Torch:
    """A workload of torch; on the CPU the same, small and without graphs."""

    def __init__(self, torch: Any, name: str, device: str) -> None:
        self._torch = torch
        self._device = device
        shape = SHAPES[name] if device == "cuda" else ON_CPU
        self._dtype = torch.bfloat16 if device == "cuda" else torch.float32
        layer = torch.nn.TransformerEncoderLayer(
            shape.width, max(1, shape.width // 64), 4 * shape.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self._model = torch.nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self._model = self._model.to(device=device, dtype=self._dtype)
        self._rows = torch.randn(shape.batch, shape.sequence, shape.width, device=device, dtype=self._dtype)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5)
        self._replay = self._captured(name) if name in GRAPHS and device == "cuda" else None

    def step(self) -> None:
        if self._replay is not None:
            self._replay.replay()
            return
        loss = self._model(self._rows).float().square().mean()
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def finish(self) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _captured(self, name: str) -> Any:
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(3):
                self._once(name)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph), torch.no_grad():
            self._once(name)
        return graph

    def _once(self, name: str) -> None:
        if name == "decode":
            self._model.eval()(self._rows)
            return
        small, other = self._rows[0, 0], self._rows[0, 1]
        for _ in range(GRAPH_KERNELS):
            small.add_(1e-6)
        other.copy_(small)
        small.zero_()


class Fake:
    """What the fake libcupti records of a step, and real torch on the CPU beside it where there is one."""

    def __init__(self, cupti: ctypes.CDLL, name: str, beside: Torch | None) -> None:
        self._cupti = cupti
        self._line = f"{'graph' if name in GRAPHS else 'kernels'} {FAKE_KERNELS} fake_kernel_{name}".encode()
        self._beside = beside

    def step(self) -> None:
        time.sleep(FAKE_STEP_SECONDS)
        if self._beside:
            self._beside.step()
        for line in (self._line, b"copies 2 64", b"sets 1 64"):
            self._cupti.fake_cupti(line)

    def finish(self) -> None:
        if self._beside:
            self._beside.finish()
