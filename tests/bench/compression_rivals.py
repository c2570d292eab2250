"""What compression is measured beside: the ARGUS recipe as published, and zstd over the records as CUPTI writes them.

ARGUS (arXiv 2606.20374, section 5.2): the density of log-durations of each (kernel, stream, rank), bandwidth 1.06 sigma n^(-1/5),
256 grid points, 5 % padding, valleys with at least 3 samples a side and 0.15 between boundaries; (count, p50, p99) of each
cluster in 24 bytes. Constants beyond the paper are those of its public implementation. Read back as log-normals.
"""

from __future__ import annotations

import itertools
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
import zstandard
from compression_metric import Steps

from warpline_agent.kernels import Kernels

TRIPLE_BYTES: Final = 24
RECORD_BYTES: Final = 208
GRID_POINTS: Final = 256
PADDING: Final = 0.05
SIDE_SAMPLES_MIN: Final = 3
GAP_LN_MIN: Final = 0.15
Z99: Final = 2.326

Numbers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

_RECORD: Final = np.dtype(
    {
        "names": ["kind", "start", "end", "device", "context", "stream", "grid", "correlation", "grid_id", "name"],
        "formats": ["<u4", "<u8", "<u8", "<u4", "<u4", "<u4", ("<i4", 6), "<u4", "<i8", "<u8"],
        "offsets": [0, 16, 24, 40, 44, 48, 52, 92, 96, 104],
        "itemsize": RECORD_BYTES,
    }
)
"""The fields of a kernel record of CUDA 12 that hold something; the order of the others does not change what zstd makes of it."""


def argus(raw: Steps) -> list[tuple[int, int, float, float]]:
    """(group, count, p50, p99) of every cluster."""
    order = np.lexsort((raw.value, raw.group))
    group, value = raw.group[order], np.maximum(raw.value[order], 1.0)
    first = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    triples = []
    for low, high in zip(first.tolist(), [*first[1:].tolist(), group.size], strict=True):
        ordered = value[low:high]
        edges = [0, *_valleys(np.log(ordered)), ordered.size]
        for start, end in itertools.pairwise(edges):
            p50, p99 = np.quantile(ordered[start:end], [0.5, 0.99])
            triples.append((int(group[low]), end - start, float(p50), float(p99)))
    return triples


def _valleys(logs: Reals) -> list[int]:
    spread = float(logs.std())
    if logs.size < 2 * SIDE_SAMPLES_MIN or spread == 0.0:
        return []
    bandwidth = 1.06 * spread * logs.size ** (-0.2)
    pad = PADDING * (logs[-1] - logs[0])
    grid = np.linspace(logs[0] - pad, logs[-1] + pad, GRID_POINTS)
    weights, edges = np.histogram(logs, 4 * GRID_POINTS)
    centers = edges[:-1] + np.diff(edges) / 2
    density = np.exp(-0.5 * ((grid[:, None] - centers) / bandwidth) ** 2) @ weights
    cuts: list[int] = []
    boundary = logs[0]
    for at in np.flatnonzero((density[1:-1] < density[:-2]) & (density[1:-1] <= density[2:])) + 1:
        position = int(np.searchsorted(logs, grid[at]))
        sides = min(position - (cuts[-1] if cuts else 0), logs.size - position)
        if sides >= SIDE_SAMPLES_MIN and grid[at] - boundary >= GAP_LN_MIN:
            cuts.append(position)
            boundary = grid[at]
    return cuts


def argus_steps(triples: list[tuple[int, int, float, float]]) -> Steps:
    """The log-normals at the middle of each duration's share."""
    values = []
    for _, count, p50, p99 in triples:
        spread = max(np.log(p99 / p50), 0.0) / Z99
        normal = [NormalDist().inv_cdf((each + 0.5) / count) for each in range(count)] if spread else [0.0] * count
        values.append(p50 * np.exp(spread * np.array(normal)))
    group = np.repeat([each[0] for each in triples], [each[1] for each in triples])
    return Steps(group, np.concatenate(values), np.ones(group.size))


def argus_total_ns(triples: list[tuple[int, int, float, float]]) -> float:
    """Time by the means of the log-normals."""
    return sum(
        count * p50 * float(np.exp((np.log(max(p99, p50) / p50) / Z99) ** 2 / 2)) for _, count, p50, p99 in triples
    )


def raw_records(kernels: Kernels) -> bytes:
    """Records in order of their start, each launch of a kernel with the grid of that kernel."""
    order = np.argsort(kernels.start_ns, kind="stable")
    records = np.zeros(len(kernels), dtype=_RECORD)
    records["kind"] = 10
    records["start"] = kernels.start_ns[order]
    records["end"] = kernels.end_ns[order]
    records["device"] = np.maximum(kernels.device[order], 0)
    records["context"] = 1
    records["stream"] = np.maximum(kernels.stream[order], 0)
    records["grid"] = (kernels.name_id[order, None] * 7 + np.arange(6)) % 1024 + 1
    records["correlation"] = np.arange(len(kernels)) * 3 + 100_000
    records["grid_id"] = np.arange(len(kernels)) + 1
    records["name"] = 0x7F0000000000 + kernels.name_id[order].astype(np.int64) * 64
    return records.tobytes()


def zstd_bytes(kernels: Kernels, level: int) -> int:
    """Size of the records behind zstd."""
    return len(zstandard.ZstdCompressor(level=level).compress(raw_records(kernels)))
