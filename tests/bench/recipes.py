"""Two published recipes, as published, to be measured beside warpline: mean Wasserstein-1 with an IQR fence, and z-scores.

Constants are those of the public implementation of the ARGUS recipe (papers give none): W1 over log-normal mixtures rebuilt
from (count, p50, p99), flagged above Q3 + 1.5 IQR and from twice the median score on; z >= 2.0 and CV >= 0.15 for phases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

FENCE: Final = 1.5
SCORE_RATIO_MIN: Final = 2.0
Z_MIN: Final = 2.0
VARIATION_MIN: Final = 0.15
Z99: Final = 2.326
GRID_POINTS: Final = 256
WINDOW_STEPS: Final = 50
"""Newest steps that both look at: all of them lie after the onset, which is to their advantage."""

Reals = npt.NDArray[np.float64]
_phi = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2.0)), otypes=[np.float64])


@dataclass(frozen=True)
class Answer:
    """Ranks that are flagged, the most suspicious first."""

    ranks: tuple[int, ...]


def mean_w1(tables: Mapping[str, pa.Table], category: str | None = None) -> Answer:
    """Ranks flagged for any kernel (of one category, where given), by their score over the median score."""
    clusters = tables["kernel_clusters"]
    if category is not None:
        clusters = clusters.filter(pc.equal(clusters.column("category"), category))
    rows = _newest(clusters.select(["rank", "step", "kernel_id", "count", "p50_ns", "p99_ns"]))
    worst: dict[int, float] = {}
    for kernel in np.unique(rows["kernel_id"]):
        chosen = {name: values[rows["kernel_id"] == kernel] for name, values in rows.items()}
        ranks, scores = _scores(chosen)
        low, high = np.quantile(scores, [0.25, 0.75])
        middle = float(np.median(scores))
        for rank, score in zip(ranks.tolist(), scores.tolist(), strict=True):
            if score > high + FENCE * (high - low) and score >= SCORE_RATIO_MIN * middle > 0:
                worst[rank] = max(worst.get(rank, 0.0), score / middle)
    return Answer(tuple(sorted(worst, key=lambda rank: -worst[rank])))


def _newest(rows: pa.Table) -> dict[str, npt.NDArray[Any]]:
    columns = {name: rows.column(name).to_numpy() for name in rows.schema.names}
    steps = np.unique(columns["step"])
    kept = columns["step"] >= steps[-min(WINDOW_STEPS, len(steps))]
    return {name: values[kept] for name, values in columns.items()}


def _scores(chosen: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[np.int64], Reals]:
    """Mean W1 of each rank's distribution to all others."""
    center = np.log(chosen["p50_ns"])
    spread = np.maximum((np.log(chosen["p99_ns"]) - center) / Z99, 1e-3)
    grid = np.linspace((center - 4 * spread).min(), (center + 4 * spread).max(), GRID_POINTS)
    ranks = np.unique(chosen["rank"])
    curves = np.empty((len(ranks), GRID_POINTS))
    for at, rank in enumerate(ranks):
        own = chosen["rank"] == rank
        weight = chosen["count"][own] / chosen["count"][own].sum()
        curves[at] = weight @ _phi((grid[None] - center[own, None]) / spread[own, None])
    widths = np.diff(np.exp(grid))
    distance = np.abs(curves[:, None] - curves[None])[:, :, :-1] @ widths
    scores: Reals = distance.sum(axis=1) / max(len(ranks) - 1, 1)
    return ranks, scores


def z_score(tables: Mapping[str, pa.Table]) -> Answer:
    """Ranks that stand out in a phase among the ranks of their stage, by z."""
    names = ["rank", "step", "pp", "duration_ns", "phase"]
    rows = _newest(tables["phases"].select(names))
    worst: dict[int, float] = {}
    for phase in ("forward-compute", "backward-compute", "optimizer"):
        for stage in np.unique(rows["pp"]):
            chosen = (rows["phase"] == phase) & (rows["pp"] == stage)
            ranks = np.unique(rows["rank"][chosen])
            means = np.array([rows["duration_ns"][chosen & (rows["rank"] == rank)].mean() for rank in ranks])
            if len(ranks) < 2 or means.std(ddof=1) / means.mean() < VARIATION_MIN:
                continue
            z = (means - means.mean()) / means.std(ddof=1)
            for rank, value in zip(ranks.tolist(), z.tolist(), strict=True):
                if value >= Z_MIN:
                    worst[rank] = max(worst.get(rank, 0.0), value)
    return Answer(tuple(sorted(worst, key=lambda rank: -worst[rank])))
