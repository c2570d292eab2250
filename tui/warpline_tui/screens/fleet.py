"""The fleet: every GPU's newest reading, and every rank's steps, with the accused marked."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from ..incident import troubled
from ..views.fleet import Fleet, FleetView, Gpu, Rank
from ..widgets.table import Cell, LiveTable
from ..words import UNKNOWN, bar, duration, number, share, size
from .page import Page

GPU_COLUMNS = ("node", "gpu", "power", "W", "util", "SM MHz", "°C", "memory", "state", "job", "model")
RANK_COLUMNS = ("job", "rank", "stage", "dp", "step", "step time", "compute", "comm", "idle", "node")
EMPTY = "No GPU or rank has been heard of yet. Is `warpline agent` running? `warpline doctor` tells what works here."


class FleetPage(Page[Fleet]):
    """GPUs above, ranks below."""

    def content(self) -> ComposeResult:
        """Two tables, or a sentence while there is nothing."""
        yield Static(EMPTY, id="empty")
        yield LiveTable(GPU_COLUMNS, id="gpus")
        yield LiveTable(RANK_COLUMNS, id="ranks")

    def wanted(self) -> FleetView:
        """Everything that is recent."""
        return FleetView()

    def draw(self, shown: Fleet) -> None:
        """Fill both tables; a table without rows is not shown."""
        marks = troubled(shown.incidents)
        gpus, ranks = self.query_one("#gpus", LiveTable), self.query_one("#ranks", LiveTable)
        gpus.show(
            [(f"{gpu.node}/{gpu.uuid or gpu.index}", _gpu(gpu, ("gpu", gpu.uuid) in marks)) for gpu in shown.gpus]
        )
        ranks.show([(f"{rank.job}/{rank.rank}", _rank(rank, ("rank", rank.key) in marks)) for rank in shown.ranks])
        gpus.set_class(not shown.gpus, "empty")
        ranks.set_class(not shown.ranks, "empty")
        self.query_one("#empty").set_class(bool(shown.gpus or shown.ranks), "empty")


def _gpu(gpu: Gpu, marked: bool) -> list[Cell]:
    return [
        _mark(gpu.node, marked),
        number(gpu.index),
        bar(gpu.power_watts, gpu.power_limit_watts),
        number(gpu.power_watts),
        number(gpu.utilization_percent, "%"),
        number(gpu.sm_clock_mhz),
        number(gpu.temperature_celsius),
        f"{size(gpu.memory_used_bytes)} / {size(gpu.memory_total_bytes)}",
        _state(gpu),
        gpu.job or UNKNOWN,
        gpu.name or UNKNOWN,
    ]


def _state(gpu: Gpu) -> Cell:
    """What the GPU does now, from residency and utilisation; the verdicts themselves come from the analysis."""
    if gpu.resident_processes == 0:
        return Text("no program", "dim")
    if gpu.utilization_percent is None:
        return UNKNOWN
    if gpu.utilization_percent < 5:
        return Text("idle", "yellow")
    return Text("active", "green")


def _rank(rank: Rank, marked: bool) -> list[Cell]:
    return [
        _mark(rank.job, marked),
        number(rank.rank),
        number(rank.stage),
        number(rank.dp),
        number(rank.step),
        duration(rank.step_ns),
        share(rank.compute_ns, rank.step_ns),
        share(rank.communication_ns, rank.step_ns),
        share(rank.idle_ns, rank.step_ns),
        rank.node or UNKNOWN,
    ]


def _mark(words: str, marked: bool) -> Cell:
    return Text(f"▶ {words}", "bold red") if marked else words
