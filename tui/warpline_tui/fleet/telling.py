"""The fleet in words: the legend of its cells, one GPU, one job."""

from __future__ import annotations

from typing import Final

from rich.style import Style
from rich.text import Text

from ..views.fleet import Accusation, Fleet, Job
from ..widgets.table import Cell
from ..words import UNKNOWN, age, duration, number, share, size
from .measures import RAMP, STATES, Measure, Picture, silent, states

SEVERITY_STYLES: Final = {"critical": "bold white on red", "warning": "bold black on yellow"}


def legend(measure: Measure, picture: Picture, scale: tuple[Style, ...]) -> Text:
    """What the cells tell."""
    said = Text.assemble((f"{measure.name}  ", "bold"))
    if measure.words:
        said.append(measure.words)
    else:
        said.append(f"{picture.low} ")
        for style, sign in zip(scale, RAMP, strict=False):
            said.append(sign, style)
        said.append(f" {picture.high}  · not known")
    return said.append("  ! accused")


LINE_MAX: Final = 1_000


def chosen(fleet: Fleet, at: int, width: int) -> Text:
    """Everything of one GPU in three lines, the first two no longer than `width`."""
    row = fleet.gpus.row(at)
    gpu = UNKNOWN if row["gpu"] is None else row["gpu"]
    job = "no job" if row["job"] is None else f"job {row['job']}"
    said = Text.assemble(
        "◆ ", (f"{row['node']} GPU {gpu}", "bold"), f"  {job}  {row['gpu_name'] or ''}  {row['gpu_uuid'] or ''}"
    )
    said.truncate(width, overflow="ellipsis")
    state = STATES[int(states(fleet)[at])]
    reads = Text("  ").append(state, "bold green" if state == "active" else "bold yellow")
    reads.append(
        f"  {number(row['power_watts'])} of {number(row['limit_watts'])} W  SM {number(row['busy_percent'])}%"
        f"  {number(row['clock_mhz'])} MHz  {number(row['temperature_celsius'])} °C"
        f"  {size(row['memory_bytes'])} of {size(row['memory_total_bytes'])}",
    )
    if row["link_bytes"] is not None:
        reads.append(f"  link {size(row['link_bytes'])}/s")
    if silent(fleet)[at]:
        reads.append(f"  last heard {age(row['time_ns'], fleet.now_ns)}", "yellow")
    reads.truncate(width, overflow="ellipsis")
    return said.append("\n").append_text(reads).append_text(_against(fleet.gpus.accusation(at)))


def job_cells(job: Job, accused: bool) -> list[Cell]:
    """A job's line in the table."""
    computes = duration(job.slowest_compute_ns)
    return [
        Text(f"▶ {job.job}", "bold red") if accused else job.job,
        number(job.ranks),
        number(job.step),
        duration(job.step_ns),
        share(job.compute_ns, job.step_ns),
        share(job.communication_ns, job.step_ns),
        share(job.idle_ns, job.step_ns),
        UNKNOWN if job.slowest_rank is None else f"rank {job.slowest_rank}: {computes}",
    ]


def _against(found: Accusation | None) -> Text:
    if found is None:
        return Text("\n  nothing is found against it", "dim")
    severity = (f" {found.severity} ", SEVERITY_STYLES.get(found.severity, "bold"))
    return Text.assemble("\n  ", severity, f" {found.kind}: {found.summary}")
