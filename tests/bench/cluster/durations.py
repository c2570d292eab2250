"""How much real durations scatter: read from recorded traces, or from a small summary where none are at hand.

Only the scatter is taken (a duration over the median of those that do the same work); the level is the model's own.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Reals = npt.NDArray[np.float64]

DATA: Final = Path(os.environ.get("WARPLINE_TEST_DATA", Path(__file__).parents[3] / ".." / "shared" / "data")).resolve()
OPERATIONS: Final = {"AR": (0,), "ST": ()}
"""Recorded operation traces -> replicas left out because a fault was put into them."""
TRACE: Final = "A-kineto/hta/trace_diff_control_rank3of8_a100.json.gz"
GRID: Final = np.linspace(0.0, 1.0, 201)
KERNELS_MAX: Final = 12
"""Heaviest kernels of a step that the model's kernel clusters stand for."""

SUMMARY_LOG_SIGMA: Final = {"peer": 0.006, "step": 0.012, "transfer": 0.04}
SUMMARY_TAIL: Final = {"peer": 1.05, "step": 1.04, "transfer": 1.6}
"""The summary: log-normal, its slowest hundredth stretched up to this."""
SUMMARY_KERNELS: Final = (
    ("gemm_forward", 96, 310_000.0, 0.04), ("gemm_backward", 192, 300_000.0, 0.05), ("attention_forward", 48, 210_000.0, 0.03),
    ("attention_backward", 48, 480_000.0, 0.03), ("layer_norm", 96, 22_000.0, 0.10), ("elementwise", 400, 9_000.0, 0.35),
    ("multi_tensor_adam", 24, 160_000.0, 0.02),
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """One kernel of a step: how often it runs, its median and the scatter of the logarithm."""

    name: str
    count: int
    median_ns: float
    log_sigma: float


@dataclass(frozen=True)
class Durations:
    """Ratios by quantile on GRID: `peer` a micro-batch over its replicas' median, `step` that median over its own median
    over steps, `transfer` a collective's transfer over its own median; and the heaviest kernels of a real step."""

    source: str
    peer: Reals
    step: Reals
    transfer: Reals
    kernels: tuple[Kernel, ...]

    def draw(self, random: np.random.Generator, name: str, shape: tuple[int, ...]) -> Reals:
        """Ratios by inverse transform."""
        quantiles: Reals = getattr(self, name)
        found: Reals = np.interp(random.random(shape), GRID, quantiles)
        return found


@lru_cache(maxsize=1)
def durations() -> Durations:
    """Scatter of the recorded traces, or the summary."""
    paths = [DATA / f"G-stragglers/bytedance/trace-{name}.parquet" for name in OPERATIONS]
    if not all(path.is_file() for path in (*paths, DATA / TRACE)):
        return summary()
    measured = [_operations(path, OPERATIONS[name]) for name, path in zip(OPERATIONS, paths, strict=True)]
    peer, step, transfer = (np.concatenate(parts) for parts in zip(*measured, strict=True))
    return Durations("recorded", _quantiles(peer), _quantiles(step), _quantiles(transfer), _kernels(DATA / TRACE))


def summary() -> Durations:
    """Without any recording."""
    random = np.random.default_rng(0)
    ratios = {}
    for name, sigma in SUMMARY_LOG_SIGMA.items():
        quantiles = np.quantile(random.lognormal(0.0, sigma, 200_000), GRID)
        quantiles[-3:] = np.linspace(quantiles[-3], SUMMARY_TAIL[name], 3)
        ratios[name] = quantiles
    return Durations("summary", ratios["peer"], ratios["step"], ratios["transfer"], _listed())


def _listed() -> tuple[Kernel, ...]:
    return tuple(Kernel(*each) for each in SUMMARY_KERNELS)


def _quantiles(ratios: Reals) -> Reals:
    found: Reals = np.quantile(ratios, GRID)
    return found / np.median(ratios)


def _operations(path: Path, left_out: tuple[int, ...]) -> tuple[Reals, Reals, Reals]:
    table = pq.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in ("dp_rank", "stage", "step", "seq_id", "duration")}
    names = np.asarray(table.column("optype").to_pylist())
    peer, step = [], []
    healthy = ~np.isin(columns["dp_rank"], left_out)
    for operation in ("forward-compute", "backward-compute"):
        for stage in np.unique(columns["stage"]):
            cube = _cube(columns, (names == operation) & (columns["stage"] == stage) & healthy)
            middle = np.median(cube, axis=2)
            peer.append((cube / middle[:, :, None]).ravel())
            step.append((middle.mean(axis=1) / np.median(middle.mean(axis=1))).ravel())
    return np.concatenate(peer), np.concatenate(step), _transfers(columns, names)


def _cube(columns: dict[str, Any], chosen: npt.NDArray[np.bool_]) -> Reals:
    """(steps, micro-batches, replicas) of one operation of one stage; every place is recorded."""
    keys = [np.unique(columns[name][chosen], return_inverse=True) for name in ("step", "seq_id", "dp_rank")]
    cube = np.full([len(key[0]) for key in keys], np.nan)
    cube[tuple(key[1] for key in keys)] = columns["duration"][chosen]
    whole: Reals = cube[:, ~np.isnan(cube).any(axis=(0, 2))]
    return whole


def _transfers(columns: dict[str, Any], names: npt.NDArray[Any]) -> Reals:
    """Shortest duration over the replicas of each gradient reduction and parameter gather, over its median."""
    found = []
    for operation in ("grads-reduce-scatter", "params-all-gather"):
        for stage in np.unique(columns["stage"]):
            cube = _cube(columns, (names == operation) & (columns["stage"] == stage))
            shortest = cube.min(axis=2).ravel()
            found.append(shortest / np.median(shortest))
    return np.concatenate(found)


def _kernels(path: Path) -> tuple[Kernel, ...]:
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = max(1, len({event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep")}))
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("kernel", "Kernel") and "nccl" not in event["name"].lower() and event["dur"] > 0:
            found[event["name"]].append(event["dur"] * 1e3)
    heaviest = sorted(found.items(), key=lambda item: -sum(item[1]))[:KERNELS_MAX]
    return tuple(
        Kernel(
            name, max(1, len(each) // steps), float(np.median(each)), float(np.clip(np.std(np.log(each)), 0.01, 1.0))
        )
        for name, each in heaviest
    )
