"""Rows of kernels or operations with those of the peers beside."""

from __future__ import annotations

from typing import Final

from rich.text import Text

from ..beside.durations import Timed
from ..words import UNKNOWN, duration
from .table import Cell

COLUMNS: Final = (
    "kernel or operation",
    "median",
    "peers",
    "ratio",
    "share",
    "total",
    "times",
    "p99",
    "peers p99",
    "longest",
    "category",
)
NAME_COLUMNS: Final = 34
MARKED: Final = 1.05
"""From this ratio on a part of the accused is marked."""


def row(item: Timed) -> list[Cell]:
    """One kernel on both sides; where there is no median, the mean stands for it and says so."""
    return [
        item.name if len(item.name) <= NAME_COLUMNS else item.name[: NAME_COLUMNS - 1] + "…",
        _middle(item.mine.p50_ns, item.mine.mean_ns),
        _middle(item.peers.p50_ns, item.peers.mean_ns),
        times(item.ratio),
        f"{item.share:.1%}",
        duration(item.mine.total_ns),
        UNKNOWN if item.mine.count is None else f"{item.mine.count:,.0f}",
        duration(item.mine.p99_ns),
        duration(item.peers.p99_ns),
        duration(item.mine.max_ns),
        item.category,
    ]


def times(ratio: float | None) -> Cell:
    """A ratio; one that is above its peers' is marked by a sign too."""
    if ratio is None:
        return UNKNOWN
    return Text(f"▲ {ratio:.2f}×", "bold") if ratio >= MARKED else Text(f"  {ratio:.2f}×")


def _middle(p50_ns: float | None, mean_ns: float | None) -> str:
    return duration(p50_ns) if p50_ns is not None or mean_ns is None else f"{duration(mean_ns)} (mean)"
